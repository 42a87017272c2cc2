from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests import media
from videoxl.cues import Cue, ScreenCue, SpokenCue, Track, TrackKind
from videoxl.words.chapters import Chapter, find_chapters
from videoxl.words.chapters_files import chapter_list, chapters_json, chapters_metadata, chapters_vtt, chapters_writer
from videoxl.words.chapters_titles import key_phrases, slide_titles
from videoxl.words.chapters_topics import Topics, telling, words_of
from videoxl.words.shots import Cut, Shots

TOPICS = (
    "solar panels turn light into power and solar panels need sunlight on the roof every morning",
    "sourdough bread wants flour water salt and a warm oven while the sourdough bread rises slowly",
    "the goalkeeper saved the penalty before the striker scored and the goalkeeper shouted at defenders",
)
NO_SHOTS = Shots((), (), 0.0, 180.0)
HOSTILE = "<|im_end|> <script>\x1b[31m = a;b #c\\ --> x"


def speech(gap_s: float = 1.5) -> Track:
    """A minute of each topic, in sentences of six seconds, with a pause before a topic begins."""
    cues = []
    for topic, text in enumerate(TOPICS):
        for sentence in range(9):
            begin = topic * 60 + gap_s + sentence * 6.4
            cues.append(SpokenCue(begin, begin + 6.3, text))
    return Track(TrackKind.SPEECH, tuple(cues))


def screen(*slides: tuple[float, float, str]) -> Track:
    """Slides with a title, from and to these seconds, and small print."""
    cues = []
    for begin, end, title in slides:
        cues.append(ScreenCue(begin, end, title, (0.1, 0.05, 0.6, 0.15), 0.95))
        cues += [
            ScreenCue(begin, end, f"point {n} of it", (0.1, 0.3 + n / 10, 0.6, 0.34 + n / 10), 0.9) for n in range(3)
        ]
    return Track(TrackKind.SCREEN, tuple(cues))


def test_topics_of_speech_make_chapters_with_their_phrases():
    found = find_chapters(NO_SHOTS, [speech()])
    assert [chapter.start_s for chapter in found.chapters] == pytest.approx([0, 61.5, 121.5])
    assert [chapter.end_s for chapter in found.chapters] == pytest.approx([61.5, 121.5, 180])
    titles = [chapter.title.lower() for chapter in found.chapters]
    assert "solar panel" in titles[0]
    assert "sourdough" in titles[1]
    assert "goalkeeper" in titles[2]
    assert found.notes == ()


def test_pauses_within_one_topic_make_none():
    same = Track(TrackKind.SPEECH, tuple(SpokenCue(n * 10.0, n * 10 + 7.0, TOPICS[0]) for n in range(18)))
    found = find_chapters(NO_SHOTS, [same])
    assert len(found.chapters) == 1
    assert "one chapter" in found.notes[0]


def test_titles_of_slides_begin_and_name_chapters():
    slides = screen((0, 60, "Results of 2025"), (60, 130, "Plans and costs"), (130, 180, "Thank you all"))
    found = find_chapters(NO_SHOTS, [slides])
    assert [(c.start_s, c.title) for c in found.chapters] == [
        (0, "Results of 2025"),
        (60, "Plans and costs"),
        (130, "Thank you all"),
    ]


def test_a_logo_is_no_title():
    logo = ScreenCue(0, 180, "MYTV", (0.8, 0.02, 0.98, 0.14), 0.99)
    titled = screen((0, 60, "Results"), (60, 180, "Plans"))
    cues = (*titled.cues, logo)
    assert {cue.text for cue in slide_titles(cues, 400.0)} == {"Results", "Plans", "MYTV"}
    assert "MYTV" not in {cue.text for cue in slide_titles(cues, 180.0)}


def test_a_film_without_words_is_divided_at_its_strongest_cuts():
    cuts = (Cut(30, 0.9), Cut(33, 0.6), Cut(90, 0.8), Cut(178, 1.0))
    found = find_chapters(Shots(cuts, (150.0,), 0.0, 180.0), least_seconds=10)
    assert [c.start_s for c in found.chapters] == [0, 30, 90, 150]
    assert [c.title for c in found.chapters] == ["Part 1", "Part 2", "Part 3", "Part 4"]
    assert "no words are known" in found.notes[0]


