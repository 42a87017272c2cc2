"""Damage to bytes and JSON, drawn from a seed: what the fuzz tests share.

A test loops over :func:`seeds`, damages a good file with ``Random(seed)``, reads it inside :func:`within`, and names
the seed where something is wrong. ``VIDEOXL_FUZZ_SECONDS=600`` makes the same test run for ten minutes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from random import Random
from types import FrameType

import psutil

Path = tuple[str | int, ...]
"""Where a value is in JSON: keys and places, from the outside in."""

NUMBERS = (0, -1, 1, 2, 3, 7, 255, 2**31, 2**63, -(2**63), 10**9, 10**30, 0.5, -0.0, 1e-320, 1e308)
TEXTS = (
    "",
    " ",
    "a",
    "\x00",
    "\ud800",
    "\u2028",
    "\x1b[2J",
    "../../../../etc/passwd",
    "/dev/zero",
    "{:>99999999}",
    "%n",
    "x" * 5000,
)
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "1" + "0" * 5000, '"\\ud800"', "[" * 3000 + "]" * 3000)
"""Pieces of text that Python's reader of JSON takes, or nearly takes, and that :func:`json.dumps` would not write."""


def seeds(few: int) -> Iterator[int]:
    """Yield 0, 1 ... ``few - 1``; ``VIDEOXL_FUZZ_SECONDS`` lets it go on, ``VIDEOXL_FUZZ_SEED`` says where to begin."""
    seconds = float(os.environ.get("VIDEOXL_FUZZ_SECONDS", "0"))
    first = int(os.environ.get("VIDEOXL_FUZZ_SEED", "0"))
    end, number = time.monotonic() + seconds, first
    while number < first + few or time.monotonic() < end:
        yield number
        number += 1


class TookTooLongError(BaseException):
    """Raised by :func:`within`; no code under test may catch it."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """End what takes longer. For the main thread; code that never returns to Python is not ended."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TookTooLongError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def nothing_left(growth: int) -> Iterator[None]:
    """Fail if processes or descriptors are left, or if this process has come to hold ``growth`` bytes more."""
    me = psutil.Process()
    children, descriptors, peak = len(me.children(recursive=True)), me.num_fds(), peak_bytes()
    yield
    gc.collect()
    assert len(me.children(recursive=True)) <= children
    assert me.num_fds() <= descriptors
    assert peak_bytes() - peak < growth


def peak_bytes() -> int:
    """Most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ----------------------------------------------------------------------------------------------------------- bytes


def _flip(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: Random) -> None:
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 64))
    data[at : at + length] = rng.choice((b"\xff" * length, b"\0" * length, rng.randbytes(length)))


def _cut(data: bytearray, rng: Random) -> None:
    del data[rng.choice((0, 1, 8, rng.randrange(len(data)), len(data) - 1)) :]


def _take_out(data: bytearray, rng: Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 4, 100, 5000))]


def _repeat(data: bytearray, rng: Random) -> None:
    at, length = rng.randrange(len(data)), rng.choice((1, 8, 500))
    data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))


def _append(data: bytearray, rng: Random) -> None:
    data += rng.choice((b"\0", b"\n", rng.randbytes(9), bytes(data)))


BYTES: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _overwrite, _cut, _take_out, _repeat, _append)


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """``data`` with one to three kinds of damage: flips, overwritten stretches, cuts, gaps, repeats, additions."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if damaged:
            rng.choice(BYTES)(damaged, rng)
    return bytes(damaged)


def mutate_near(data: bytes, rng: Random, *marks: bytes, reach: int = 80) -> bytes:
    """Damage within ``reach`` bytes behind one of the places where a mark stands; anywhere if none does."""
    places = [at for mark in marks for at in _all_places(data, mark)]
    begin = rng.choice(places) if places else rng.randrange(len(data))
    return data[:begin] + mutate_bytes(data[begin : begin + reach], rng) + data[begin + reach :]


def _all_places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


# ------------------------------------------------------------------------------------------------------------ JSON


def mutate_json(data: bytes, rng: Random) -> bytes:
    """A JSON text with one to three places changed: a value of another type, a huge number, a key gone, deep nesting,
    text that is no JSON; sometimes its bytes are damaged instead."""
    if rng.random() < 0.15:
        return mutate_bytes(data, rng)
    value = json.loads(data)
    raw: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng, raw)
    text = json.dumps(value)
    for mark, instead in raw.items():
        text = text.replace(json.dumps(mark), instead, 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: object, rng: Random, raw: dict[str, str]) -> object:
    places = list(_places(value))
    where = rng.choice(places)
    *outer, last = where or (None,)
    if last is None:
        return other(value, rng, raw)
    holder = value
    for key in outer:
        holder = holder[key]  # type: ignore[index]
    action = rng.random()
    if action < 0.2:
        del holder[last]  # type: ignore[attr-defined]
    elif action < 0.3 and isinstance(holder, dict):
        holder[rng.choice((f"{last}_", "", "__class__", "auto_map", "self", rng.choice(TEXTS)))] = holder.pop(last)
    else:
        holder[last] = other(holder[last], rng, raw)  # type: ignore[index]
    return value


def _places(value: object, at: Path = (), most: int = 400) -> Iterator[Path]:
    """Where values are, the whole one first; of long lists and mappings only the first entries."""
    yield at
    if isinstance(value, dict):
        inside: list[tuple[str | int, object]] = list(value.items())
    else:
        inside = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in inside[:most]:
        yield from _places(item, (*at, key), most=8)


def other(value: object, rng: Random, raw: dict[str, str]) -> object:
    """A value that does not belong in the place of ``value``. What JSON cannot hold goes into ``raw`` under a mark."""
    kind = rng.randrange(9)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(TEXTS)
    if kind == 2:
        return rng.choice((None, True, False))
    if kind == 3:
        return rng.choice(([], {}, [value], [value, value], {"": value}, [None], {"auto_map": value}))
    if kind == 4:
        mark = f"@raw{len(raw)}@"
        raw[mark] = rng.choice(RAW)
        return mark
    if kind == 5:
        return nested(value, rng.choice((2, 50, 300)))
    if kind == 6 and isinstance(value, (int, float)):
        return rng.choice((-value, value + 1, value - 1, value * 2, value * 1000, str(value), float(value), value / 3))
    if kind == 7 and isinstance(value, str):
        return rng.choice((value[: len(value) // 2], value + "x", value.upper(), value * 100, [value]))
    if kind == 8 and isinstance(value, (dict, list)):
        return list(value) if isinstance(value, dict) else dict.fromkeys(map(str, value), value)
    return rng.choice(NUMBERS)


def nested(value: object, depth: int) -> object:
    """``value`` inside ``depth`` lists and mappings by turns."""
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value
