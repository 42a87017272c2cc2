"""Bookkeeping of Video-XL's windows: recorded traces, and what must hold for any sizes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from videoxl.config import BeaconPrefill
from videoxl.model import windows
from videoxl.model.windows import RatioChooser, WindowLoop, WindowStep, beacon_slots

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
TRACES = [c for c in json.loads((GOLDEN / "cases.json").read_text())["cases"] if c["kind"] == "v1_trace"]


def run(loop: WindowLoop, length: int) -> list[WindowStep]:
    steps = []
    while loop.end < length:
        steps.append(loop.next(length))
    return steps


def fixed(window: int, ratio: int, first: int | None, last: int | None, **settings) -> WindowLoop:
    return WindowLoop(window, RatioChooser([ratio]), skip_first=first, skip_last=last, **settings)


# ------------------------------------------------------------------------------------------------ recorded traces


@pytest.fixture(scope="module")
def recorded():
    return load_file(GOLDEN / "golden.safetensors")


def trace_steps(case: dict) -> list[tuple[int, WindowStep, WindowLoop]]:
    """(sequence, step, cursors after it) of all sequences of a case, decoding included."""
    config = case["config"]
    released = BeaconPrefill.from_released(config["beacon_ratio"], config["beacon_ratio_mix"])
    stream = np.random.default_rng(42)  # in the recorded runs it goes on from one sequence to the next
    last = case["prefix"] + case["n_visual"]
    found = []
    for sequence in range(case["sequences"]):
        positions = config["max_position_embeddings"]
        chooser = RatioChooser(
            released.ratios, released.mix, seed=stream, headroom=released.headroom, max_positions=positions
        )
        loop = WindowLoop(
            config["beacon_window"],
            chooser,
            skip_first=case["prefix"],
            skip_last=last,
            training=case["training"],
            accumulate=config["beacon_accum"],
        )
        prompt = last + case["suffix"]
        for length in range(prompt, prompt + case["decode_tokens"] + 1):
            while loop.end < length:
                step = loop.next(length)
                found.append((sequence, step, (loop.start, loop.end, loop.remainder)))
    return found


@pytest.mark.parametrize("case", TRACES, ids=lambda case: case["id"])
def test_recorded_traces_are_met(case, recorded):
    rows = trace_steps(case)

    def want(name):
        return recorded[f"{case['id']}/{name}"].tolist()

    assert [sequence for sequence, _, _ in rows] == want("step_sequence")
    assert [step.tokens for _, step, _ in rows] == want("step_n_ids")
    assert [step.beacons for _, step, _ in rows] == want("step_beacon_size")
    assert [step.past for _, step, _ in rows] == want("step_past_len")
    assert [list(step.kept) for _, step, _ in rows] == want("step_memory_after")
    assert [list(cursors[:2]) for _, _, cursors in rows] == want("step_start_end_idx")
    assert [cursors[2] for _, _, cursors in rows] == want("step_interleave_remainder")
    assert [int(step.full) for _, step, _ in rows] == want("step_is_full_window")
    slots = [slot for _, step, _ in rows for slot in step.beacon_slots]
    if "beacon_positions_concat" in case["arrays"]:
        assert slots == want("beacon_positions_concat")
    else:
        beacon, ids = case["config"]["vocab_size"], iter(want("input_ids_concat"))
        steps = [[next(ids) for _ in range(step.tokens)] for _, step, _ in rows]
        assert slots == [slot for step in steps for slot, token in enumerate(step) if token == beacon]


def test_there_are_traces_of_every_kind():
    assert len(TRACES) >= 20
    assert {c["config"]["beacon_ratio_mix"].split("-")[0] for c in TRACES} == {"step", "instance", "sequence", "adapt"}
    assert {c["training"] for c in TRACES} == {True, False}
    assert any(c["config"]["beacon_window"] == 1440 for c in TRACES)


# ------------------------------------------------------------------------------------------------------ properties

sizes = st.fixed_dictionaries(
    {
        "window": st.integers(2, 24),
        "ratio": st.integers(2, 24),
        "first": st.none() | st.integers(1, 40),
        "visual": st.integers(1, 90),
        "suffix": st.integers(1, 40),
        "new": st.integers(0, 4),
        "training": st.booleans(),
        "accumulate": st.booleans(),
    }
).map(lambda given_sizes: given_sizes | {"new": 0} if given_sizes["training"] else given_sizes)


def loop_and_steps(given_sizes: dict) -> tuple[WindowLoop, list[WindowStep]]:
    first = given_sizes["first"]
    last = (first or 0) + given_sizes["visual"]
    loop = fixed(
        given_sizes["window"],
        given_sizes["ratio"],
        first,
        last,
        training=given_sizes["training"],
        accumulate=given_sizes["accumulate"],
    )
    steps = run(loop, last + given_sizes["suffix"])
    for new in range(given_sizes["new"]):
        steps += run(loop, last + given_sizes["suffix"] + new + 1)
    return loop, steps


@given(sizes)
def test_every_token_goes_through_once_and_in_order(given_sizes):
    loop, steps = loop_and_steps(given_sizes)
    assert [token for step in steps for token in range(step.begin, step.end)] == list(range(loop.end))
    first = given_sizes["first"] or 0
    last = first + given_sizes["visual"]
    assert loop.end == last + given_sizes["suffix"] + given_sizes["new"]
    for step in steps:
        kind = "prefix" if step.begin < first else "window" if step.begin < last else "text"
        assert step.kind == kind
        begin, end = {"prefix": (0, first), "window": (first, last), "text": (last, loop.end)}[kind]
        assert begin <= step.begin < step.end <= end  # text and pictures never meet in a step
        assert step.end - step.begin <= (first if kind == "prefix" else given_sizes["window"])
    assert sum(step.kind == "prefix" for step in steps) == (first > 0)


@given(sizes)
def test_one_beacon_follows_every_ratio_tokens_counted_across_windows(given_sizes):
    _, steps = loop_and_steps(given_sizes)
    seen = 0
    for step in steps:
        if step.kind != "window":
            assert (step.beacons, step.ratio) == (0, None)
            continue
        plain, slot = [], 0
        for _ in range(step.end - step.begin):
            seen, slot = seen + 1, slot + 1
            if seen % given_sizes["ratio"] == 0:
                plain.append(slot)
                slot += 1
        assert list(step.beacon_slots) == plain
    assert seen == given_sizes["visual"]
    if given_sizes["accumulate"]:
        assert steps[-1].kept[1] == given_sizes["visual"] // given_sizes["ratio"]


@given(sizes)
def test_positions_are_contiguous_and_what_is_kept_adds_up(given_sizes):
    loop, steps = loop_and_steps(given_sizes)
    for before, step in zip([None, *steps], steps):
        assert step.past == (sum(before.kept) if before else 0)
        prefix, beacons, raw = before.kept if before else (0, 0, 0)
        if step.kind == "prefix":
            assert step.kept == (step.tokens, 0, 0)
        elif step.kind == "window":
            assert step.kept == (prefix, step.beacons + (beacons if given_sizes["accumulate"] else 0), 0)
            assert raw == 0
        else:
            assert step.kept == (prefix, beacons, raw + step.tokens)
        assert all(0 <= slot < step.tokens for slot in step.beacon_slots)
    assert loop.cached == sum(steps[-1].kept)


@given(
    st.integers(2, 16),
    st.lists(st.integers(2, 16), min_size=1, max_size=3, unique=True),
    st.sampled_from(["random", "random-once", "sequence"]),
    st.integers(1, 20),
    st.lists(st.integers(1, 23), min_size=1, max_size=8),
)
def test_fed_piece_by_piece_the_steps_are_the_same(window, ratios, mix, first, pieces):
    visual = sum(pieces)

    def loop(last):
        return WindowLoop(window, RatioChooser(ratios, mix), skip_first=first, skip_last=last)

    try:
        whole = run(loop(first + visual), first + visual)
    except ValueError:  # no ratio fits a window
        return
    online, steps, length = loop(None), [], first
    for piece in pieces:
        length += piece
        while online.end < length and (online.steps == 0 or online.windows_ready(length)):
            steps.append(online.next(length))
    online.skip_last = length
    assert steps + run(online, length) == whole


@given(st.integers(1, 200), st.integers(2, 40), st.data())
def test_slots_are_those_of_the_rule(raw, ratio, data):
    rest = data.draw(st.integers(0, ratio - 1))
    slots = beacon_slots(raw, ratio, rest)
    total = raw + len(slots)
    assert slots == tuple(s for s in range(total) if s % (ratio + 1) == ratio - rest)
    assert len(slots) == (raw + rest) // ratio


# ---------------------------------------------------------------------------------------------------------- ratios


def ratios_of(chooser: RatioChooser, windows_of: list[int], length: int = 1000) -> list[int]:
    return [chooser.choose(window, length, windows_of[0]) for window in windows_of]


@given(st.lists(st.sampled_from([24, 12, 8, 6]), min_size=1, max_size=6), st.integers(0, 9))
def test_a_random_ratio_per_window_is_numpys_choice_among_those_that_divide_it(windows_of, seed):
    plain = np.random.default_rng(seed)
    wanted = [int(plain.choice([r for r in (2, 3, 4, 8) if w % r == 0])) for w in windows_of]
    assert ratios_of(RatioChooser([2, 3, 4, 8], "random", seed=seed), windows_of) == wanted


def test_the_first_window_decides_for_all():
    once = ratios_of(RatioChooser([2, 3, 8], "random-once", seed=1), [24, 24, 24, 14])
    assert len(set(once)) == 1
    assert {ratios_of(RatioChooser([2, 3, 8], "random-once", seed=s), [24])[0] for s in range(30)} == {2, 3, 8}


def test_ratios_are_taken_in_turn():
    turns = cycle([2, 8])  # 5 does not divide the first window
    assert ratios_of(RatioChooser([2, 5, 8], "sequence"), [24] * 5) == [next(turns) for _ in range(5)]


@pytest.mark.parametrize(("length", "wanted"), [(100, 2), (150, 2), (151, 4), (294, 4), (295, 8), (9999, 8)])
def test_the_smallest_ratio_that_reaches_is_taken(length, wanted):
    """With 88 positions and a window of 16, ratio r reaches 72 r + 16 tokens: 160, 304, 592. 10 are kept free."""
    chooser = RatioChooser([8, 2, 4], "adaptive", headroom=10, max_positions=88)
    assert ratios_of(chooser, [16, 16, 8], length) == [wanted] * 3


def test_a_single_ratio_need_not_divide_the_window():
    assert ratios_of(RatioChooser([7]), [24, 3]) == [7, 7]


@pytest.mark.parametrize("mix", ["random", "random-once", "sequence", "adaptive"])
def test_every_video_starts_its_mix_anew(mix):
    def video():
        chooser = RatioChooser([2, 4, 8], mix, max_positions=60)
        return run(WindowLoop(16, chooser, skip_first=3, skip_last=83), 90)

    assert video() == video()


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("mix", ["random", "random-once", "sequence", "adaptive"])
def test_a_window_that_no_ratio_divides_is_refused(mix):
    loop = WindowLoop(16, RatioChooser([6, 7], mix), skip_first=2, skip_last=40)
    loop.next(44)
    with pytest.raises(ValueError, match=r"none of the ratios \(6, 7\) divides a window of 16 .*; give a single ratio"):
        loop.next(44)
    assert (loop.end, loop.steps, loop.cached) == (2, 1, 2)


def test_a_last_window_that_no_ratio_divides_is_refused():
    loop = WindowLoop(16, RatioChooser([4, 8], "random"), skip_first=2, skip_last=2 + 16 + 3)
    loop.next(30)
    loop.next(30)
    with pytest.raises(ValueError, match=r"\(4, 8\) divides a window of 3"):
        loop.next(30)


def test_there_must_be_tokens_left():
    loop = fixed(8, 2, 3, 11)
    run(loop, 15)
    with pytest.raises(ValueError, match="all 15 tokens have been through"):
        loop.next(15)


def test_part_of_a_window_is_not_read_before_its_end_is_known():
    loop = fixed(8, 2, 3, None)
    loop.next(9)
    with pytest.raises(ValueError, match="a window of 8 tokens has only 6 so far: wait for the rest, or set skip_last"):
        loop.next(9)
    loop.skip_last = 9
    assert loop.next(9).beacon_slots == (2, 5, 8)


# -------------------------------------------------------------------------------------------------------- no torch


def test_the_bookkeeping_knows_no_tensors():
    imported = set()
    for node in ast.walk(ast.parse(Path(windows.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"__future__", "collections.abc", "dataclasses", "typing", "numpy"}
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from videoxl.model.windows import RatioChooser, WindowLoop\n"
        "print(WindowLoop(4, RatioChooser([2]), skip_first=1).next(9).end)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1\n"
