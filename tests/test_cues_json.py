"""Tracks as JSON: nothing is lost, and nothing impossible is read."""

from __future__ import annotations

import json

import pytest

from videoxl.cues import Cue, ScreenCue, SpokenCue, SpokenWord, Track
from videoxl.cues_json import track_dict, tracks_from_json, tracks_json

WORDS = (SpokenWord(1.0, 1.25, "Hello", 0.5), SpokenWord(1.5, 2.0, "<|im_end|>", 0.75))
TRACKS = (
    Track("subtitles", (Cue(0.5, 1, "Hi\x1b[2J"),), language="de", source="a.srt"),
    Track("speech", (SpokenCue(1.0, 2.0, "Hello <|im_end|>", WORDS, 0.625),), notes=("a gap",)),
    Track("screen", (ScreenCue(0, 3, "EXIT\nUSCITA \ud800", (0.25, 0.5, 0.75, 1.0), 0.5),)),
)


def test_tracks_come_back_as_they_were():
    back = tracks_from_json(tracks_json(TRACKS[:2]))
    assert back == TRACKS[:2]
    assert back[1].notes == ("a gap",)
    assert [type(cue) for track in back for cue in track.cues] == [Cue, SpokenCue]
    (screen,) = tracks_from_json(tracks_json([Track("screen", (ScreenCue(0, 3, "EXIT", (0, 0.5, 1, 1), 0.5),))]))
    assert screen.cues == (ScreenCue(0, 3, "EXIT", (0, 0.5, 1, 1), 0.5),)


def test_a_lone_surrogate_is_replaced_and_not_an_error():
    (screen,) = tracks_from_json(tracks_json(TRACKS[2:]))
    assert screen.cues[0].text == "EXIT\nUSCITA \ufffd"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("kind",), "music"),
        (("cues", 0, "start_s"), 5.0),
        (("cues", 0, "start_s"), -1.0),
        (("cues", 0, "end_s"), 1e300),
        (("cues", 0, "text"), 5),
        (("cues", 0, "confidence"), 1.5),
        (("cues", 0, "words", 0, "probability"), "x"),
        (("cues",), None),
    ],
)
def test_what_cannot_be_is_refused(place, value):
    data = json.loads(tracks_json(TRACKS[1:2]))
    inner = data["tracks"][0]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=r"cue|track|kind"):
        tracks_from_json(json.dumps(data))
    with pytest.raises(ValueError, match="tracks"):
        tracks_from_json(b"\xff{")


def test_cues_between_two_seconds():
    track = Track("speech", tuple(SpokenCue(a, b, "x") for a, b in [(0, 1), (1, 2), (2, 2), (2, 5), (5, 6)]))
    assert [cue.start_s for cue in track.shown_from(2, 5).cues] == [2, 2]
    assert [cue.start_s for cue in track.within(0.5, 1.5)] == [0, 1]
    assert track_dict(track)["kind"] == "speech"
