"""What a user can set: sampling, prefill, decode and generation. Checked when constructed, no torch needed.

A strategy is a value. ``str(strategy)`` and :func:`prefill_from_string` / :func:`decode_from_string` are inverse, so
the command line, the docs and the tests share the tables :data:`PREFILLS` and :data:`DECODES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."
TINY, TINY_V1 = "tiny", "tiny-v1"
EMBEDDED = (TINY, TINY_V1)
"""Models that the package brings along: Video-XL-2 and Video-XL, very small."""
DEFAULT_MODEL = "BAAI/Video-XL-2"
"""What the command line asks, and :func:`videoxl.plan` plans for, when no model is named."""


def _check_positive(name: str, value: float | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def _check_count(name: str, value: int | None, least: int = 1) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a video are looked at.

    Without arguments: one frame a second, at most 2,048 frames. ``fps``/``max_fps``/``max_frames`` follow the released
    frame selection (``load_video`` of Video-XL-2's evaluation); ``num_frames`` takes that many frames spread evenly.
    """

    fps: float | None = None
    """Frames per second of video. Default 1.0."""
    max_fps: float | None = None
    """Denser sampling, up to this rate, when the video is short enough for ``max_frames`` to allow it."""
    max_frames: int | None = None
    """At most this many frames; a longer video is sampled evenly instead. Default 2,048."""
    num_frames: int | None = None
    """Exactly this many frames, spread evenly from the first to the last. Excludes the three above."""
    start: float | None = None
    """Seconds from the beginning of the video where reading starts."""
    end: float | None = None
    """Seconds from the beginning of the video where reading ends (exclusive)."""
    times: tuple[float, ...] | None = None
    """Explicit times in seconds: for each the frame on screen at that moment. Excludes all of the above."""
    indices: tuple[int, ...] | None = None
    """Explicit frame numbers in presentation order, from 0. Excludes all of the above."""

    DEFAULT_FPS: ClassVar[float] = 1.0
    DEFAULT_MAX_FRAMES: ClassVar[int] = 2048

    def __str__(self) -> str:
        """The settings given, ``fps=1.0,max_frames=64``; explicit frames by their number."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        shown = {k: f"<{len(v)}>" if isinstance(v, tuple) else v for k, v in given.items()}
        if not shown.keys() & {"num_frames", "times", "indices"}:
            shown = {"fps": self.DEFAULT_FPS, "max_frames": self.DEFAULT_MAX_FRAMES} | shown
        return ",".join(f"{k}={v}" for k, v in shown.items())

    def __post_init__(self) -> None:
        for name in ("fps", "max_fps"):
            _check_positive(name, getattr(self, name))
        for name in ("max_frames", "num_frames"):
            _check_count(name, getattr(self, name))
        rate = {n: getattr(self, n) for n in ("fps", "max_fps", "max_frames") if getattr(self, n) is not None}
        if self.num_frames is not None and rate:
            raise ValueError(
                f"num_frames={self.num_frames} takes evenly spread frames and cannot be combined with "
                f"{', '.join(f'{k}={v}' for k, v in rate.items())}: give either num_frames or a rate"
            )
        if self.max_fps is not None and self.max_fps < (self.fps or self.DEFAULT_FPS):
            raise ValueError(f"max_fps={self.max_fps} is below fps={self.fps or self.DEFAULT_FPS}")
        self._check_range()
        self._check_explicit(rate)

    def _check_range(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0
            ):
                raise ValueError(f"{name} must be a finite number of seconds, 0 or more, got {value!r}")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError(f"end={self.end} must be later than start={self.start}")

    def _check_explicit(self, rate: Mapping[str, Any]) -> None:
        explicit = [n for n in ("times", "indices") if getattr(self, n) is not None]
        if not explicit:
            return
        others = [*rate, *(n for n in ("num_frames", "start", "end") if getattr(self, n) is not None), *explicit[1:]]
        if others:
            raise ValueError(f"{explicit[0]} names the frames one by one and excludes {', '.join(others)}")
        values = getattr(self, explicit[0])
        if len(values) == 0:
            raise ValueError(f"{explicit[0]} is empty: name at least one frame")
        if any(isinstance(v, bool) or not math.isfinite(v) or v < 0 for v in values):
            raise ValueError(f"{explicit[0]} must all be finite and 0 or more, got {list(values)[:8]}")
        if any(b < a for a, b in pairwise(values)):
            raise ValueError(f"{explicit[0]} must be in ascending order")


@dataclass(frozen=True, kw_only=True)
class FullPrefill:
    """Plain causal attention over prefix and video (SPEC: "pure" mode). Exact, quadratic in the length."""

    def __str__(self) -> str:
        return _to_string(self)


MIXES = ("sequence", "adaptive", "random", "random-once")
RELEASED_MIXES = {"step-random": "random", "instance-random": "random-once", "sequence": "sequence"}


@dataclass(frozen=True, kw_only=True)
class BeaconPrefill:
    """Video-XL's compression: windows of visual tokens become a few beacons each (SPEC 2.3, 2.6).

    Several ratios need a ``mix``. Whatever it is, every video starts it anew: an answer never depends on what was
    asked before.
    """

    ratio: int | tuple[int, ...] = 8
    """Visual tokens per beacon: 2, 4, 8, 16, or any other number a window holds; or several to mix."""
    window: int | None = None
    """Visual tokens compressed together, a multiple of those of a frame. Default: the checkpoint's (1,440)."""
    mix: str | None = None
    """``sequence`` takes the ratios in turn, window by window; ``adaptive`` takes the smallest whose result, with
    ``headroom`` further tokens, fits the model's positions; ``random`` draws one per window, ``random-once`` one per
    video."""
    seed: int = 42
    """With a random ``mix``. 42 is the released code's; the first video it reads after loading sees this sequence."""
    headroom: int = 1024
    """With ``mix="adaptive"``: tokens to leave room for."""

    def __post_init__(self) -> None:
        ratios = tuple(self.ratio) if isinstance(self.ratio, (tuple, list)) else (self.ratio,)
        if not ratios:
            raise ValueError("ratio is empty: give one or several whole numbers of at least 2")
        for ratio in ratios:
            _check_count("ratio", ratio, least=2)
        _check_count("window", self.window)
        _check_count("seed", self.seed, least=0)
        _check_count("headroom", self.headroom, least=0)
        if self.window is not None and max(ratios) > self.window:
            raise ValueError(f"ratio {max(ratios)} is larger than window={self.window}: no beacon would be left")
        if len(ratios) > 1 and self.mix not in MIXES:
            raise ValueError(f"ratio={ratios} needs a mix, one of {', '.join(MIXES)}; got {self.mix!r}")
        if len(ratios) == 1 and self.mix is not None:
            raise ValueError(f"mix={self.mix!r} needs several ratios, got {self.ratio}")
        object.__setattr__(self, "ratio", ratios if len(ratios) > 1 else ratios[0])

    @property
    def ratios(self) -> tuple[int, ...]:
        return self.ratio if isinstance(self.ratio, tuple) else (self.ratio,)

    @classmethod
    def from_released(cls, ratio: int | Sequence[int], mix: str, window: int | None = None) -> BeaconPrefill:
        """From the released keys ``beacon_ratio`` and ``beacon_ratio_mix``. Raises ``ValueError`` for unknown mixes."""
        ratios = (ratio,) if isinstance(ratio, int) else tuple(int(r) for r in ratio)
        if len(ratios) == 1:
            return cls(ratio=ratios[0], window=window)
        if mix.startswith("adapt-") and mix.removeprefix("adapt-").isdigit():
            return cls(ratio=ratios, mix="adaptive", headroom=int(mix.removeprefix("adapt-")), window=window)
        if mix not in RELEASED_MIXES:
            known = ", ".join([*RELEASED_MIXES, "adapt-<tokens>"])
            raise ValueError(f"unknown beacon_ratio_mix {mix!r}; known are {known}")
        return cls(ratio=ratios, mix=RELEASED_MIXES[mix], window=window)

    def __str__(self) -> str:
        return _to_string(self)


