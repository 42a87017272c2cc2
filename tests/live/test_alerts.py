from __future__ import annotations

import pytest

from videoxl.live.alerts import AlertState
from videoxl.live.settings import Alert, Retention


def told(said: str, **how: int) -> list[tuple[int, str, float]]:
    """What is told at which stretch, of a row of answers: y or n."""
    state, found = AlertState(Alert(question="Is it there?", **how)), []
    for number, answer in enumerate(said):
        if (changed := state.take(0.9 if answer == "y" else 0.1, float(number))) is not None:
            found.append((number, *changed))
    return found


def test_it_fires_when_enough_of_the_last_stretches_agree_and_once():
    assert told("nynnyynyyy") == [(5, "fired", 4.0)]
    assert told("yyyynnyy", fire=2, clear=2, of=3) == [(1, "fired", 0.0), (5, "cleared", 4.0), (7, "fired", 6.0)]


def test_a_flickering_answer_changes_nothing():
    assert told("ynynynyn", fire=3, clear=3, of=4) == []
    assert told("yyynynyny", fire=3, clear=3, of=4) == [(2, "fired", 0.0)]


def test_one_of_one_is_without_hysteresis():
    assert [what for _, what, _ in told("yny", fire=1, clear=1, of=1)] == ["fired", "cleared", "fired"]


@pytest.mark.parametrize("wrong", [{"question": " "}, {"question": "a?", "fire": 4}, {"question": "a?", "of": 0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"question|fire|of"):
        Alert(**wrong)
    with pytest.raises(ValueError, match="ascend"):
        Retention(dense_s=2.0, pooled_s=1.0)
