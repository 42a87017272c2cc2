"""A second look: the stretch that the first answer looked at, read more densely; both answers are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

import videoxl
from tests import media
from videoxl.cli.main import main
from videoxl.cues import ScreenCue, SpokenCue, Track
from videoxl.errors import VideoError
from videoxl.inference.look_again import LookAgain
from videoxl.many.record import AnswerRecord

QUESTIONS = ["What is shown?", "What color is the star?"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return media.write_video(tmp_path_factory.mktemp("look") / "film.mp4", frames=160, fps=10, size=(64, 64))


@pytest.fixture(scope="module")
def memory(tiny, film):
    return tiny.encode(str(film), fps=1)


def test_the_second_answer_is_that_of_the_part_read_by_hand(tiny, film, memory):
    answers = tiny.ask(memory, QUESTIONS, look_again=True, max_new_tokens=6)
    for question, answer, first in zip(QUESTIONS, answers, tiny.ask(memory, QUESTIONS, max_new_tokens=6)):
        assert answer.first is not None
        assert (answer.first.text, answer.first.evidence) == (first.text, first.evidence)
        best = first.evidence[0]
        begin, end = max(0.0, best.start - 4), min(16.0, best.end + 4)
        part = tiny.encode(str(film), fps=4, start=begin, end=end)
        assert answer.usage.frames == part.frames
        assert answer.text == tiny.ask(part, question, max_new_tokens=6).text
        assert answer.read[0].start >= begin
        assert answer.read[-1].end <= end + 1e-6


def test_tokens_are_bounded(tiny, memory):
    per_group = tiny.config.tokens_per_group
    one = tiny.ask(memory, QUESTIONS[0], look_again=LookAgain(max_tokens=3 * per_group, margin=0.0), max_new_tokens=2)
    assert 0 < one.usage.visual_tokens <= 3 * per_group
    none = tiny.ask(memory, QUESTIONS[0], look_again=LookAgain(max_tokens=per_group - 1), max_new_tokens=2)
    assert none.first is None
    assert "allow no more frames" in none.warnings[-1]


def test_where_there_is_nothing_more_to_see_it_is_said(tiny, film):
    whole = tiny.encode(str(film), fps=10)
    answer = tiny.ask(whole, QUESTIONS[0], look_again=True, max_new_tokens=2)
    assert answer.first is None
    assert "the video has no more frames there" in answer.warnings[-1]


def test_a_memory_without_its_video_needs_it(tiny, film, memory, tmp_path):
    memory.save(tmp_path / "film.vxl")
    stored = videoxl.VideoMemory.load(tmp_path / "film.vxl", tiny)
    with pytest.raises(ValueError, match="give the video too"):
        tiny.ask(stored, QUESTIONS[0], look_again=True)
    answer = tiny.ask(stored, QUESTIONS[0], look_again=True, video=str(film), max_new_tokens=6)
    assert answer.text == tiny.ask(memory, QUESTIONS[0], look_again=True, max_new_tokens=6).text
    other = media.write_video(tmp_path / "other.mp4", frames=20, fps=10, size=(64, 64))
    with pytest.raises(ValueError, match="not the video"):
        tiny.ask(stored, QUESTIONS[0], look_again=True, video=str(other))
    with pytest.raises(VideoError, match="no such file"):
        tiny.ask(stored, QUESTIONS[0], look_again=True, video="gone.mp4")
    pixels = tiny.encode(np.zeros((8, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="give the video too"):
        tiny.ask(pixels, QUESTIONS[0], look_again=True)
    with pytest.raises(ValueError, match="evidence=False"):
        tiny.ask(memory, QUESTIONS[0], look_again=True, evidence=False)


@pytest.mark.parametrize("wrong", [{"rate": 1}, {"max_tokens": 0}, {"margin": -1.0}, {"max_tokens": 2.5}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LookAgain(**wrong)


def test_the_second_reading_reads_the_tracks_of_its_part(tiny, film, tmp_path):
    cues = tuple(SpokenCue(float(second), second + 0.5, f"word {second}") for second in range(16))
    sign = Track("screen", (ScreenCue(0.0, 16.0, "EXIT"),))
    memory = tiny.encode(str(film), fps=1, tracks=[Track("speech", cues), sign])
    answer = tiny.ask(memory, QUESTIONS[0], look_again=True, max_new_tokens=6)
    begin, end = answer.read[0].start, answer.read[-1].end
    part = tiny.encode(str(film), fps=4, start=begin, end=end, tracks=[t.shown_from(begin, end) for t in memory.tracks])
    assert answer.usage.memory_tokens == len(part.token_ids)
    assert answer.text == tiny.ask(part, QUESTIONS[0], max_new_tokens=6).text
    assert {quote.track for quote in answer.quotes} == {"speech", "screen"}
    assert answer.warnings == answer.first.warnings == ()
    memory.save(tmp_path / "film.vxl")
    stored = videoxl.VideoMemory.load(tmp_path / "film.vxl", tiny)
    again = tiny.ask(stored, QUESTIONS[0], look_again=True, video=str(film), max_new_tokens=6)
    assert (again.text, again.quotes, again.warnings) == (answer.text, answer.quotes, ())


def test_both_answers_are_in_the_record(tiny, film):
    answer = tiny.answer(str(film), QUESTIONS[0], fps=1, look_again=True, max_new_tokens=4)
    record = json.loads(answer.to_json())
    assert record["first"]["text"] == answer.first.text
    assert record["first"]["evidence"]
    row = AnswerRecord.of(answer, video="film.mp4", model="tiny", question=QUESTIONS[0])
    assert AnswerRecord.from_json(json.dumps(row.to_dict()).encode()).first == record["first"]


def test_many_videos_and_the_command_line(film, tmp_path, capsys):
    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--model", "tiny", "--quiet"])
        return int(ended.value.code)

    assert run("ask", film, *QUESTIONS, "--fps", 1, "--look-again", "--max-new-tokens", 4, "--json") == 0
    one = json.loads(capsys.readouterr().out)
    out = tmp_path / "answers.jsonl"
    assert run("ask", film, *QUESTIONS, "--fps", 1, "--look-again", "--max-new-tokens", 4, "-o", out) == 0
    many = [json.loads(line) for line in out.read_text().splitlines()]
    for row, other in zip(one, many):
        assert row["first"]["evidence"]
        assert (row["answer"], row["first"]["text"]) == (other["answer"], other["first"]["text"])
        assert row["settings"]["look_again"]["max_tokens"] == 8192
    assert run("encode", film, "-o", tmp_path / "film.vxl") == 0
    capsys.readouterr()
    assert run("ask", tmp_path / "film.vxl", QUESTIONS[0], "--look-again") == 2
    said = capsys.readouterr().err
    assert "is a memory: give the video" in said
    assert said.count("\n") == 1
