"""Questions about a film of the generated world, each with one certain answer of a fixed form.

===========  ====================================================  ==========================================
kind         asked                                                 answered
===========  ====================================================  ==========================================
color        What color is the star?                               red
shape        Which shape is red?                                   star
number       What number is on the red card?                       7
when         When is the red star shown?                           12.0s to 20.0s
at           What is shown at 12.0s?                               a red star / nothing
present      Is there a red star?                                  yes / no
count        How many shapes are shown?                            3
after        What is shown after the red star?                     a blue card with 7 / nothing
before       What is shown before the red star?                    a blue card with 7 / nothing
first, last  What is shown first?                                  a red star
choice       Which of these is shown? (four lettered lines)        B
list         What is shown, and when?                              one line each: 12.0s to 20.0s: a red star
===========  ====================================================  ==========================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videoxl.world.film import COLORS, SHAPES, Event, Film, Thing

KINDS = (
    "color",
    "shape",
    "number",
    "when",
    "at",
    "present",
    "count",
    "after",
    "before",
    "first",
    "last",
    "choice",
    "list",
)
TIMED = ("when", "at", "list")
"""Kinds that need to know the time; a model without timestamps, as Video-XL, cannot answer them."""
CONTENT = ("color", "shape", "number")
"""Kinds that ask what was shown: the content of a needle."""
LETTERS = "ABCD"
NOTHING = "nothing"


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    ``evidence`` lists the groups that show the answer. It is empty where the answer is that something is missing, and
    where it takes the whole film.
    """

    kind: str
    text: str
    answer: str
    evidence: tuple[tuple[int, int], ...] = ()


def kinds_for(film: Film) -> tuple[str, ...]:
    """The kinds that can be asked about a film."""
    shapes = any(e.thing.shape for e in film.events)
    cards = any(e.thing.shape is None for e in film.events)
    possible = {
        "color": shapes,
        "shape": shapes,
        "number": cards,
        "when": bool(film.events),
        "after": bool(film.events),
        "before": bool(film.events),
        "first": bool(film.events),
        "last": bool(film.events),
        "choice": bool(film.events),
        "list": bool(film.events),
    }
    return tuple(kind for kind in KINDS if possible.get(kind, True))


def seconds(value: float) -> str:
    """A time as prompts tell it: ``12.0s``."""
    return f"{value:.1f}s"


def interval(film: Film, event: Event) -> str:
    return f"{seconds(film.time_of(event.start))} to {seconds(film.time_of(event.end))}"


def ask(source: np.random.Generator, film: Film, kind: str, event: Event | None = None) -> Question:
    """A question of a kind, about ``event`` or one drawn. Raises ``ValueError`` for one that the film cannot answer."""
    if kind not in kinds_for(film):
        raise ValueError(
            f"the film has nothing for a question of kind {kind!r}; possible: {', '.join(kinds_for(film))}"
        )
    return _MAKERS[kind](source, film, event)


def _pick(source: np.random.Generator, film: Film, event: Event | None, *, shape: bool | None = None) -> Event:
    """``event`` itself, or one drawn, of the things with or without a shape."""
    if event is not None:
        return event
    fitting = [e for e in film.events if shape is None or bool(e.thing.shape) == shape]
    return fitting[int(source.integers(len(fitting)))]


def _at_event(kind: str, text: str, answer: object, event: Event) -> Question:
    return Question(kind, text, str(answer), ((event.start, event.end),))


