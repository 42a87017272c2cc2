"""Tensors on a simulated device, and the dispatch mode that carries out and counts what is done with them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.simulated_gpu.attention import VARLEN, varlen_attention
from tests.simulated_gpu.card import Card
from tests.simulated_gpu.counts import Counts, place
from tests.simulated_gpu.graphs import Recording, Work
from tests.simulated_gpu.trees import mapped, tensors_in

aten = torch.ops.aten
Generator = torch.Generator
without_dispatch = torch._C._DisableTorchDispatch
BLOCK = 512
"""torch's allocator rounds up to this many bytes."""
MOST_INTEGERS = 2**27
"""Integer results that come out of numbers without a value are made of zeros, up to this many."""

WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "bool",
    aten.unique_consecutive.default: "unique",
    aten._unique2.default: "unique",
    aten.bincount.default: "bincount",
}
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
GATHERS = {"index_select", "index", "embedding", "gather"}
"""Kernels that read as much as they write, however large what they read from."""
SCATTERS = {"index_copy_", "rotate_and_append"}
"""Kernels that write as much as they are given, however large what they write into."""
FREE = {
    aten.detach.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
    aten.lift_fresh.default,
    aten.alias.default,
    aten.empty.memory_format,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten._local_scalar_dense.default,
    aten.record_stream.default,
}
"""What starts no kernel, besides views."""


