"""Refuse a reading that does not fit, before the first frame is decoded."""

from __future__ import annotations

import torch

from videoxl.config import BiLevelDecode, ChunkedPrefill, DecodeStrategy, DenseDecode, PrefillStrategy
from videoxl.errors import DoesNotFitError
from videoxl.inference.plan.footprint import Sizes, footprint, frames_that_fit, settings_that_fit
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.video.host import free_host_bytes


def describe_settings(settings: tuple[PrefillStrategy, DecodeStrategy] | None) -> str | None:
    """Settings as a user would write them."""
    return None if settings is None else f"prefill={str(settings[0])!r} and decode={str(settings[1])!r}"


def require_fit(
    model: VideoXLForConditionalGeneration, sizes: Sizes, prefill: PrefillStrategy, *, further_tokens: int = 256
) -> None:
    """Raise :class:`DoesNotFitError` when a video of these sizes would not fit beside ``model``, or on the host."""
    device = model.model.text_device
    if device.type == "mps":
        return  # shared memory: the system pages instead of failing, and reports nothing to compare with
    config, itemsize = model.config, model.dtype.itemsize
    # what is offloaded is there to be read in part
    decode = BiLevelDecode() if isinstance(prefill, ChunkedPrefill) and prefill.offload else DenseDecode()
    free = free_device_bytes(device)
    found = footprint(config, sizes, further_tokens, itemsize, prefill, decode)
    needed = found.device + (found.host if device.type == "cpu" else 0)
    if needed > free:
        fitting = frames_that_fit(config, sizes, further_tokens, itemsize, free, prefill, decode)
        low_memory = describe_settings(settings_that_fit(config, sizes, further_tokens, itemsize, free))
        advice = (
            f"about {fitting:,} frames fit: lower max_frames or fps, or read a part with end="
            if fitting
            else "nothing fits: free memory or use a quantised model"
        )
        raise DoesNotFitError(
            f"{sizes.frames:,} frames are {sizes.kept:,} tokens and need {needed / 1e9:.2f} GB on {device}, "
            f"{free / 1e9:.2f} GB are free; {advice}" + (f"; all of them fit with {low_memory}" if low_memory else "")
        )
    if device.type != "cpu" and found.host > free_host_bytes():
        raise DoesNotFitError(
            f"{sizes.frames:,} frames take {found.host / 1e9:.2f} GB of host memory with offload=True, "
            f"{free_host_bytes() / 1e9:.2f} GB are free: read fewer frames"
        )


def free_device_bytes(device: torch.device) -> int:
    """Bytes a run can still take on ``device``; memory that torch holds unused counts as free."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return free_host_bytes()
