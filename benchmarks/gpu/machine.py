"""The device that a run is on, real or simulated, and what it says about itself."""

from __future__ import annotations

import contextlib
import datetime
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "numpy", "triton")


@contextlib.contextmanager
def device(*, simulated: bool, valued: bool) -> Iterator[None]:
    """The device of a part. Simulated, its floats have values only where ``valued`` asks for them."""
    if not simulated:
        yield
        return
    from tests.simulated_gpu.cuda import simulated as simulated_device

    with simulated_device(real=valued):
        yield


def place(model: nn.Module) -> nn.Module:
    """Put a small model onto the device as it is."""
    from tests.simulated_gpu.cuda import move
    from tests.simulated_gpu.device import SimulatedDevices

    return model.to("cuda") if SimulatedDevices.current is None else move(model, SimulatedDevices.current)


def is_simulated() -> bool:
    """Whether the device there is now is a simulated one."""
    from tests.simulated_gpu.device import SimulatedDevices

    return SimulatedDevices.current is not None


def facts(*, simulated: bool) -> dict[str, Any]:
    """Hardware, driver and versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "simulated": simulated,
        "gpu": "simulated" if simulated else _gpu(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _output("git", "describe", "--always", "--dirty", "--exclude=*"),
    }


def _gpu() -> dict[str, Any]:
    found = torch.cuda.get_device_properties(0)
    query = ("--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader")
    return {
        "name": found.name,
        "memory_gb": round(found.total_memory / 1e9, 1),
        "capability": f"{found.major}.{found.minor}",
        "count": torch.cuda.device_count(),
        "driver, clock, power": _output("nvidia-smi", *query),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
