"""What the software and the device here can run: attention and dtypes. What they cannot is said, not replaced."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from videoxl.errors import MissingDependencyError
from videoxl.model.flash import LEAST_CAPABILITY

FLASH_PACKAGES: dict[str, tuple[str, Callable[[], bool]]] = {
    "flash_attention_2": ("flash-attn", is_flash_attn_2_available),
    "flash_attention_3": ("flash_attn_3", is_flash_attn_3_available),
}
"""The package behind an attention, and whether it is installed."""
ATTENTIONS = ("auto", "sdpa", "eager", *FLASH_PACKAGES)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INSTEAD = "use attention='auto', which takes the flash kernel that torch brings wherever it runs"


def attention_for(attention: str, devices: object) -> str:
    """The name that transformers has for an attention. ``devices``: a torch device, or an accelerate device map.

    Names with a slash, of kernels on the Hub, are left to transformers. Raises ``ValueError`` for an unknown one, or
    one that the GPU cannot run, and :class:`MissingDependencyError` where its package is not installed.
    """
    if attention == "auto":
        return "sdpa"
    if "/" in attention:
        return attention
    if attention not in ATTENTIONS:
        raise ValueError(f"unknown attention {attention!r}; allowed: {', '.join(ATTENTIONS)}")
    package, installed = FLASH_PACKAGES.get(attention, ("", lambda: True))
    if not package:
        return attention
    for device in gpus_of(devices):
        if (found := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
            raise ValueError(
                f"attention={attention!r} needs compute capability {dotted(LEAST_CAPABILITY)}, and "
                f"{torch.cuda.get_device_name(device)} has {dotted(found)}: {INSTEAD}"
            )
    if not installed():
        raise MissingDependencyError(f"attention={attention!r} needs the package {package}: install it, or {INSTEAD}")
    return attention


def check_dtype(dtype: torch.dtype, devices: object) -> torch.dtype:
    """Return the dtype; warn of one that a GPU emulates or has no fast kernels for.

    Raises ``ValueError`` for one no model computes in.
    """
    if dtype not in DTYPES:
        raise ValueError(
            f"dtype={str(dtype).removeprefix('torch.')!r} is not one to compute in; allowed: auto, float32, bfloat16, "
            "float16. For smaller weights give quantization"
        )
    for device in gpus_of(devices):
        if slower := _why_slower(dtype, device):
            warnings.warn(slower, stacklevel=4)
            break
    return dtype


def _why_slower(dtype: torch.dtype, device: torch.device) -> str:
    """What a GPU does not do in a dtype, and what it does instead; empty where nothing is missing."""
    card, instead = torch.cuda.get_device_name(device), "the memory-efficient kernel runs, and no graph writes tokens"
    old = torch.cuda.get_device_capability(device) < LEAST_CAPABILITY
    if dtype == torch.bfloat16 and old:
        return (
            f"{card} has no bfloat16 units and emulates them, slowly: "
            "dtype='float16' is faster, where the model's numbers stay below 65,504"
        )
    if old:
        needs = dotted(LEAST_CAPABILITY)
        return f"{card} has no flash attention, which needs compute capability {needs}: {instead}"
    if dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        return f"{name} has no flash attention on {card}: {instead}; dtype='bfloat16' is several times as fast"
    return ""


def gpus_of(devices: object) -> list[torch.device]:
    """The GPUs that a torch device or a device map names; all there are for maps that accelerate makes."""
    if isinstance(devices, torch.device):
        return [devices] if devices.type == "cuda" else []
    if isinstance(devices, Mapping):
        named = {torch.device("cuda", one) if isinstance(one, int) else one for one in devices.values()}
        found = (torch.device(str(one)) for one in named if str(one).startswith("cuda"))
        return sorted(found, key=lambda device: device.index or 0)
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


def dotted(capability: tuple[int, int]) -> str:
    """``8.0`` of ``(8, 0)``."""
    return ".".join(map(str, capability))
