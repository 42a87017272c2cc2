"""``videoxl info --system``: versions, hardware, its fast kernels, and how decoder processes are confined here."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

from videoxl._version import __version__
from videoxl.cli import configuration
from videoxl.errors import VideoXLError
from videoxl.video.decoder.confinement import confinement
from videoxl.video.host import free_host_bytes, usable_cores

Facts = dict[str, object]
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "av", "pillow", "pydantic", "torchcodec")


def describe_system(reader: str = "pyav") -> Facts:
    """What people are asked for when something goes wrong. Values are texts, numbers, lists or dictionaries of them."""
    return {
        "kind": "system",
        "videoxl": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": f"{platform.platform()} {' '.join(platform.libc_ver())}".strip(),
        "packages": {name: _version(name) for name in PACKAGES},
        "ffmpeg": _ffmpeg(),
        "configuration": _configuration(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}",
        "free_memory": f"{free_host_bytes() / 2**30:.1f} GiB",
        "gpus": _gpus(),
        "kernels": _kernels(),
        "decoder_processes": f"up to {usable_cores()} for a file, each for itself and in a session of its own",
        "decoder": _decoder(reader),
    }


def _configuration() -> str:
    if files := configuration.current().files:
        return ", ".join(str(file.absolute()) for file in files)
    return f"none; looked for {' and '.join(str(place.absolute()) for place in configuration.places())}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ffmpeg() -> str:
    import av

    return ", ".join(f"{name} {'.'.join(map(str, numbers))}" for name, numbers in sorted(av.library_versions.items()))


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    every = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in every]


def _kernels() -> dict[str, dict[str, object]]:
    """Name of a kernel or graph -> whether it is used, and what it does or why it is not."""
    from videoxl.inference.fast_paths import fast_paths

    return {path.name: {"used": path.used, "detail": path.detail} for path in fast_paths()}


def _decoder(reader: str) -> dict[str, dict[str, object]] | str:
    """Name of a measure -> whether it holds, and what it does or why it does not hold."""
    try:
        measures = confinement("pyav" if reader == "auto" else reader)
    except VideoXLError as error:
        return str(error)
    return {measure.name: {"holds": measure.holds, "detail": measure.detail} for measure in measures}


def lines(facts: Facts) -> Facts:
    """The same facts with a name and a text for each line."""
    flat: Facts = {}
    for name, value in facts.items():
        if name == "packages" and isinstance(value, dict):
            flat.update(value)
        elif name == "kernels" and isinstance(value, dict):
            for kernel, what in value.items():
                flat[kernel] = what["detail"] if what["used"] else f"not used: {what['detail']}"
        elif name == "decoder" and isinstance(value, dict):
            for measure, what in value.items():
                flat[f"decoder {measure}"] = what["detail"] if what["holds"] else f"DOES NOT HOLD: {what['detail']}"
        else:
            flat[name] = value
    return flat
