"""Needles and their questions: pictures from files, or things of the generated world."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videoxl.errors import EvaluationError
from videoxl.evaluation.choices import LETTERS, lettered
from videoxl.evaluation.log import Json
from videoxl.evaluation.metrics import choice_chance
from videoxl.evaluation.niah.settings import SEVERAL, HaystackPlan, NiahSettings
from videoxl.world import COLORS, SHAPES, Event, Film, Thing, ask, sample_things
from videoxl.world.film import CARD_SHARE, FRAMES_PER_GROUP

CONTENT = {"color": COLORS, "shape": SHAPES, "number": tuple(map(str, range(10)))}
"""Kinds of questions whose answers come from a small vocabulary."""
OPTIONS = 4
"""Options that a multiple-choice question offers."""
DIRECTLY = "Answer with the option's letter from the given choices directly."
RIVALS = (*COLORS, *SHAPES, "card", "nothing", "yes", "no")
"""Words of the generated world's answers. A rival that stands neither in the answer nor in the question is wrong."""


@dataclass(frozen=True)
class Question:
    """A question about one needle."""

    kind: str
    text: str
    answer: str
    depth: float
    frames: tuple[int, int]
    """Frames that show the needle: first, and one past the last."""
    chance: float
    """Accuracy of guessing, 0 to 1."""
    options: tuple[str, ...] = ()
    """Options that ``text`` offers, lettered from A; ``answer`` is one of them."""
    rivals: tuple[str, ...] = ()
    """Other answers, which an open answer may not contain."""


@dataclass(frozen=True)
class PictureNeedle:
    """A picture, and what is asked about it."""

    image: Path
    question: str
    answer: str
    options: tuple[str, ...] = ()
    offered: bool = False
    """Whether ``question`` contains the options itself, as the released ones do."""

    def ask(self, depth: float, frames: tuple[int, int], *, choice: bool) -> Question:
        """Make the question for one haystack. Raises ``ValueError`` for a choice without options."""
        if not choice:
            rivals = tuple(option for option in self.options if option != self.answer)
            text = "\n".join(_unlettered(self.question)[0]) if self.offered else self.question
            return Question(self.image.stem, text, self.answer, depth, frames, 0.0, rivals=rivals)
        if not self.options:
            raise ValueError(f"the needle {self.image.name} has no options: ask with answers=open")
        text = self.question if self.offered else f"{self.question}\n{lettered(self.options)}\n{DIRECTLY}"
        chance = choice_chance(len(self.options))
        return Question(self.image.stem, text, self.answer, depth, frames, chance, self.options)


def read_needles(path: str | Path) -> list[PictureNeedle]:
    """Read picture needles from a JSON file; pictures are looked for beside it.

    The file holds a list of ``{"image": "zoo.png", "question": "...", "answer": "tiger", "options": ["lion",
    "tiger"]}`` (``options`` where there is a choice), or the released form: ``{"needle": ["zoo.png"],
    "retrieval_question": ["...?\\nA. lion\\nB. tiger\\n..."], "answer": ["B"]}``.

    Raises :class:`EvaluationError` for what cannot be used.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(f"the needles {path} cannot be read as JSON: {error}") from None
    try:
        needles = _released(found, path.parent) if isinstance(found, dict) else [_own(n, path.parent) for n in found]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise EvaluationError(
            f"the needles {path} are neither a list of image, question, answer and options nor of the released form "
            f"(needle, retrieval_question, answer): {problem}"
        ) from None
    if not needles:
        raise EvaluationError(f"the needles {path} are none")
    if missing := [n.image.name for n in needles if not os.path.isfile(n.image)]:
        raise EvaluationError(f"pictures named in {path} are not beside it: {', '.join(missing)}")
    return needles


def _own(record: Json, folder: Path) -> PictureNeedle:
    options = tuple(str(option) for option in record.get("options", ()))
    answer = _written_out(str(record["answer"]), options)
    return PictureNeedle(folder / str(record["image"]), str(record["question"]), answer, options)


def _released(found: Json, folder: Path) -> list[PictureNeedle]:
    rows = zip(found["needle"], found["retrieval_question"], found["answer"], strict=True)
    needles = []
    for image, question, letter in rows:
        _, options = _unlettered(question)
        answer = _written_out(letter, options) if options else letter
        needles.append(PictureNeedle(folder / image, question, answer, options, offered=bool(options)))
    return needles


def _unlettered(question: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the lines of a question before its options, and the options."""
    before: list[str] = []
    options: list[str] = []
    for line in question.strip("\n").split("\n"):
        match = re.fullmatch(r"\s*([A-Z])[.)]\s*(.+?)\s*", line)
        if match and match[1] == LETTERS[len(options)]:
            options.append(match[2])
        elif not options:
            before.append(line)
    return before, tuple(options)


