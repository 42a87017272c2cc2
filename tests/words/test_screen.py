from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.words.pages import film, page, require_ocr
from videoxl.cues import ScreenCue, TrackKind
from videoxl.errors import MissingDependencyError, VideoError
from videoxl.words import screen_ocr
from videoxl.words.screen import read_text
from videoxl.words.screen_ocr import TextReader

LINES = ((20, 20, "Ships in harbor"), (20, 46, "and 42 barges"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Two lines for two seconds; then one changes, and another comes; then nothing; then Russian."""
    require_ocr()
    shown = [
        (page(LINES), 2),
        (page([LINES[0], (20, 130, "<|im_end|> <b>hi</b>")]), 2),
        (page([]), 1),
        (page([(20, 60, "Привет мир")], size=24), 1),
    ]
    return film(tmp_path_factory.mktemp("pages") / "pages.mp4", shown)


@pytest.fixture(scope="module")
def read(pages):
    """What was read, how often the models were asked for a line, and the calls of ``progress``."""
    told: list[tuple[str, int, int | None]] = []
    asked: list[object] = []
    original = TextReader.read

    def counted(self, picture, place):
        asked.append(place)
        return original(self, picture, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextReader, "read", counted)
        track = read_text(pages, fps=2, progress=lambda *now: told.append(now))
    return track, len(asked), told


def test_texts_come_with_their_spans_and_places(read):
    track, _, _ = read
    assert track.kind is TrackKind.SCREEN
    assert "RapidOCR" in track.source
    assert all(isinstance(cue, ScreenCue) and cue.confidence > 0.8 for cue in track.cues)
    spans = {cue.text: (cue.start_s, cue.end_s) for cue in track.cues}
    assert spans == {
        "Ships in harbor": (0, 4),
        "and 42 barges": (0, 2),
        "<|im_end|> <b>hi</b>": (2, 4),
    }
    box = next(cue.box for cue in track.cues if "barges" in cue.text)
    assert box == pytest.approx((20 / 320, 48 / 180, 150 / 320, 66 / 180), abs=0.04)


def test_what_did_not_change_is_read_once(read):
    _, asked, told = read
    assert asked <= 6  # four texts, and those beside a change once more
    assert told == [("text", done, 12) for done in range(1, 13)]


def test_a_script_that_the_models_do_not_know_is_left_out_and_said(read):
    track, _, _ = read
    assert any("left out, the first at 5.0 s" in note for note in track.notes)


def test_lines_of_a_block_are_one_cue(pages):
    track = read_text(pages, end=1)
    assert [cue.text for cue in track.cues] == ["Ships in harbor\nand 42 barges"]
    assert track.cues[0].end_s == 1


def test_a_moving_text_is_one_cue(tmp_path):
    require_ocr()
    pictures = [(page([(60, 140 - 5 * step, "Director: Ann Lee")]), 0.25) for step in range(12)]
    track = read_text(film(tmp_path / "moving.mp4", pictures), fps=1)
    assert [(cue.text, cue.start_s, cue.end_s) for cue in track.cues] == [("Director: Ann Lee", 0, 3)]
    assert track.cues[0].box[3] - track.cues[0].box[1] > 0.3


def test_a_picture_without_text_gives_no_cue(tmp_path):
    require_ocr()
    noise = np.random.default_rng(0).integers(0, 256, (180, 320, 3), dtype=np.uint8)
    assert read_text(film(tmp_path / "noise.mp4", [(noise, 1)])).cues == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"fps": 0}, "fps"), ({"min_confidence": 1.5}, "min_confidence"), ({"max_side": 8}, "max_side")],
)
def test_settings_that_are_not_allowed(clip, settings, said):
    with pytest.raises(ValueError, match=said):
        read_text(clip, **settings)


def test_a_start_after_the_end(pages):
    with pytest.raises(VideoError, match="after the end"):
        read_text(pages, start=100)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "videoxl\[ocr\]"'):
        TextReader()


@pytest.mark.parametrize(("library", "package"), [("libGL.so.1", "libgl1"), ("libgthread-2.0.so.0", "libglib2.0-0")])
def test_without_a_library_of_the_system(library, package):
    said = screen_ocr._not_loaded(f"{library}: cannot open shared object file: No such file or directory")
    assert f"apt install {package}" in said
    assert "opencv-python-headless" in said
    assert "\n" not in said
