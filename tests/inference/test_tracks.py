"""Tracks on the time axis: marked by kind, kept by memories and their files, grown and cut with them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import videoxl
from videoxl.cli.main import main
from videoxl.cues import Cue, ScreenCue, SpokenCue, SpokenWord, Track
from videoxl.cues_json import track_dict
from videoxl.errors import MissingDependencyError
from videoxl.inference import tracks
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
    ("given", "said"),
    [
        ("speech", "tracks must be a list of subtitles, speech, screen"),
        (["music"], "a track must be one of subtitles, speech, screen, or a Track, got 'music'"),
        (["speech", SPEECH], "each kind of track can be given once"),
        ([5], "a track must be one of"),
    ],
)
def test_what_is_no_track_is_refused(tiny, clip, given, said):
    with pytest.raises(ValueError, match=said):
        tiny.encode(clip, fps=1, tracks=given)


def test_subtitles_are_given_once_and_need_timestamps(tiny, tiny_v1, clip):
    with pytest.raises(ValueError, match="subtitles are given twice"):
        tiny.encode(clip, subtitles=SUBTITLES, tracks=[Track("subtitles", SUBTITLES)])
    with pytest.raises(ValueError, match="has no timestamps to put subtitles behind"):
        tiny_v1.encode(clip, tracks=[SPEECH])


def test_a_plan_counts_tracks_and_makes_none_for_a_model_without_timestamps(clip, monkeypatch):
    how = {"model": "tiny", "device": "cpu", "fps": 1}
    planned = videoxl.plan(clip, tracks=[SPEECH, SCREEN], **how)
    read = videoxl.load("tiny", device="cpu").encode(clip, fps=1, tracks=[SPEECH, SCREEN])
    assert planned.memory_tokens == len(read.token_ids)
    assert planned.subtitle_tokens == planned.memory_tokens - videoxl.plan(clip, **how).memory_tokens > 0
    monkeypatch.setattr(tracks, "_made", lambda *given: pytest.fail("it was made for nothing"))
    with pytest.raises(ValueError, match="no timestamps to put subtitles behind"):
        videoxl.plan(clip, model="tiny-v1", device="cpu", tracks=["speech"])


def test_the_command_line_reads_tracks_from_files(clip, tmp_path, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return int(ended.value.code), *capsys.readouterr()

    speech, screen = tmp_path / "speech.json", tmp_path / "screen.json"
    for path, track in ((speech, SPEECH), (screen, SCREEN)):
        path.write_text(json.dumps(track_dict(track)))
    both = f"{speech},{screen}"
    status, out, _ = run("plan", clip, "--model", "tiny", "--device", "cpu", "--fps", 1, "--tracks", both, "--json")
    page = tmp_path / "page.html"
    told = run("ask", clip, "Who?", "--model", "tiny", "--fps", 1, "--tracks", both, "--report", page, "-q", "--json")
    assert (status, told[0]) == (0, 0)
    (row,) = json.loads(told[1])
    assert json.loads(out)["memory_tokens"] == row["usage"]["memory_tokens"]
    assert {quote["track"] for quote in row["quotes"]} <= {"speech", "screen"}
    assert 'class="lane speech"' in page.read_text(encoding="utf-8")
    assert "Hello &lt;|im_end|&gt;" in page.read_text(encoding="utf-8")
    found = run(
        "summarize", clip, "--model", "tiny", "--tracks", both, "-o", tmp_path / "found.srt", "-q", "--max-frames", 8
    )
    assert found[0] == 0
    assert "Who is there?" in (tmp_path / "found.speech.srt").read_text()
    for given, said in (
        (
            ["--tracks", "music"],
            "must name some of subtitles, speech, screen, or a .json that transcribe or read wrote",
        ),
        (["--tracks", tmp_path / "none.json"], "none.json: No such file or directory"),
        (["--tracks", "tests/fixtures/sampling.json"], "holds no track"),
        (["--tracks", f"{speech},speech"], "each kind of track can be given once"),
    ):
        status, out, err = run("ask", clip, "Who?", "--model", "tiny", *given)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert said in err
    status, out, err = run("ask", clip, clip, "Who?", "--model", "tiny", "--tracks", speech, "-q")
    assert (status, out) == (2, "")
    assert "belongs to one video" in err


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