class DeviceTensor(torch.Tensor):
    """A tensor on a simulated device. ``held`` is a CPU tensor with its values, or a ``meta`` tensor without any."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, index: int = 0, *, requires_grad: bool = False) -> DeviceTensor:
        again = isinstance(held, DeviceTensor)  # accelerate makes parameters again, by their type
        if isinstance(held, DeviceTensor):
            held, index = held.held, held.device.index
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device("cuda", index),
            requires_grad=False,
        )
        made.held = held
        if again:
            made._is_param = True
        return made

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, other: DeviceTensor) -> None:
        torch.Tensor.data.__set__(self, other)
        self.held = other.held

    def data_ptr(self) -> int:
        """A number that is one storage's and one place's, as an address is."""
        return self.held.untyped_storage()._cdata + self.held.storage_offset() * self.held.element_size()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda device type tensor to numpy; copy it to the host first")

    def is_pinned(self, *args: Any) -> bool:
        return False

    def dequantize(self) -> torch.Tensor:
        """Itself: it is not quantised."""
        return self

    def record_stream(self, stream: Any) -> None:
        """Nothing to do: memory is not given to another stream here."""

    def __repr__(self) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = SimulatedDevices.current
        if device is None:
            raise RuntimeError(f"{func}: the simulated device is gone")
        return device.dispatch(func, args, kwargs or {})


class SimulatedDevices(TorchDispatchMode):
    """Devices of one kind. Use through :func:`tests.simulated_gpu.cuda.simulated`."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # then torch looks for no driver
    current: SimulatedDevices | None = None

    def __init__(self, card: Card, count: int = 1, *, real: bool = False) -> None:
        super().__init__()
        self.card, self.count, self.real = card, count, real
        self.live, self.peak = [0] * count, [0] * count
        self.limit: int | None = None
        """Bytes on a device beyond which allocating raises ``torch.OutOfMemoryError``."""
        self.counts = Counts()
        self.pinned_host_tensors = 0
        self.recording: Recording | None = None
        """The graph that is being recorded."""
        self.replaying = False
        """Whether kernels are part of a graph, which is started as a whole."""
        self._storages: dict[int, tuple[int, int]] = {}

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count anew from here; peaks begin at what is held now. The counts stay as they are afterwards."""
        before, self.counts = self.counts, Counts()
        self.reset_peak()
        try:
            yield self.counts
        finally:
            self.counts = before

    def reset_peak(self) -> None:
        self.peak = list(self.live)

    def wait(self, why: str) -> None:
        """Note that the host waits for the device."""
        if self.recording is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {why} at {place()}")
        self.counts.synchronisations[why, place()] += 1

    # ------------------------------------------------------------------------------------------------ memory

    def hold(self, held: torch.Tensor, index: int) -> DeviceTensor:
        """A device tensor of ``held``, whose bytes count once per storage."""
        storage = held.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            if self.limit is not None and self.live[index] + size > self.limit:
                raise torch.OutOfMemoryError(
                    f"simulated: {self.live[index] / 1e9:.3f} GB are held, {size / 1e9:.3f} GB more were asked for"
                )
            self._storages[key] = (index, size)
            self.live[index] += size
            self.touch(index)
            weakref.finalize(storage, self._free, key)
        return DeviceTensor(held, index)

    def touch(self, index: int, further: int = 0) -> None:
        """Note what is held now, with ``further`` bytes that a kernel takes for itself."""
        self.peak[index] = max(self.peak[index], self.live[index] + further)

    def _free(self, key: int) -> None:
        index, size = self._storages.pop(key, (0, 0))
        self.live[index] -= size

    # ------------------------------------------------------------------------------------------------ dispatch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.dispatch(func, args, kwargs or {})

    def dispatch(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = tensors_in(args, kwargs)
        ours = [a for a in given if isinstance(a, DeviceTensor)]
        host = [a for a in given if not isinstance(a, DeviceTensor)]
        target = _target(kwargs.get("device"))
        if not ours and (target is None or target.type != "cuda"):
            if kwargs.pop("pin_memory", None):
                self.pinned_host_tensors += 1
            return func(*args, **kwargs)
        if func is aten._to_copy.default and target is not None:
            if ours and target.type == "cpu":
                return self._to_host(func, args, kwargs)
            if host:
                self._note_upload(host[0], blocking=not kwargs.get("non_blocking"))
            elif ours and target != ours[0].device:
                self._note_passing(ours[0])
        elif func is aten.copy_.default and host:
            if not isinstance(args[0], DeviceTensor):
                return self._into_host(*args)
            self._note_upload(args[1], blocking=not (args[2] if len(args) > 2 else kwargs.get("non_blocking")))
        elif func is aten.record_stream.default:
            return None
        elif ours:
            self._check_devices(func, args, ours, host)
        if func in WAITS:
            self.wait(WAITS[func])
        if func is aten._local_scalar_dense.default:
            held = ours[0].held
            if held.is_meta:
                return 0.0 if held.dtype.is_floating_point else 0
            return held.item()
        index = target.index or 0 if target is not None and target.type == "cuda" else ours[0].device.index
        self._check_generator(func, kwargs.get("generator"), index)
        return self._run(func, args, kwargs, ours, index, transfer=bool(host) and func in COPIES)

    def _check_generator(self, func: Any, generator: Any, index: int) -> None:
        """A generator is of one device, and draws for that one alone."""
        of = getattr(generator, "simulated", None)
        if of is not None and (of.type != "cuda" or (of.index or 0) != index):
            raise RuntimeError(f"{func} on cuda:{index} got a generator of {of} at {place()}")

    def _check_devices(self, func: Any, args: Any, ours: list[DeviceTensor], host: list[torch.Tensor]) -> None:
        apart = {t.device for t in ours if t.dim()}
        if len(apart) > 1 and func not in (aten.copy_.default, aten._foreach_copy_.default):
            raise RuntimeError(f"tensors on {sorted(map(str, apart))} in one {func} at {place()}")
        wrong = [t for t in host if t.dim() > 0]
        if not wrong or func in COPIES:
            return
        if func in INDEXING and isinstance(args[0], DeviceTensor):
            self.counts.copies["index from host", place()] += 1
            self.wait("index from host")
            return
        raise RuntimeError(f"{func} got a device tensor and a host tensor {tuple(wrong[0].shape)} at {place()}")

    def _note_upload(self, source: torch.Tensor, *, blocking: bool) -> None:
        size = source.numel() * source.element_size()
        self.counts.copies["to device, pinned" if source.is_pinned() else "to device", place()] += 1
        self.counts.moved["to device"] += size
        if blocking and source.dim() > 0:
            self.wait("blocking upload")  # torch waits for the stream behind such a copy

    def _note_passing(self, source: torch.Tensor) -> None:
        self.counts.copies["between devices", place()] += 1
        self.counts.moved["between devices"] += source.numel() * source.element_size()

    def _to_host(self, func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        source = args[0]
        self._note_download(source, blocking=not kwargs.get("non_blocking"))
        with without_dispatch():
            kept = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory")}
            return func(_values(source.held), **kept, device="cpu")

    def _into_host(self, out: torch.Tensor, source: DeviceTensor, non_blocking: bool = False) -> torch.Tensor:
        self._note_download(source, blocking=not non_blocking)
        with without_dispatch():
            return out.copy_(_values(source.held))

    def _note_download(self, source: torch.Tensor, *, blocking: bool) -> None:
        self.counts.copies["to host", place()] += 1
        self.counts.moved["to host"] += source.numel() * source.element_size()
        if blocking:
            self.wait("copy to host")

    # ------------------------------------------------------------------------------------------------ kernels

    def _run(
        self, func: Any, args: Any, kwargs: dict[str, Any], ours: list[DeviceTensor], index: int, *, transfer: bool
    ) -> Any:
        known: dict[int, DeviceTensor] = {}
        with without_dispatch():
            valued = self.real or all(not t.held.is_meta for t in ours)
            indexes = func in INDEXING
            args, kwargs = mapped(lambda a: self._payload(a, valued, known, indexes), (args, kwargs))
            if func in INDEXING and any(_is_mask(i) for i in args[1]):
                self.wait("boolean index")
                if not valued:
                    args = (args[0], _positions(args[1]), *args[2:])
            if not valued and func in INDEXING:
                args = (args[0], [None if i is None else i.to("meta") for i in args[1]], *args[2:])
            made_here = not known
            if made_here and not self.real and _makes_floats(func, args, kwargs):
                args = tuple(a.to("meta") if isinstance(a, torch.Tensor) else a for a in args)
                kwargs = {**kwargs, "device": torch.device("meta")}
            elif kwargs.get("device") is not None and not valued:
                kwargs = {**kwargs, "device": torch.device("meta")}
            kwargs.pop("pin_memory", None)

            def work() -> Any:
                if func is VARLEN:
                    return varlen_attention(self, *args, **kwargs)
                out = self._kernel(func, args, kwargs, index)
                if not transfer:
                    self._count(func, args, kwargs, out)
                return out

            out = work() if self.recording is None else self._record(func, args, kwargs, work)
            return mapped(lambda r: self._wrap(r, known, index) if isinstance(r, torch.Tensor) else r, out)

    def _record(self, func: Any, args: Any, kwargs: dict[str, Any], work: Work) -> Any:
        """What an operator returns while a graph is recorded: views are views, nothing is written."""
        assert self.recording is not None
        if func in FREE or getattr(func, "is_view", False):
            return work()
        written = _written(func, args, kwargs)
        if not written:
            return self.recording.add(work)
        self.recording.add_writing(work)
        returned = len(func._schema.returns)
        return written[0] if returned == 1 else tuple(written) if returned else None

    def carry_out(self, work: Work) -> Any:
        """Do what makes new tensors, or record it."""
        return work() if self.recording is None else self.recording.add(work)

    def _payload(self, argument: Any, valued: bool, known: dict[int, DeviceTensor], indexes: bool) -> Any:
        if isinstance(argument, DeviceTensor):
            held = argument.held
            if not valued and not held.is_meta and not (indexes and _is_mask(held)):
                held = held.to("meta")
            known[id(held)] = argument
            return held
        if isinstance(argument, torch.Tensor):
            return argument if valued else argument.to("meta")
        if isinstance(argument, torch.device) and argument.type == "cuda":
            return torch.device("cpu")
        if isinstance(argument, Generator) and not valued:
            return None
        return argument

    def _wrap(self, result: torch.Tensor, known: dict[int, DeviceTensor], index: int) -> DeviceTensor:
        if id(result) in known:
            return known[id(result)]
        if not self.real:
            if result.is_meta and not result.dtype.is_floating_point and result.numel() <= MOST_INTEGERS:
                result = torch.zeros(result.shape, dtype=result.dtype)
            elif result.dtype.is_floating_point and not result.is_meta:
                result = result.to("meta")
        return self.hold(result, index)

    def _kernel(self, func: Any, args: Any, kwargs: dict[str, Any], index: int) -> Any:
        if func is aten._log_softmax.default and args[2]:
            return func(args[0].float(), args[1], False)  # a GPU converts on the way, a CPU does not
        if func is aten.native_group_norm.default and not self.real:
            x = args[0]  # on a GPU the result is contiguous, whatever came in
            if not x.is_contiguous():
                self.touch(index, x.numel() * x.element_size())
            shape = (args[3], args[6])
            return (
                x.new_empty(x.shape),
                x.new_empty(shape, dtype=torch.float32),
                x.new_empty(shape, dtype=torch.float32),
            )
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        if func in FREE or getattr(func, "is_view", False):
            return
        counts, name = self.counts, str(func).split(".")[1]
        self.launch(name)
        tensors, results = tensors_in(args, kwargs), tensors_in(out)
        written = sum(map(_nbytes, results))
        moved = 2 * written if name in GATHERS else written + sum(map(_nbytes, tensors))
        if name == "gather_layers":  # as many tokens as it writes, times those that it averages
            moved = (1 + args[2].shape[1]) * _nbytes(args[5])
        if name in SCATTERS:
            into = {id(t) for t in _written(func, args, kwargs)}
            moved = 2 * sum(_nbytes(t) for t in tensors if id(t) not in into)
        counts.moved["device"] += moved
        flops = 0.0
        if (packet := getattr(func, "overloadpacket", None)) in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=results[0] if len(results) == 1 else tuple(results))
        rate = self.card.gemm_flops(tensors[0].dtype) if tensors else self.card.single_flops
        if flops:
            counts.flops[f"{name} {str(tensors[0].dtype)[6:]}"] += flops
        counts.seconds["matrix products" if flops else "memory"] += max(
            flops / rate, moved / self.card.bytes_per_second
        )

    def launch(self, kernel: str, number: int = 1) -> None:
        """Count a kernel that was started ``number`` times."""
        if self.replaying:
            return
        self.counts.launches[kernel] += number
        self.counts.launched_at[place()] += number


def _target(device: Any) -> torch.device | None:
    return None if device is None else torch.device(device)


def _values(held: torch.Tensor) -> torch.Tensor:
    return torch.zeros(held.shape, dtype=held.dtype) if held.is_meta else held


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def _positions(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Boolean masks as the positions of what they let through."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        found += list(index.nonzero(as_tuple=True)) if _is_mask(index) else [index]
    return found


def _makes_floats(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    dtype = kwargs.get("dtype")
    if dtype is None:
        given = [a for a in args if isinstance(a, torch.Tensor)]
        dtype = given[0].dtype if given else torch.get_default_dtype()
        if not given and func.overloadpacket is aten.arange:
            return any(isinstance(a, float) for a in args)
    return dtype.is_floating_point


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The arguments that an operator writes into."""
    found: list[torch.Tensor] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tensors_in(args[number] if number < len(args) else kwargs.get(argument.name))
    return found


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
