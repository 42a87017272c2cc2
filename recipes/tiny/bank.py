"""Features of rendered groups, kept to put films together from: seeing is done once, remembering is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recipes.tiny.sizes import IMAGE
from recipes.tiny.vision import names
from videoxl.model.vision import normalize_pixels
from videoxl.world import Event, Film, Renderer, Thing
from videoxl.world.film import FRAMES_PER_GROUP

Look = Callable[[Any, torch.Tensor], torch.Tensor]
"""What a model sees of pixels ``[F, 3, H, W]`` of whole groups."""


@dataclass(frozen=True)
class FeatureBank:
    """Tower features ``[copies, T, P, C]`` fp16 of every thing there can be, and of scenery (``None``); where the tower
    merges patches itself, visual tokens of the pairs of frames in place of ``T``."""

    groups: dict[Thing | None, torch.Tensor]

    def show(self, source: np.random.Generator, film: Film) -> dict[str, torch.Tensor]:
        """Features ``[F, P, C]`` of a film: for each of its groups one of those kept of what it shows."""
        rows = []
        for group in range(film.groups):
            kept = self.groups[film.thing_in(group)]
            rows.append(kept[int(source.integers(len(kept)))])
        return {"features_FPC": torch.cat(rows).float()}

    def sample(self, count: int, *, seed: int) -> list[torch.Tensor]:
        """Features ``[T, P, C]`` of groups, half of them of things, drawn evenly."""
        source = np.random.default_rng((seed, 13))
        things = [thing for thing in self.groups if thing is not None]
        found = []
        for _ in range(count):
            thing = things[int(source.integers(len(things)))] if source.random() < 0.5 else None
            kept = self.groups[thing]
            found.append(kept[int(source.integers(len(kept)))])
        return found


@torch.no_grad()
def make_bank(model: Any, *, copies: int, scenery: int, seed: int = 0, look: Look | None = None) -> FeatureBank:
    """Render ``copies`` groups of every thing and ``scenery`` of nothing, in many films, and look at them.

    ``look``: what is seen of frames, ``[n * groups, P, C]``; default what the model's language model will be shown.
    """
    source = np.random.default_rng((seed, 7))
    _, things = names()
    counts = {thing: scenery if thing is None else copies for thing in things}
    return FeatureBank({thing: _seen(model, _rendered(source, thing, n, IMAGE), look) for thing, n in counts.items()})


def _rendered(source: np.random.Generator, thing: Thing | None, count: int, size: int) -> np.ndarray:
    """Frames ``[count * T, size, size, 3]``; things move as in events of one to three groups."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < count * FRAMES_PER_GROUP:
        length = int(source.integers(1, 4))
        events = (Event(thing, 0, length),) if thing else ()
        film = Film(length + 1, events, seed=int(source.integers(2**31)))
        parts.append(Renderer(film).frames(size, 0, length * FRAMES_PER_GROUP))
    return np.concatenate(parts)[: count * FRAMES_PER_GROUP]


def _seen(model: Any, frames_FHWC: np.ndarray, look: Look | None, batch: int = 256) -> torch.Tensor:
    config = model.config
    if look is None:
        look = _whole if config.traits.vision.any_size else _features
    parts: Sequence[torch.Tensor] = [
        look(model, normalize_pixels(frames, config.image_mean, config.image_std))
        for frames in torch.from_numpy(frames_FHWC).split(batch)
    ]
    seen = torch.cat(list(parts)).half()
    return seen.unflatten(0, (len(frames_FHWC) // FRAMES_PER_GROUP, -1))


def _whole(model: Any, pixels_FCHW: torch.Tensor) -> Any:
    return model.model.encode_frames(pixels_FCHW)


def _features(model: Any, pixels_FCHW: torch.Tensor) -> Any:
    return model.model.grid_features(pixels_FCHW)


def filmed(size: int) -> Any:
    """What is seen of a film as it is rendered: its frames."""

    def show(source: np.random.Generator, film: Film) -> dict[str, torch.Tensor]:
        return {"pixels_FHWC": torch.from_numpy(Renderer(film).frames(size))}

    return show
