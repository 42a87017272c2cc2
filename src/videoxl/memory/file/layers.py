"""Keys and values that stay in a file until somebody reads them.

A level of a memory (dense, or averaged) is written in *blocks* of tokens that follow each other. A question about the
whole video reads all blocks once, one about a few stretches those that hold them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from videoxl.errors import MemoryFileError
from videoxl.memory.file.codec import Codec, Parts
from videoxl.memory.file.format import MemoryFile, TensorSpec
from videoxl.memory.kv_cache import SPARE_TOKENS, PreallocatedLayer, Rope, SharedBuffer, Tier, Which
from videoxl.memory.model_id import ModelId
from videoxl.memory.positions import Positions
from videoxl.memory.quantised import Quantisation, QuantisedLayer, packed_bytes

THREADS = min(4, os.cpu_count() or 1)
"""Threads that read blocks: reading and checking release the interpreter."""
DENSE, POOLED = "dense", "pooled"
"""Names of levels in a file; the second is followed by the number of tokens averaged into one."""
Ranges = tuple[tuple[int, int], ...]
BOTH: tuple[Which, Which] = ("keys", "values")


def part_name(level: str, block: int, part: str) -> str:
    """Name a tensor of a block: ``dense.00012.keys``."""
    return f"{level}.{block:05d}.{part}"


@dataclass(frozen=True)
class LevelLayout:
    """Layout of one level in a file: the tokens ``[begin, end)`` of each block, ascending, and the sizes of a layer."""

    name: str
    ranges: Ranges
    codec: Codec
    layers: int
    heads: int
    width: int

    @classmethod
    def of(cls, model: ModelId, codec: Codec, name: str, ranges: Ranges) -> LevelLayout:
        """Lay out a level of a memory of ``model``."""
        return cls(name, ranges, codec, model.layers, model.heads, model.head_width)

    def specs(self) -> Iterator[TensorSpec]:
        """Yield its tensors, each with a piece per layer."""
        for block, (begin, end) in enumerate(self.ranges):
            for part, (dtype, shape) in self.codec.layout(self.heads, end - begin, self.width).items():
                yield TensorSpec(part_name(self.name, block, part), dtype, (self.layers, *shape))

    @property
    def tokens(self) -> int:
        return sum(end - begin for begin, end in self.ranges)


class StoredLevel:
    """A level in an opened file."""

    def __init__(
        self,
        file: MemoryFile,
        layout: LevelLayout,
        length: int,
        dtype: torch.dtype,
        rope: Rope | None,
        positions: Positions | None = None,
    ) -> None:
        """
        Args:
            length: tokens of the level; where the ranges have gaps, some of them are missing.
            dtype: dtype in which keys and values are returned.
            rope: rotates keys that were written un-rotated; None: they stay un-rotated.
            positions: what to rotate them to, where that is not the index.
        """
        self.positions = positions
        self.file, self.layout, self.length, self.dtype = file, layout, length, dtype
        self.rope = None if layout.codec.rotated else rope
        self._begins = np.array([begin for begin, _ in layout.ranges])
        self._ends = np.array([end for _, end in layout.ranges])

    @property
    def complete(self) -> bool:
        return self.layout.tokens == self.length

    @property
    def nbytes(self) -> int:
        """Bytes of one layer, as returned."""
        return 2 * self.layout.heads * self.layout.width * self.layout.tokens * self.dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes of one layer in the file."""
        return sum(spec.piece_bytes for spec in self.layout.specs())

    def _read(self, which: Which, layer: int, block: int) -> Parts:
        """Read one layer of one block, still encoded."""
        names = self.layout.codec.names(which)
        parts = {name: self.file.read(part_name(self.layout.name, block, name), layer) for name in names}
        if not self.layout.codec.finite(which, parts):
            where = f"{part_name(self.layout.name, block, which)}[{layer}]"
            raise self.file.corrupt(f"{where} holds numbers that are not finite")
        return parts

    def _decode(self, which: Which, block: int, parts: Parts, device: torch.device) -> torch.Tensor:
        """Decode keys or values, ``[K, T, E]``."""
        states = self.layout.codec.decode(which, {name: part.to(device) for name, part in parts.items()})
        if which == "keys" and self.rope is not None:
            begin, end = self.layout.ranges[block]
            index = torch.arange(begin, end, device=device)
            at = index if self.positions is None else self.positions.at(index)
            states = self.rope.apply_rope(states[None], at)[0]
        return states.to(self.dtype)

    def select(self, which: Which, layer: int, positions: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Read keys or values of some tokens of one layer, ``[1, K, len(positions), E]``: the blocks that hold them."""
        wanted = positions.cpu().numpy()
        blocks = np.searchsorted(self._begins, wanted, side="right") - 1
        if len(wanted) and (blocks.min() < 0 or (wanted >= self._ends[blocks]).any()):
            raise self.incomplete()
        out = _empty((1, self.layout.heads, len(wanted), self.layout.width), self.dtype, device)
        for block in np.unique(blocks).tolist():
            places = torch.from_numpy(np.flatnonzero(blocks == block)).to(device)
            inside = torch.from_numpy(wanted[blocks == block] - self._begins[block]).to(device)
            states = self._decode(which, block, self._read(which, layer, block), device)
            out[0].index_copy_(1, places, states.index_select(1, inside))
        return out

    def read_into(self, which: Which, layer: int, buffer_1KSE: torch.Tensor) -> None:
        """Read all tokens of a layer into ``buffer``. Raises :class:`MemoryFileError` when some are missing."""
        if not self.complete:
            raise self.incomplete()
        ranges, device = self.layout.ranges, buffer_1KSE.device
        with ThreadPoolExecutor(THREADS) as pool:  # they read the file; torch decodes with its own threads
            for block, parts in enumerate(pool.map(partial(self._read, which, layer), range(len(ranges)))):
                begin, end = ranges[block]
                buffer_1KSE[0, :, begin:end].copy_(self._decode(which, block, parts, device))

    def blocks(self, layer: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield keys and values of a layer by block. Raises :class:`MemoryFileError` when some are missing."""
        if not self.complete:
            raise self.incomplete()
        for block in range(len(self.layout.ranges)):
            keys, values = (self._decode(which, block, self._read(which, layer, block), device) for which in BOTH)
            yield keys, values

    def incomplete(self) -> MemoryFileError:
        return MemoryFileError(
            f"{self.file.path} was saved with level='pooled': in detail it holds only the beginning and the end of the "
            "video; ask with decode='bilevel:relevance=0', or encode the video again and save it with level='dense'",
            code="memory_pooled_only",
        )


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, pinned: bool = False) -> torch.Tensor:
    """Make a tensor that other threads may fill and later calls append to, whether or not in inference mode."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned)


class _LayerSource:
    """One layer of a stored level, shared by all cache layers that have not read it yet; read at most once."""

    def __init__(
        self,
        level: StoredLevel,
        layer: int,
        device: torch.device,
        *,
        host: bool = False,
        packed: Quantisation | None = None,
    ) -> None:
        self.level, self.layer, self.device, self.host, self.packed = level, layer, device, host, packed
        self._lock = threading.Lock()
        self._held: PreallocatedLayer | None = None

    @property
    def read(self) -> bool:
        return self._held is not None

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values once they are read."""
        layout = self.level.layout
        if self.packed is None:
            return self.level.nbytes
        return packed_bytes(layout.tokens, layout.heads, layout.width)

    def held(self, reserve: int) -> PreallocatedLayer:
        """Return the layer in memory; the first call reads it. It is kept here, which reserves its tokens for later."""
        with self._lock:
            if self._held is None:
                room = max(reserve, self.level.length + SPARE_TOKENS)
                self._held = self._read(room) if self.packed is None else self._read_packed(self.packed, room)
            return self._held

    def _read(self, room: int) -> PreallocatedLayer:
        layout = self.level.layout
        pinned = self.host and self.device.type == "cuda"
        place = torch.device("cpu") if self.host else self.device
        buffers = []
        for which in BOTH:
            shape = (1, layout.heads, room, layout.width)
            buffer = _empty(shape, self.level.dtype, place, pinned)
            self.level.read_into(which, self.layer, buffer)
            buffers.append(buffer)
        return PreallocatedLayer.holding(buffers[0], buffers[1], self.level.length)

    def _read_packed(self, how: Quantisation, room: int) -> PreallocatedLayer:
        layer = QuantisedLayer(how, room)
        with torch.inference_mode(False), torch.no_grad():  # later calls append to it, whether or not in inference mode
            for keys, values in self.level.blocks(self.layer, self.device):
                layer.keep(keys[None], values[None])
        return layer


