"""Makes what is past smaller with age, and removes it in the end."""

from __future__ import annotations

from dataclasses import replace

from videoxl.catalogue.catalogue import Catalogue
from videoxl.inference.engine import VideoXL
from videoxl.live.folder import Folder, SegmentFacts
from videoxl.live.settings import Retention
from videoxl.memory.video_memory import VideoMemory


class Shrinker:
    """Makes segments smaller: dense, then pooled where the model has two levels, then vectors, then nothing."""

    def __init__(self, engine: VideoXL, folder: Folder, catalogue: Catalogue) -> None:
        self._engine, self._folder, self._catalogue = engine, folder, catalogue
        self._pools = engine.model_id.two_levels

    def apply(self, retention: Retention, now: float, reserve: int = 0) -> int:
        """Bring the folder to what it may hold at ``now`` on the axis. Returns how many segments were made smaller.

        ``reserve``: bytes that must be left for the segment in work.
        """
        changed = 0
        for segment in [*self._folder.segments]:
            current: SegmentFacts | None = segment
            while current is not None and self._is_too_old(current, retention, now):
                current = self.shrink(current)
                changed += 1
        self._catalogue.compact()
        while self._folder.nbytes + reserve > retention.bytes and self._folder.segments:
            self.shrink_oldest()
            self._catalogue.compact()
            changed += 1
        return changed

    def _is_too_old(self, segment: SegmentFacts, retention: Retention, now: float) -> bool:
        limits = {
            "dense": retention.dense_s if self._pools else retention.pooled_s,
            "pooled": retention.pooled_s,
            "vectors": retention.vectors_s,
        }
        return now - segment.end > limits[segment.level]

    def _oldest(self) -> SegmentFacts:
        """The oldest segment that still has a memory; if none has, the oldest."""
        held = self._folder.segments
        return next((one for one in held if one.level != "vectors"), held[0])

    def shrink_oldest(self) -> None:
        """Make room: of the oldest segment that has a memory, else of the oldest."""
        self.shrink(self._oldest())

    def shrink(self, segment: SegmentFacts) -> SegmentFacts | None:
        """Make a segment the next smaller form; None: it is gone."""
        if segment.level == "dense" and self._pools:
            return self._pooled(segment)
        if segment.level != "vectors":
            return self._folder.drop_memory(segment)
        if segment.video is not None:
            self._catalogue.delete([segment.video])
        self._folder.remove(segment)
        return None

    def _pooled(self, segment: SegmentFacts) -> SegmentFacts:
        path = self._folder.memory_path(segment)
        if not path.exists():
            return self._folder.drop_memory(segment)
        VideoMemory.load(path, self._engine).save(path, dtype="int8", level="pooled")
        changed = replace(segment, level="pooled")
        self._folder.keep(changed)
        return changed
