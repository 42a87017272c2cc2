"""Pictures and captions: what a vision tower learns before it becomes part of a model.

The released models start from SigLIP and CLIP. The embedded ones learn from captioned frames of the generated world, by
SigLIP's sigmoid loss (Zhai et al., 2023, section 3). In a batch every caption that is true of a picture counts as its
own, as the world knows which are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import get_cosine_schedule_with_warmup

from recipes.tiny.sizes import CAPTION_LENGTH
from videoxl.model.families.video_xl import CLIP_MEAN, CLIP_STD
from videoxl.model.vision import normalize_pixels
from videoxl.training.muon import muon_for
from videoxl.world.film import COLORS, FRAMES_PER_GROUP, SHAPES, Event, Film, Thing
from videoxl.world.rendering import Renderer


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


def naming_loss(scores_FN: torch.Tensor, shown: Sequence[Thing | None]) -> torch.Tensor:
    """How little of the odds go to what each picture shows when every name of a thing is offered (:func:`names`)."""
    numbers = {thing: number for number, thing in enumerate(names()[1])}
    return F.cross_entropy(scores_FN, torch.tensor([numbers[thing] for thing in shown]))


@dataclass(frozen=True, kw_only=True)
class VisionPhase:
    """How long pictures and captions are looked at, and what counts."""

    steps: int = 4500
    batch: int = 128
    """Frames per step; all captions are in every step, as digits are only told apart beside one another."""
    rate: float = 2e-3
    """Peak learning rate."""
    naming: float = 0.0
    """Weight of telling whole names apart (:func:`naming_loss`) beside the sigmoid loss. Two digits differ in few of
    all captions: once those are right, what is left of the sigmoid loss hardly speaks of digits."""
    readable: float = 0.0
    """Weight of telling whole names also from the mean of the patches that a language model will see, which are those
    before the last layer, by a linear head that is thrown away. What only the last layer makes of them, it would have
    to learn again."""
    check_every: int = 250
    checked: int = 1000
    """Fresh frames that are named at a check."""


@dataclass(frozen=True)
class VisionCheck:
    """Shares of fresh frames named right among all names."""

    step: int
    loss: float
    whole: float
    color: float
    shape: float
    number: float


def train_vision(pictures: Any, tokenizer: Any, phase: VisionPhase, *, seed: int = 0) -> Iterator[VisionCheck]:
    """Train a SigLIP (or CLIP, by the same loss) on frames and captions in place, and tell how far it is now and then.

    Args:
        pictures: model of pictures and texts; made for 48-pixel frames.
    """
    source = np.random.default_rng((seed, 11))
    texts = caption_ids(tokenizer, [c.text for c in captions()])
    named = [captions().index(name) for name in names()[0]]
    scale, bias = pictures.logit_scale, pictures.logit_bias
    weights = [p for p in pictures.parameters() if p.requires_grad]
    reader = nn.Linear(pictures.config.vision_config.hidden_size, len(named)) if phase.readable else None
    weights += reader.parameters() if reader else []
    optimiser = muon_for(pictures, [{"params": weights, "lr": phase.rate, "weight_decay": 0.0}], betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimiser, min(100, phase.steps // 4), phase.steps)
    losses: list[float] = []
    for step in range(1, phase.steps + 1):
        pictures.train()
        frames, shown = snapshots(source, phase.batch, pictures.config.vision_config.image_size)
        with torch.autocast("cpu", dtype=torch.bfloat16), before_the_last_layer(pictures) as patches:
            seen, read = picture_vectors(pictures, frames), text_vectors(pictures, texts)
        loss = sigmoid_loss(seen.float(), read.float(), truths(captions(), shown), scale, bias)
        if phase.naming:
            loss = loss + phase.naming * naming_loss(seen.float() @ read.float()[named].T * scale.exp(), shown)
        if reader:
            loss = loss + phase.readable * naming_loss(reader(patches[0].float().mean(1)), shown)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % phase.check_every == 0 or step == phase.steps:
            yield check_vision(pictures, tokenizer, step, float(np.mean(losses)), count=phase.checked)
            losses.clear()


@contextmanager
def before_the_last_layer(pictures: Any) -> Iterator[list[torch.Tensor]]:
    """What its patches are there, ``[F, patches, C]`` of every look that is taken; a class token is left out."""
    tower = pictures.vision_model
    tower = getattr(tower, "vision_model", tower)
    skipped = int(pictures.config.model_type == "clip")
    found: list[torch.Tensor] = []
    hook = tower.encoder.layers[-2].register_forward_hook(lambda module, given, out: found.append(out[:, skipped:]))
    try:
        yield found
    finally:
        hook.remove()


def caption_ids(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """``[texts, CAPTION_LENGTH]``."""
    padded = tokenizer(texts, padding="max_length", max_length=CAPTION_LENGTH, truncation=True, return_tensors="pt")
    return padded["input_ids"]


def picture_vectors(pictures: Any, frames_FHWC: np.ndarray) -> torch.Tensor:
    """``[F, C]``, of length 1."""
    mean, std = (CLIP_MEAN, CLIP_STD) if pictures.config.model_type == "clip" else ((0.5,) * 3, (0.5,) * 3)
    pixels = normalize_pixels(torch.from_numpy(frames_FHWC), mean, std)
    return F.normalize(pictures.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


def text_vectors(pictures: Any, ids: torch.Tensor) -> torch.Tensor:
    """``[texts, C]``, of length 1."""
    return F.normalize(pictures.get_text_features(input_ids=ids).pooler_output, dim=-1)


@torch.no_grad()
def check_vision(pictures: Any, tokenizer: Any, step: int, loss: float, *, count: int = 1000) -> VisionCheck:
    """Name fresh frames, the same at every check."""
    pictures.eval()
    frames, shown = snapshots(np.random.default_rng(77), count, pictures.config.vision_config.image_size)
    texts, things = names()
    read = text_vectors(pictures, caption_ids(tokenizer, [c.text for c in texts]))
    seen = torch.cat([picture_vectors(pictures, part) for part in np.array_split(frames, 4)])
    named = [things[i] for i in (seen @ read.T).argmax(-1).tolist()]

    def share(part: str, of: list[bool]) -> float:
        pairs = [(a, b) for a, b, wanted in zip(named, shown, of) if wanted]
        return float(np.mean([a is not None and getattr(a, part) == getattr(b, part) for a, b in pairs]))

    shapes = [t is not None and t.shape is not None for t in shown]
    cards = [t is not None and t.shape is None for t in shown]
    whole = float(np.mean([a == b for a, b in zip(named, shown)]))
    something = [t is not None for t in shown]
    return VisionCheck(step, loss, whole, share("color", something), share("shape", shapes), share("number", cards))
