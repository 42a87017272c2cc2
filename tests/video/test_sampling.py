"""Frame numbers equal those of the released loaders; selections are right for any frame times."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video.sampling import (
    Timeline,
    clock_indices,
    frames_at,
    keep_whole_groups,
    released_indices,
    select_frames,
    uniform_indices,
)

RECORDED = json.loads((Path(__file__).parent.parent / "fixtures" / "sampling.json").read_text())


def digest(indices) -> str:
    return hashlib.sha256(",".join(map(str, indices.tolist())).encode()).hexdigest()[:16]


def constant(frames: int, fps: float) -> Timeline:
    return Timeline.from_times(np.arange(frames) / fps, fps)


@pytest.mark.parametrize("row", RECORDED["released"], ids=lambda r: "-".join(map(str, r[:5])))
def test_released_rule_equals_the_recorded_numbers(row):
    total, average_fps, fps, max_fps, max_frames, count, expected, whole_count, expected_whole = row
    if count is None:
        with pytest.raises(ValueError, match=r"frames per second|frame rate"):
            released_indices(total, average_fps, fps, max_fps, max_frames)
        return
    indices = released_indices(total, average_fps, fps, max_fps, max_frames)
    assert indices.dtype == np.int64
    assert (len(indices), digest(indices)) == (count, expected)
    whole = keep_whole_groups(indices, 4)
    assert (len(whole), digest(whole)) == (whole_count, expected_whole)


@pytest.mark.parametrize(("total", "count", "expected"), RECORDED["uniform"])
def test_uniform_rule_equals_the_recorded_numbers(total, count, expected):
    assert digest(uniform_indices(total, count)) == expected


@pytest.mark.parametrize(
    "row", [r for r in RECORDED["released"] if r[4] > 0 and r[5] is not None], ids=lambda r: "-".join(map(str, r[:5]))
)
def test_select_applies_the_released_rule_to_constant_rate_video(row):
    total, average_fps, fps, max_fps, max_frames, count, expected, whole_count, expected_whole = row
    sampling = Sampling(fps=fps, max_fps=max_fps, max_frames=max_frames)
    selection = select_frames(constant(total, average_fps), sampling)
    assert digest(selection.indices_F) == expected
    whole = select_frames(constant(total, average_fps), sampling, whole_groups_of=4)
    if whole_count:
        assert digest(whole.indices_F) == expected_whole
    else:  # where the released loader fails, everything is kept
        assert len(whole) == count


def test_rates_above_the_video_take_every_frame():
    assert select_frames(constant(240, 0.4), Sampling(fps=1, max_fps=4)).indices_F.tolist() == list(range(240))
    assert select_frames(constant(50, 25), Sampling(fps=60)).indices_F.tolist() == list(range(50))


def test_a_limit_that_is_reached_is_noted():
    assert select_frames(constant(100, 25), Sampling()).note is None
    selection = select_frames(constant(3600 * 30, 30), Sampling())
    assert len(selection) == 2048
    assert selection.note == "3600 frames at 1.0 fps exceed max_frames=2048: sampled evenly at 0.57 fps"


def test_times_come_from_the_timeline_not_from_the_rate():
    times = np.array([0.0, 0.5, 1.0, 1.5, 10.0, 20.0, 30.0])
    selection = select_frames(Timeline.from_times(times, 2.0), Sampling(times=(0.6, 9.99, 10.0, 25.0)))
    assert selection.indices_F.tolist() == [1, 3, 4, 5]
    assert selection.timestamps_F.tolist() == [0.5, 1.5, 10.0, 20.0]


def test_variable_rate_takes_the_frame_on_screen_once():
    times = np.array([i / 25 for i in range(50)] + [2.0 + i for i in range(50)])
    timeline = Timeline.from_times(times, 25.0)
    assert timeline.variable_rate
    assert timeline.end == pytest.approx(52.0)
    selection = select_frames(timeline, Sampling())
    assert selection.timestamps_F.tolist() == [float(t) for t in range(52)]


def test_a_day_without_a_new_frame_costs_nothing():
    times = np.concatenate([np.arange(25) / 25, 86_400 + np.arange(25) / 25])
    selection = select_frames(Timeline.from_times(times, 25.0), Sampling(fps=30, max_fps=60, max_frames=2048))
    assert len(selection) == 50
    assert select_frames(Timeline.from_times(times, 25.0), Sampling()).indices_F.tolist() == [0, 24, 25]


def test_range():
    timeline = constant(100, 25)
    selection = select_frames(timeline, Sampling(start=1.0, end=2.0, fps=25))
    assert selection.indices_F.tolist() == list(range(25, 50))
    selection = select_frames(timeline, Sampling(start=1.0, num_frames=3))
    assert selection.indices_F.tolist() == [25, 62, 99]
    assert select_frames(timeline, Sampling(start=0.01, end=0.02)).indices_F.tolist() == [0]
    with pytest.raises(VideoError, match=r"start=4 s .* lasts 4\.00 s") as caught:
        select_frames(timeline, Sampling(start=4.0))
    assert caught.value.code == "no_frames_selected"


@pytest.mark.parametrize(
    ("sampling", "message"),
    [(Sampling(indices=(0, 100)), "100 frames: give numbers from 0 to 99"), (Sampling(times=(7,)), r"ends at 4\.00 s")],
)
def test_named_frames_that_do_not_exist(sampling, message):
    with pytest.raises(VideoError, match=message) as caught:
        select_frames(constant(100, 25), sampling)
    assert caught.value.code == "no_frames_selected"


LATE = Timeline.from_times(5.0 + np.arange(75) / 25, 25.0)


def test_a_late_start_moves_times_but_not_the_choice_of_frames():
    for sampling in (Sampling(), Sampling(fps=2, max_fps=4, max_frames=8), Sampling(num_frames=7)):
        late, early = select_frames(LATE, sampling), select_frames(constant(75, 25), sampling)
        assert late.indices_F.tolist() == early.indices_F.tolist()
        np.testing.assert_allclose(late.timestamps_F, early.timestamps_F + 5)
        assert late.note is None
    assert (LATE.start, LATE.end) == (5.0, pytest.approx(8.0))


def test_time_before_the_video_begins_is_refused_or_said():
    for sampling in (Sampling(times=(1.0, 6.0)), Sampling(end=5.0), Sampling(start=1.0, end=3.0)):
        with pytest.raises(VideoError, match=r"begins at 5\.00 s") as caught:
            select_frames(LATE, sampling)
        assert caught.value.code == "no_frames_selected"
    selection = select_frames(LATE, Sampling(start=2.0, end=6.0))
    assert selection.timestamps_F.tolist() == [5.0]
    assert selection.note == "the video begins at 5.00 s: nothing was read from 2 s on until then"
    soon = Timeline.from_times(0.08 + np.arange(50) / 25, 25.0)
    selection = select_frames(soon, Sampling(times=(0.0, 1.0)))
    assert selection.indices_F.tolist() == [0, 23]
    assert "begins at 0.08 s" in str(selection.note)


def test_a_last_frame_that_stays_is_read_like_any_other():
    timeline = Timeline.from_times(np.arange(20) / 10, 10.0, end=59.9)
    assert timeline.variable_rate
    assert timeline.fps == pytest.approx(20 / 59.9)
    assert select_frames(timeline, Sampling()).indices_F.tolist() == [0, 10, 19]
    assert select_frames(timeline, Sampling(times=(1.95, 45.0, 59.0))).indices_F.tolist() == [19, 19, 19]
    with pytest.raises(VideoError, match=r"ends at 59\.90 s"):
        select_frames(timeline, Sampling(times=(60.5,)))
    for end in (1.98, 2.0, 2.05, 2.1):  # one frame more or less is rounding
        ordinary = Timeline.from_times(np.arange(20) / 10, 10.0, end=end)
        assert (ordinary.variable_rate, ordinary.fps) == (False, 10.0)


def test_named_frames_are_not_dropped_silently():
    selection = select_frames(constant(100, 25), Sampling(num_frames=6), whole_groups_of=4)
    assert len(selection) == 4
    assert "last 2 of 6 frames" in str(selection.note)


timelines = st.builds(
    lambda gaps, fps: Timeline.from_times(np.cumsum([0.0, *gaps]), fps),
    st.lists(st.floats(0.001, 90_000), max_size=60),
    st.one_of(st.none(), st.floats(0.01, 1000)),
)
rates = st.floats(0.01, 120)


@settings(deadline=None)
@given(timelines, rates, rates, st.integers(1, 40), st.integers(1, 8))
def test_any_selection_is_ascending_bounded_and_never_empty(timeline, fps, more, max_frames, group):
    sampling = Sampling(fps=fps, max_fps=fps + more, max_frames=max_frames)
    selection = select_frames(timeline, sampling, whole_groups_of=group)
    assert 1 <= len(selection) <= max_frames
    assert (np.diff(selection.indices_F) > 0).all()
    assert len(selection) % group == 0 or len(selection) < group
    np.testing.assert_array_equal(selection.timestamps_F, timeline.times_F[selection.indices_F])


@settings(deadline=None)
@given(timelines, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_frames_at_equals_a_search_by_hand(timeline, parts):
    moments = np.sort(np.array(parts) * timeline.end)
    expected = [max((i for i, t in enumerate(timeline.times_F) if t <= m + 1e-6), default=0) for m in moments]
    assert frames_at(timeline.times_F, moments).tolist() == expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=30), st.floats(0.2, 20))
def test_clock_equals_walking_over_its_ticks(gaps, fps):
    times = np.cumsum([0.0, *gaps])
    end = float(times[-1] + 0.5)
    ticks = [k / fps for k in range(int(end * fps) + 2) if k / fps < end - 1e-6]
    expected = sorted(set(frames_at(times, np.array(ticks)).tolist()))
    got = clock_indices(times, end, fps, None, 10_000).tolist()
    near = {i for i, t in enumerate(times) if abs(t * fps - round(t * fps)) < 1e-4}  # on a tick but for rounding
    assert set(got) ^ set(expected) <= near | {n - 1 for n in near}
