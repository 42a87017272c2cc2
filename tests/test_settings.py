"""Settings classes: checked when made, errors of one line, plain values as files and command lines hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from typing import Annotated, Literal

import pytest
from annotated_types import Ge
from pydantic import BeforeValidator

from videoxl.settings import Count, Must, Positive, from_json, from_plain, settings


@settings
class Source:
    """Something inside."""

    path: str
    take: Literal["all", "first"] = "all"


@settings
class Run:
    """Something with other settings inside."""

    steps: Count = 1
    rate: float = 0.5
    rates: Mapping[str, Positive] | None = None
    source: Source | None = None
    sources: tuple[Source, ...] = ()
    share: Annotated[float, Ge(0), Must("be a share")] = 0.0
    loud: bool = False

    def __post_init__(self) -> None:
        if self.loud and self.steps == 13:
            raise ValueError("13 steps cannot be loud")


def test_settings_are_frozen_dataclasses():
    run = Run(steps=2, source=Source(path="a"))
    assert run == Run(steps=2, source=Source(path="a"))
    assert replace(run, steps=3).source is run.source
    with pytest.raises(FrozenInstanceError):
        run.steps = 3
    with pytest.raises(TypeError):
        Run(1)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        replace(run, steps=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": "2"}, "steps must be a whole number of at least 1, got '2'"),
        ({"steps": True}, "steps must be a whole number of at least 1, got True"),
        ({"rate": "fast"}, "rate must be a number, got 'fast'"),
        ({"share": -1.0}, "share must be a share, got -1.0"),
        ({"loud": 1}, "loud must be true or false, got 1"),
        ({"rates": {"eyes": 0}}, "rates.eyes must be a finite number above 0, got 0"),
        ({"stepps": 2}, "Run has no setting 'stepps'; did you mean steps? Settings: steps, rate, rates, source, "),
        ({"zzz": 2}, "Run has no setting 'zzz'; settings: steps, "),
        ({"loud": True, "steps": 13}, "13 steps cannot be loud"),
    ],
)
def test_what_cannot_be_set_is_one_line(values, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Run(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": {"path": "a", "take": "last"}}, "source.take must be one of all, first, got 'last'"),
        ({"source": {"take": "all"}}, "source lacks path"),
        ({"source": {"path": "a", "tak": "all"}}, "source has no setting 'tak'; did you mean take? Settings: path, "),
        ({"sources": [{"path": "a"}, {"pat": "b"}]}, "sources[1] lacks path"),
        ({"sources": [{"path": "a", "x": 1}]}, "sources[0] has no setting 'x'; settings: path, take"),
        ({"steps": "many"}, "steps must be a whole number of at least 1, got 'many'"),
        ({"steps": True}, "steps must be a whole number of at least 1, got True"),
    ],
)
def test_errors_in_plain_values_say_where(values, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        from_plain(Run, values)
    assert str(caught.value).startswith(message)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        from_plain(Run, values, "run")
    assert str(caught.value).startswith(f"run.{message}")


def _interrupted(value: object) -> object:
    raise KeyboardInterrupt


@settings
class Interrupted:
    """A setting whose check is interrupted, as Ctrl-C may interrupt any of them."""

    seed: Annotated[int | None, BeforeValidator(_interrupted), Must("be a seed")]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Interrupted(seed=0),
        lambda: from_plain(Interrupted, {"seed": 0}),
        lambda: from_plain(tuple[Interrupted, ...], [{"seed": 0}]),
        lambda: from_json(Interrupted, '{"seed": 0}'),
    ],
)
def test_an_interrupt_is_no_value_that_is_wrong(make):
    with pytest.raises(KeyboardInterrupt):
        make()


def test_plain_values_may_be_text():
    made = from_plain(Run, {"steps": "3", "rate": "1e-4", "loud": "true", "sources": [{"path": "a"}]})
    assert made == Run(steps=3, rate=1e-4, loud=True, sources=(Source(path="a"),))
