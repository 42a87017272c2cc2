"""Other ways to read and ask, for a run that does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from videoxl.config import BeaconPrefill, DecodeStrategy, KVDtype, PrefillStrategy, is_offloading
from videoxl.inference.plan.footprint import Footprint, Sizes, footprint, frames_that_fit
from videoxl.model.configuration import VideoXLConfig


@dataclass(frozen=True)
class Way:
    """How a video is read and asked, and in what weights, keys and values are held."""

    prefill: PrefillStrategy
    decode: DecodeStrategy
    kv_dtype: KVDtype | None = None
    quantization: str | None = None
    """Of the weights."""

    def __str__(self) -> str:
        """Settings as a user would write them."""
        named = {"quantization": self.quantization, "kv_dtype": self.kv_dtype}
        parts = [f"{name}={value!r}" for name, value in named.items() if value is not None]
        return " and ".join([*parts, f"prefill={str(self.prefill)!r}", f"decode={str(self.decode)!r}"])

    def changes(self, asked: Way) -> str:
        """What differs from ``asked``, as a user would write it; prefill and decode belong together."""
        if (self.prefill, self.decode) != (asked.prefill, asked.decode):
            return str(self)
        named = {"quantization": (self.quantization, asked.quantization), "kv_dtype": (self.kv_dtype, asked.kv_dtype)}
        return " and ".join(f"{name}={value!r}" for name, (value, before) in named.items() if value != before)


@dataclass(frozen=True)
class Room:
    """What has to fit, and into what."""

    config: VideoXLConfig
    sizes: Sizes
    prefill: PrefillStrategy
    """The strategy that they were counted for."""
    further_tokens: int
    itemsize: int
    free_bytes: int
    """Of the device, weights included where :attr:`weights` has them."""
    weights: Mapping[str | None, int]
    """Bytes of the weights by ``quantization``; the one in use, and those that could be used instead."""

    def sizes_of(self, strategy: PrefillStrategy) -> Sizes:
        """Sizes of the same video; of beacons that were not counted, an estimate."""
        sizes = self.sizes
        if not isinstance(strategy, BeaconPrefill) or strategy == self.prefill:
            return sizes
        kept = sizes.global_tokens + sizes.frames * self.config.tokens_per_group // min(strategy.ratios)
        return replace(sizes, kept=kept)

    def needed(self, way: Way) -> Footprint:
        """What it takes beside the weights."""
        return footprint(
            self.config,
            self.sizes_of(way.prefill),
            self.further_tokens,
            self.itemsize,
            way.prefill,
            way.decode,
            kv_dtype=way.kv_dtype,
            quantization=way.quantization,
        )

    def frames(self, way: Way) -> int:
        """Most frames of such a video that fit."""
        return frames_that_fit(
            self.config,
            self.sizes_of(way.prefill),
            self.further_tokens,
            self.itemsize,
            self.free_bytes - self.weights[way.quantization],
            way.prefill,
            way.decode,
            kv_dtype=way.kv_dtype,
            quantization=way.quantization,
        )

    def fits(self, way: Way) -> bool:
        return self.weights[way.quantization] + self.needed(way).device <= self.free_bytes


def frames_by_way(room: Room, asked: Way) -> tuple[int, Way] | None:
    """Most frames that fit in any way, and the way; None where not one group of frames fits."""
    smaller = list(_smaller(room, asked))
    ways = [*smaller, *_other_strategies(room, asked), *(w for s in smaller for w in _other_strategies(room, s))]
    found = [(room.frames(way), way) for way in ways]
    best = max(found, key=lambda one: one[0], default=None)
    return best if best and best[0] else None


def ways_that_fit(room: Room, asked: Way) -> list[Way]:
    """At most one way with smaller numbers, and one with other strategies, each the one that changes least.

    Where none of them fits, one that does both.
    """
    smaller = next(filter(room.fits, _smaller(room, asked)), None)
    other = next(filter(room.fits, _other_strategies(room, asked)), None)
    if smaller or other:
        return [way for way in (smaller, other) if way]
    both = (way for small in _smaller(room, asked) for way in _other_strategies(room, small))
    return [way for way in [next(filter(room.fits, both), None)] if way]


def _smaller(room: Room, asked: Way) -> Iterator[Way]:
    """Smaller keys and values first: they change answers less than small weights do."""
    for quantization in (asked.quantization, *(name for name in room.weights if name != asked.quantization)):
        for kv_dtype in dict.fromkeys((asked.kv_dtype, asked.kv_dtype or "int8")):
            way = replace(asked, quantization=quantization, kv_dtype=kv_dtype)
            if way != asked and not (kv_dtype and _offloads(way)):
                yield way


def _other_strategies(room: Room, asked: Way) -> Iterator[Way]:
    for prefill, decode in room.config.traits.low_memory:
        way = replace(asked, prefill=prefill, decode=decode)
        yield replace(way, kv_dtype=None) if _offloads(way) else way


def _offloads(way: Way) -> bool:
    return is_offloading(way.prefill)
