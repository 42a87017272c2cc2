"""How often a model answers questions about films of the generated world exactly right, asked as a user asks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.tiny.phases import draw_questions
from videoxl.world import KINDS, Film, Question, Renderer, kinds_for, sample_film


@dataclass(frozen=True)
class Asked:
    """A question about a film of ``groups`` groups, read and answered in some way."""

    mode: str
    groups: int
    kind: str
    question: str
    answer: str
    truth: str

    @property
    def right(self) -> bool:
        """Whether the whole answer is the true one."""
        return self.answer.strip() == self.truth


@dataclass(frozen=True)
class Mode:
    """How a film is read and a question answered; ``None``: as the model does by itself."""

    prefill: Any = None
    decode: Any = None


def ask_about_films(
    engine: Any,
    modes: Mapping[str, Mode],
    *,
    groups: int,
    films: int,
    questions: int,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Iterator[Asked]:
    """Ask ``questions`` different questions about each of ``films`` fresh films, in every mode the same ones.

    Args:
        engine: whose model takes pictures of any size; films are rendered at it.
        groups: length of the films, four frames each.
        seed: films of two seeds are different, and none is one that the embedded models were trained on.
    """
    for number in range(films):
        source = np.random.default_rng((seed, 101, groups, number))
        film = sample_film(source, groups)
        if not set(kinds) & set(kinds_for(film)):
            continue  # few films show nothing, and nothing can be asked about those
        asked = draw_questions(source, film, questions, dict.fromkeys(kinds, 1.0))
        yield from _ask(engine, modes, film, asked)


def _ask(engine: Any, modes: Mapping[str, Mode], film: Film, questions: Sequence[Question]) -> Iterator[Asked]:
    frames = Renderer(film).frames(engine.config.image_size)
    memories: dict[Any, Any] = {}
    for name, mode in modes.items():
        if mode.prefill not in memories:
            memories[mode.prefill] = engine.encode(frames, timestamps=film.timestamps, prefill=mode.prefill)
        for question in questions:
            answer = engine.ask(memories[mode.prefill], question.text, decode=mode.decode, max_new_tokens=96)
            yield Asked(name, film.groups, question.kind, question.text, answer.text, question.answer)


def shares(asked: Sequence[Asked], by: Sequence[str] = ("mode", "groups", "kind")) -> dict[tuple[Any, ...], float]:
    """Share of right answers of every group that ``by`` tells apart."""
    found: dict[tuple[Any, ...], list[bool]] = {}
    for one in asked:
        found.setdefault(tuple(getattr(one, name) for name in by), []).append(one.right)
    return {key: sum(right) / len(right) for key, right in found.items()}
