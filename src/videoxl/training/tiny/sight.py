"""Pictures and captions: what a vision tower learns before it becomes part of a model.

The released models start from SigLIP and CLIP. The embedded ones learn from captioned frames of the generated world, by
SigLIP's sigmoid loss (Zhai et al., 2023, section 3). In a batch every caption that is true of a picture counts as its
own, as the world knows which are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from videoxl.training.world.film import COLORS, FRAMES_PER_GROUP, SHAPES, Event, Film, Thing
from videoxl.training.world.rendering import Renderer


@dataclass(frozen=True)
class Caption:
    """A text and what it says of a picture; ``None`` where it leaves that open."""

    text: str
    color: str | None = None
    shape: str | None = None
    number: int | None = None
    card: bool = False
    empty: bool = False

    def describes(self, thing: Thing | None) -> bool:
        if thing is None or self.empty:
            return (thing is None) == self.empty
        return (
            self.color in (None, thing.color)
            and self.shape in (None, thing.shape)
            and self.number in (None, thing.number)
            and (not self.card or thing.shape is None)
        )


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@cache
def captions() -> list[Caption]:
    """Everything that is said of pictures, in the words of captions and of questions."""
    found = [Caption(text, empty=True) for text in ("nothing", "nothing is shown")]
    for color in COLORS:
        found += [Caption(t, color=color) for t in (color, f"Which shape is {color}?")]
        for text in (
            article(f"{color} card"),
            f"What number is on the {color} card?",
            f"When is the {color} card shown?",
        ):
            found.append(Caption(text, color=color, card=True))
        for number in range(10):
            found.append(Caption(article(f"{color} card with {number}"), color=color, number=number, card=True))
        for shape in SHAPES:
            name = f"{color} {shape}"
            for text in (article(name), f"When is the {name} shown?", f"Is there {article(name)}?"):
                found.append(Caption(text, color=color, shape=shape))
    for shape in SHAPES:
        found += [Caption(t, shape=shape) for t in (f"a {shape}", f"What color is the {shape}?")]
    for number in range(10):
        found.append(Caption(f"a card with {number}", number=number, card=True))
    return found


@cache
def names() -> tuple[list[Caption], list[Thing | None]]:
    """One whole name for each thing there can be, and for nothing; and these things."""
    things: list[Thing | None] = [None]
    things += [Thing(c, s) for c in COLORS for s in SHAPES]
    things += [Thing(c, number=n) for c in COLORS for n in range(10)]
    wanted = {"nothing" if t is None else t.phrase for t in things}
    by_text = {c.text: c for c in captions() if c.text in wanted}
    return [by_text["nothing" if t is None else t.phrase] for t in things], things


def snapshots(source: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, list[Thing | None]]:
    """Frames ``[count, size, size, 3]`` uint8 and what each shows: something in nine of ten, as many cards as shapes.

    A film has fewer cards; digits take longest to tell apart.
    """
    _, things = names()
    shapes, cards = [t for t in things if t and t.shape], [t for t in things if t and not t.shape]
    pictures: list[np.ndarray] = []
    shown: list[Thing | None] = []
    while len(shown) < count:
        kind = source.random()
        among: Sequence[Thing | None] = [None] if kind < 0.1 else shapes if kind < 0.5 else cards
        thing = among[int(source.integers(len(among)))]
        events = (Event(thing, 0, 1),) if thing else ()
        film = Film(2, events, seed=int(source.integers(2**31)))
        first = int(source.integers(FRAMES_PER_GROUP - 1))
        pictures.append(Renderer(film).frames(size, first, first + 2))
        shown += [thing] * 2
    return np.concatenate(pictures)[:count], shown[:count]


def truths(texts: list[Caption], shown: list[Thing | None]) -> torch.Tensor:
    """``[pictures, texts]``: 1 where a text is true of a picture, else -1."""
    known = {thing: [1.0 if c.describes(thing) else -1.0 for c in texts] for thing in set(shown)}
    return torch.tensor([known[thing] for thing in shown])


def sigmoid_loss(
    pictures_FD: torch.Tensor, texts_ND: torch.Tensor, truth_FN: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """SigLIP's loss: every pair of a picture and a text is a yes-or-no question."""
    logits = pictures_FD @ texts_ND.T * scale.exp() + bias
    return -F.logsigmoid(truth_FN * logits).sum() / len(pictures_FD)
