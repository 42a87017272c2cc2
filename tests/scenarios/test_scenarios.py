"""Scenario commands: what models say becomes events, passes are cut and put together again, pages are safe."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from videoxl.cues import ScreenCue, SpokenCue, Track
from videoxl.inference import tracks
from videoxl.scenarios.events import Event, clipped, denies, merge, parse_events
from videoxl.scenarios.page import page
from videoxl.scenarios.passes import Pass, plan_passes
from videoxl.scenarios.prompt import TIMED, scenario_prompt
from videoxl.scenarios.run import SCENARIOS, UNTIMED_FRAMES, read_answer, run_scenario
from videoxl.scenarios.sheet import sheet_of_timeline
from videoxl.scenarios.timeline import draw, fine_clock
from videoxl.video import open_video
from videoxl.video.subtitles import Cue

STAR, NOTHING = (12.0, 16.0, "a red star"), (20.0, 24.0, "nothing")
ANSWERS = {
    "lines": ("12.0s to 16.0s: a red star\n20.0s to 24.0s: nothing", [STAR, NOTHING]),
    "numbered": ("1. 12.0s - 16.0s: a red star\n2) 0:20 - 0:24: nothing.", [STAR, (20, 24, "nothing.")]),
    "markdown": ("Here it is:\n\n* **00:12 - 00:16**: a red star\n* **00:20 - 00:24** - nothing", [STAR, NOTHING]),
    "text below": ("### 12.0s to 16.0s\na red star\n\n### 20.0s to 24.0s\nnothing\n\nThat is all.", [STAR, NOTHING]),
    "a sentence": (
        "A red star is shown from 12.0s to 16.0s.",
        [(12, 16, "A red star is shown from 12.0s to 16.0s.")],
    ),
    "two on a line": ("from 12s to 16s a red star, and from 20s to 24s nothing", [STAR, NOTHING]),
    "moments": ("12.0s: a red star\n20.0s: nothing", [(12, 12, "a red star"), (20, 20, "nothing")]),
    "json": (
        '```json\n[{"start": 12.0, "end": 16.0, "text": "a red star"}, {"start": "0:20", "end": "0:24", '
        '"description": "nothing"}]\n```',
        [STAR, NOTHING],
    ),
    "json lines": ('{"start_time": 12, "end_time": 16, "event": "a red star"}\n{"start": 20, "end": 24}', None),
    "only times": ("12.0s to 16.0s", [(12, 16, "")]),
    "prose without times": ("A red star is shown.", []),
    "broken json": ('[{"start": 12.0, "end": 16.0, "text": "a red', [(12, 16, "a red")]),
    "empty": ("", []),
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_answers_become_events(answer, expected):
    found = [(e.start, e.end, e.text) for e in parse_events(answer)]
    assert found == (expected if expected is not None else [STAR, (20, 24, "")])


@example("0H\xa0")
@example("0s to 4s \u3000\u2003a star\x1f")
@given(st.text(max_size=300) | st.text(st.sampled_from(list('0123456789:.- s[]{}",\nto')), max_size=300))
def test_any_answer_at_all(answer):
    for event in parse_events(answer):
        assert 0 <= event.start <= event.end
        assert event.text == event.text.strip()
    denies(answer)


@pytest.mark.parametrize("answer", ["[" * 100_000, '[{"a":' * 20_000, '["' * 50_000, "{}" * 50_000])
def test_hostile_nesting(answer):
    assert parse_events(answer) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("No", True),
        ("no, there is none.", True),
        ("**No.** 12.0s to 16.0s is only a trailer", True),
        ("There are no advertisements.", True),
        ("The video does not contain any.", True),
        ("I don't see it", True),
        ("Nothing abnormal happens", True),
        ("North of the river, 12.0s to 16.0s", False),
        ("Yes", False),
        ("Not only one: 12s to 16s", False),
        ("The video shows a star", False),
        ("", False),
    ],
)
def test_denials(answer, expected):
    assert denies(answer) is expected


def test_what_lies_outside_a_pass_was_not_seen():
    events = [Event(0, 5, "a"), Event(8, 12, "b"), Event(30, 40, "c"), Event(18, 25, "d")]
    assert clipped(events, 10, 20) == [Event(10, 12, "b"), Event(18, 20, "d")]


def test_events_of_several_passes_are_merged():
    first = [Event(5, 9, "a cat"), Event(80, 100, "A long fight.")]
    second = [Event(82, 110, "a long fight"), Event(95, 99, "a dog"), Event(150, 160, "a cat")]
    third = [Event(150, 161, "a black cat runs")]
    assert merge([first, second, third], gap=1) == [
        Event(5, 9, "a cat"),
        Event(80, 110, "A long fight."),
        Event(95, 99, "a dog"),
        Event(150, 161, "a black cat runs"),
    ]


def test_overlapping_events_of_one_pass_stay_apart_unless_they_say_the_same():
    events = [Event(0, 10, "a"), Event(1, 10, "b"), Event(10.5, 12, "A")]
    assert merge([events], gap=1) == [Event(0, 12, "a"), Event(1, 10, "b")]


PIECES = st.tuples(st.integers(0, 100), st.integers(0, 30), st.sampled_from("abc")).map(
    lambda t: Event(t[0], t[0] + t[1], t[2])
)


@given(st.lists(st.lists(PIECES, max_size=6), max_size=3))
def test_merging_covers_the_same_time_in_order(passes):
    merged = merge(passes, gap=0)
    assert merged == sorted(merged, key=lambda e: e.start)
    assert len(merged) <= sum(map(len, passes))
    for events in passes:
        for event in events:
            assert any(m.start <= event.start and event.end <= m.end for m in merged)


@given(
    st.floats(0, 1000),
    st.floats(1, 20_000),
    st.sampled_from([0.5, 1, 2]),
    st.integers(8, 2048),
    st.floats(0, 120),
    st.sampled_from([0, 1, 4]),
)
def test_passes_cover_a_video_and_share_the_overlap(begin, length, fps, max_frames, overlap, together):
    group = together / fps
    passes = plan_passes(begin, begin + length, fps=fps, max_frames=max_frames, overlap=overlap, group=group)
    assert passes[0].start == pytest.approx(begin, abs=1e-3)
    assert passes[-1].end == pytest.approx(begin + length, abs=1e-3)
    for one in passes:
        groups = (one.start - passes[0].start) / (group or 1)
        assert not group or groups == pytest.approx(round(groups), abs=0.01)
    assert all(p.end - p.start <= max_frames / fps + 0.01 for p in passes)
    shared = min(overlap, max_frames / fps / 4)
    for one, other in pairwise(passes):
        assert one.end - other.start == pytest.approx(shared, abs=0.01)
        assert one.start < other.start


def test_one_pass_where_it_is_dense_enough():
    assert plan_passes(0, 512, fps=1, max_frames=512, overlap=30) == [Pass(0, 512)]
    assert plan_passes(0, 994, fps=1, max_frames=512, overlap=30) == [Pass(0, 512), Pass(482, 994)]
    assert plan_passes(0, 160, fps=1, max_frames=48, overlap=12, group=4)[:2] == [Pass(0, 44), Pass(32, 76)]
    assert plan_passes(0, 9, fps=1, max_frames=4, overlap=1, group=4) == plan_passes(
        0, 9, fps=1, max_frames=4, overlap=1
    )
    with pytest.raises(ValueError, match="overlap must be a finite number"):
        plan_passes(0, 10, fps=1, max_frames=4, overlap=-1)


def test_prompts():
    assert "the goal falls?" in scenario_prompt("ground", "BAAI/Video-XL-2", " the goal falls. ")
    assert scenario_prompt("ground", "tiny", "the red star") == "When is the red star shown?"
    assert scenario_prompt("ground", "tiny-v1", "the orange star.", timed=False) == "Is there an orange star?"
    assert scenario_prompt("ground", "x", "{event} {0}", timed=False).startswith(
        "Does this happen in the video: {event}"
    )
    assert scenario_prompt("find-ads", "tiny") == TIMED["find-ads"]
    assert set(TIMED) == set(SCENARIOS)


def test_answers_without_times():
    whole = Pass(100, 200)
    assert read_answer("A star, then a moon.", whole, SCENARIOS["summarize"]) == [
        Event(100, 200, "A star, then a moon.")
    ]
    assert read_answer("Yes, it does.", whole, SCENARIOS["ground"], "a star") == []
    assert read_answer("Yes.", whole, SCENARIOS["ground"], "a star", timed=False) == [Event(100, 200, "a star")]
    assert read_answer("No.", whole, SCENARIOS["find-ads"]) == []
    assert read_answer("110s to 120s", whole, SCENARIOS["ground"], "a star") == [Event(110, 120, "a star")]
    assert read_answer("10s to 20s", whole, SCENARIOS["ground"], "a star") == []


class Scripted:
    """A model that says what it is told to say, one text per question."""

    def __init__(self, engine, *texts):
        self.engine, self.texts, self.read = engine, list(texts), []
        self.config, self.name = engine.config, "scripted"

    def encode(self, source, **settings):
        self.read.append(settings)
        return self.engine.encode(source, **settings)

    def ask(self, memory, question, **settings):
        answer = self.engine.ask(memory, question, **{**settings, "max_new_tokens": 1})
        return replace(answer, text=self.texts.pop(0))


def test_a_long_video_is_read_in_passes(tiny, clip):
    engine = Scripted(tiny, "1.0s to 2.0s", "No", "8s to 99s and 0s to 1s")
    with open_video(clip) as source:
        found = run_scenario(
            engine, source, "ground", event="a bar", sampling={"max_frames": 16, "fps": 4, "end": None}, overlap=1
        )
    assert [(s["start"], s["end"]) for s in engine.read] == [(0, 4), (3, 7), (6, 10)]
    assert found.to_list() == [{"start": 1, "end": 2, "text": "a bar"}, {"start": 8, "end": 10, "text": "a bar"}]
    assert [reply.events for reply in found.replies] == [1, 0, 1]
    assert (found.begin, found.end) == (0, 10)


def test_each_pass_reads_what_is_said_in_it(tiny, clip):
    engine = Scripted(tiny, "No", "No", "No")
    cues = [Cue(0.5, 1, "early"), Cue(3.2, 3.5, "in both"), Cue(9.0, 9.5, "late")]
    sign = Track("screen", (ScreenCue(0.0, 10.0, "EXIT"),))
    with open_video(clip) as source:
        found = run_scenario(
            engine,
            source,
            "find-ads",
            sampling={"max_frames": 16, "fps": 4},
            overlap=1,
            subtitles=cues,
            tracks=[sign],
        )
    said = [[[cue.text for cue in track.cues] for track in settings["tracks"]] for settings in engine.read]
    assert said == [[["early", "in both"], ["EXIT"]], [["in both"], ["EXIT"]], [["late"], ["EXIT"]]]
    assert [(track.kind, len(track.cues)) for track in found.tracks] == [("subtitles", 3), ("screen", 1)]


def test_what_was_said_during_an_event_stands_beside_it(tiny, clip):
    speech = Track("speech", (SpokenCue(1.0, 2.5, "Goal!"), SpokenCue(5.0, 6.0, "later")))
    with open_video(clip) as source:
        found = run_scenario(Scripted(tiny, "1.0s to 3.0s: a bar"), source, "summarize", tracks=[speech])
    said = {"start": 1.0, "end": 2.5, "text": "Goal!"}
    assert found.to_list() == [{"start": 1, "end": 3, "text": "a bar", "speech": [said]}]
    sheet = sheet_of_timeline(found)
    assert [lane.kind for lane in sheet.lanes] == ["found", "looked", "speech"]
    assert len(sheet.lanes[2].stretches) == 2
    assert sheet.entries[0].quotes == ((1.0, "speech", "Goal!"),)
    made = page(sheet, {})
    assert "clip.speech.vtt" in made
    assert "speech, written down" in made


def test_a_memory_shows_its_own_tracks(tiny, clip):
    memory = tiny.encode(clip, tracks=[Track("screen", (ScreenCue(0.0, 9.0, "EXIT"),))])
    found = run_scenario(Scripted(tiny, "1.0s to 3.0s: a bar"), memory, "summarize")
    assert found.to_list()[0]["screen"] == [{"start": 0.0, "end": 9.0, "text": "EXIT"}]


def test_tracks_are_not_made_for_a_model_without_times(tiny, clip, monkeypatch):
    engine = Scripted(tiny)
    engine.config = replace_time_format(tiny.config)
    monkeypatch.setattr(tracks, "_made", lambda *given: pytest.fail("it was made for nothing"))
    with open_video(clip) as source, pytest.raises(ValueError, match="no timestamps to put subtitles behind"):
        run_scenario(engine, source, "find-ads", tracks=["speech"])


def test_a_number_of_frames_asks_for_one_pass(tiny, clip):
    engine = Scripted(tiny, "A bar code.")
    with open_video(clip) as source:
        found = run_scenario(engine, source, "summarize", sampling={"num_frames": 4})
    assert found.to_list() == [{"start": 0, "end": 10, "text": "A bar code."}]
    assert engine.read[0]["num_frames"] == 4
    assert engine.read[0].get("max_frames") is None


def test_a_model_that_is_told_no_times_is_asked_about_short_passes(tiny, clip):
    engine = Scripted(tiny, *["Yes, a bar code", "no"] * 2)
    engine.config = replace_time_format(tiny.config)
    with open_video(clip) as source:
        found = run_scenario(engine, source, "find-ads", sampling={"fps": 8}, overlap=0)
    assert len(engine.read) == -(-10 * 8 // UNTIMED_FRAMES)
    assert found.to_list()[0] == {"start": 0, "end": 3.5, "text": "Yes, a bar code"}
    assert found.question.startswith("Does this video contain any inserted advertisement?")


def replace_time_format(config):
    from copy import copy

    changed = copy(config)
    changed.time_format = ""
    return changed


def test_captions_describe_stretch_by_stretch(tiny, clip):
    engine = Scripted(tiny, "No one is there. A bar moves.", "A wall.", "1.0s to 2.0s: out of this stretch")
    with open_video(clip) as source:
        found = run_scenario(engine, source, "captions", sampling={"max_frames": 4}, overlap=0)
    assert [(e["start"], e["end"], e["text"]) for e in found.to_list()] == [
        (0, 4, "No one is there. A bar moves."),
        (4, 8, "A wall."),
    ]
    with pytest.raises(ValueError, match="captions reads a video in short stretches"):
        run_scenario(tiny, tiny.encode(clip, max_frames=4), "captions")


def test_a_memory_is_asked_once(tiny, clip):
    memory = tiny.encode(clip, max_frames=8)
    found = run_scenario(Scripted(tiny, "1.0s to 2.0s: one\n1.5s to 2.0s: two"), memory, "find-anomalies")
    assert [e.text for e in found.events] == ["one", "two"]
    with pytest.raises(ValueError, match="ground looks for an event"):
        run_scenario(tiny, memory, "ground")


# ---------------------------------------------------------------------------------------------------- how it is shown

HOSTILE = "<script>alert('x')</script>\" onload=\"y\x1b[31m & <b>"


@pytest.fixture(scope="module")
def timeline(tiny, clip):
    answer = f"0.5s to 1.0s: {HOSTILE}\n4s to 6s: a bar code, {'long ' * 40}end\n9.9s to 9.9s: a moment"
    with open_video(clip) as source:
        return run_scenario(Scripted(tiny, answer), source, "summarize", sampling={"max_frames": 16})


def test_the_terminal_gets_a_bar_and_wrapped_lines(timeline):
    found = timeline
    shown = draw(found, width=80)
    lines = shown.splitlines()
    assert lines[0].startswith("Summary: 3 found in 0:00:10 of ")
    assert lines[2] == "|" + "   ###" + " " * 18 + "#" * 12 + " " * 23 + "#|"
    assert lines[3] == " 0:00:00" + " " * 46 + "0:00:10"
    assert "0:00:04.0 - 0:00:06.0  a bar code, long long" in shown
    assert lines[-1] == "0:00:09.9" + " " * 14 + "a moment"
    assert max(map(len, lines[1:])) <= 80
    assert "\x1b" not in shown
    assert draw(replace(found, events=())).startswith("Summary: nothing found in 0:00:10 of")
    assert [fine_clock(s) for s in (0, 59.96, 3723.5)] == ["0:00:00.0", "0:01:00.0", "1:02:03.5"]
