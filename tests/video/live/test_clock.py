from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoxl.video.live.clock import WRAP_S, StreamClock


def placed(pairs, begin=0.0):
    clock = StreamClock(begin)
    return [round(clock.place(pts, arrived), 3) for pts, arrived in pairs], clock


def test_a_steady_stream_keeps_its_own_times_however_unevenly_it_arrives():
    found, clock = placed([(7.0, 100.0), (8.0, 100.0), (9.0, 103.5), (10.0, 103.6)])
    assert found == [0.0, 1.0, 2.0, 3.0]
    assert clock.mended == 0


def test_times_that_are_missing_are_those_of_arrival():
    assert placed([(None, 50.0), (None, 51.5), (20.0, 52.5), (21.0, 53.4)])[0] == [0.0, 1.5, 2.5, 3.5]


def test_a_clock_that_wraps_goes_on():
    found, clock = placed([(WRAP_S - 1, 10.0), (WRAP_S - 0.5, 10.5), (0.25, 11.2), (1.25, 12.2)])
    assert found == [0.0, 0.5, 1.25, 2.25]
    assert clock.mended == 0


@pytest.mark.parametrize("jump", [4000.0, -3.0, -4000.0])
def test_a_jump_is_mended_to_the_time_that_has_passed(jump):
    found, clock = placed([(100.0, 10.0), (101.0, 11.0), (101.0 + jump, 12.0), (102.0 + jump, 13.0)])
    assert found == [0.0, 1.0, 2.0, 3.0]
    assert clock.mended == 1


def test_a_pause_has_its_length_whether_the_source_goes_on_or_begins_anew():
    assert placed([(5.0, 10.0), (65.0, 70.2)])[0] == [0.0, 60.0]
    assert placed([(5.0, 10.0), (0.0, 70.0), (1.0, 71.0)])[0] == [0.0, 60.0, 61.0]


def test_a_burst_does_not_lengthen_the_pause_after_it():
    burst = [(float(second), 10.0) for second in range(19)]  # eighteen seconds at once, then a restart 30 s later
    assert placed([*burst, (0.0, 40.0)])[0][-1] == 30.0


def test_what_was_late_may_catch_up():
    found, clock = placed([(0.0, 0.0), (1.0, 20.0), (21.0, 21.0)])
    assert (found, clock.mended) == ([0.0, 1.0, 21.0], 0)


def test_it_begins_where_it_is_told_to():
    assert placed([(3.0, 0.0), (4.0, 1.0)], begin=3600.0)[0] == [3600.0, 3601.0]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.none() | st.floats(-1e6, 1e6), st.floats(0, 100)), min_size=2, max_size=30),
)
def test_whatever_comes_the_axis_ascends(steps):
    clock, arrived, before = StreamClock(), 0.0, -1.0
    for pts, passed in steps:
        arrived += passed
        at = clock.place(pts, arrived)
        assert at > before
        before = at
