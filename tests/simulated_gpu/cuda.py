"""``torch.cuda`` as of a machine with simulated devices."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.autograd.grad_mode import inference_mode
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import bias
from torch.utils._python_dispatch import _disable_current_modes

from tests.simulated_gpu.attention import plain_attention, scaled_dot_product_attention
from tests.simulated_gpu.card import H200, Card
from tests.simulated_gpu.device import DeviceTensor, SimulatedDevices, without_dispatch
from tests.simulated_gpu.graphs import capture_class, graph_class
from videoxl.model import flash


class _Stream:
    """A stream: everything is in order here, so waiting for another one costs nothing."""

    def __init__(self, device: Any = None, **_: Any) -> None:
        self.device = torch.device("cuda", 0) if device is None else torch.device(device)
        self.cuda_stream = id(self)

    def wait_stream(self, other: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def synchronize(self) -> None:
        assert SimulatedDevices.current is not None
        SimulatedDevices.current.wait("stream")


class _Event:
    """An event; the time between two is what the counted work takes at the card's rates."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.seconds = 0.0

    def record(self, stream: Any = None) -> None:
        assert SimulatedDevices.current is not None
        self.seconds = sum(SimulatedDevices.current.counts.seconds.values())

    def elapsed_time(self, end: _Event) -> float:
        return 1e3 * (end.seconds - self.seconds)

    def query(self) -> bool:
        return True

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None:
        assert SimulatedDevices.current is not None
        SimulatedDevices.current.wait("event")


@contextmanager
def simulated(card: Card = H200, *, count: int = 1, real: bool = False) -> Iterator[SimulatedDevices]:
    """Let ``count`` devices of ``card`` be there. ``real``: floating point numbers have values, for small models."""
    devices = SimulatedDevices(card, count, real=real)
    patches = [*_cuda_patches(devices), *_attention_patches(devices), *_mode_patches(devices)]
    torch._C._ensureCUDADeviceGuardSet()  # one that does nothing, where there is no GPU
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    for patch in patches:
        patch.start()
    SimulatedDevices.current = devices
    _forget_cards()
    try:
        with devices:
            yield devices
    finally:
        _forget_cards()
        SimulatedDevices.current = None
        for patch in reversed(patches):
            patch.stop()
        torch._C._set_only_lift_cpu_tensors(lifted)


def _forget_cards() -> None:
    """What the package keeps about a device, by its number."""
    flash.has_flash.cache_clear()
    flash._bounds.cache_clear()


