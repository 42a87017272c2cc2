"""lmms-eval's readings of time spans, against plain implementations of what is said of them, on 500 answers each."""

from __future__ import annotations

import random
import re

import pytest

from videoxl.evaluation.grounding import Event, score
from videoxl.evaluation.grounding_rules import charades_span, overlap, timelens_span
from videoxl.scenarios.time_spans import TimeSpan

PIECES = (
    *(
        "12",
        "12.5",
        "3",
        "1:02",
        "00:12",
        "1:02:03",
        "00:12.5",
        "-",
        " - ",
        "–",
        " to ",
        "to",
        "from",
        "12-15",
        "30 - 20",
    ),
    *(
        "The event happens in ",
        "starts at ",
        "ends at ",
        "start",
        "end",
        "seconds",
        "s",
        "between",
        "and",
        "2 people",
        "0",
    ),
    *(".", "!", "?", "\n", ":", " ", "a", "A specific example is : 20.8 - 30.0 seconds", "12. "),
)


def generated(seed):
    rng = random.Random(seed)
    for _ in range(500):
        yield "".join(rng.choice(PIECES) + rng.choice(["", " "]) for _ in range(rng.randint(0, 9)))


def clock(text):
    value = 0.0
    for part in text.split(":"):
        value = 60 * value + float(part)
    return value


def plain_timelens(text):
    text = text.lower()
    clocks = [m[0] for m in re.finditer(r"\b\d{1,2}:\d\d(:\d\d)?(\.\d+)?\b", text)]
    if len(clocks) >= 2:
        return clock(clocks[0]), clock(clocks[1])
    for dash in ("-", "to"):
        space = r"\s*" if dash == "-" else r"\s+"
        ranges = re.findall(rf"(\d+\.?\d*){space}{dash}{space}(\d+\.?\d*)", text)
        if ranges:
            return float(ranges[0][0]), float(ranges[0][1])
    numbers = [float(n) for n in re.findall(r"\b\d+\.?\d*\b", text)]
    return tuple(numbers[:2]) if len(numbers) > 1 else None


def plain_charades(text):
    text = "-".join("".join(text.lower().split("a specific example is : 20.8 - 30.0 seconds")).split("to"))
    sentences = text.replace("!", "\n").replace("?", "\n").split("\n")
    about = [one for one in sentences if "start" in one or "end" in one or "happen" in one]
    sentences = about if about else sentences
    number, time = r"\d+(?:\.\d+)?", r"\d{1,2}:\d\d(?::\d\d)?"
    found = None
    for one in sentences:
        if found is None and (m := re.search(rf"\b({time})\s*[–-]\s*({time})\b", one)):
            found = clock(m[1]), clock(m[2])
    for form in (rf"({number})\s*[–-]\s*({number})", None, rf"({number})\s*s?\s*[–-]\s*({number})"):
        if found is None and form is None:
            clocks = [clock(m) for one in sentences for m in re.findall(rf"\b{time}\b", one)]
            firsts = [float(m[0]) for one in sentences if (m := re.search(rf"\b{number}\b", one))]
            pairs = [two for two in (clocks, firsts) if len(two) > 1]
            found = tuple(pairs[0][:2]) if pairs else None
        for one in sentences if form else ():
            if found is None and (m := re.search(form, one)):
                found = float(m[1]), float(m[2])
    return None if found is None else (min(found), max(found))


def test_timelens():
    for text in generated(1):
        assert timelens_span(text) == plain_timelens(text), text


def test_charades():
    for text in generated(2):
        assert charades_span(text) == plain_charades(text), text


@pytest.mark.parametrize(
    ("text", "charades", "timelens"),
    [
        ("The event happens in 24.3 - 30.4 seconds", (24.3, 30.4), (24.3, 30.4)),
        ("It starts at 00:12 and ends at 00:16", (12.0, 16.0), (12.0, 16.0)),
        ("from 12.0s to 16.0s", (12.0, 16.0), (12.0, 16.0)),
        ("The two people stand, which happens in 5 to 9", (5.0, 9.0), (5.0, 9.0)),
        ("2 people, from 5 s until 9 s", None, (2.0, 5.0)),  # a careful reading finds 5 to 9
        ("30 - 20", (20.0, 30.0), (30.0, 20.0)),
        ("never", None, None),
    ],
)
def test_what_they_read(text, charades, timelens):
    assert (charades_span(text), timelens_span(text)) == (charades, timelens)


def test_overlaps():
    assert overlap((0.0, 4.0), (2.0, 6.0)) == pytest.approx(2 / 6)
    assert overlap((0.0, 1.0), (2.0, 3.0)) == 0.0
    assert overlap((3.0, 2.0), (2.0, 4.0)) == 0.0
    assert overlap((2.0, 2.0), (2.0, 2.0)) == 0.0


def test_both_are_beside_the_careful_reading():
    events = [Event(str(n), "a.mp4", "x", (TimeSpan(5.0, 9.0),)) for n in range(2)]
    found = score(events, {"0": "2 people, from 5 s until 9 s", "1": "5 - 9"})
    assert found["lmms_rules"]["charades"]["R1@0.5"] == 0.5
    assert found["lmms_rules"]["timelens"]["mIoU"] == pytest.approx(0.5)
