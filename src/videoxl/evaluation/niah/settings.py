"""Settings of a needle-in-a-haystack run: everything its answers depend on, and the published set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from videoxl.config import BiLevelDecode, DecodeStrategy

NEEDLE_KINDS = ("color", "shape", "number", "when", "at", "present", "choice", "after", "before")
"""Kinds of the generated world's questions (:data:`KINDS`) that are about one thing shown."""
SEVERAL = ("after", "before")
"""Kinds that need another needle in the same haystack."""
ANSWERS, JUDGES = ("open", "choice"), ("strict", "released")
GIVEN = "given"
"""Stands for the decode strategy that was asked for, where no selectors are compared."""
SELECTORS = ("oracle", "attention", "siglip", "random", "none", "dense")
"""Selectors that can be compared; :mod:`selectors` says what they are."""
MOST_FRAMES = 100_000


def check_selectors(selectors: Sequence[str], decode: DecodeStrategy) -> None:
    """Raise ``ValueError`` for unknown or repeated selectors, or a ``decode`` that has none."""
    for selector in selectors:
        _check_one("relevance", selector, SELECTORS)
    if len(set(selectors)) < len(selectors):
        raise ValueError(f"relevance must name different selectors, got {', '.join(selectors)}")
    if not isinstance(decode, BiLevelDecode):
        raise ValueError(f"selectors belong to bi-level decoding, got decode={decode}: give --decode bilevel:top_k=8")


def _check_list(name: str, values: tuple[float, ...], allowed: Callable[[float], bool], what: str) -> None:
    wrong = [v for v in values if isinstance(v, bool) or not allowed(v)]
    if not values or wrong:
        raise ValueError(f"{name} must be one or several numbers {what}, got {wrong or values}")


def _check_one(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(str(a) for a in allowed if a)}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class NiahSettings:
    """A grid of cells, ``frames`` x ``depths``; in each, ``samples`` haystacks with a needle there."""

    frames: tuple[int, ...] = (128, 512, 1024)
    """Lengths of the haystack, the needle included."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Positions of the needle, from 0 (beginning) to 1 (end)."""
    samples: int | None = None
    """Haystacks per cell. Default: one per picture of ``pictures``, else 2."""
    needles: int = 1
    """Needles per haystack, at different depths of the grid, at most as many as there are depths. Each is asked about;
    the others distract."""
    needle_frames: int | None = None
    """Frames a needle is shown for. Default: 1 for pictures, 4 (a group) for generated things, rounded up to groups."""
    haystack: str | None = None
    """A video file. Default: scenery of the generated world."""
    pictures: str | None = None
    """A JSON file of picture needles and their questions. Default: things of the generated world."""
    kinds: tuple[str, ...] | None = None
    """Questions about generated things, of :data:`NEEDLE_KINDS`. Default: color, shape, number, present, and, for
    models that get timestamps, when and at."""
    answers: str | None = None
    """``open``, or ``choice`` of four lettered options. Default: choice for pictures, open for generated things."""
    prompt: str = "{question}"
    """The prompt; ``{question}`` stands for the question."""
    judge: str = "strict"
    """``strict``: the answer must choose the right option, and no other. ``released``: the right letter occurs before
    the first closing bracket, as in the released script, which also accepts the A of "An animal"."""
    fps: float = 1.0
    """Frames per second of the generated world. A video keeps its own times."""
    prefill: str | None = None
    decode: str = "dense"
    max_new_tokens: int = 32
    together: bool = True
    """Whether the questions about a haystack are answered in the same steps: faster, and equal but for the rounding of
    sums. Otherwise one after the other."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check_list(
            "frames", self.frames, lambda n: isinstance(n, int) and 8 <= n <= MOST_FRAMES, f"8 to {MOST_FRAMES}"
        )
        _check_list("depths", self.depths, lambda d: math.isfinite(d) and 0 <= d <= 1, "from 0 to 1")
        for name in ("samples", "needle_frames", "needles", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.needles > len(self.depths):
            raise ValueError(
                f"needles={self.needles} stand at different depths of the grid, which has {len(self.depths)}: give "
                "more depths or fewer needles"
            )
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a finite number above 0, got {self.fps}")
        if "{question}" not in self.prompt:
            raise ValueError(f"prompt must hold {{question}}, got {self.prompt!r}")
        _check_one("answers", self.answers, (None, *ANSWERS))
        _check_one("judge", self.judge, JUDGES)
        self._check_kinds()

    def _check_kinds(self) -> None:
        if self.kinds is None:
            return
        if self.pictures:
            raise ValueError("kinds are of questions about generated things: pictures bring questions of their own")
        for kind in self.kinds:
            _check_one("kinds", kind, NEEDLE_KINDS)
            if kind in SEVERAL and self.needles == 1:
                raise ValueError(f"kinds={kind!r} asks for another needle: give needles=2 or more")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must be different kinds of questions, got {self.kinds}")

    @property
    def choice(self) -> bool:
        """Whether questions offer options."""
        return self.answers == "choice" or (self.answers is None and self.pictures is not None)


PRESETS: dict[str, NiahSettings] = {
    "default": NiahSettings(),
    "released": NiahSettings(
        frames=(187, 373, 559, 745, 931, 1118, 1304, 1490),
        depths=(0.0, 0.25, 0.5, 0.75, 1.0),
        answers="choice",
        prompt="Question: {question}\nAnswer: ",
        judge="released",
        max_new_tokens=128,
    ),
}
"""``released``: lengths, depths, prompt and scoring of Video-XL's published script and logs (``NIAH/`` of its
repository). Film, pictures and questions must be given; those that were used are not public."""


@dataclass(frozen=True)
class HaystackPlan:
    """A haystack of the grid, and which needles it holds."""

    frames: int
    sample: int
    part: int
    depths: tuple[float, ...]
    """Depths of its needles, ascending."""
    asked: tuple[bool, ...]
    """Which needles are asked about: all but those that only fill up the last part of a sample."""

    @property
    def name(self) -> str:
        return f"{self.frames}/{self.sample}/{self.part}"

    @property
    def seed(self) -> tuple[int, int, int]:
        return self.frames, self.sample, self.part


def haystack_plans(settings: NiahSettings, samples: int) -> Iterator[HaystackPlan]:
    """Yield all haystacks of a run. Every sample has a needle at every depth, ``needles`` of them in a haystack."""
    depths = sorted(set(settings.depths))
    each = settings.needles
    for frames in sorted(set(settings.frames)):
        for sample in range(samples):
            for part, first in enumerate(range(0, len(depths), each)):
                inside = sorted((n % len(depths), n < len(depths)) for n in range(first, first + each))
                yield HaystackPlan(
                    frames, sample, part, tuple(depths[n] for n, _ in inside), tuple(asked for _, asked in inside)
                )
