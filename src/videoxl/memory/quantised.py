"""Keys and values in eight bits while they are held: half of what bf16 takes (``kv_dtype``).

Every token is rounded when it is appended, per token and head, and whoever reads it later reads the rounded numbers. So
a video read in parts is the video read at once. What is read is unpacked for one layer at a time.

Keys are taken without the constant part that the bias of their projection gives them: biases of Qwen2 are large in a
few channels, and one scale per token would round everything else away (:mod:`videoxl.memory.file.codec` has numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from videoxl.config import KVDtype
from videoxl.memory.file.codec import EIGHT_BITS, SMALLEST_SCALE
from videoxl.memory.kv_cache import KVCache, Pair, PreallocatedLayer, SharedBuffer, Which

SCALE_BYTES = torch.float32.itemsize
TOKENS_AT_ONCE = 1 << 16
"""Tokens that are unpacked at once; it bounds further copies."""

Tables = Callable[[torch.Tensor, torch.device], Pair]
"""Cosines and sines ``[S, E]`` in fp32 of positions ``[S]``, the sines of the first half of a head negative."""


@dataclass(frozen=True)
class Quantisation:
    """How keys and values of one layer are packed."""

    name: KVDtype
    bias_KE: torch.Tensor | None = None
    """What all keys have in common before they are rotated; it is not packed."""
    tables: Tables | None = None
    """Rotate it; required with a bias."""

    @property
    def dtype(self) -> torch.dtype:
        return EIGHT_BITS[self.name][0]

    def pack(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[..., E]`` -> the same in eight bits, and scales ``[..., 1]`` in fp32."""
        dtype, largest = EIGHT_BITS[self.name]
        wide = states.float()
        scales = wide.abs().amax(-1, keepdim=True).clamp_min_(SMALLEST_SCALE).div_(largest)
        scaled = wide / scales
        return (scaled.round_() if dtype == torch.int8 else scaled).clamp_(-largest, largest).to(dtype), scales

    def common(self, positions_S: torch.Tensor) -> tuple[Pair, Pair] | None:
        """What keys at these positions have in common: two products to be added."""
        if self.bias_KE is None or self.tables is None:
            return None
        cos, sin = self.tables(positions_S, positions_S.device)
        bias_K1E = self.bias_KE.to(positions_S.device, torch.float32).unsqueeze(1)
        return (cos, bias_K1E), (sin, bias_K1E.roll(bias_K1E.shape[-1] // 2, -1))

    def pack_keys(self, keys_BKSE: torch.Tensor, begin: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pack rotated keys at the positions from ``begin`` on."""
        common = self.common(torch.arange(begin, begin + keys_BKSE.shape[2], device=keys_BKSE.device))
        if common is None:
            return self.pack(keys_BKSE)
        wide = keys_BKSE.to(torch.float32, copy=True)
        for factors in common:
            wide.addcmul_(*factors, value=-1)
        return self.pack(wide)

    def unpack_keys(
        self, packed_BKSE: torch.Tensor, scales_BKS1: torch.Tensor, positions_S: torch.Tensor, out_BKSE: torch.Tensor
    ) -> None:
        """Undo :meth:`pack_keys`, into ``out``."""
        for first in range(0, len(positions_S), TOKENS_AT_ONCE):
            part = slice(first, first + TOKENS_AT_ONCE)
            common = self.common(positions_S[part])
            if common is None:
                unpack(packed_BKSE[:, :, part], scales_BKS1[:, :, part], out_BKSE[:, :, part])
                continue
            wide = packed_BKSE[:, :, part].float().mul_(scales_BKS1[:, :, part])
            for factors in common:
                wide.addcmul_(*factors)
            out_BKSE[:, :, part].copy_(wide)


def unpack(packed_BKSE: torch.Tensor, scales_BKS1: torch.Tensor, out_BKSE: torch.Tensor) -> None:
    """Undo :meth:`Quantisation.pack`, into ``out``."""
    for first in range(0, packed_BKSE.shape[2], TOKENS_AT_ONCE):
        part = slice(first, first + TOKENS_AT_ONCE)
        wide = packed_BKSE[:, :, part].to(out_BKSE.dtype)
        out_BKSE[:, :, part].copy_(wide.mul_(scales_BKS1[:, :, part].to(wide.dtype)))


class PackedBuffer(SharedBuffer):
    """Keys and values in eight bits ``[B, K, S, E]``, with scales ``[B, K, S, 1]``."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts[0], parts[2])
        self.parts = parts


Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Keys, their scales, values, their scales."""


class QuantisedLayer(PreallocatedLayer):
    """A cache layer in eight bits. Keys and values are unpacked whenever they are asked for."""

    def __init__(self, how: Quantisation, reserved: int = 0) -> None:
        super().__init__(reserved)
        self.how = how
        self._read_as = torch.float32

    @property
    def is_packed(self) -> bool:
        return True

    @property
    def keys(self) -> torch.Tensor:
        return self.span(0, self.length)[0]

    @property
    def values(self) -> torch.Tensor:
        return self.span(0, self.length)[1]

    @property
    def dtype(self) -> torch.dtype:
        """The one that keys and values are read in."""
        self.buffer()
        return self._read_as

    @property
    def nbytes(self) -> int:
        return 0 if self.is_empty else sum(part.numel() * part.element_size() for part in self._parts())

    def _parts(self, begin: int = 0, end: int | None = None) -> Parts:
        end = self.length if end is None else end
        return cast(Parts, tuple(part[:, :, begin:end] for part in cast(PackedBuffer, self.buffer()).parts))

    def span(self, begin: int, end: int) -> Pair:
        return self._unpacked(self._parts(begin, end), torch.arange(begin, end, device=self.device))

    def _unpacked(self, parts: Parts, positions_S: torch.Tensor) -> Pair:
        keys, key_scales, values, value_scales = parts
        out = torch.empty(keys.shape, dtype=self._read_as, device=keys.device)
        self.how.unpack_keys(keys, key_scales, positions_S, out)
        read = torch.empty(values.shape, dtype=self._read_as, device=values.device)
        unpack(values, value_scales, read)
        return out, read

    def select(self, which: Which, positions: torch.Tensor) -> torch.Tensor:
        at, parts = positions.to(self.device), self._parts()
        keys, key_scales, values, value_scales = parts
        packed, scales = (keys, key_scales) if which == "keys" else (values, value_scales)
        packed, scales = packed.view(torch.uint8).index_select(2, at).view(packed.dtype), scales.index_select(2, at)
        out = torch.empty(packed.shape, dtype=self._read_as, device=self.device)
        if which == "keys":
            self.how.unpack_keys(packed, scales, at, out)
        else:
            unpack(packed, scales, out)
        return out

    # ---------------------------------------------------------------------------------------------------- growing

    def update(self, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> Pair:
        """Append, rounded; returns all keys and values as they are read."""
        self.keep(keys_BKLE, values_BKLE)
        return self.span(0, self.length)

    def keep(self, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> None:
        if self.is_empty:
            self._read_as = keys_BKLE.dtype
        self._append((*self.how.pack_keys(keys_BKLE, self.length), *self.how.pack(values_BKLE)))

    def _append(self, new: Parts) -> None:
        length, total = self.length, self.length + new[0].shape[2]
        self.writing = total
        buffer = cast(PackedBuffer, self._room_for(total, new[0], new[2]))
        for held, part in zip(buffer.parts, new):
            held[:, :, length:total].copy_(part)
        self.length = total

    def _new_buffer(self, capacity: int, like_keys: torch.Tensor, like_values: torch.Tensor) -> SharedBuffer:
        return PackedBuffer(cast(Parts, tuple(_parts_like(capacity, like_keys, like_values))))

    def _fill(self, buffer: SharedBuffer) -> None:
        for held, part in zip(cast(PackedBuffer, buffer).parts, self._parts()):
            held[:, :, : self.length].copy_(part)

    def replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._attach(PackedBuffer((*self.how.pack_keys(keys, 0), *self.how.pack(values))), keys.shape[-2])

    def fork(self, reserved: int = 0) -> QuantisedLayer:
        other = self.empty(reserved)
        if not self.is_empty:
            buffer = self.buffer()
            buffer.release(self)
            other._attach(buffer, self.length)
        return other

    def empty(self, reserved: int = 0) -> QuantisedLayer:
        other = QuantisedLayer(self.how, reserved)
        other._read_as = self._read_as
        return other

    def make_room(self, total: int) -> SharedBuffer:
        """Raises ``TypeError``: nobody may write into codes as if they were keys and values."""
        raise TypeError("keys and values in eight bits are appended by update() or keep()")

    def cut(self, begin: int) -> QuantisedLayer:
        other = self.empty()
        parts = tuple(part.clone() for part in self._parts(begin))
        other._attach(PackedBuffer(cast(Parts, parts)), self.length - begin)
        return other

    def join(self, piece: PreallocatedLayer) -> None:
        """Append what :meth:`cut` returned, as it is."""
        assert isinstance(piece, QuantisedLayer)
        self._append(piece._parts())


def _parts_like(capacity: int, like_keys: torch.Tensor, like_values: torch.Tensor) -> Iterator[torch.Tensor]:
    for like in (like_keys, like_values):
        yield like.new_empty((*like.shape[:2], capacity, like.shape[3]))
        yield like.new_empty((*like.shape[:2], capacity, 1), dtype=torch.float32)


def quantised_cache(layers: Sequence[Quantisation], reserve: int = 0) -> KVCache:
    """An empty cache whose layers are packed as each says."""
    return KVCache([QuantisedLayer(how, reserve) for how in layers])


def kv_dtype_of(cache: KVCache) -> KVDtype | None:
    """What the layers of a cache are rounded to; None: they hold what was computed."""
    first = cache.layers[0] if cache.layers else None
    return first.how.name if isinstance(first, QuantisedLayer) else None


def packed_bytes(tokens: int, heads: int, width: int) -> int:
    """Bytes of the keys and values of ``tokens`` tokens in one layer."""
    return 2 * tokens * heads * (width + SCALE_BYTES)


def usable(name: KVDtype, device: torch.device) -> bool:
    """Whether a device can turn numbers into this dtype and back."""
    try:
        return bool(torch.ones(1, device=device).to(EIGHT_BITS[name][0]).float().item() == 1)
    except (RuntimeError, TypeError):
        return False