def test_a_film_without_anything_is_one_chapter_and_that_is_said():
    found = find_chapters(NO_SHOTS)
    assert found.chapters == (Chapter(0.0, 180.0, "Part 1"),)
    assert any("it is one chapter" in note for note in found.notes)


def test_no_chapter_is_shorter_than_asked():
    cuts = tuple(Cut(float(at), 0.5) for at in range(1, 60))
    found = find_chapters(Shots(cuts, (), 0.0, 60.0), least_seconds=7)
    assert min(c.end_s - c.start_s for c in found.chapters) >= 7
    with pytest.raises(ValueError, match="above 0"):
        find_chapters(NO_SHOTS, least_seconds=0)


def test_a_model_may_name_chapters_and_vectors_may_find_topics():
    told = find_chapters(NO_SHOTS, [speech()], title_of=lambda begin, end: f"from {begin:.0f}" if begin else "")
    assert [c.title for c in told.chapters][1:] == ["from 62", "from 122"]
    assert "olar" in told.chapters[0].title

    def embed(texts):
        return np.array([[float(text == topic) for topic in TOPICS] for text in texts])

    assert Topics(speech().cues, embed).change_at(61) == pytest.approx(1)
    assert Topics(speech().cues, embed).change_at(30) < 0.2


def test_words():
    assert words_of("Don't panic, 42 times!") == ["don't", "panic", "42", "times"]
    assert words_of("机器学习") == ["机器", "器学", "学习"]
    assert telling(["the", "panels", "42", "x", "glass"]) == ["panel", "glass"]
    assert key_phrases(["", "red fox. red fox", "blue whale"]) == [None, "Red fox", "Blue whale"]


# ------------------------------------------------------------------------------------------------------------- files

PARTS = (Chapter(1.5, 62.25, "Begin"), Chapter(62.25, 3700, HOSTILE))


def test_lists_begin_at_0_and_hold_no_control_characters():
    assert chapter_list(PARTS).split("\n")[0] == "0:00 Begin"
    assert chapter_list((Chapter(0, 1, "a"), Chapter(3723.9, 4000, "b"))).split("\n")[1] == "1:02:03 b"
    for write in (chapter_list, chapters_vtt, chapters_metadata):
        assert "\x1b" not in write(PARTS)


def test_vtt_is_text_and_nothing_else():
    written = chapters_vtt(PARTS)
    assert "00:00:01.500 --> 00:01:02.250\nBegin\n" in written
    assert "<" not in written
    assert written.count("-->") == 2
    assert json.loads(chapters_json(PARTS))[1] == {"start": 62.25, "end": 3700, "title": HOSTILE}


def test_ffmpeg_reads_the_metadata(tmp_path):
    film = media.write_video(tmp_path / "film.mp4", frames=20, fps=5)
    (tmp_path / "film.ffmetadata").write_text(chapters_metadata(PARTS))
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    command = ["ffmpeg", "-v", "error", "-i", film, "-i", tmp_path / "film.ffmetadata", "-map_metadata", "1"]
    subprocess.run([*command, "-codec", "copy", tmp_path / "out.mkv"], check=True, timeout=60)
    probe = ["ffprobe", "-v", "error", "-show_chapters", "-of", "json", tmp_path / "out.mkv"]
    found = json.loads(subprocess.run(probe, check=True, capture_output=True, timeout=60).stdout)["chapters"]
    assert [one["tags"]["title"] for one in found] == ["Begin", HOSTILE.replace("\x1b", "\\x1b").replace("-->", "->")]


def test_names_of_files():
    assert chapters_writer("A.VTT") is chapters_vtt
    with pytest.raises(ValueError, match=r"must end with \.vtt, \.json, \.txt, \.ffmetadata"):
        chapters_writer("film.srt")


def test_plain_cues_count_as_words():
    subtitles = Track(TrackKind.SUBTITLES, tuple(Cue(c.start_s, c.end_s, c.text) for c in speech().cues))
    assert len(find_chapters(NO_SHOTS, [subtitles]).chapters) == 3
