"""Which attention kernels, fused kernels and graphs a device will run a model with, and why not others."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from dataclasses import dataclass

import torch

from videoxl.inference.supports import FLASH_PACKAGES, dotted
from videoxl.model import fused
from videoxl.model.flash import LEAST_CAPABILITY, has_flash


@dataclass(frozen=True)
class FastPath:
    """Something that makes a model fast on a device."""

    name: str
    used: bool
    detail: str
    """What it does, or why it is not used and what is instead."""


def fast_paths() -> list[FastPath]:
    """Those of every GPU of this machine; where there is none, of its CPU.

    The fused kernels are compiled and compared with their plain form, which takes seconds at the first call.
    """
    if not torch.cuda.is_available():
        return _on_cpu()
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    found = [path for device in devices for path in _on_gpu(device)]
    return [*found, *_packages()]


def _on_cpu() -> list[FastPath]:
    built = torch.version.cuda
    why = "torch finds no GPU" if built else f"torch {torch.__version__} is built without CUDA"
    return [
        FastPath("attention", True, "torch's kernel for CPUs, a few hundred rows at a time"),
        FastPath("fused kernels", False, f"{why}; on a CPU their plain form runs"),
        FastPath("CUDA graphs", False, f"{why}; a token is written over buffers that stay in place"),
    ]


def _on_gpu(device: torch.device) -> list[FastPath]:
    flash, which, card = has_flash(device), str(device), torch.cuda.get_device_name(device)
    capability = dotted(torch.cuda.get_device_capability(device))
    lacks = f"it needs compute capability {dotted(LEAST_CAPABILITY)}, and {card} has {capability}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is the detail
        plain = fused.why_plain(device)
    return [
        FastPath(
            f"{which} flash attention",
            flash,
            "torch's own, in bfloat16 and float16; float32 takes the memory-efficient kernel"
            if flash
            else f"{lacks}; the memory-efficient kernel runs instead",
        ),
        FastPath(f"{which} bfloat16", flash, "has units for it" if flash else f"{lacks}; dtype='float16' is faster"),
        FastPath(
            f"{which} fused kernels",
            not plain,
            f"{plain}; several kernels run instead of each" if plain else "Triton's, which agree with their plain form",
        ),
        FastPath(
            f"{which} CUDA graphs",
            flash,
            "a token is one launch, where all weights are on this GPU, plain and in half precision"
            if flash
            else "a graph needs flash attention; a token is launched kernel by kernel",
        ),
    ]


def _packages() -> list[FastPath]:
    """What can be asked for by name and is another package's."""
    found = []
    for name, (package, installed) in FLASH_PACKAGES.items():
        there = installed()
        detail = "installed; used where asked for" if there else f"{package} is not installed; nothing needs it"
        found.append(FastPath(f"attention={name}", there, detail))
    there = importlib.util.find_spec("bitsandbytes") is not None
    detail = (
        f"bitsandbytes {importlib.metadata.version('bitsandbytes')}; used where asked for"
        if there
        else "bitsandbytes is not installed: pip install 'videoxl[quant]'"
    )
    return [*found, FastPath("quantization int8, nf4", there, detail)]
