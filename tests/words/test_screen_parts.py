"""The parts of reading text that need no model: changes, lines, blocks, texts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from tests.words.pages import FONT, page
from videoxl.words.screen_changes import Changes, regions, touched
from videoxl.words.screen_cues import cues_of
from videoxl.words.screen_lines import Lines
from videoxl.words.screen_ocr import Reading
from videoxl.words.screen_spaces import with_spaces
from videoxl.words.screen_text import lacks_letters, mended, rolled_on, same_text, unreadable


def reading(text: str, left: float = 10, top: float = 10, confidence: float = 0.95, width: float = 100) -> Reading:
    return Reading((left, top, left + width, top + 20), text, confidence)


def followed(*frames: list[Reading]) -> list[tuple[str, int, int]]:
    """What becomes of readings in which every line may have changed in every frame."""
    lines = Lines()
    for number, readings in enumerate(frames):
        lines.take(readings, list(lines.shown), number)
    return [(line.text, line.first, line.last) for line in lines.finish()]


# ----------------------------------------------------------------------------------------------------------- changes


def test_noise_is_no_change_and_a_letter_is():
    changes = Changes()
    first = page([(20, 20, "value: 7 m")], size=12)
    assert changes.look(first).all()
    changes.was_read([(0, 0, 320, 180)])
    noise = np.random.default_rng(0).normal(0, 6, first.shape)
    assert not changes.look(np.clip(first + noise, 0, 255).astype(np.uint8)).any()
    changed = changes.look(page([(20, 20, "value: 1 m")], size=12))
    assert changed.any()
    assert touched((60, 20, 80, 34), changed)
    assert not touched((60, 100, 80, 120), changed)


def test_a_slow_change_is_seen_in_the_end():
    changes = Changes()
    seen = []
    for step in range(20):
        changed = changes.look(np.full((64, 64, 3), 100 + 2 * step, np.uint8))
        seen.append(bool(changed.any()))
        if changed.any():
            changes.was_read([(0, 0, 64, 64)])
    assert seen[0]
    assert 1 <= sum(seen[1:]) <= 3


def test_another_size_is_read_anew():
    changes = Changes()
    changes.look(np.zeros((64, 64, 3), np.uint8))
    changes.was_read([(0, 0, 64, 64)])
    assert changes.look(np.zeros((70, 90, 3), np.uint8)).all()


def test_regions_hold_the_lines_they_touch():
    changed = np.zeros((40, 60), bool)
    changed[10, 10] = changed[30, 50] = True
    found = regions(changed, [(100, 150, 400, 180)], 960, 640)
    assert len(found) == 2
    assert any(box[0] <= 100 and box[2] >= 400 and box[1] <= 150 for box in found)
    changed[:] = True
    assert regions(changed, [], 960, 640) == [(0, 0, 960, 640)]


# ------------------------------------------------------------------------------------------------------------- lines


def test_a_wavering_reading_is_one_text_the_surest():
    assert followed([reading("Breaking news", confidence=0.8)], [reading("Breaklng news", confidence=0.9)]) == [
        ("Breaklng news", 0, 1)
    ]


def test_another_number_is_another_text():
    assert followed([reading("Score 1:0")], [reading("Score 1:0")], [reading("Score 1:2")]) == [
        ("Score 1:0", 0, 1),
        ("Score 1:2", 2, 2),
    ]


def test_a_line_that_is_missed_once_goes_on():
    assert followed([reading("Hello you")], [], [reading("Hello you")]) == [("Hello you", 0, 2)]
    assert followed([reading("Hello you")], [], [], [reading("Hello you")]) == [
        ("Hello you", 0, 0),
        ("Hello you", 3, 3),
    ]


def test_a_line_that_goes_ends_though_nothing_changes_later():
    lines = Lines()
    lines.take([reading("Hello you")], [], 0)
    lines.take([], list(lines.shown), 1)
    lines.take([], [], 2)
    lines.take([], [], 3)
    assert [(line.first, line.last) for line in lines.finish()] == [(0, 0)]


def test_a_line_that_is_written_on_is_one():
    typed = [[reading(text, width=10 * len(text))] for text in ("make te", "make test", "make tests -j 4")]
    assert followed(*typed) == [("make tests -j 4", 0, 2)]


def test_a_ticker_is_put_together():
    text = "Markets rise after quiet week as river trade grows in the northern towns"
    windows = [[reading(text[at : at + 40], left=0, width=400)] for at in (0, 12, 24, 32)]
    assert followed(*windows) == [(text, 0, 3)]


def test_a_ticker_that_comes_in_and_then_stands_still_is_one():
    text = "Markets rise after quiet week"
    coming = [[reading(text[:shown], left=400 - 10 * shown, width=10 * shown)] for shown in (12, 18, 24, 29, 29)]
    assert followed(*coming) == [(text, 0, 4)]


def test_slides_with_a_word_in_common_are_no_ticker():
    pages = ("Harbor reading valley window", "window engine science kitchen")
    assert len(followed(*([reading(text, width=280)] for text in pages))) == 2
    assert len(followed([reading("page 11 of 20")], [reading("page 12 of 20")])) == 2


# ------------------------------------------------------------------------------------------------------------ blocks


def blocks(*readings: Reading) -> list[str]:
    lines = Lines()
    lines.take(list(readings), [], 0)
    return [cue.text for cue in cues_of(lines.finish(), lambda line: (0.0, 1.0), 400, 400)]


def test_blocks_are_in_reading_order():
    assert blocks(reading("second", top=35), reading("third", top=60), reading("first", top=10)) == [
        "first\nsecond\nthird"
    ]
    assert blocks(reading("right", left=115, width=40), reading("left", left=10)) == ["left right"]
    assert blocks(reading("above"), reading("far below", top=200)) == ["above", "far below"]
    title = Reading((10, 10, 200, 50), "Title", 0.9)
    assert blocks(title, reading("small", top=60)) == ["Title", "small"]


def test_columns_of_chinese_are_read_from_the_right():
    columns = [
        Reading((x, 10, x + 20, 200), text, 0.9, vertical=True) for x, text in ((10, "三"), (35, "二"), (60, "一"))
    ]
    assert blocks(*columns) == ["一\n二\n三"]


# ------------------------------------------------------------------------------------------------------------- texts


def test_when_two_readings_are_of_one_text():
    assert same_text("HELL0 W0RLD", "Hello World", 0.9)
    assert same_text("river valley", "river val1ey", 0.99)
    assert same_text("the river valley", "the rver valley", 0.9)
    assert not same_text("the river valley", "the rover valley", 0.99)
    assert not same_text("page 11 of 20", "page 12 of 20", 0.9)
    assert not same_text("cat", "car", 0.9)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Volcanoes, part 5", "Volcanoes, part 6"),
        ("Slide 3 of the lecture", "Slide 4 of the lecture"),
        ("Section A: results", "Section B: results"),
        ("An introduction to cooking with rice", "An introduction to cooking with milk"),
        ("Interview with Anna Berg, Oslo", "Interview with Karl Berg, Oslo"),
    ],
)
def test_texts_that_differ_in_one_word_are_two(one, other):
    assert not same_text(one, other, 0.0)
    assert followed([reading(one)], [reading(other)]) == [(one, 0, 0), (other, 1, 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Part I of the film", "Part 1 of the film"),
        ("the river valley", "theriver va11ey"),
        ("Good morning, Mr Miller", "Good rnorning, Mr Mi1ler"),
        ("Volcanoes, part 5", "Volcanoes, part S"),
    ],
)
def test_readings_that_waver_are_one(one, other):
    assert same_text(one, other, 0.9)


def test_windows_that_do_not_overlap_are_not_joined():
    assert rolled_on("one two three", "one two three", "four five six", 0.15) is None
    joined = ("A: one two three four five", True)
    assert rolled_on("A: one two three fo", "one two three fo", "two three four five", 0.15) == joined


@pytest.mark.parametrize("text", ["pUBeT MUp", "HOBOCTИMOCKBA", "E>>nvkα ypαμμαtα", "□□□□□", "CbeWbeWe 3Tnx 6ynok"])
def test_what_shows_another_script(text):
    assert unreadable(text)


@pytest.mark.parametrize(
    "text",
    [
        "Hello World",
        "IPhone 15 Pro",
        "iPhone 15",
        "E=mc²+α·β",
        "NASA 4K HDR",
        "B2B, H264",
        "你好，世界",
        "12:30",
        "C3PO",
    ],
)
def test_what_shows_none(text):
    assert not unreadable(text)


def test_kana_that_were_left_out_are_noticed():
    assert lacks_letters("世界", 240, 40)
    assert not lacks_letters("你好世界", 150, 40)
    assert not lacks_letters("Hello", 400, 40)


def test_letters_between_digits_are_digits():
    assert mended("1o24 of 5l1, 0ver 0K, 10l") == "1024 of 511, over 0K, 10l"


def test_bars_below_and_above_letters_are_no_gaps():
    picture = page([(4, 6, "NEWS AT TEN")], size=20)[9:27, :160]
    font = ImageFont.truetype(str(FONT), 20)
    text = "NEWS AT TEN"
    places = [4 + font.getlength(text[:n]) + font.getlength(text[n]) / 2 for n in range(11) if text[n] != " "]
    assert with_spaces("NEWSATTEN", np.array(places), picture) == text


def test_spaces_come_back():
    picture = page([(4, 6, "river bank")], size=20)[4:32, :130]
    font = ImageFont.truetype(str(FONT), 20)
    middle = [4 + font.getlength("river bank"[:n]) + font.getlength("river bank"[n]) / 2 for n in range(10)]
    places = np.array(middle[:5] + middle[6:])
    assert with_spaces("riverbank", places, picture) == "river bank"
    written = np.array([*middle[:2], (middle[1] + middle[2]) / 2, *middle[2:]])  # "ri ver bank"
    assert with_spaces("ri ver bank", written, picture) == "river bank"
    assert with_spaces("河流岸边好水上山下", places, picture) == "河流岸边好水上山下"