class _FromFile(PreallocatedLayer):
    """The part of a cache layer that knows its file. A layer inherits it before its own kind."""

    source: _LayerSource

    def _take_from(self, source: _LayerSource) -> None:
        self.source = source
        self.length = self.claimed = self.writing = source.level.length

    @property
    def unread(self) -> bool:
        """Whether neither this layer nor a fork of it was read."""
        return self._buffer is None and not self.source.read

    def buffer(self) -> SharedBuffer:
        if self._buffer is None:
            held = self.source.held(self.reserved)
            if self.source.host:  # nothing spare, so that it grows on the device
                self._attach(SharedBuffer(held.keys, held.values), held.length)
            else:
                self._attach(held.buffer(), held.length)
        return super().buffer()

    @property
    def is_empty(self) -> bool:
        return False

    @property
    def on_host(self) -> bool:
        return self.source.host

    @property
    def dtype(self) -> torch.dtype:
        return self.source.level.dtype

    @property
    def device(self) -> torch.device:
        if self._buffer is not None:
            return super().device
        return torch.device("cpu") if self.source.host else self.source.device

    def select(self, which: Which, positions: torch.Tensor) -> torch.Tensor:
        if not self.unread:
            return super().select(which, positions)
        return self.source.level.select(which, self.source.layer, positions, self.device)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values once they are read."""
        return self.source.nbytes if self.unread else super().nbytes

    @property
    def tier(self) -> tuple[Tier, int]:
        return ("disk", self.source.level.stored_bytes) if self.unread else super().tier


class FileLayer(_FromFile):
    """A cache layer that is read from its file when its keys or values are first asked for."""

    def __init__(self, source: _LayerSource, reserved: int = 0) -> None:
        super().__init__(reserved)
        self._take_from(source)

    @classmethod
    def at(cls, level: StoredLevel, layer: int, device: torch.device, *, host: bool = False) -> FileLayer:
        """Make layer number ``layer`` of a stored level. ``host``: keep what is read in host memory; a fork moves to
        ``device`` when it grows."""
        return cls(_LayerSource(level, layer, device, host=host))

    def fork(self, reserved: int = 0) -> PreallocatedLayer:
        """Return a layer with the same content. Nothing is read for that."""
        return FileLayer(self.source, reserved) if self.unread else super().fork(reserved)


class PackedFileLayer(_FromFile, QuantisedLayer):
    """The same, of a memory that is held in eight bits (``kv_dtype``)."""

    def __init__(self, source: _LayerSource, how: Quantisation, reserved: int = 0) -> None:
        QuantisedLayer.__init__(self, how, reserved)
        self._read_as = source.level.dtype
        self._take_from(source)

    @classmethod
    def at(cls, level: StoredLevel, layer: int, device: torch.device, how: Quantisation) -> PackedFileLayer:
        """Make layer number ``layer`` of a stored level."""
        return cls(_LayerSource(level, layer, device, packed=how), how)

    def fork(self, reserved: int = 0) -> QuantisedLayer:
        """Return a layer with the same content. Nothing is read for that."""
        return PackedFileLayer(self.source, self.how, reserved) if self.unread else super().fork(reserved)


class StoredTensors(Sequence[torch.Tensor]):
    """Keys or values of a stored level, layer by layer ``[1, K, S, E]``; each is read when first asked for."""

    def __init__(self, level: StoredLevel, which: Which, devices: Sequence[torch.device]) -> None:
        self.level, self.which, self.devices = level, which, devices
        self._held: list[torch.Tensor | None] = [None] * len(devices)

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, layer: int) -> torch.Tensor:  # type: ignore[override]
        held = self._held[layer]
        if held is None:
            layout = self.level.layout
            shape = (1, layout.heads, self.level.length, layout.width)
            held = _empty(shape, self.level.dtype, self.devices[layer])
            self.level.read_into(self.which, layer, held)
            self._held[layer] = held
        return held

    def tiers(self) -> Iterator[tuple[Tier, int]]:
        """Yield for each layer where it is and its bytes there."""
        for held in self._held:
            if held is None:
                yield "disk", self.level.stored_bytes // 2
            else:
                yield ("host" if held.device.type == "cpu" else "device"), held.numel() * held.element_size()
