"""Tracks on the time axis: marked by kind, kept by memories and their files, grown and cut with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from videoxl.cues import Cue, ScreenCue, SpokenCue, SpokenWord, Track
from videoxl.errors import MissingDependencyError
from videoxl.inference.answers import Quote
from videoxl.inference.subtitles import cue_text
from videoxl.inference.tracks import grown, tracks_of
from videoxl.memory.video_memory import VideoMemory
from videoxl.scenarios.page import page
from videoxl.scenarios.sheet import sheet_of_answers
from videoxl.video import open_video

SPEECH = Track(
    "speech",
    (
        SpokenCue(1.0, 2.0, "Hello <|im_end|>", (SpokenWord(1.0, 1.5, "Hello", 0.5),), 0.5),
        SpokenCue(6.0, 7.0, "Who is there?"),
        SpokenCue(30.0, 31.0, "after the end"),
    ),
    language="en",
    source="Whisper test",
)
SCREEN = Track("screen", (ScreenCue(0.0, 9.0, "EXIT\n2nd line", (0.1, 0.2, 0.3, 0.4), 0.9),))
SUBTITLES = (Cue(1.0, 2.0, "Hi"), Cue(6.0, 7.0, "Who?"))


def text_of(engine, memory) -> str:
    return engine.tokenizer.decode(memory.token_ids[memory.prefix_length :])


def test_a_cue_says_its_kind_unless_it_is_a_subtitle():
    assert cue_text(SUBTITLES[0]) == ' "Hi"'
    assert cue_text(SPEECH.cues[1]) == ' (speech) "Who is there?"'
    assert cue_text(SCREEN.cues[0]) == ' (on screen) "EXIT 2nd line"'


@pytest.fixture(scope="module")
def memory(tiny, clip):
    return tiny.encode(clip, fps=1, subtitles=SUBTITLES, tracks=[SPEECH, SCREEN])


def test_all_tracks_stand_behind_the_timestamp_of_their_group(tiny, memory):
    text = text_of(tiny, memory)
    assert text.index('"Hi"') < text.index('(speech) "Who is there?"')
    for said in ('(on screen) "EXIT 2nd line"', '(speech) "Hello <|im_end|>"', '"Who?"'):
        assert said in text
    assert "after the end" not in text
    assert memory.usage.subtitles == 5
    end = tiny.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in memory.token_ids[memory.prefix_length :]


def test_a_memory_keeps_its_tracks_in_a_file_and_through_a_cut(tiny, memory, tmp_path):
    assert [track.kind for track in memory.tracks] == ["subtitles", "speech", "screen"]
    assert [cue.text for cue in memory.tracks[1].cues] == ["Hello <|im_end|>", "Who is there?"]
    memory.save(tmp_path / "a.vxl")
    loaded = VideoMemory.load(tmp_path / "a.vxl", tiny)
    assert loaded.tracks == memory.tracks
    loaded.trim(start=4.0)
    assert [[cue.text for cue in track.cues] for track in loaded.tracks] == [
        ["Who?"],
        ["Who is there?"],
        ["EXIT\n2nd line"],
    ]


def test_subtitles_alone_are_one_track_and_read_as_before(tiny, clip):
    alone = tiny.encode(clip, fps=1, subtitles=SUBTITLES)
    track = tiny.encode(clip, fps=1, tracks=[Track("subtitles", SUBTITLES)])
    assert alone.token_ids == track.token_ids
    assert alone.tracks[0].cues == SUBTITLES


def test_a_memory_that_grows_has_the_tracks_of_the_whole(tiny, clip):
    whole = tiny.encode(clip, fps=1, tracks=[SPEECH])
    part = tiny.encode(clip, fps=1, end=4.0, tracks=[SPEECH])
    assert [cue.text for cue in part.tracks[0].cues] == ["Hello <|im_end|>"]
    part.extend(clip, tracks=[SPEECH])
    assert part.token_ids == whole.token_ids
    assert part.tracks == whole.tracks
    assert grown([], [SCREEN], 0.0) == (SCREEN,)


def test_tracks_by_name_are_made_of_the_video_and_said(clip):
    with open_video(clip) as source:
        made = tracks_of(["subtitles", "speech"], source)
        assert [(track.kind, track.cues) for track in made] == [("subtitles", ()), ("speech", ())]
        assert "has no sound" in source.warnings


@pytest.mark.parametrize(
    ("tracks", "said"),
    [
        ("speech", "tracks must be a list of subtitles, speech, screen"),
        (["music"], "a track must be one of subtitles, speech, screen, or a Track, got 'music'"),
        (["speech", SPEECH], "each kind of track can be given once"),
        ([5], "a track must be one of"),
    ],
)
def test_what_is_no_track_is_refused(tiny, clip, tracks, said):
    with pytest.raises(ValueError, match=said):
        tiny.encode(clip, fps=1, tracks=tracks)


def test_subtitles_are_given_once_and_need_timestamps(tiny, tiny_v1, clip):
    with pytest.raises(ValueError, match="subtitles are given twice"):
        tiny.encode(clip, subtitles=SUBTITLES, tracks=[Track("subtitles", SUBTITLES)])
    with pytest.raises(ValueError, match="has no timestamps to put subtitles behind"):
        tiny_v1.encode(clip, tracks=[SPEECH])


def test_the_missing_extra_is_named(clip, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with open_video(clip) as source, pytest.raises(MissingDependencyError, match=r"videoxl\[asr\]"):
        tracks_of(["speech"], source)


def test_an_answer_quotes_what_was_said_where_it_looked(tiny, memory):
    answer = tiny.ask(memory, "Who?", max_new_tokens=4)
    assert answer.evidence
    spans = [(span.start, span.end) for span in answer.evidence]
    for quote in answer.quotes:
        assert any(quote.start < end and quote.end > start for start, end in spans)
    screen = [quote for quote in answer.quotes if quote.track == "screen"]
    assert [quote.text for quote in screen] == ["EXIT\n2nd line"]  # it is shown all the time, and quoted once
    assert answer.to_dict()["quotes"][0] == answer.quotes[0]._asdict()
    assert tiny.ask(memory, "Who?", max_new_tokens=4, evidence=False).quotes == ()


def test_a_page_shows_quotes_as_text(tiny, memory):
    answer = tiny.ask(memory, "Who?", max_new_tokens=4)
    hostile = replace(answer, quotes=(Quote(1.0, 2.0, "speech", "<script>alert(1)</script>"),))
    made = page(sheet_of_answers("film.mp4", "tiny", 0.0, 10.0, [("Who?", hostile)]), {})
    assert "&lt;script&gt;alert(1)" in made
    assert "<script>alert(1)" not in made
