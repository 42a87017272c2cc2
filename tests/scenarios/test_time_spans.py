"""Time spans out of what models write."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoxl.scenarios.time_spans import find_moments, find_spans, iou, parse_spans

SPANS = {
    "12.0s to 16.0s": [(12, 16)],
    "12.0 - 16.0 seconds": [(12, 16)],
    "00:12-00:16": [(12, 16)],
    "from 12 to 16": [(12, 16)],
    "1:02:03 to 1:02:10.5": [(3723, 3730.5)],
    "75:30 until 76:00": [(4530, 4560)],
    "00:00:12,500 --> 00:00:16,000": [(12.5, 16)],
    "The event happens in 12.0 - 16.0 seconds.": [(12, 16)],
    "**12.0s** – **16.0s**: a star": [(12, 16)],
    "<12.0s> to <16.0s>": [(12, 16)],
    "Time 12.0s: to Time 16.0s:": [(12, 16)],
    "12.0s到16.0s": [(12, 16)],
    "[12.0, 16.0]": [(12, 16)],
    "[[12, 16], [20, 24]]": [(12, 16), (20, 24)],
    '["00:12", "00:16"]': [(12, 16)],
    '{"start": 12.0, "end": 16.0}': [(12, 16)],
    '{"start_time": "00:12", "end_time": "00:16"}': [(12, 16)],
    "between 12 and 16 of the video": [(12, 16)],
    "It starts at 12s and ends at 16s.": [(12, 16)],
    "Starting time: 0.8 seconds. Ending time: 1.1 seconds": [(0.8, 1.1)],
    "The start time is 0 seconds, and the end time is 12 seconds.": [(0, 12)],
    "It happens at 12s. It is over by 16s.": [(12, 16)],
    "begins at 12.0s and lasts until 16.0s": [(12, 16)],
    "at 12s for 4 seconds": [(12, 16)],
    "begins at 12s, lasting about 4 seconds": [(12, 16)],
    "from the 12-second mark to the 16-second mark": [(12, 16)],
    "from second 12 to second 16": [(12, 16)],
    "the 12th second to the 16th second": [(12, 16)],
    "around 0:12 until about 0:16": [(12, 16)],
    "0:12 (12 s) to 0:16": [(12, 16)],
    "1 min 5 s to 1 min 10 s": [(65, 70)],
    "1h2m3s - 1h2m10s": [(3723, 3730)],
    "from 1 hour, 2 minutes and 3 seconds to 1 hour 3 minutes": [(3723, 3780)],
    "1-2 minutes": [(60, 120)],
    "1 minute to 2": [(60, 120)],
    "12s-16s, 20s-24s and 30s-33.5s": [(12, 16), (20, 24), (30, 33.5)],
    "1. 12 - 16\n2. 20 - 24": [(12, 16), (20, 24)],
    "12.0s to 16.0s: a red star\n20.0s to 24.0s: nothing": [(12, 16), (20, 24)],
    "1. 0:12 - 0:16: a star\n2) 0:20 - 0:24: nothing": [(12, 16), (20, 24)],
    "12 - 16: a star": [(12, 16)],
    "start:12s, end:16s": [(12, 16)],
    "2 to 3 people walk from 12.0s to 16.0s": [(12, 16)],
    "12s to 12s": [(12, 12)],
}
NONE = (
    "",
    "no",
    "I cannot see the video.",
    "12.0s",
    "2 to 3 people walk",
    "16s to 12s",
    "-5 to 10",
    "$12 to $16",
    "12% to 16%",
    "frames 12 to 16",
    "2024-01-02",
    "the 16:9 picture",
    "1.2.3 - 1.2.4",
    "12:00 PM to 1:00 PM",
    "00:00:12:05 - 00:00:16:10",
    "12.0s: a red star\n16.0s: nothing",
    f"{'9' * 400}s to {'9' * 401}s",
    "nan to inf",
    "<|im_end|>",
    "\x00\ud800",
)


@pytest.mark.parametrize(("text", "expected"), SPANS.items(), ids=SPANS)
def test_every_form_is_read(text, expected):
    assert parse_spans(text) == expected


@pytest.mark.parametrize("text", NONE)
def test_what_names_no_span_gives_none(text):
    assert parse_spans(text) == []


def clock(tenths: int) -> str:
    return f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"


def words(tenths: int) -> str:
    return f"{tenths // 36000} hours {tenths // 600 % 60} minutes and {tenths / 10 % 60:.1f} seconds"


FORMS = {
    "seconds": lambda a, b: f"{a / 10:.1f}s to {b / 10:.1f}s",
    "unit behind": lambda a, b: f"{a / 10:.1f} - {b / 10:.1f} seconds",
    "plain": lambda a, b: f"from {a / 10} to {b / 10}",
    "clock": lambda a, b: f"{clock(a)}-{clock(b)}",
    "mixed": lambda a, b: f"from {clock(a)} to {b / 10:.1f}s",
    "words": lambda a, b: f"from {words(a)} to {words(b)}",
    "brackets": lambda a, b: f"[{a / 10}, {b / 10}]",
    "json": lambda a, b: f'{{"start": {a / 10}, "end": {b / 10}}}',
    "sentence": lambda a, b: f"It starts at {a / 10} seconds and ends at {b / 10} seconds.",
    "lasting": lambda a, b: f"at {a / 10:.1f}s for {(b - a) / 10:.1f} seconds",
}
TENTHS = st.integers(0, 359_999)
PROSE = st.text("abcdefg ,.!?\n", max_size=40)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(times=st.tuples(TENTHS, TENTHS).map(sorted), before=PROSE, after=PROSE)
def test_any_times_in_any_form_amid_prose(form, times, before, after):
    found = parse_spans(f"{before} {form(*times)} {after}")
    assert len(found) == 1
    assert found[0] == pytest.approx([t / 10 for t in times])


@given(st.lists(st.tuples(TENTHS, TENTHS).map(sorted), min_size=1, max_size=6), st.sampled_from(["\n", "; ", " and "]))
def test_lists_keep_their_order(times, between):
    text = between.join(FORMS["seconds"](*pair) for pair in times)
    assert parse_spans(text) == [pytest.approx([t / 10 for t in pair]) for pair in times]


TROUBLE = st.text(st.sampled_from(list("0123456789:.,-–~ shm/%$[]()to\n\"'")), max_size=200)


@given(st.one_of(st.text(max_size=200), TROUBLE))
def test_any_text_at_all(text):
    found = find_spans(text)
    for mention in found:
        assert 0 <= mention.span.start <= mention.span.end < math.inf
        assert 0 <= mention.begin < mention.stop <= len(text)
    assert all(one.stop <= other.begin for one, other in pairwise(found))
    assert all(text[m.begin : m.stop].strip() for m in find_moments(text))


@pytest.mark.parametrize(
    "piece", ["9", "1 ", "1:", "12s ", "[", "12 - ", "starts at 1 ", "1 h ", " ", "- ", "1 m and "]
)
def test_hostile_lengths_cost_no_more_than_their_length(piece):
    begin = time.process_time()
    find_spans(piece * (20_000 // len(piece)))
    assert time.process_time() - begin < 1  # 0.1 alone; what grows with the square takes minutes


def test_moments():
    found = find_moments("12.0s: a red star\nat 1:05 it ends, 3 people")
    assert [m.span for m in found] == [(12, 12), (65, 65)]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 5 / 15),
        ((0, 4), (1, 3), 0.5),
        ((0, 10), (10, 20), 0.0),
        ((0, 10), (30, 40), 0.0),
        ((10, 0), (0, 10), 0.0),
        ((5, 5), (0, 10), 0.0),
        ((5, 5), (5, 5), 0.0),
    ],
)
def test_intersection_over_union(one, other, expected):
    assert iou(one, other) == pytest.approx(expected)
    assert iou(other, one) == iou(one, other)
