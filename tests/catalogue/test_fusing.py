"""Candidates of several sources as one ranking."""

from __future__ import annotations

from videoxl.catalogue.fusing import fuse
from videoxl.catalogue.sources import ALIKE, Candidate


def found(source, video, score, weight=1.0):
    return Candidate(source, video, video, "frames" if source == "frames" else "speech", 0.0, 2.0, score, weight=weight)


def test_the_nearest_of_unlike_passages_does_not_hide_what_frames_show():
    far, near = found("meaning", 1, 0.1, 0.1 / ALIKE), found("meaning", 1, 0.6)
    shown = found("frames", 2, 0.12)
    assert [moment.best.video for moment in fuse([[], [far], [shown]])] == [2, 1]
    assert [moment.best.video for moment in fuse([[], [near], [shown]])] == [1, 2]


def test_what_two_sources_find_comes_first():
    meant = [found("meaning", video, 0.5) for video in (1, 2)]
    assert [moment.best.video for moment in fuse([[], meant, [found("frames", 2, 0.1)]])] == [2, 1]