CHUNK_MODES = ("streaming", "mask")


@dataclass(frozen=True, kw_only=True)
class ChunkedPrefill:
    """Video-XL-2's chunked prefill: visual tokens see only the blocks just before them (SPEC 3.6).

    Units are groups of frames. A window of ``chunk_size`` groups moves on by ``step_size`` groups: the ``step_size``
    new ones (a block) see each other, the rest of the window, the text before the video and every timestamp.
    Timestamps see everything before them.
    """

    chunk_size: int = 16
    """Groups in the window, the new ones included. A multiple of ``step_size``; equal to it, a block sees only itself
    and timestamps."""
    step_size: int = 4
    """New groups per step of the window: a block, ``block_size_chosed`` of the released evaluations."""
    mode: str = "streaming"
    """``streaming`` never holds a mask of all tokens against all; ``mask`` builds it, for checking and small runs. Both
    give the same numbers."""
    offload: bool = False
    """Keep keys and values of the video in host memory; what a tile or a question reads is brought back for it."""
    vision_batch: int = 24
    """Groups that go through the vision tower at once. Changes memory and speed, not the result."""

    def __post_init__(self) -> None:
        for name in ("chunk_size", "step_size", "vision_batch"):
            _check_count(name, getattr(self, name))
        if self.chunk_size % self.step_size:
            below = self.chunk_size // self.step_size * self.step_size
            nearest = f"{below} or {below + self.step_size}" if below else f"{self.step_size}"
            raise ValueError(
                f"chunk_size={self.chunk_size} is no multiple of step_size={self.step_size}: the window moves by whole "
                f"blocks of step_size groups; use chunk_size={nearest}, or another step_size"
            )
        if self.mode not in CHUNK_MODES:
            raise ValueError(f"mode must be one of {', '.join(CHUNK_MODES)}, got {self.mode!r}")
        if not isinstance(self.offload, bool):
            raise ValueError(f"offload must be True or False, got {self.offload!r}")
        if self.offload and self.mode == "mask":
            raise ValueError("mode='mask' runs the whole video at once and cannot offload: use mode='streaming'")

    @property
    def previous_blocks(self) -> int:
        """Blocks before its own that a visual token sees (``prev_blocks_num`` of the released evaluations)."""
        return self.chunk_size // self.step_size - 1

    @classmethod
    def from_blocks(cls, block_size: int = 4, previous_blocks: int = 3, **others: Any) -> ChunkedPrefill:
        """From the two numbers that the released evaluations state: ``block_size_chosed``, ``prev_blocks_num``."""
        _check_count("block_size", block_size)
        _check_count("previous_blocks", previous_blocks, least=0)
        return cls(chunk_size=block_size * (previous_blocks + 1), step_size=block_size, **others)

    def __str__(self) -> str:
        return _to_string(self)


