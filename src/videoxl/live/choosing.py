"""Which segments of the past a question reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoxl.catalogue.catalogue import Catalogue
from videoxl.catalogue.entries import Filter
from videoxl.live.folder import SegmentFacts
from videoxl.memory.layout import clock

HITS_EACH = 3
"""Moments that are looked at for each segment that is wanted."""


@dataclass(frozen=True)
class Chosen:
    """Segments to read, the best first, and what becomes of the others."""

    read: tuple[SegmentFacts, ...]
    searched: tuple[SegmentFacts, ...] = ()
    unread: tuple[SegmentFacts, ...] = ()
    notes: tuple[str, ...] = ()


def choose(catalogue: Catalogue, segments: Sequence[SegmentFacts], question: str, most: int) -> Chosen:
    """The best ``most`` of some segments: by what their frames show, where they have vectors; else the newest."""
    there = [one for one in segments if one.level != "vectors"]
    if len(there) <= most and len(there) == len(segments):
        return Chosen(tuple(there))
    if catalogue.models["frames"] is None:
        newest = tuple(sorted(there, key=lambda one: one.start)[-most:])
        note = "segments hold no vectors, so the newest were read: watch with a SigLIP model to search them"
        return Chosen(newest, (), tuple(one for one in segments if one not in newest), (note,))
    order = _by_search(catalogue, segments, question, most)
    read = tuple(one for one in order if one.level != "vectors")[:most]
    gone = [one for one in order[:most] if one.level == "vectors"]
    notes = [f"its memory is gone, so it was only found, not asked: {clock(one.start)}" for one in gone]
    return Chosen(read, tuple(one for one in segments if one not in read), (), tuple(notes))


def _by_search(catalogue: Catalogue, segments: Sequence[SegmentFacts], question: str, most: int) -> list[SegmentFacts]:
    """Segments in the order in which a search finds them; then the others, the newest first."""
    by_video = {one.video: one for one in segments if one.video is not None}
    where = Filter(videos=frozenset(by_video))
    limit = min(1000, HITS_EACH * most + len(segments))
    hits = catalogue.search(question, by="frames", limit=limit, where=where)
    found = list(dict.fromkeys(hit.video for hit in hits))
    ordered = [by_video[video] for video in found]
    return [*ordered, *sorted((one for one in segments if one not in ordered), key=lambda one: -one.start)]
