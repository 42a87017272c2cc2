"""Statistics of a reading, as a file holds them."""

from __future__ import annotations

import json

import pytest

from videoxl.memory.types import ReadStats

STATS = ReadStats(frames=5, video_seconds=2.5, window_ratios=(2, 4), seconds={"decode": 0.5}, source="a", subtitles=0)


def test_statistics_come_back_from_json():
    assert ReadStats.from_dict(json.loads(json.dumps(STATS.to_dict()))) == STATS


def test_an_extended_memory_says_how_often():
    assert "extended" not in STATS.to_dict()
    assert ReadStats.from_dict({**STATS.to_dict(), "extended": 2}).to_dict()["extended"] == 2


def test_files_with_fewer_or_other_keys_are_read():
    assert ReadStats.from_dict({}) == ReadStats()
    assert ReadStats.from_dict({"frames": 3, "once": "known"}) == ReadStats(frames=3)


@pytest.mark.parametrize("bad", [None, [], {"seconds": 3}, {"seconds": {"decode": "soon"}}, {"window_ratios": 4}])
def test_something_else_is_refused(bad):
    with pytest.raises((TypeError, ValueError)):
        ReadStats.from_dict(bad)
