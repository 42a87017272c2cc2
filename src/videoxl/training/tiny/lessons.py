"""Films of the generated world as examples to train on, drawn anew for every step.

An example holds one film and many questions, each of which sees the film and itself (``turns="apart"``): what a film
costs to read is paid once. A step reads films of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from videoxl.config import ChunkedPrefill
from videoxl.inference.prompt import IGNORE_INDEX, ChatFormat, VisualSpan, span_for
from videoxl.training.collator import Collator, positions_of
from videoxl.training.examples import Example
from videoxl.training.world import Film, Question, Thing, ask, kinds_for, sample_film
from videoxl.training.world.film import COLORS, SHAPES
from videoxl.training.world.questions import seconds

HINTS = ("begin", "end", "start", "past color", "past kind", "shapes")
"""Seconds at which a token's group begins and ends, and at which what it shows began; colour and kind of what was shown
before that, 0 for nothing; how many shapes were shown so far. A time that is asked for begins itself."""
Show = Callable[[np.random.Generator, Film], dict[str, Any]]
"""What is seen of a film, under the names of :class:`FilmExample`: pixels, features, or words in their place."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a run of steps reads, and how fast it learns."""

    groups: tuple[int, int]
    """Shortest and longest film; lengths are drawn evenly on a logarithmic scale."""
    films: int
    """Per step."""
    questions: int
    """Per film."""
    steps: int
    """Optimiser steps."""
    rate: float
    """Peak learning rate."""
    kinds: Mapping[str, float]
    """How often each kind of question is drawn."""
    events: int | None = None
    """In every film, as far as they fit; default as films have them. The more there are, the more there is to confuse,
    and the more a question teaches."""
    chunked: float = 0.0
    """Share of steps read under the mask of chunked prefill."""
    skips: float = 0.0
    """Share of films with positions left out, so that late positions are met without long films."""
    longest: int = 4600
    """Position at which a film with positions left out ends, at most."""
    together: bool = False
    """Questions follow one another as turns of one conversation, as they must where a film is compressed."""
    telegrams: float = 0.0
    """Share of questions that are asked in key words, without the chat format: a third of the tokens."""


@dataclass(frozen=True)
class FilmExample(Example):
    """An example with what only this recipe needs."""

    positions: list[int] = field(default_factory=list)
    """Of every token."""
    kinds: tuple[str, ...] = ()
    """Of its questions, in the order of their segments, from 1."""
    hints: np.ndarray = field(default_factory=lambda: np.full((0, len(HINTS)), -1))
    """Of every token, what it must come to know halfway: :data:`HINTS`, -1 where that is left open."""
    looks: tuple[tuple[int, tuple[int, int]], ...] = ()
    """Where answers begin from, and the tokens from ... to before ... in which what they say was shown."""
    chunked: bool = False
    """Whether the film is read under the mask of chunked prefill."""
    words: torch.Tensor | None = None
    """Ids of words in the place of each visual token, ``[tokens, WORDS]``, -1 where there are fewer."""


