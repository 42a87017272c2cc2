"""What is written for other programs says what was found, whatever a model wrote."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoxl.cues import Cue, ScreenCue, Track
from videoxl.scenarios.events import Event
from videoxl.scenarios.exports import EXPORTS, as_json, exporter, srt, table, track_files, vtt
from videoxl.video.subtitles import parse_subtitles

EVENTS = [Event(4.0, 8.0, "an orange star"), Event(3723.5, 3723.5, "a moment\n\nand & <more>")]


def test_srt():
    assert srt(EVENTS) == (
        "1\n00:00:04,000 --> 00:00:08,000\nan orange star\n\n2\n01:02:03,500 --> 01:02:04,000\na moment\nand & <more>\n"
    )


def test_vtt():
    assert vtt(EVENTS) == (
        "WEBVTT\n\n00:00:04.000 --> 00:00:08.000\nan orange star\n\n"
        "01:02:03.500 --> 01:02:04.000\na moment\nand &amp; &lt;more&gt;\n"
    )


def test_csv_holds_no_formulas():
    rows = list(csv.reader(io.StringIO(table([*EVENTS, Event(1, 2, '=HYPERLINK("x")'), Event(1, 2, 'a, "b"')]))))
    assert rows[0] == ["start", "end", "text"]
    assert rows[1] == ["4.000", "8.000", "an orange star"]
    assert [row[2] for row in rows[2:]] == ["a moment and & <more>", '\'=HYPERLINK("x")', 'a, "b"']


def test_tables_have_a_column_for_each_track_and_captions_a_file():
    speech = Track("speech", (Cue(5, 6, "=1+1 is\ntwo"), Cue(7, 9, "Good."), Cue(30, 31, "later")))
    screen = Track("screen", (ScreenCue(0, 9, "EXIT"),))
    rows = list(csv.reader(io.StringIO(table(EVENTS, [speech, screen]))))
    assert rows[0] == ["start", "end", "text", "speech", "screen"]
    assert rows[1][3:] == ["'=1+1 is two / Good.", "EXIT"]
    assert rows[2][3:] == ["", ""]
    found = json.loads(as_json(EVENTS, [screen]))
    assert [[cue["text"] for cue in one["screen"]] for one in found] == [["EXIT"], []]
    assert srt(EVENTS, [speech]) == srt(EVENTS)
    files = track_files("out/film.VTT", [speech, screen])
    assert sorted(files) == ["out/film.screen.VTT", "out/film.speech.VTT"]
    assert [cue.text for cue in parse_subtitles(files["out/film.screen.VTT"])] == ["EXIT"]
    assert track_files("film.csv", [speech]) == {}


def test_json():
    assert json.loads(as_json(EVENTS)) == [event.to_dict() for event in EVENTS]


@given(st.lists(st.tuples(st.floats(0, 90_000), st.floats(0, 100), st.text(max_size=40)), max_size=6))
def test_no_text_ends_a_caption_or_begins_another(found):
    events = [Event(start, start + length, text) for start, length, text in found]
    for write in (srt, vtt):
        assert len(parse_subtitles(write(events))) <= len(events)
        assert write(events).count("-->") == len(events)
    assert len(list(csv.reader(io.StringIO(table(events))))) == len(events) + 1


def test_the_name_of_a_file_decides():
    assert exporter("a/film.SRT") is EXPORTS["srt"][1]
    for name in ("film", "film.txt", "srt"):
        if name == "srt":
            continue
        with pytest.raises(ValueError, match=r"must end with \.srt, \.vtt, \.csv, \.json"):
            exporter(name)
