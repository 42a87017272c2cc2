"""The cache of tracks: what is kept, what is forgotten, and what cannot be written."""

from __future__ import annotations

import os

import pytest

from videoxl.cues import SpokenCue, SpokenWord, Track
from videoxl.words.cache import TrackCache

TRACK = Track("speech", (SpokenCue(1, 2, "Hi", (SpokenWord(1, 2, "Hi", 0.5),), 0.5),), language="en", notes=("a gap",))


def test_a_track_comes_back_for_the_same_file_and_settings_only(tmp_path):
    cache = TrackCache(tmp_path / "words")
    assert cache.get({"file": "a", "language": None}) is None
    assert cache.put({"file": "a", "language": None}, TRACK) is None
    found = TrackCache(tmp_path / "words").get({"language": None, "file": "a"})
    assert found == TRACK
    assert found.notes == TRACK.notes
    assert cache.get({"file": "b", "language": None}) is None
    assert cache.get({"file": "a", "language": "en"}) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"tracks": []}', b'{"tracks": [{"kind": "speech"}]}', b"\xff" * 9])
def test_a_damaged_file_is_made_anew(tmp_path, content):
    cache = TrackCache(tmp_path)
    cache.path({"file": "a"}).write_bytes(content)
    assert cache.get({"file": "a"}) is None
    assert cache.put({"file": "a"}, TRACK) is None
    assert cache.get({"file": "a"}) == TRACK


def test_what_was_not_used_for_longest_is_forgotten(tmp_path):
    cache = TrackCache(tmp_path)
    cache.put({"file": 0}, TRACK)
    size = cache.path({"file": 0}).stat().st_size
    cache = TrackCache(tmp_path, most_bytes=3 * size)
    for number in range(3):
        cache.put({"file": number}, TRACK)
        os.utime(cache.path({"file": number}), (number, number))
    assert cache.get({"file": 0}) == TRACK  # used just now
    cache.put({"file": 3}, TRACK)
    assert [cache.get({"file": n}) is not None for n in range(4)] == [True, False, True, True]


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    problem = TrackCache(tmp_path / "file").put({"file": 1}, TRACK)
    assert problem.startswith("it was not kept for the next time")
    assert "\n" not in problem
