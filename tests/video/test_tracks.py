"""Tracks of cues."""

import pytest

from videoxl.video.subtitles import Cue
from videoxl.video.tracks import ScreenCue, SpokenCue, Track, TrackKind


def test_cues_stand_in_the_order_in_which_they_begin():
    late, early = SpokenCue(4, 5, "two"), SpokenCue(1, 9, "one")
    assert Track(TrackKind.SPEECH, (late, early)).cues == (early, late)


def test_a_kind_may_be_given_as_text_and_another_is_refused():
    assert Track("screen", (ScreenCue(0, 1, "EXIT"),)).kind is TrackKind.SCREEN
    with pytest.raises(ValueError, match="music"):
        Track("music", (Cue(0, 1, "la"),))


@pytest.mark.parametrize("kind", [Cue, SpokenCue, ScreenCue])
def test_times_are_checked_for_every_kind_of_cue(kind):
    with pytest.raises(ValueError, match="0 <= start <= end"):
        kind(2, 1, "x")
