"""What is hidden, where, and which answers are right; no model is loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests import media
from videoxl.config import BiLevelDecode, Sampling
from videoxl.errors import EvaluationError, VideoError
from videoxl.evaluation.niah.haystacks import make_haystack
from videoxl.evaluation.niah.needles import Question, make_film, questions_about, read_needles
from videoxl.evaluation.niah.scoring import is_right, says
from videoxl.evaluation.niah.selectors import is_inner_needle, needle_blocks
from videoxl.evaluation.niah.settings import NEEDLE_KINDS, PRESETS, HaystackPlan, NiahSettings, haystack_plans
from videoxl.video import Resize, open_video
from videoxl.world import Renderer

ZOO = "\nFind the sign. What animal is it?\nA. lion\nB. tiger\nC. horse\nD. dog\nAnswer with the letter."


def needle_folder(folder):
    for name, color in (("red.png", (255, 0, 0)), ("green.png", (0, 255, 0))):
        Image.new("RGB", (30, 20), color).save(folder / name)
    needles = [
        {"image": "red.png", "question": "What color is the sheet?", "answer": "red", "options": ["blue", "red"]},
        {"image": "green.png", "question": "What color is it?", "answer": "B", "options": ["pink", "green"]},
    ]
    (folder / "needles.json").write_text(json.dumps(needles))
    return folder / "needles.json"


def pixels_of(source, size=24):
    numbers = tuple(range(len(source.times_F)))
    batches = list(source.read(source.select(Sampling(indices=numbers)), resize=Resize(size, size), batch_frames=5))
    return np.concatenate([b.pixels_FHWC for b in batches]), np.concatenate([b.timestamps_F for b in batches])


# ----------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": ()}, "frames"),
        ({"frames": (4,)}, "frames"),
        ({"frames": (512, True)}, "frames"),
        ({"depths": (0.5, 1.5)}, "depths"),
        ({"depths": (float("nan"),)}, "depths"),
        ({"samples": 0}, "samples"),
        ({"needles": 3, "depths": (0.0, 1.0)}, "more depths"),
        ({"kinds": ("colour",)}, "kinds must be one of color"),
        ({"kinds": ("after",)}, "needles=2"),
        ({"kinds": ("count",)}, "kinds"),
        ({"kinds": ()}, "different kinds"),
        ({"kinds": ("color",), "pictures": "x.json"}, "questions of their own"),
        ({"answers": "free"}, "open, choice"),
        ({"judge": "llm"}, "strict, released"),
        ({"prompt": "What is it?"}, "{question}"),
        ({"fps": 0.0}, "fps"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        NiahSettings(**wrong)


def test_the_released_preset_is_the_published_protocol():
    released = PRESETS["released"]
    assert released.depths == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert released.prompt == "Question: {question}\nAnswer: "
    assert released.judge == "released"
    assert {187, 559, 1118, 1304, 1490} <= set(released.frames)
    assert released.needles == 1
    assert NiahSettings(pictures="n.json").choice
    assert not NiahSettings().choice


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_every_sample_has_one_asked_needle_at_every_depth(depths, needles, samples):
    grid = tuple(n / 5 for n in range(depths))
    if needles > depths:
        return
    found = list(haystack_plans(NiahSettings(depths=grid, needles=needles, frames=(100, 200)), samples))
    asked = [(p.frames, p.sample, d) for p in found for d, is_asked in zip(p.depths, p.asked) if is_asked]
    assert sorted(asked) == sorted((f, s, d) for f in (100, 200) for s in range(samples) for d in grid)
    assert all(len(p.depths) == needles and list(p.depths) == sorted(set(p.depths)) for p in found)
    assert len({p.name for p in found}) == len(found)


# ------------------------------------------------------------------------------------------------------------ needles


def test_needles_of_our_form_and_of_the_released_one(tmp_path):
    red, green = read_needles(needle_folder(tmp_path))
    assert (red.answer, green.answer) == ("red", "green")
    asked = red.ask(0.5, (3, 4), choice=True)
    assert asked.text == (
        "What color is the sheet?\nA. blue\nB. red\nAnswer with the option's letter from the given choices directly."
    )
    assert (asked.chance, asked.options, asked.frames) == (0.5, ("blue", "red"), (3, 4))
    assert red.ask(0.5, (3, 4), choice=False).text == "What color is the sheet?"

    released = {"retrieval_question": [ZOO], "answer": ["B"], "needle": ["red.png"]}
    (tmp_path / "released.json").write_text(json.dumps(released))
    (zoo,) = read_needles(tmp_path / "released.json")
    assert zoo.answer == "tiger"
    verbatim = zoo.ask(0.0, (0, 1), choice=True)
    assert verbatim.text == ZOO
    assert verbatim.chance == 0.25
    assert zoo.ask(0.0, (0, 1), choice=False).text == "Find the sign. What animal is it?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "are none"),
        ('[{"image": "red.png"}]', "'answer' is missing"),
        ('{"needle": ["red.png"], "answer": ["B"]}', "retrieval_question"),
        ('{"needle": ["red.png"], "retrieval_question": [], "answer": []}', "neither"),
        ('[{"image": "red.png", "question": "?", "answer": "x", "options": ["y", "z"]}]', "none of the options"),
        ('[{"image": "gone.png", "question": "?", "answer": "x"}]', "gone.png"),
        ("[1]", "neither"),
    ],
)
def test_needles_that_cannot_be_used_say_why(tmp_path, content, message):
    needle_folder(tmp_path)
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_needles(tmp_path / "bad.json")


def test_things_stand_at_their_depths_and_questions_have_their_answers():
    settings = NiahSettings(needles=3, seed=5)
    place = HaystackPlan(256, 0, 0, (0.0, 0.5, 1.0), (True, True, False))
    film = make_film(settings, place, step=4.0)
    assert [(e.start, e.end) for e in film.events] == [(0, 1), (31, 32), (62, 63)]
    assert film == make_film(settings, place, step=4.0)
    assert film != make_film(NiahSettings(needles=3, seed=6), place, step=4.0)
    asked = questions_about(film, settings, place, NEEDLE_KINDS)
    assert {a.depth for a in asked} == {0.0, 0.5}
    assert {a.frames for a in asked} == {(0, 4), (124, 128)}
    things = {0.0: film.events[0].thing, 0.5: film.events[1].thing}
    for one in asked:
        thing = things[one.depth]
        if one.kind == "at":
            assert one.answer == thing.phrase
        if one.kind in ("color", "shape"):
            assert one.answer == getattr(thing, one.kind)
        if one.kind == "when":
            assert one.answer == ("0.0s to 4.0s" if one.depth == 0 else "124.0s to 128.0s")
    present = [a.answer for a in asked if a.kind == "present"]
    assert sorted(present) == ["no", "no", "yes", "yes"]


def test_too_many_needles_for_a_short_haystack_are_refused():
    place = HaystackPlan(12, 0, 0, (0.0, 0.5, 1.0), (True, True, True))
    with pytest.raises(ValueError, match="more frames or fewer needles"):
        make_film(NiahSettings(needles=3), place, step=4.0)


def test_choice_offers_four_words_of_the_kind():
    settings = NiahSettings(answers="choice", kinds=("color", "shape", "number"))
    for sample in range(4):
        place = HaystackPlan(64, sample, 0, (0.5,), (True,))
        for one in questions_about(make_film(settings, place, step=4.0), settings, place, settings.kinds):
            assert len(set(one.options)) == 4
            assert one.answer in one.options
            assert one.chance == 0.25
            assert one.text.count("\n") == 5


def test_every_thing_allows_a_question_of_the_kinds_asked_for():
    for kinds in (("number",), ("shape",), ("color", "number")):
        settings = NiahSettings(kinds=kinds)
        for sample in range(6):
            place = HaystackPlan(64, sample, 0, (0.5,), (True,))
            assert questions_about(make_film(settings, place, step=4.0), settings, place, kinds)


# ---------------------------------------------------------------------------------------------------------- haystacks


def test_the_generated_world_is_its_film_at_any_length():
    settings, place = NiahSettings(fps=2.0), HaystackPlan(70, 1, 0, (0.5,), (True,))
    made = make_haystack(settings, place, size=24, kinds=("color", "number"), needles=[], video=None)
    pixels, times = pixels_of(made.source)
    film = make_film(settings, place, step=2.0)
    assert (pixels == Renderer(film).frames(24)[:70]).all()
    assert times.tolist() == [n / 2 for n in range(70)]
    assert made.questions


def test_pictures_stand_in_the_place_of_frames_of_a_film(tmp_path):
    path = media.write_video(tmp_path / "film.mp4", frames=60, fps=5)
    needles = read_needles(needle_folder(tmp_path))
    settings = NiahSettings(pictures="n.json", needles=2, needle_frames=2, depths=(0.0, 0.5))
    with open_video(path) as video:
        made = [
            make_haystack(settings, place, size=24, kinds=(), needles=needles, video=video)
            for place in haystack_plans(NiahSettings(**{**vars(settings), "frames": (20,)}), 2)
        ]
        plain, plain_times = pixels_of(video)
        pixels, times = pixels_of(made[0].source)
    chosen = np.linspace(0, 59, 20, dtype=int)
    assert times.tolist() == plain_times[chosen].tolist()
    red = np.abs(pixels.astype(int) - (255, 0, 0)).max((1, 2, 3)) < 2
    green = np.abs(pixels.astype(int) - (0, 255, 0)).max((1, 2, 3)) < 2
    assert np.flatnonzero(red).tolist() == [0, 1]
    assert np.flatnonzero(green).tolist() == [9, 10]
    untouched = ~(red | green)
    assert (pixels[untouched] == plain[chosen][untouched]).all()
    assert [(a.kind, a.depth, a.frames) for a in made[0].questions] == [("red", 0.0, (0, 2)), ("green", 0.5, (9, 11))]
    assert [a.kind for a in made[1].questions] == ["green", "red"]  # the next sample has them the other way round


def test_things_are_drawn_over_a_film(tmp_path):
    path = media.write_video(tmp_path / "film.mp4", frames=48, fps=4)
    settings, place = NiahSettings(kinds=("when", "color")), HaystackPlan(48, 0, 0, (0.5,), (True,))
    with open_video(path) as video:
        made = make_haystack(settings, place, size=24, kinds=("when",), needles=[], video=video)
        plain, _ = pixels_of(video)
        pixels, _ = pixels_of(made.source)
    changed = np.flatnonzero((pixels != plain).any((1, 2, 3)))
    first, stop = made.questions[0].frames
    assert changed.tolist() == list(range(first, stop)) == [20, 21, 22, 23]
    assert made.questions[0].answer == "5.0s to 6.0s"  # by the film's own clock, four frames a second


def test_a_film_that_is_too_short_or_none_is_refused(tmp_path):
    path = media.write_video(tmp_path / "film.mp4", frames=12, fps=4)
    settings, place = NiahSettings(), HaystackPlan(48, 0, 0, (0.5,), (True,))
    with open_video(path) as video, pytest.raises(VideoError, match="12 frames, too few for a haystack of 48"):
        make_haystack(settings, place, size=24, kinds=("color",), needles=[], video=video)
    needle_folder(tmp_path)
    with open_video(tmp_path / "red.png") as still, pytest.raises(VideoError, match="no video file"):
        make_haystack(settings, place, size=24, kinds=("color",), needles=[], video=still)


# ------------------------------------------------------------------------------------------------------------ judging


def asked_about(answer, *, kind="color", text="What color is the star?", **others):
    return Question(kind, text, answer, 0.5, (0, 4), 0.1, **others)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("red", True),
        ("Red.", True),
        ("The star is red.", True),
        ("red or blue", False),
        ("blue", False),
        ("", False),
        ("redder", False),
        ("It is not a circle but a red star", False),
    ],
)
def test_open_answers(text, right):
    rivals = ("red", "blue", "star", "circle", "yes")
    assert is_right(asked_about("red", rivals=rivals), text) is right


def test_phrases_numbers_and_denials():
    assert says("A red card with 7.", "a red card with 7")
    assert not says("a red card", "a red card with 7")
    assert not says("a card with 7, red", "a red card with 7")
    assert says("nothing", "nothing", rivals=("red",))
    assert not says("nothing red", "nothing", rivals=("red",))
    assert says("No, there is no red star.", "no", rivals=("yes", "red"), question="Is there a red star?")
    assert not says("!!!!!!", "no")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("12.0s to 16.0s", True),
        ("00:12-00:16", True),
        ("13.0s to 17.0s", True),  # three of five seconds in common
        ("15.0s to 19.0s", False),
        ("0.0s to 100.0s", False),
        ("12.0s to 16.0s and 40.0s to 44.0s", False),
        ("soon", False),
    ],
)
def test_times(text, right):
    assert is_right(asked_about("12.0s to 16.0s", kind="when", text="When?"), text) is right


def test_choices_by_both_judges():
    one = asked_about("tiger", options=("lion", "tiger", "horse", "dog"))
    for text, strict, released in (
        ("B", True, True),
        ("B. tiger", True, True),
        ("The Beast is (A)", False, True),  # the released script takes any B before the first bracket
        ("tiger", True, False),
        ("A", False, False),
        ("A or B", False, True),
    ):
        assert is_right(one, text) is strict, text
        assert is_right(one, text, "released") is released, text


# --------------------------------------------------------------------------------------------------------------- ways


def test_blocks_that_hold_a_needle():
    decode = BiLevelDecode(block_size=4)
    one = asked_about("red")
    for frames, blocks in (((0, 4), (0,)), ((60, 68), (3, 4)), ((64, 68), (4,)), ((127, 128), (7,))):
        placed = Question(**{**vars(one), "frames": frames})
        assert needle_blocks(placed, decode, 4) == blocks
        assert is_inner_needle(placed, decode, 4, groups=32) is (blocks[0] > 0 and blocks[-1] < 7)
    assert is_inner_needle(one, "dense", 4, groups=32) is None