@dataclass(frozen=True, kw_only=True)
class SelectivePrefill:
    """Video-XL-Pro's selection: visual tokens are scored by the prompt, the best stay, all timestamps stay (SPEC 4)."""

    keep: float = 0.85
    """Share of the visual tokens kept, above 0 and at most 1. The released code draws it anew at every call, from 0.7
    to 0.99, without a seed; here it is what is asked for."""
    about: str | None = None
    """The question whose words, with the prompt around the video, judge what is relevant. None: in ``answer`` the
    question asked, in ``encode``, which knows none, the prompt alone. An empty text: the prompt alone."""

    def __post_init__(self) -> None:
        _check_positive("keep", self.keep)
        if self.keep > 1:
            raise ValueError(f"keep must be above 0 and at most 1 (the share of visual tokens kept), got {self.keep}")
        if self.about is not None and not isinstance(self.about, str):
            raise ValueError(f"about must be text or None, got {self.about!r}")

    def __str__(self) -> str:
        return _to_string(self)


@dataclass(frozen=True, kw_only=True)
class DenseDecode:
    """Every question reads all keys and values of the video."""

    def __str__(self) -> str:
        return _to_string(self)


RELEVANCES = ("attention", "siglip")


@dataclass(frozen=True, kw_only=True)
class BiLevelDecode:
    """Each question reads the blocks that matter to it densely and the rest averaged (SPEC 3.7). Video-XL-2.

    The first and the last block are always read densely, on top of ``top_k``.
    """

    top_k: int = 8
    """How many further blocks are read densely: the most relevant ones. As many as there are: dense decoding."""
    block_size: int = 4
    """Groups of frames per block (``selected_chunk_size`` of the released selections)."""
    pool: int = 4
    """Visual tokens averaged into one in all other blocks (``compression``); timestamps stay as they are."""
    relevance: str | tuple[int, ...] | Callable[..., Any] = "attention"
    """How blocks are judged: ``attention`` reads the question once against the averaged memory; ``siglip`` compares
    it with what a SigLIP model saw (``encode(..., siglip=True)``). Or block numbers from 0, which are then read
    whatever ``top_k``; or a function of the memory and the question that gives a score per block."""

    def __post_init__(self) -> None:
        for name in ("top_k", "block_size", "pool"):
            _check_count(name, getattr(self, name))
        chosen = self.relevance
        if isinstance(chosen, str) and all(part.isdecimal() for part in chosen.split("+")):
            chosen = tuple(int(part) for part in chosen.split("+"))
        if isinstance(chosen, str) and chosen not in RELEVANCES:
            raise ValueError(
                f"relevance must be one of {', '.join(RELEVANCES)}, block numbers or a function, got {chosen!r}"
            )
        if isinstance(chosen, (list, tuple, range, set, frozenset)):
            numbers = tuple(sorted({int(n) if str(n).isdecimal() else -1 for n in chosen}))
            if not numbers or numbers[0] < 0:
                raise ValueError(f"relevance must name at least one block by its number from 0, got {chosen!r}")
            chosen = numbers
        elif not isinstance(chosen, str) and not callable(chosen):
            raise ValueError(f"relevance must be a name, block numbers or a function, got {type(chosen).__name__}")
        object.__setattr__(self, "relevance", chosen)

    def __str__(self) -> str:
        if isinstance(self.relevance, (str, tuple)):
            return _to_string(self)
        name = getattr(self.relevance, "__name__", type(self.relevance).__name__)
        text = _to_string(replace(self, relevance="attention"))
        return f"{text}{',' if ':' in text else ':'}relevance={name}"