def _cuda_patches(devices: SimulatedDevices) -> list[Any]:
    def index(device: Any = None) -> int:
        return 0 if device is None else device if isinstance(device, int) else torch.device(device).index or 0

    total = devices.card.memory_bytes
    stream = _Stream()
    replaced: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: devices.count,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "get_device_name": lambda device=None: devices.card.name,
        "get_device_capability": lambda device=None: devices.card.capability,
        "get_device_properties": lambda device=None: mock.Mock(total_memory=total, major=devices.card.capability[0]),
        "is_bf16_supported": lambda including_emulation=True: devices.card.capability >= (8, 0),
        "synchronize": lambda device=None: devices.wait("torch.cuda.synchronize"),
        "mem_get_info": lambda device=None: (total - devices.live[index(device)], total),
        "memory_reserved": lambda device=None: devices.live[index(device)],
        "memory_allocated": lambda device=None: devices.live[index(device)],
        "max_memory_allocated": lambda device=None: devices.peak[index(device)],
        "reset_peak_memory_stats": lambda device=None: devices.reset_peak(),
        "empty_cache": lambda: None,
        "Stream": _Stream,
        "Event": _Event,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "CUDAGraph": graph_class(devices),
        "graph": capture_class(devices),
        "graph_pool_handle": lambda: (0, 0),
        "is_current_stream_capturing": lambda: devices.recording is not None,
    }
    patches = [mock.patch.object(torch.cuda, name, value) for name, value in replaced.items()]

    class HostGenerator(torch.Generator):
        def __new__(cls, device: Any = "cpu") -> Any:
            made = super().__new__(cls, "cpu")
            made.simulated = torch.device(device)
            return made

    def pin_memory(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
        pinned = tensor.clone()
        pinned._is_pinned_here = True  # type: ignore[attr-defined]
        devices.pinned_host_tensors += 1
        return pinned

    return [
        *patches,
        mock.patch.object(torch, "Generator", HostGenerator),
        mock.patch.object(torch.Tensor, "pin_memory", pin_memory),
        mock.patch.object(torch.Tensor, "is_pinned", lambda tensor, device=None: hasattr(tensor, "_is_pinned_here")),
    ]


def _attention_patches(devices: SimulatedDevices) -> list[Any]:
    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if isinstance(query, DeviceTensor):
            return scaled_dot_product_attention(devices, query, key, value, attn_mask, is_causal, scale, enable_gqa)
        return plain_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)

    class LowerRight(bias.CausalBias):
        def __new__(cls, *args: Any) -> Any:
            with _disable_current_modes():  # it is a tensor subclass without numbers
                return bias.CausalBias.__new__(cls, *args)

    def lower_right(*size: int) -> Any:
        return LowerRight(bias.CausalVariant.LOWER_RIGHT, *size)

    loaded = [m for m in [*sys.modules.values()] if "causal_lower_right" in getattr(m, "__dict__", ())]
    users = [m for m in loaded if m.causal_lower_right is bias.causal_lower_right]
    return [
        mock.patch.object(F, "scaled_dot_product_attention", attention),
        *(mock.patch.object(module, "causal_lower_right", lower_right) for module in users),
    ]


def _mode_patches(devices: SimulatedDevices) -> list[Any]:
    """Inference mode hides operators in composite ones, and a dispatch mode belongs to one thread."""
    run = threading.Thread.run

    def run_simulated(thread: threading.Thread) -> None:
        torch._C._set_only_lift_cpu_tensors(True)
        with devices:
            run(thread)

    def enter(self: Any) -> None:
        self._without_gradients = torch.no_grad()
        self._without_gradients.__enter__()

    def leave(self: Any, *error: Any) -> None:
        self._without_gradients.__exit__(*error)

    return [
        mock.patch.object(threading.Thread, "run", run_simulated),
        mock.patch.object(inference_mode, "__enter__", enter),
        mock.patch.object(inference_mode, "__exit__", leave),
    ]


def move(model: nn.Module, devices: SimulatedDevices, dtype: torch.dtype | None = None, index: int = 0) -> nn.Module:
    """Put a model's parameters and buffers onto a device, floating point ones as ``dtype``; values where they count."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, tensor in list(module._parameters.items()):
            if tensor is not None:
                if id(tensor) not in moved:
                    held = _held(tensor, devices, dtype)
                    moved[id(tensor)] = nn.Parameter(devices.hold(held, index), requires_grad=False)
                module._parameters[name] = moved[id(tensor)]  # type: ignore[assignment]
        for name, tensor in list(module._buffers.items()):
            if tensor is not None:
                module._buffers[name] = devices.hold(_held(tensor, devices, None), index)
    return model


def _held(tensor: torch.Tensor, devices: SimulatedDevices, dtype: torch.dtype | None) -> torch.Tensor:
    with without_dispatch():
        plain = tensor.detach()
        floats = plain.dtype.is_floating_point
        wanted = dtype if dtype is not None and floats else plain.dtype
        if devices.real:
            return plain.to(wanted)
        if floats:
            return torch.empty(plain.shape, dtype=wanted, device="meta")
        if plain.is_meta:  # position ids are the only integers that models hold
            return torch.arange(plain.numel(), dtype=plain.dtype).view(plain.shape)
        return plain
