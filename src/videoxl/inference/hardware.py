"""What a device can hold and roughly how fast it is."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from videoxl.errors import did_you_mean
from videoxl.video.host import free_host_bytes, usable_cores
from videoxl.video.info import DecodingWork


@dataclass(frozen=True)
class Hardware:
    """A device to plan for. ``flops``: operations per second that dense matrix products reach."""

    name: str
    free_bytes: int
    flops: float
    cores: int
    """Cores of the host; they decode the video."""

    def decoding_seconds(self, work: DecodingWork) -> float:
        """Roughly how long the cores decode. Cores that share memory and clock may add less than one alone."""
        return work.pictures / (DECODED_PER_CORE * min(self.cores, work.processes))


DECODED_PER_CORE = 285.0
"""1080p pictures (H.264) that one core decodes in a second, measured at 2.8 GHz with ``benchmarks/decode.py``. One of
640x360 or 3840x2160 took up to 1.7 times its share of the pixels. HEVC and AV1 take longer."""
HOST_CORES = 16
"""Cores assumed beside a GPU of :data:`KNOWN`."""

# Datasheet peaks (dense bf16) times 0.6, what large matrix products reach in practice; memory less 1 GB of context.
KNOWN: dict[str, Hardware] = {
    name: Hardware(name, int((gigabytes - 1) * 1e9), 0.6 * teraflops * 1e12, HOST_CORES)
    for name, gigabytes, teraflops in (
        ("h200", 141, 989),
        ("h100", 80, 989),
        ("a100-80g", 80, 312),
        ("a100-40g", 40, 312),
        ("l40s", 48, 362),
        ("rtx-4090", 24, 165),
        ("rtx-3090", 24, 71),
        ("rtx-4080", 16, 97),
        ("rtx-3060", 12, 26),
    )
}


def hardware(device: str | torch.device = "auto") -> Hardware:
    """The device this runs on (``auto``, or a torch device), or a GPU of :data:`KNOWN` to plan for.

    Case, spaces and dashes in a name do not matter. Raises ``ValueError`` for a device that is unknown or absent.
    """
    if isinstance(device, str) and (known := _known(device)):
        return KNOWN[known]
    here = "cuda" if torch.cuda.is_available() else "cpu"
    target = torch_device(here if device == "auto" else device, also=tuple(KNOWN))
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else free_host_bytes()
    return Hardware(device_name(target), free, _measured_flops(str(target)), usable_cores())


def torch_device(device: str | torch.device, *, also: tuple[str, ...] = ()) -> torch.device:
    """A torch device of this machine from its name, where ``gpu`` means ``cuda``.

    ``also``: what else the caller takes. Raises ``ValueError`` for a name that torch does not know, and for a GPU that
    is not there.
    """
    name = re.sub(r"^gpu\b", "cuda", str(device).lower())
    try:
        found = torch.device(name)
    except RuntimeError:
        allowed = ("auto", "cpu", "cuda", "cuda:1", "mps", *also)
        known = _known(name)
        hint = f"; {known} can be planned for (videoxl plan), not run on" if known else did_you_mean(name, allowed)
        raise ValueError(f"unknown device {str(device)!r}; allowed: {', '.join(allowed)}{hint}") from None
    if found.type == "cuda" and (found.index or 0) >= (count := torch.cuda.device_count()):
        there = f"only {count} of them, numbered from 0" if count else "no GPU that torch can use"
        raise ValueError(f"device {str(device)!r} is not there: this machine has {there}; give cpu, or auto")
    return found


def _known(name: str) -> str | None:
    """The name in :data:`KNOWN` that differs at most in case, spaces and dashes."""
    plain = {re.sub("[^a-z0-9]", "", known): known for known in KNOWN}
    return plain.get(re.sub("[^a-z0-9]", "", name.lower()))


def device_name(device: torch.device) -> str:
    """Name a device: a GPU by its own name, otherwise ``CPU, 2 cores``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {usable_cores()} cores"


@lru_cache(maxsize=4)
def _measured_flops(device: str) -> float:
    """Measure the rate of a matrix product in the usual dtype of models there. Takes a fraction of a second."""
    on_gpu = device.startswith("cuda")
    side, dtype = (4096, torch.bfloat16) if on_gpu else (768, torch.float32)
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        a @ a
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def reset_peak(device: torch.device) -> None:
    """Begin counting the peak of GPU memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most GPU memory held since :func:`reset_peak`; None on other devices."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
