"""A video, read once: its keys and values with a time axis."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from videoxl.memory.kv_cache import KVCache


class TimeSpan(Protocol):
    """Anything with a begin and an end in seconds; groups of the prompt layout are."""

    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...


@dataclass(frozen=True)
class VideoMemory:
    """What ``encode`` returns and every question reads. Asking never changes it.

    ``cache`` holds ``len(token_ids)`` tokens: the system and user head, then for every group of frames its timestamp
    and its visual tokens.
    """

    cache: KVCache
    token_ids: tuple[int, ...]
    """Ids of everything in the cache; visual tokens as placeholders."""
    prefix_length: int
    """How many of them come before the video."""
    groups: tuple[TimeSpan, ...]
    """Time span of every group of frames, in order."""
    timestamps: tuple[float, ...]
    """Time of every frame read, in seconds from the start of the video."""
    prefill: str
    """The strategy that made it, as ``str(strategy)``."""
    model_fingerprint: str
    """Of the model that made it; another model's questions are refused."""
    usage: dict[str, Any] = field(default_factory=dict)
    """What reading cost: frames, seconds, tokens, bytes."""
    warnings: tuple[str, ...] = ()
    """What went wrong while reading, one sentence each."""

    @property
    def frames(self) -> int:
        """Frames read."""
        return len(self.timestamps)

    @property
    def duration(self) -> float:
        """Seconds of video covered, from the first frame read to the end of the last group."""
        return self.groups[-1].end_s - self.groups[0].start_s

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return self.cache.nbytes

    def fork(self) -> VideoMemory:
        """A memory that can grow on its own; keys and values are shared until it does."""
        return replace(self, cache=self.cache.fork())

    def __repr__(self) -> str:
        begin, end = self.groups[0].start_s, self.groups[-1].end_s
        return (
            f"VideoMemory({_clock(begin)}-{_clock(end)}, {self.frames:,} frames, {len(self.token_ids):,} tokens, "
            f"{self.nbytes / 1e6:,.1f} MB, prefill={self.prefill})"
        )


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