def _color(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    event = _pick(source, film, event, shape=True)
    return _at_event("color", f"What color is the {event.thing.shape}?", event.thing.color, event)


def _shape(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    event = _pick(source, film, event, shape=True)
    return _at_event("shape", f"Which shape is {event.thing.color}?", event.thing.shape, event)


def _number(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    event = _pick(source, film, event, shape=False)
    return _at_event("number", f"What number is on the {event.thing.color} card?", event.thing.number, event)


def _when(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    event = _pick(source, film, event)
    return _at_event("when", f"When is the {event.thing.name} shown?", interval(film, event), event)


def _at(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    """Three of four times something is shown then."""
    if film.events and (event is not None or source.random() < 0.75):
        event = _pick(source, film, event)
        group = int(source.integers(event.start, event.end))
        return _at_event("at", f"What is shown at {seconds(film.time_of(group))}?", event.thing.phrase, event)
    empty = [g for g in range(film.groups) if film.thing_in(g) is None]
    group = empty[int(source.integers(len(empty)))]
    text = f"What is shown at {seconds(film.time_of(group))}?"
    return Question("at", text, NOTHING, ((group, group + 1),))


def _absent(source: np.random.Generator, film: Film, *, near: bool) -> Thing:
    """A thing the film does not show; ``near``: the colour of one that it does."""
    shown = {e.thing.name for e in film.events}
    used = [e.thing.color for e in film.events]
    colors = used if near and used else list(COLORS)
    while True:
        color = colors[int(source.integers(len(colors)))]
        kind = int(source.integers(len(SHAPES) + 1))
        number = int(source.integers(10))
        thing = Thing(color, SHAPES[kind]) if kind < len(SHAPES) else Thing(color, number=number)
        if thing.name not in shown:
            return thing


def _present(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    """Half of the answers are no, and most of those ask for a colour that is there."""
    if film.events and (event is not None or source.random() < 0.5):
        event = _pick(source, film, event)
        return _at_event("present", f"Is there a {event.thing.name}?", "yes", event)
    thing = _absent(source, film, near=source.random() < 0.6)
    return Question("present", f"Is there a {thing.name}?", "no")


def _count(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    found = [e for e in film.events if e.thing.shape]
    return Question("count", "How many shapes are shown?", str(len(found)), tuple((e.start, e.end) for e in found))


def _neighbour(source: np.random.Generator, film: Film, event: Event | None, word: str, distance: int) -> Question:
    """At the end of the row, where there is nothing further, only one time in five if there is a choice."""
    events = film.events
    if event is None:
        inner = [e for i, e in enumerate(events) if 0 <= i + distance < len(events)]
        event = (
            _pick(source, film, None) if not inner or source.random() < 0.2 else inner[int(source.integers(len(inner)))]
        )
    other = events.index(event) + distance
    text = f"What is shown {word} the {event.thing.name}?"
    if not 0 <= other < len(events):
        return _at_event(word, text, NOTHING, event)
    found = events[other]
    places = tuple((e.start, e.end) for e in sorted((event, found), key=lambda e: e.start))
    return Question(word, text, found.thing.phrase, places)


def _after(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    return _neighbour(source, film, event, "after", 1)


def _before(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    return _neighbour(source, film, event, "before", -1)


def _first(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    return _at_event("first", "What is shown first?", film.events[0].thing.phrase, film.events[0])


def _last(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    return _at_event("last", "What is shown last?", film.events[-1].thing.phrase, film.events[-1])


def _choice(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    """One of four is shown; one of the others has a colour that is."""
    event = _pick(source, film, event)
    offered = [event.thing.phrase]
    while len(offered) < len(LETTERS):
        other = _absent(source, film, near=len(offered) == 1).phrase
        offered += [other] if other not in offered else []
    order = source.permutation(len(LETTERS))
    lines = [f"{letter}. {offered[i]}" for letter, i in zip(LETTERS, order)]
    right = LETTERS[int(np.argmin(order))]
    return _at_event("choice", "\n".join(["Which of these is shown?", *lines]), right, event)


def _list(source: np.random.Generator, film: Film, event: Event | None) -> Question:
    lines = [f"{interval(film, e)}: {e.thing.phrase}" for e in film.events]
    return Question("list", "What is shown, and when?", "\n".join(lines), tuple((e.start, e.end) for e in film.events))


_MAKERS = {
    "color": _color,
    "shape": _shape,
    "number": _number,
    "when": _when,
    "at": _at,
    "present": _present,
    "count": _count,
    "after": _after,
    "before": _before,
    "first": _first,
    "last": _last,
    "choice": _choice,
    "list": _list,
}