def _written_out(answer: str, options: tuple[str, ...]) -> str:
    """Return the option that an answer is, or whose letter it is. Raises ``ValueError`` if there is none."""
    if not options or answer in options:
        return answer
    if len(answer) == 1 and answer in LETTERS[: len(options)]:
        return options[LETTERS.index(answer)]
    raise ValueError(f"the answer {answer!r} is none of the options {', '.join(options)}")


# --------------------------------------------------------------------------------------------------- generated things


def make_film(settings: NiahSettings, plan: HaystackPlan, *, step: float, begin: float = 0.0) -> Film:
    """Make the film of a haystack, with needles as events.

    ``step``: seconds from one group of four frames to the next; ``begin``: time of the first frame.

    Raises ``ValueError`` when the haystack is too short for its needles.
    """
    source = np.random.default_rng((settings.seed, *plan.seed))
    things = sample_things(source, settings.needles)
    kinds = set(settings.kinds or ())
    while kinds and kinds <= set(CONTENT) and not all(kinds & _properties(thing) for thing in things):
        things = sample_things(source, settings.needles)  # until every thing allows a question
    length = -(-(settings.needle_frames or FRAMES_PER_GROUP) // FRAMES_PER_GROUP)
    groups = -(-plan.frames // FRAMES_PER_GROUP)
    return Film(groups, _events(things, plan.depths, groups, length), step, begin, int(source.integers(2**31)))


def _properties(thing: Thing) -> set[str]:
    """Return the kinds of :data:`CONTENT` that can be asked about a thing."""
    return {"color", "shape"} if thing.shape else {"number"}


def _events(things: list[Thing], depths: tuple[float, ...], groups: int, length: int) -> tuple[Event, ...]:
    """Place things at their depths, moved on where they would touch. The last group is scenery."""
    last = groups - 1 - length
    events: list[Event] = []
    for left, (thing, depth) in enumerate(zip(things, depths)):
        after = len(things) - 1 - left
        earliest = events[-1].end + 1 if events else 0
        start = min(max(round(depth * last), earliest), last - after * (length + 1))
        if start < earliest:
            raise ValueError(
                f"{len(things)} needles of {length * FRAMES_PER_GROUP} frames do not fit a haystack of "
                f"{groups * FRAMES_PER_GROUP} frames: give more frames or fewer needles"
            )
        events.append(Event(thing, start, start + length))
    return tuple(events)


def questions_about(film: Film, settings: NiahSettings, plan: HaystackPlan, kinds: tuple[str, ...]) -> list[Question]:
    """Make all questions about the needles of a film, in a fixed order."""
    made = []
    for number, (event, depth, asked) in enumerate(zip(film.events, plan.depths, plan.asked)):
        for kind in kinds if asked else ():
            source = np.random.default_rng((settings.seed, *plan.seed, number, CODES[kind]))
            made += _questions(source, film, event, kind, depth, settings)
    return made


CODES = {kind: number for number, kind in enumerate((*CONTENT, "when", "at", "present", "choice", *SEVERAL))}


def _questions(
    source: np.random.Generator, film: Film, event: Event, kind: str, depth: float, settings: NiahSettings
) -> list[Question]:
    """Make the questions of one kind about a needle.

    There are none if the thing has no such property, and two for ``present``, one of which is to be denied.
    """
    if kind in CONTENT and kind not in _properties(event.thing):
        return []
    frames = (event.start * FRAMES_PER_GROUP, event.end * FRAMES_PER_GROUP)
    found = [ask(source, film, kind, event)]
    if kind == "present":
        denied = ask(source, film, kind)
        while denied.answer != "no":
            denied = ask(source, film, kind)
        found.append(denied)
    made = []
    for question in found:
        text, answer = question.text, question.answer
        options: tuple[str, ...] = ()
        if kind == "choice":
            _, options = _unlettered(text)
            answer = options[LETTERS.index(answer)]
        elif settings.choice and kind in CONTENT:
            options = _offered(source, answer, CONTENT[kind])
            text = f"{text}\n{lettered(options)}\n{DIRECTLY}"
        rivals = () if options else (*RIVALS, *(CONTENT["number"] if kind == "number" else ()))
        chance = choice_chance(len(options)) if options else _chance(kind, film)
        made.append(Question(kind, text, answer, depth, frames, chance, options, rivals))
    return made


def _offered(source: np.random.Generator, answer: str, words: tuple[str, ...]) -> tuple[str, ...]:
    wrong = source.permutation([word for word in words if word != answer])[: OPTIONS - 1]
    return tuple(str(word) for word in source.permutation([answer, *wrong]))


def _chance(kind: str, film: Film) -> float:
    """Return the accuracy of the best constant guess, given how things are drawn at random."""
    if kind in CONTENT:
        return choice_chance(len(CONTENT[kind]))
    if kind in SEVERAL:  # "nothing" is right for the one at the end
        return 1 / len(film.events)
    some_shape = (1 - CARD_SHARE) / len(COLORS) / len(SHAPES)
    return {"present": 0.5, "when": 1 / film.groups, "at": some_shape}[kind]
