"""What a device can hold and roughly how fast it is."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from videoxl.errors import did_you_mean


@dataclass(frozen=True)
class Hardware:
    """A device to plan for. ``flops``: operations per second that dense matrix products reach."""

    name: str
    free_bytes: int
    flops: float
    decode_fps: float
    """1080p frames decoded per second."""


# Datasheet peaks (dense bf16) times 0.6, what large matrix products reach in practice; memory less 1 GB of context.
KNOWN: dict[str, Hardware] = {
    name: Hardware(name, int((gigabytes - 1) * 1e9), 0.6 * teraflops * 1e12, 1000.0)
    for name, gigabytes, teraflops in (
        ("h200", 141, 989),
        ("h100", 80, 989),
        ("a100-80g", 80, 312),
        ("a100-40g", 40, 312),
        ("l40s", 48, 362),
        ("rtx-4090", 24, 165),
        ("rtx-3090", 24, 71),
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
    return Hardware(device_name(target), free, _measured_flops(str(target)), 120.0 * _cores())


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
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {_cores()} cores"


def _cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def free_host_bytes() -> int:
    """Bytes of memory that are available, at most what a container's limit leaves."""
    free = _meminfo_available()
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit, used = _read_number(limit_file), _read_number(used_file)
        if limit is not None and used is not None:
            free = min(free, max(limit - used, 0))
    return free


def _meminfo_available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().split("\n"):
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _read_number(path: str) -> int | None:
    file = Path(path)
    if not file.is_file():
        return None
    text = file.read_text().strip()
    return int(text) if text.isdigit() else None


def reset_peak(device: torch.device) -> None:
    """Begin counting the peak of GPU memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most GPU memory held since :func:`reset_peak`; None on other devices."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
