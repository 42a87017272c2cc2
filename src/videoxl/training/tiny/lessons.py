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
from videoxl.training.world import Film, Question, ask, kinds_for, sample_film

USER_HEAD = 3
"""Ids of ``<|im_start|>user`` and the line break behind it, with which a prefix ends."""
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
    chunked: float = 0.0
    """Share of steps read under the mask of chunked prefill."""
    skips: float = 0.0
    """Share of films with positions left out, so that late positions are met without long films."""
    longest: int = 4600
    """Position at which a film with positions left out ends, at most."""
    telegrams: bool = False
    """Ask in key words, without the chat format: three times as many questions for the same tokens."""


@dataclass(frozen=True)
class FilmExample(Example):
    """An example with what only this recipe needs."""

    positions: list[int] = field(default_factory=list)
    """Of every token."""
    kinds: tuple[str, ...] = ()
    """Of its questions, in the order of their segments, from 1."""
    seconds: tuple[float, ...] = ()
    """At which each of its groups begins."""
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

    def turn(self, question: Question, *, as_telegram: bool = False) -> tuple[list[int], list[int]]:
        """Ids of a question with its answer, and the labels: the answer and its end."""
        asked = self.ids(telegram(question.text)) if as_telegram else self.chat.suffix(question.text)
        answer = [*self.ids(question.answer), *self.end]
        return asked + answer, [IGNORE_INDEX] * len(asked) + answer


LEFT_OUT = {"What", "Which", "How", "is", "are", "the", "a", "an", "of", "these", "on", "there", "shown"}


def telegram(text: str) -> str:
    """The key words of a question: ``color star?``"""
    return " ".join(word for word in text.rstrip("?").split(" ") if word not in LEFT_OUT) + "?"


class FilmDataset:
    """``lesson.steps * lesson.films`` examples, each drawn from the seed and its number alone."""

    def __init__(self, lesson: Lesson, scribe: Scribe, show: Show, *, seed: int = 0) -> None:
        self.lesson, self.scribe, self.show, self.seed = lesson, scribe, show, seed

    def __len__(self) -> int:
        return self.lesson.steps * self.lesson.films

    def __getitem__(self, number: int) -> FilmExample:
        lesson = self.lesson
        step = np.random.default_rng((self.seed, 0, number // lesson.films))
        groups = draw_length(step, *lesson.groups)
        chunked = bool(step.random() < lesson.chunked)
        source = np.random.default_rng((self.seed, 1, number))
        film = sample_film(source, groups)
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
    telegrams: bool = False,
) -> FilmExample:
    """A film with its questions. ``longest``: positions are left out, up to this one; 0: none are."""
    span = scribe.span(film)
    prefix = scribe.prefix[-USER_HEAD:] if telegrams else scribe.prefix
    ids, begin = [*prefix, *span.ids], len(prefix)
    labels, segments = [IGNORE_INDEX] * len(ids), [0] * len(ids)
    for number, question in enumerate(questions, start=1):
        turn, answer = scribe.turn(question, as_telegram=telegrams)
        ids, labels = ids + turn, labels + answer
        segments += [number] * len(turn)
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
        seconds=tuple(film.time_of(g) for g in range(film.groups)),
        chunked=chunked,
        **{"pixels_FHWC": None, "counts": (len(film.timestamps),), **show(source, film)},
    )


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
        batch["seconds"] = torch.tensor([s for e in examples for s in e.seconds]).long()
        words = [e.words for e in examples if e.words is not None]
        if words:
            batch["words"] = torch.cat(words)
        return batch


def _rows(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
