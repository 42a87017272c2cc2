"""A world of needles, seen through made-up visual features: clips with events in them, and questions of certain answer.

A clip is groups of frames. A group is two timestamp tokens, hundreds and rest of its second, and four visual tokens. An
event fills one group: an object with a colour, a shape and a number, shown on one to three of the group's tokens.
Within a clip no two objects share any of the three. A visual token is the code of the scene plus, on the object, the
codes of what it is, plus noise; codes are drawn once, and a model learns what they stand for. Nothing is rendered:
what is studied here is the language model and its memory.

Every word is a token. A question is ``<q> kind key ... <a>`` and is answered with one or two words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from videoxl.inference.prompt import VisualSpan
from videoxl.memory.spans import Group
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
NUMBERS = tuple(f"n{n}" for n in range(10))
KINDS = {"colour": 2, "shape": 4, "number": 3, "when": 3, "at": 6, "present": 2, "after": 2}
"""Kinds of questions, and how often each is drawn in training."""
LAST_SECOND = 2600
WORDS = (
    *("<video>", "<bos>", "<q>", "<a>", "yes", "no", "nothing", *(f"{kind}?" for kind in KINDS)),
    *(*COLOURS, *SHAPES, *NUMBERS),
    *(f"h{n:02d}" for n in range(LAST_SECOND // 100)),
    *(f"l{n:02d}" for n in range(100)),
)
IDS = {word: number for number, word in enumerate(WORDS)}
VIDEO_ID, PREFIX = IDS["<video>"], [IDS["<bos>"]]
BARE = [IDS["<q>"], IDS["<a>"]]
"""A question with nothing in it."""
TOKENS, TIME_TOKENS = 4, 2
"""Per group: visual tokens, timestamp tokens."""
GROUP = TOKENS + TIME_TOKENS
FEATURES, SCENES = 64, 16
OBJECT, SCENE, NOISE = 0.5, 0.5, 0.25
"""Strength of each code of an object, of the scene, and of noise."""


def codes() -> dict[str, np.ndarray]:
    """The features that stand for scenes, colours, shapes and numbers; always the same."""
    source = np.random.default_rng(20251121)
    return {
        name: source.standard_normal((count, FEATURES)).astype(np.float32)
        for name, count in (("scene", SCENES), ("colour", len(COLOURS)), ("shape", len(SHAPES)), ("number", 10))
    }


CODES = codes()


def time_ids(second: int) -> list[int]:
    return [IDS[f"h{second // 100:02d}"], IDS[f"l{second % 100:02d}"]]


@dataclass(frozen=True)
class Event:
    group: int
    colour: int
    shape: int
    number: int


@dataclass(frozen=True)
class Asked:
    """A question and its answer, as ids."""

    kind: str
    ids: tuple[int, ...]
    answer: tuple[int, ...]
    evidence: tuple[int, ...]
    """Groups that the answer stands in; none for what is not there."""


@dataclass(frozen=True)
class Clip:
    seconds_G: np.ndarray
    events: tuple[Event, ...]
    features_GPF: np.ndarray

    def span(self) -> VisualSpan:
        """The clip as a visual span of a prompt."""
        ids: list[int] = []
        step = int(self.seconds_G[1] - self.seconds_G[0])
        groups = []
        for second in self.seconds_G.tolist():
            begin = len(ids)
            ids += [*time_ids(second), *[VIDEO_ID] * TOKENS]
            groups.append(Group(float(second), float(second + step), begin, begin + TIME_TOKENS, len(ids)))
        return VisualSpan(tuple(ids), tuple(groups))


def clip(source: np.random.Generator, groups: int, events: int | Sequence[int]) -> Clip:
    """``events``: how many, anywhere but never side by side; or their groups."""
    step = int(source.integers(1, max(2, min(5, LAST_SECOND // groups))))
    begin = 0 if source.random() < 0.3 else int(source.integers(0, LAST_SECOND - groups * step + 1))
    if isinstance(events, int):
        events = (np.sort(source.permutation(groups - events + 1)[:events]) + np.arange(events)).tolist()
    colours, shapes, numbers = (source.permutation(n) for n in (len(COLOURS), len(SHAPES), 10))
    found = tuple(Event(g, int(colours[i]), int(shapes[i]), int(numbers[i])) for i, g in enumerate(events))
    lengths = source.integers(3, 13, groups // 3 + 1)
    scene_G = np.repeat(source.integers(0, SCENES, len(lengths)), lengths)[:groups]
    features = np.repeat(SCENE * CODES["scene"][scene_G][:, None], TOKENS, axis=1)
    for event in found:
        shown = int(source.integers(1, 4))
        first = int(source.integers(0, TOKENS - shown + 1))
        features[event.group, first : first + shown] += OBJECT * (
            CODES["colour"][event.colour] + CODES["shape"][event.shape] + CODES["number"][event.number]
        )
    features += NOISE * source.standard_normal(features.shape).astype(np.float32)
    return Clip(begin + step * np.arange(groups), found, features.astype(np.float32))


def ask(source: np.random.Generator, clip: Clip, kind: str) -> Asked:
    """A question of a kind about a clip; ``after`` wants two events."""
    number = int(source.integers(len(clip.events) - (kind == "after")))
    event = clip.events[number]
    colour, shape = COLOURS[event.colour], SHAPES[event.shape]
    evidence = (event.group,)
    if kind == "after":
        following = clip.events[number + 1]
        return _asked(kind, [colour], [COLOURS[following.colour]], (*evidence, following.group))
    if kind == "present":
        return _present(source, clip, event)
    if kind == "at":
        taken = {e.group for e in clip.events}
        free = [g for g in range(len(clip.seconds_G)) if g not in taken]
        if free and source.random() < 0.25:
            group = free[int(source.integers(len(free)))]
            return _at(clip, group, "nothing")
        return _at(clip, event.group, colour)
    if kind == "when":
        return Asked(kind, _ids(kind, [IDS[colour]]), tuple(time_ids(int(clip.seconds_G[event.group]))), evidence)
    key, answer = {
        "colour": (shape, colour),
        "shape": (colour, shape),
        "number": (colour, NUMBERS[event.number]),
    }[kind]
    return _asked(kind, [key], [answer], evidence)


def _present(source: np.random.Generator, clip: Clip, event: Event) -> Asked:
    """Half of them are there; of the others half have the colour of something that is."""
    if source.random() < 0.5:
        return _asked("present", [COLOURS[event.colour], SHAPES[event.shape]], ["yes"], (event.group,))
    if source.random() < 0.5:
        others = [s for s in range(len(SHAPES)) if s != event.shape]
        wrong = others[int(source.integers(len(others)))]
        return _asked("present", [COLOURS[event.colour], SHAPES[wrong]], ["no"], ())
    absent = sorted(set(range(len(COLOURS))) - {e.colour for e in clip.events})
    colour = absent[int(source.integers(len(absent)))]
    return _asked("present", [COLOURS[colour], SHAPES[int(source.integers(len(SHAPES)))]], ["no"], ())


def _at(clip: Clip, group: int, answer: str) -> Asked:
    return Asked("at", _ids("at", time_ids(int(clip.seconds_G[group]))), (IDS[answer],), (group,))


def _asked(kind: str, keys: list[str], answer: list[str], evidence: tuple[int, ...]) -> Asked:
    return Asked(kind, _ids(kind, [IDS[k] for k in keys]), tuple(IDS[a] for a in answer), evidence)


def _ids(kind: str, keys: list[int]) -> tuple[int, ...]:
    return (IDS["<q>"], IDS[f"{kind}?"], *keys, IDS["<a>"])


# ------------------------------------------------------------------------------------------------------- the model


class NeedleModel(torch.nn.Module):
    """A small Video-XL-2 whose visual tokens come from made-up features through one linear layer."""

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.video = VideoXLForConditionalGeneration(needle_config(width, layers, heads))
        self.project = torch.nn.Linear(FEATURES, width)
        torch.nn.init.normal_(self.project.weight, std=0.015)
        self.sizes = {"width": width, "layers": layers, "heads": heads}

    @property
    def language_model(self) -> Any:
        return self.video.model.language_model

    def visual_tokens(self, clip: Clip) -> torch.Tensor:
        """``[G x P, D]``"""
        return self.project(torch.from_numpy(clip.features_GPF).flatten(0, 1))

    def trained(self) -> dict[str, torch.Tensor]:
        """The weights that count: the language model's and the projection."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(("project.", "video.model.language_model."))
        }

    def save(self, path: str, **others: Any) -> None:
        torch.save({"sizes": self.sizes, "weights": self.trained(), **others}, path)

    @classmethod
    def load(cls, path: str) -> NeedleModel:
        stored = torch.load(path, weights_only=True)
        model = cls(**stored["sizes"])
        model.load_state_dict(stored["weights"], strict=False)
        return model.eval()


def needle_config(width: int, layers: int, heads: int) -> VideoXLConfig:
    """Its vision tower is there because a Video-XL has one; nothing goes through it."""
    return VideoXLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(WORDS),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "initializer_range": 0.06,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 16,
            "patch_size": 8,
            "vision_use_head": False,
        },
        token_grid=4,
        video_token_id=VIDEO_ID,
        image_token_id=VIDEO_ID,
        synthesis_norm_groups=4,
        tie_word_embeddings=True,
    )
