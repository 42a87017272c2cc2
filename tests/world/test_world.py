"""The generated world: what it draws can be answered, repeats, and survives being a file."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoxl.world import (
    KINDS,
    Event,
    Film,
    Renderer,
    Thing,
    ask,
    kinds_for,
    place_events,
    sample_film,
    sample_things,
    write_film,
    write_world,
)
from videoxl.world.film import COLORS, LAST_SECOND, SHAPES
from videoxl.world.questions import interval
from videoxl.world.shapes import COLOR_VALUES, OUTLINES

FILM = Film(
    8,
    (Event(Thing("red", "star"), 0, 2), Event(Thing("orange", number=7), 3, 4), Event(Thing("blue", "ring"), 5, 6)),
    begin=100.0,
)
"""Events at 100 to 108 s, 112 to 116 s, 120 to 124 s."""


def source(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=60)
@given(st.integers(1, 64), st.integers(0, 10_000))
def test_films_keep_the_rules_of_the_world(groups, seed):
    film = sample_film(source(seed), groups)
    shapes = [e.thing.shape for e in film.events if e.thing.shape]
    numbers = [e.thing.number for e in film.events if e.thing.number is not None]
    assert len({e.thing.color for e in film.events}) == len(film.events)
    assert len(set(shapes)) == len(shapes)
    assert len(set(numbers)) == len(numbers)
    assert all(a.end < b.start for a, b in zip(film.events, film.events[1:]))
    assert all(1 <= e.end - e.start <= 3 and e.end < groups for e in film.events)
    assert film.begin >= 0
    assert film.time_of(groups) <= LAST_SECOND
    assert len(film.timestamps) == 4 * groups
    assert film == sample_film(source(seed), groups)


def test_a_film_with_events_side_by_side_or_at_the_end_is_refused():
    star, ring = Thing("red", "star"), Thing("blue", "ring")
    with pytest.raises(ValueError, match="scenery between"):
        Film(8, (Event(star, 0, 2), Event(ring, 2, 3)))
    with pytest.raises(ValueError, match="before the last group"):
        Film(3, (Event(star, 1, 3),))
    with pytest.raises(ValueError, match="do not fit"):
        place_events(source(0), 4, [3, 1])
    with pytest.raises(ValueError, match="0 to 8 things"):
        sample_things(source(0), 9)
    with pytest.raises(ValueError, match="shape or a card"):
        Thing("red")


def test_events_are_placed_everywhere():
    starts = {place_events(source(seed), 6, [1])[0][0] for seed in range(200)}
    assert starts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("kind", "event", "text", "answer"),
    [
        ("color", 0, "What color is the star?", "red"),
        ("shape", 2, "Which shape is blue?", "ring"),
        ("number", 1, "What number is on the orange card?", "7"),
        ("when", 0, "When is the red star shown?", "100.0s to 108.0s"),
        ("at", 1, "What is shown at 112.0s?", "an orange card with 7"),
        ("present", 2, "Is there a blue ring?", "yes"),
        ("count", None, "How many shapes are shown?", "2"),
        ("after", 0, "What is shown after the red star?", "an orange card with 7"),
        ("after", 2, "What is shown after the blue ring?", "nothing"),
        ("before", 2, "What is shown before the blue ring?", "an orange card with 7"),
        ("before", 0, "What is shown before the red star?", "nothing"),
        ("first", None, "What is shown first?", "a red star"),
        ("last", None, "What is shown last?", "a blue ring"),
        (
            "list",
            None,
            "What is shown, and when?",
            "100.0s to 108.0s: a red star\n112.0s to 116.0s: an orange card with 7\n120.0s to 124.0s: a blue ring",
        ),
    ],
)
def test_every_kind_asks_and_answers_what_it_should(kind, event, text, answer):
    asked = ask(source(1), FILM, kind, None if event is None else FILM.events[event])
    assert (asked.kind, asked.text, asked.answer) == (kind, text, answer)


def test_a_choice_offers_one_thing_that_is_shown():
    for seed in range(30):
        asked = ask(source(seed), FILM, "choice")
        offered = dict(re.findall(r"^([A-D])\. an? (.+)$", asked.text, re.MULTILINE))
        shown = [letter for letter, thing in offered.items() if thing in {str(e.thing) for e in FILM.events}]
        assert len(offered) == 4
        assert shown == [asked.answer]


def test_what_is_absent_is_absent_and_evidence_holds_the_answer():
    answers = set()
    for seed in range(200):
        asked = ask(source(seed), FILM, "present")
        answers.add(asked.answer)
        name = asked.text.removeprefix("Is there a ").rstrip("?")
        assert (name in {e.thing.name for e in FILM.events}) == (asked.answer == "yes")
        moment = ask(source(seed), FILM, "at")
        ((start, end),) = moment.evidence
        at = float(moment.text.split()[-1].rstrip("s?"))
        assert FILM.time_of(start) <= at < FILM.time_of(end)
        thing = FILM.thing_in(int((at - FILM.begin) / FILM.step))
        assert moment.answer == ("nothing" if thing is None else thing.phrase)
    assert answers == {"yes", "no"}


def test_a_film_is_only_asked_what_it_can_answer():
    assert set(kinds_for(FILM)) == set(KINDS)
    assert set(kinds_for(Film(3, ()))) == {"at", "present", "count"}
    with pytest.raises(ValueError, match="nothing for a question of kind 'color'"):
        ask(source(0), Film(3, ()), "color")


def test_frames_do_not_depend_on_how_they_are_asked_for():
    renderer = Renderer(sample_film(source(3), 10, 3))
    whole = renderer.frames(32)
    assert whole.shape == (40, 32, 32, 3)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(renderer.frames(32, 7, 23), whole[7:23])
    assert renderer.frames(32, 5, 5).shape == (0, 32, 32, 3)


def test_things_are_shown_when_they_should_be_in_their_colour():
    frames = Renderer(FILM).frames(48).astype(float) / 255
    for event in FILM.events:
        color = np.array(COLOR_VALUES[event.thing.color])
        near = (np.abs(frames - color).max(-1) < 0.15).sum((1, 2))
        shown = np.zeros(len(frames), dtype=bool)
        shown[4 * event.start : 4 * event.end] = True
        assert near[shown].min() > 20, event
        assert near[~shown].max() < 5, event


def test_outlines_differ():
    axis = np.linspace(-1.2, 1.2, 41)
    drawn = {name: outline(axis[None], axis[:, None]) < 0 for name, outline in OUTLINES.items()}
    assert set(drawn) == set(SHAPES)
    for name, inside in drawn.items():
        assert 0.1 < inside.mean() < 0.65, name
        others = [np.mean(inside ^ other) for other_name, other in drawn.items() if other_name != name]
        assert min(others) > 0.03, name
    assert set(COLOR_VALUES) == set(COLORS)


def test_a_film_becomes_a_video_of_the_same_times(tmp_path, tiny):
    path = write_film(FILM, tmp_path / "film.mp4", size=64)
    memory = tiny.encode(path)
    assert memory.duration == pytest.approx(FILM.duration, abs=0.1)
    assert memory.timestamps == pytest.approx([t - FILM.begin for t in FILM.timestamps], abs=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


def test_a_written_world_is_llava_data(tmp_path):
    target = write_world(tmp_path, 3, groups=(4, 6), questions=3, seed=5, size=48)
    records = json.loads(target.read_text(encoding="utf-8"))
    assert len(records) >= 2
    for record in records:
        assert (tmp_path / record["video"]).is_file()
        roles = [turn["from"] for turn in record["conversations"]]
        assert roles == ["human", "gpt"] * 3
        assert record["conversations"][0]["value"].startswith("<image>\n")
        assert sum("<image>" in turn["value"] for turn in record["conversations"]) == 1
        assert len(record["kinds"]) == 3
    again = write_world(tmp_path / "again", 3, groups=(4, 6), questions=3, seed=5, size=48)
    assert json.loads(again.read_text(encoding="utf-8")) == records


def test_intervals_end_where_the_thing_is_gone():
    assert interval(FILM, FILM.events[1]) == "112.0s to 116.0s"
