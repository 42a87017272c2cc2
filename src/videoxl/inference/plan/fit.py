"""Refuse a reading that does not fit, before the first frame is decoded."""

from __future__ import annotations

from dataclasses import replace

import torch

from videoxl.config import BiLevelDecode, DenseDecode, KVDtype, PrefillStrategy, is_offloading
from videoxl.errors import DoesNotFitError
from videoxl.inference.loading import quantization_known
from videoxl.inference.plan.footprint import Sizes
from videoxl.inference.plan.ways import Room, Way, ways_that_fit
from videoxl.memory.question_room import let_go_of
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.video.host import free_host_bytes


def require_fit(
    model: VideoXLForConditionalGeneration,
    sizes: Sizes,
    prefill: PrefillStrategy,
    *,
    further_tokens: int = 256,
    kv_dtype: KVDtype | None = None,
    config: VideoXLConfig | None = None,
) -> None:
    """Raise :class:`DoesNotFitError` when a video of these sizes would not fit beside ``model``, or on the host.

    ``config``: the model's, for pictures of the video's size; default for those of a usual size.
    """
    device = model.model.text_device
    if device.type == "mps":
        return  # shared memory: the system pages instead of failing, and reports nothing to compare with
    config, itemsize, quantization = config or model.config, model.dtype.itemsize, quantization_of(model)
    # what is offloaded is there to be read in part
    decode = BiLevelDecode() if is_offloading(prefill) else DenseDecode()
    free = free_device_bytes(device)
    asked = Way(prefill, decode, kv_dtype, quantization)
    room = Room(
        config, sizes, prefill, further_tokens, itemsize, free, {quantization: 0}
    )  # the weights are there already
    found = room.needed(asked)
    needed = found.device + (found.host if device.type == "cpu" else 0)
    if needed > free and let_go_of():
        free = free_device_bytes(device)
        room = replace(room, free_bytes=free)
    if needed > free:
        fitting = room.frames(asked)
        others = ", or with ".join(way.changes(asked) for way in ways_that_fit(room, asked))
        advice = (
            f"about {fitting:,} frames fit: lower max_frames or fps, or read a part with end="
            if fitting
            else "nothing fits: free memory or use a quantised model"
        )
        raise DoesNotFitError(
            f"{sizes.frames:,} frames are {sizes.kept:,} tokens and need {needed / 1e9:.2f} GB on {device}, "
            f"{free / 1e9:.2f} GB are free; {advice}" + (f"; all of them fit with {others}" if others else "")
        )
    if device.type != "cpu" and found.host > free_host_bytes():
        raise DoesNotFitError(
            f"{sizes.frames:,} frames take {found.host / 1e9:.2f} GB of host memory with offload=True, "
            f"{free_host_bytes() / 1e9:.2f} GB are free: read fewer frames"
        )


def quantization_of(model: VideoXLForConditionalGeneration) -> str | None:
    """What weights were rounded to, as it is counted; None: they are as they were, or rounded by something else."""
    if getattr(model, "is_loaded_in_4bit", False):
        return "nf4"
    if getattr(model, "is_loaded_in_8bit", False):
        return "int8"
    return quantization_known(getattr(model.config, "quantization_config", None))


def free_device_bytes(device: torch.device) -> int:
    """Bytes a run can still take on ``device``; memory that torch holds unused counts as free."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return free_host_bytes()