PrefillStrategy = FullPrefill | ChunkedPrefill | BeaconPrefill | SelectivePrefill
DecodeStrategy = DenseDecode | BiLevelDecode

PREFILLS: dict[str, type[PrefillStrategy]] = {
    "full": FullPrefill,
    "chunked": ChunkedPrefill,
    "beacon": BeaconPrefill,
    "selective": SelectivePrefill,
}
"""Name -> prefill strategy. The command line, docs and tests iterate over this table."""
DECODES: dict[str, type[DecodeStrategy]] = {"dense": DenseDecode, "bilevel": BiLevelDecode}
"""Name -> decode strategy."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How an answer is written. Greedy unless ``do_sample``; sampling has its own seeded generator, so nothing depends
    on, or changes, a global random state."""

    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    do_sample: bool = False
    """Draw tokens instead of taking the likeliest one."""
    temperature: float | None = None
    """With ``do_sample``: below 1 sharper, above 1 flatter. Default 1.0."""
    top_p: float | None = None
    """With ``do_sample``: keep the smallest set of tokens with this probability mass."""
    top_k: int | None = None
    """With ``do_sample``: keep this many tokens."""
    seed: int = 0
    """With ``do_sample``: the same seed gives the same answer."""
    num_beams: int = 1
    """Beam search width; 1 is greedy."""
    repetition_penalty: float | None = None
    """Above 1 discourages tokens already in the prompt or the answer."""

    def __post_init__(self) -> None:
        _check_count("max_new_tokens", self.max_new_tokens)
        _check_count("num_beams", self.num_beams)
        _check_count("top_k", self.top_k)
        _check_count("seed", self.seed, least=0)
        _check_positive("temperature", self.temperature)
        _check_positive("repetition_penalty", self.repetition_penalty)
        _check_positive("top_p", self.top_p)
        if self.top_p is not None and self.top_p > 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        given = [f"{n}={getattr(self, n)}" for n in ("temperature", "top_p", "top_k") if getattr(self, n) is not None]
        if given and not self.do_sample:
            raise ValueError(
                f"{', '.join(given)} only has a meaning when sampling: add do_sample=True, or leave it out for greedy "
                "decoding"
            )
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"do_sample=True and num_beams={self.num_beams} exclude each other")


_Strategy = TypeVar("_Strategy")


def _to_string(strategy: Any) -> str:
    """``name`` or ``name:key=value,...`` with only the settings that differ from their defaults."""
    tables: dict[str, Any] = {**PREFILLS, **DECODES}
    name = next(n for n, cls in tables.items() if type(strategy) is cls)
    values = {f.name: getattr(strategy, f.name) for f in fields(strategy) if getattr(strategy, f.name) != f.default}
    changed = [f"{k}={_value_to_string(v)}" for k, v in values.items()]
    return name + (":" + ",".join(changed) if changed else "")


def _value_to_string(value: Any) -> str:
    """Texts may hold anything: the comma between settings, and the sign that escapes it, are escaped."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return value.replace("%", "%25").replace(",", "%2C") if isinstance(value, str) else str(value)


def _from_string(text: str, table: Mapping[str, type[_Strategy]], what: str) -> _Strategy:
    name, _, rest = text.partition(":")
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; available: {', '.join(table)}")
    cls = table[name]
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, eq, value = item.partition("=")
        if not eq or key not in known:
            raise ValueError(f"{what} {name!r} has no setting {item!r}; settings: {', '.join(known) or 'none'}")
        is_text = str(known[key].type).startswith("str")
        values[key] = unquote(value) if is_text else _parse_value(value, known[key].default)
    return cls(**values)


def _parse_value(text: str, default: Any) -> Any:
    """Read ``text`` as the type of the field's default; the strategy's own checks judge the value."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, got {text!r}")
        return text.lower() == "true"
    if "+" in text:
        return tuple(_parse_value(part, default) for part in text.split("+"))
    if default is None and text.isdecimal():
        return int(text)
    for kind in (int, float):
        if isinstance(default, kind):
            try:
                return kind(text)
            except ValueError:
                raise ValueError(f"expected a number, got {text!r}") from None
    return text


def prefill_from_string(text: str) -> PrefillStrategy:
    """Inverse of ``str(prefill)``. Raises ``ValueError`` naming what is available."""
    return _from_string(text, PREFILLS, "prefill strategy")


def decode_from_string(text: str) -> DecodeStrategy:
    """Inverse of ``str(decode)``. Raises ``ValueError`` naming what is available."""
    return _from_string(text, DECODES, "decode strategy")