class Scribe:
    """Writes films and questions as ids, by the prompt code of inference."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        @lru_cache(maxsize=100_000)
        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        self.config = config
        self.encode = encode
        self.chat = ChatFormat(self.ids, self.ids)
        self.prefix = self.chat.prefix()
        self.end = self.ids("<|im_end|>")

    def ids(self, text: str) -> list[int]:
        return list(self.encode(text))

    def span(self, film: Film) -> VisualSpan:
        return span_for(self.config, film.timestamps, self.ids)

    def turn(self, question: Question, *, as_telegram: bool = False, first: bool = True) -> tuple[list[int], list[int]]:
        """Ids of a question with its answer, and the labels: the answer and its end."""
        if as_telegram:
            asked = self.ids(telegram(question.text))
        else:
            chat = self.chat
            asked = chat.suffix(question.text) if first else chat.next_turn(question.text, answer_closed=True)
        answer = [*self.ids(question.answer), *self.end]
        return asked + answer, [IGNORE_INDEX] * len(asked) + answer


NEVER_SHORT = ("choice", "list")
"""Kinds that key words do not do for."""
LEFT_OUT = {"What", "Which", "How", "is", "are", "the", "a", "an", "of", "these", "on", "there", "shown"}


def telegram(text: str) -> str:
    """The key words of a question: ``color star``. What is asked about comes last, and the answer right behind it."""
    return " ".join(word for word in text.rstrip("?").split(" ") if word not in LEFT_OUT)


class FilmDataset:
    """The films of a course, lesson after lesson, each drawn from the seed and its number alone."""

    def __init__(self, course: Sequence[Lesson], scribe: Scribe, show: Show, *, seed: int = 0) -> None:
        self.course, self.scribe, self.show, self.seed = tuple(course), scribe, show, seed
        self.batches: list[list[int]] = []
        """Numbers of the films of every step."""
        for lesson in self.course:
            for _ in range(lesson.steps):
                first = len(self)
                self.batches.append(list(range(first, first + lesson.films)))
        self._step_of = [step for step, batch in enumerate(self.batches) for _ in batch]
        self._lesson_of = [lesson for lesson in self.course for _ in range(lesson.steps)]

    def __len__(self) -> int:
        return self.batches[-1][-1] + 1 if self.batches else 0

    def share(self, rank: int, world: int) -> list[list[int]]:
        """The films of every step for one of several processes. Raises ``ValueError`` where they cannot be divided."""
        if any(lesson.films % world for lesson in self.course):
            raise ValueError(f"{[lesson.films for lesson in self.course]} films a step cannot go to {world} processes")
        return [batch[rank * len(batch) // world : (rank + 1) * len(batch) // world] for batch in self.batches]

    def __getitem__(self, number: int) -> FilmExample:
        position = self._step_of[number]
        lesson = self._lesson_of[position]
        step = np.random.default_rng((self.seed, 0, position))
        groups = draw_length(step, *lesson.groups)
        chunked = bool(step.random() < lesson.chunked)
        source = np.random.default_rng((self.seed, 1, number))
        film = sample_film(source, groups, lesson.events and min(lesson.events, groups // 2))
        questions = draw_questions(source, film, lesson.questions, lesson.kinds)
        skipped = lesson.longest if source.random() < lesson.skips else 0
        return make_example(
            source,
            self.scribe,
            film,
            questions,
            self.show,
            chunked=chunked,
            longest=skipped,
            telegrams=lesson.telegrams,
            together=lesson.together,
        )


def draw_length(source: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(source.uniform(np.log(low), np.log(high + 1))))


def draw_questions(source: np.random.Generator, film: Film, count: int, weights: Mapping[str, float]) -> list[Question]:
    """At most ``count`` different ones, of kinds by their weights; a short film may have fewer."""
    kinds = [kind for kind in kinds_for(film) if weights.get(kind)]
    odds = np.array([weights[kind] for kind in kinds])
    found: dict[str, Question] = {}
    for i in source.choice(len(kinds), 2 * count, p=odds / odds.sum()):
        question = ask(source, film, kinds[i])
        if len(found) < count:
            found.setdefault(question.text, question)
    return list(found.values())


def make_example(
    source: np.random.Generator,
    scribe: Scribe,
    film: Film,
    questions: Sequence[Question],
    show: Show,
    *,
    chunked: bool = False,
    longest: int = 0,
    telegrams: float = 0.0,
    together: bool = False,
) -> FilmExample:
    """A film with its questions. ``longest``: positions are left out, up to this one; 0: none are."""
    span = scribe.span(film)
    prefix = scribe.prefix
    ids, begin = [*prefix, *span.ids], len(prefix)
    labels, segments = [IGNORE_INDEX] * len(ids), [0] * len(ids)
    hints = [_hints(scribe, film, span, begin, past=not chunked)]
    looks = []
    for number, question in enumerate(questions, start=1):
        short = question.kind not in NEVER_SHORT and source.random() < telegrams
        turn, answer = scribe.turn(question, as_telegram=short, first=number == 1 or not together)
        place = evidence_for(question)
        if place is not None:
            parts = len(span.groups) // film.groups  # of a film's group: one, or every frame
            first, last = span.groups[place[0] * parts], span.groups[place[1] * parts - 1]
            asked_from = len(ids) + next(i for i, label in enumerate(answer) if label != IGNORE_INDEX) - 1
            looks.append((asked_from, (begin + first.token_start, begin + last.token_end)))
        ids, labels = ids + turn, labels + answer
        segments += [0 if together else number] * len(turn)
        asked = np.full((len(turn), len(HINTS)), -1)
        if question.kind == "at":
            group = question.evidence[0][0]
            asked[turn.index(scribe.ids(f"at {seconds(film.time_of(group))}")[-1]), 0] = film.time_of(group)
        hints.append(asked)
    positions = positions_of(segments)
    if longest:
        shift = left_out(source, span, longest - begin - len(span.ids))
        positions[begin:] += np.concatenate([shift, np.full(len(ids) - begin - len(shift), shift[-1])])
    return FilmExample(
        id=f"film {film.seed}",
        kind="video",
        input_ids=ids,
        labels=labels,
        segments=segments,
        span=(begin, begin + len(span.ids)),
        crops=False,
        positions=positions.tolist(),
        kinds=tuple(question.kind for question in questions),
        hints=np.concatenate(hints),
        looks=tuple(looks),
        chunked=chunked,
        **{"pixels_FHWC": None, "counts": (len(film.timestamps),), **show(source, film)},
    )


def evidence_for(question: Question) -> tuple[int, int] | None:
    """The one event that an answer is read from, as groups from ... to before ...; ``None`` where it is no single one.

    Of a question about what came before or after, the later of the two: it alone can know of the other.
    """
    return None if question.kind in ("count", "list") or not question.evidence else question.evidence[-1]


def _hints(scribe: Scribe, film: Film, span: VisualSpan, begin: int, *, past: bool) -> np.ndarray:
    """:data:`HINTS` of a prefix and the film behind it: the time for every visual token, all else for the last of each
    group, which alone has seen it whole. ``past``: whether tokens see what was shown before. A model that is told
    no times need not know them."""
    hints = np.full((begin + len(span.ids), len(HINTS)), -1)
    visual = begin + np.flatnonzero(np.asarray(span.ids) == scribe.config.video_token_id)
    before: Thing | None = None
    shapes = 0
    events = iter(film.events)
    event = next(events, None)
    for group, places in enumerate(visual.reshape(film.groups, -1)):
        if event is not None and group >= event.end:
            before, event = event.thing, next(events, None)
        hints[places, 0] = film.time_of(group)
        last = hints[places[-1]]
        last[1] = film.time_of(group + 1)
        if event is not None and group >= event.start:
            last[2] = film.time_of(event.start)
            shapes += group == event.start and event.thing.shape is not None
        if past:
            thing = (0, 0) if before is None else (1 + COLORS.index(before.color), 1 + kind_of(before))
            last[3:] = (*thing, shapes)
    if not scribe.config.time_format:
        hints[:, :3] = -1
    return hints


def kind_of(thing: Thing) -> int:
    """Number of its shape, or behind these of its digit."""
    return SHAPES.index(thing.shape) if thing.shape else len(SHAPES) + int(thing.number or 0)


def left_out(source: np.random.Generator, span: VisualSpan, room: int) -> np.ndarray:
    """By how much each token of a span comes later when positions before some groups are skipped, ``room`` in all."""
    groups = span.groups
    jumps = source.random(len(groups)) * (source.random(len(groups)) < 0.25)
    if room <= 10 or jumps.sum() == 0:
        return np.zeros(len(span.ids), dtype=np.int64)
    total = np.exp(source.uniform(np.log(10), np.log(room)))
    by_group = (jumps / jumps.sum() * total).astype(np.int64).cumsum()
    return np.repeat(by_group, [group.token_end - group.token_start for group in groups])


class FilmCollator:
    """Batches of examples of one length; the ordinary collator, with the positions and marks of this recipe."""

    def __init__(self, config: Any, pad_token_id: int) -> None:
        self.plain = Collator(config, pad_token_id)
        self.chunked = Collator(config, pad_token_id, ChunkedPrefill())

    def __call__(self, examples: Sequence[FilmExample]) -> dict[str, Any]:
        batch = (self.chunked if examples[0].chunked else self.plain)(examples)
        length = batch["input_ids"].shape[1]
        batch["position_ids"] = _rows([e.positions for e in examples], length, 0)
        batch["segments"] = _rows([e.segments for e in examples], length, 0)
        batch["kinds"] = [e.kinds for e in examples]
        batch["hints"] = torch.full((len(examples), length, len(HINTS)), -1)
        for row, example in enumerate(examples):
            batch["hints"][row, : len(example.hints)] = torch.from_numpy(example.hints)
        looks = [(row, *look) for row, example in enumerate(examples) for look in example.looks]
        batch["looks"] = torch.tensor([(row, place) for row, place, _ in looks]).reshape(-1, 2)
        batch["looked_at"] = torch.zeros(len(looks), length, dtype=torch.bool)
        for number, (_, _, (first, last)) in enumerate(looks):
            batch["looked_at"][number, first:last] = True
        words = [e.words for e in examples if e.words is not None]
        if words:
            batch["words"] = torch.cat(words)
        return batch


def _rows(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
