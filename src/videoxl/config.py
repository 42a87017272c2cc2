"""What a user can set: which frames are read, how they are read, how questions read the memory, how answers are made.

Every class here is settings (:mod:`videoxl.settings`): frozen, keyword-only, checked when made. Needs no torch.
``str(strategy)`` and :func:`prefill_from_string` or :func:`decode_from_string` are inverse. The command line, the docs
and the tests share the tables :data:`PREFILLS` and :data:`DECODES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, get_args

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, PlainValidator

from videoxl.config_answers import Schema, check_choices, check_together, schema_text
from videoxl.config_strings import from_string, to_string
from videoxl.settings import Count, CountOrZero, Must, NotBool, Positive, Seconds, settings
from videoxl.text import require_characters

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."
TINY, TINY_V1, TINY_QWEN3 = "tiny", "tiny-v1", "tiny-qwen3"
EMBEDDED = (TINY, TINY_V1, TINY_QWEN3)
"""Models that the package brings along: a Video-XL-2, a Video-XL and a Qwen3-VL, very small."""
DEFAULT_MODEL = "BAAI/Video-XL-2"
"""What the command line asks, and :func:`videoxl.plan` plans for, when no model is named."""

KVDtype = Literal["int8", "fp8"]
KV_DTYPES: tuple[KVDtype, ...] = get_args(KVDtype)
"""What keys and values of a video may be rounded to while they are held."""

MODELS = (*EMBEDDED, DEFAULT_MODEL, "MINT-SJTU/Video-XL-Pro-3B", "lxr2003/Video-XL-Pro-3B", "lxr2003/Video-XL-7B")
"""Models by the names that people give, for "did you mean"."""


def check_kv_dtype(kv_dtype: str | None, prefill: PrefillStrategy | None = None) -> KVDtype | None:
    """``kv_dtype`` as typed; None for ``auto``: as the model is held.

    Raises ``ValueError`` for another name, and for a strategy whose keys and values are not on the GPU.
    """
    if kv_dtype is None or kv_dtype == "auto":
        return None
    if kv_dtype not in KV_DTYPES:
        raise ValueError(f"unknown kv_dtype {kv_dtype!r}; allowed: auto, {', '.join(KV_DTYPES)}")
    if prefill is not None and is_offloading(prefill):
        raise ValueError(
            f"kv_dtype={kv_dtype!r} is for keys and values on the GPU, and offload=True keeps them in host memory: "
            "leave one of both out"
        )
    return kv_dtype


def _plain_numbers(values: object) -> object:
    """A list, range or array of numbers as a tuple of Python's own."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return values
    return tuple(value.item() if hasattr(value, "item") else value for value in values)


@settings
class Sampling:
    """Which frames of a video are read.

    Without arguments: one frame a second, at most 2,048 frames. ``fps``, ``max_fps`` and ``max_frames`` select as the
    released evaluation of Video-XL-2 does (its ``load_video``). ``num_frames`` takes that many frames, evenly spread.
    """

    fps: Positive | None = None
    """Frames per second of video. Default 1.0."""
    max_fps: Positive | None = None
    """Denser sampling, up to this rate, when the video is short enough for ``max_frames`` to allow it."""
    max_frames: Count | None = None
    """At most this many frames; a longer video is sampled evenly instead. Default 2,048."""
    num_frames: Count | None = None
    """Exactly this many frames, spread evenly from the first to the last. Excludes the three above."""
    start: Seconds | None = None
    """Seconds from the beginning of the video where reading starts."""
    end: Seconds | None = None
    """Seconds from the beginning of the video where reading ends (exclusive)."""
    times: Annotated[tuple[int | float, ...] | None, BeforeValidator(_plain_numbers), Must("all be numbers")] = None
    """Explicit times in seconds: for each the frame on screen at that moment. Excludes all of the above."""
    indices: Annotated[tuple[int, ...] | None, BeforeValidator(_plain_numbers), Must("all be whole numbers")] = None
    """Explicit frame numbers in presentation order, from 0. Excludes all of the above."""

    DEFAULT_FPS: ClassVar[float] = 1.0
    DEFAULT_MAX_FRAMES: ClassVar[int] = 2048
    MOST_FRAMES: ClassVar[int] = 1_000_000

    def __str__(self) -> str:
        """The settings given, ``fps=1.0,max_frames=64``; of explicit frames only how many there are."""
        shown = {k: f"<{len(v)}>" if isinstance(v, tuple) else v for k, v in self._given().items()}
        if not shown.keys() & {"num_frames", "times", "indices"}:
            shown = {"fps": self.DEFAULT_FPS, "max_frames": self.DEFAULT_MAX_FRAMES} | shown
        return ",".join(f"{k}={v}" for k, v in shown.items())

    def _given(self) -> dict[str, object]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def __post_init__(self) -> None:
        given = self._given()
        if self.num_frames is not None and self.num_frames > self.MOST_FRAMES:
            raise ValueError(f"num_frames must be at most {self.MOST_FRAMES:,}, got a larger number")
        rate = [f"{name}={given[name]}" for name in ("fps", "max_fps", "max_frames") if name in given]
        if self.num_frames is not None and rate:
            raise ValueError(
                f"num_frames={self.num_frames} takes evenly spread frames and cannot be combined with "
                f"{', '.join(rate)}: give either num_frames or a rate"
            )
        if self.max_fps is not None and self.max_fps < (self.fps or self.DEFAULT_FPS):
            raise ValueError(f"max_fps={self.max_fps} is below fps={self.fps or self.DEFAULT_FPS}")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError(f"end={self.end} must be later than start={self.start}")
        for name, values in (("times", self.times), ("indices", self.indices)):
            if values is not None:
                if others := [other for other in given if other != name]:
                    raise ValueError(f"{name} names the frames one by one and excludes {', '.join(others)}")
                _check_ascending(name, values)


def _check_ascending(name: str, values: Sequence[float]) -> None:
    if not values:
        raise ValueError(f"{name} is empty: name at least one frame")
    if any(not math.isfinite(value) or value < 0 for value in values):
        raise ValueError(f"{name} must all be finite and 0 or more, got {list(values[:8])}")
    if any(later < earlier for earlier, later in pairwise(values)):
        raise ValueError(f"{name} must be in ascending order")


@settings
class FullPrefill:
    """Plain causal attention over prompt and video. Exact; cost grows with the square of the length."""

    offload: bool = False
    """Keep keys and values of the video in host memory; every tile brings all of them back, a layer at a time."""

    def __str__(self) -> str:
        return to_string("full", self)


Mix = Literal["sequence", "adaptive", "random", "random-once"]
MIXES: tuple[str, ...] = get_args(Mix)
RELEASED_MIXES: dict[str, Mix] = {
    "step-random": "random",
    "instance-random": "random-once",
    "sequence": "sequence",
}


def _one_or_several(value: object) -> object:
    """``2+4``, a list or a tuple as a tuple; a single ratio as itself."""
    if isinstance(value, str) and "+" in value:
        value = value.split("+")
    if isinstance(value, (tuple, list)):
        if not value:
            raise ValueError("ratio is empty: give one or several whole numbers of at least 2")
        return value[0] if len(value) == 1 else tuple(value)
    return value


Ratio = Annotated[int, Gt(1), NotBool, Must("be a whole number of at least 2")]


@settings
class BeaconPrefill:
    """Video-XL's compression: each window of visual tokens becomes a few beacon tokens.

    Several ratios need a ``mix``. A mix starts anew with every video, so an answer never depends on earlier questions.
    """

    ratio: Annotated[Ratio | tuple[Ratio, ...], BeforeValidator(_one_or_several)] = 8
    """Visual tokens per beacon: 2, 4, 8, 16, or any other number a window holds; or several to mix."""
    window: Count | None = None
    """Visual tokens compressed together, a multiple of those of a frame. Default: the checkpoint's (1,440)."""
    mix: str | None = None
    """``sequence`` takes the ratios in turn, window by window; ``adaptive`` takes the smallest whose result, with
    ``headroom`` further tokens, fits the model's positions; ``random`` draws one per window, ``random-once`` one per
    video."""
    seed: CountOrZero = 42
    """With a random ``mix``. 42 is the released code's; the first video it reads after loading sees this sequence."""
    headroom: CountOrZero = 1024
    """With ``mix="adaptive"``: tokens to leave room for."""

    def __post_init__(self) -> None:
        if self.window is not None and max(self.ratios) > self.window:
            raise ValueError(f"ratio {max(self.ratios)} is larger than window={self.window}: no beacon would be left")
        if len(self.ratios) > 1 and self.mix not in MIXES:
            raise ValueError(f"ratio={self.ratios} needs a mix, one of {', '.join(MIXES)}; got {self.mix!r}")
        if len(self.ratios) == 1 and self.mix is not None:
            raise ValueError(f"mix={self.mix!r} needs several ratios, got {self.ratio}")

    @property
    def ratios(self) -> tuple[int, ...]:
        """The ratio or ratios, always as a tuple."""
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
        return to_string("beacon", self)


ChunkMode = Literal["streaming", "mask"]


@settings
class ChunkedPrefill:
    """Video-XL-2's chunked prefill: a visual token attends only to the blocks just before its own.

    Lengths are counted in groups of frames. A window of ``chunk_size`` groups moves on by ``step_size`` groups. The
    ``step_size`` new groups (a block) attend to each other, to the rest of the window, to the text before the video,
    and to every timestamp. Timestamps attend to everything before them.
    """

    chunk_size: Count = 16
    """Groups in the window, the new ones included. A multiple of ``step_size``. Where both are equal, a block attends
    only to itself, the text and the timestamps."""
    step_size: Count = 4
    """New groups per step of the window: a block, ``block_size_chosed`` of the released evaluations."""
    mode: ChunkMode = "streaming"
    """``streaming`` never holds a mask of all tokens against all. ``mask`` builds it, as the released code does; use it
    only to check small runs. Both give the same numbers."""
    offload: bool = False
    """Keep keys and values of the video in host memory; what a tile or a question reads is brought back for it."""
    vision_batch: Count = 24
    """Groups that go through the vision tower at once. Changes memory and speed, not the result."""

    def __post_init__(self) -> None:
        if self.chunk_size % self.step_size:
            below = self.chunk_size // self.step_size * self.step_size
            nearest = f"{below} or {below + self.step_size}" if below else f"{self.step_size}"
            raise ValueError(
                f"chunk_size={self.chunk_size} is no multiple of step_size={self.step_size}: the window moves by whole "
                f"blocks of step_size groups; use chunk_size={nearest}, or another step_size"
            )
        if self.offload and self.mode == "mask":
            raise ValueError("mode='mask' runs the whole video at once and cannot offload: use mode='streaming'")

    @property
    def previous_blocks(self) -> int:
        """Blocks before its own that a visual token attends to (``prev_blocks_num`` of the released evaluations)."""
        return self.chunk_size // self.step_size - 1

    @classmethod
    def from_blocks(
        cls, block_size: int = 4, previous_blocks: int = 3, *, mode: ChunkMode = "streaming", offload: bool = False
    ) -> ChunkedPrefill:
        """From the two numbers that the released evaluations state: ``block_size_chosed``, ``prev_blocks_num``."""
        return cls(chunk_size=block_size * (previous_blocks + 1), step_size=block_size, mode=mode, offload=offload)

    def __str__(self) -> str:
        return to_string("chunked", self)


@settings
class SelectivePrefill:
    """Video-XL-Pro's selection: visual tokens are scored by the prompt, the best stay; all timestamps stay."""

    keep: Annotated[
        Annotated[int, Gt(0), Le(1)] | Annotated[float, Gt(0), Le(1)],
        NotBool,
        Must("be above 0 and at most 1 (the share of visual tokens kept)"),
    ] = 0.85
    """Share of the visual tokens kept, above 0 and at most 1. The released code draws it anew at every call, from 0.7
    to 0.99, without a seed; here it is what is asked for."""
    about: Annotated[str | None, Must("be text or None")] = None
    """The question that judges, with the prompt around the video, which tokens are relevant. None: ``answer`` takes the
    question asked, ``encode`` knows none and takes the prompt alone. An empty text: the prompt alone."""

    def __str__(self) -> str:
        return to_string("selective", self)


@settings
class StateKVPrefill:
    """Linear reading without training: tokens attend to a carried state of the most attended tokens so far.

    Every key and value is kept for questions, as with :class:`FullPrefill`. A reading cannot be extended later.
    """

    budget: Count = 4096
    """Tokens carried on, in every layer and key/value head."""
    step: Count = 1
    """Groups of frames that are read at once and attend to each other."""

    def __str__(self) -> str:
        return to_string("statekv", self)


@settings
class DenseDecode:
    """Every question reads all keys and values of the video."""

    def __str__(self) -> str:
        return to_string("dense", self)


RELEVANCES = ("attention", "siglip", "words")
Relevance = str | tuple[int, ...] | Callable[..., object]
"""A name of :data:`RELEVANCES`, or several with ``+`` between; block numbers; or ``function(memory, question)``, which
returns a score per block."""


def _relevance(value: object) -> Relevance:
    if isinstance(value, str) and not all(part.isdecimal() for part in value.split("+")):
        names = value.split("+")
        if not set(names) <= set(RELEVANCES) or len(set(names)) < len(names):
            raise ValueError(
                f"relevance must be one of {', '.join(RELEVANCES)}, several of them (attention+siglip), block numbers "
                f"or a function, got {value!r}"
            )
        return value
    given = value.split("+") if isinstance(value, str) else value
    if isinstance(given, (list, tuple, range, set, frozenset)):
        numbers = tuple(sorted({int(n) if str(n).isdecimal() else -1 for n in given}))
        if not numbers or numbers[0] < 0:
            raise ValueError(f"relevance must name at least one block by its number from 0, got {value!r}")
        return numbers
    if not callable(given):
        raise ValueError(f"relevance must be a name, block numbers or a function, got {type(value).__name__}")
    return given


@settings
class BiLevelDecode:
    """A question reads the blocks that matter to it densely and averages of all others. For Video-XL-2.

    The first and the last block are always read densely, on top of ``top_k``.
    """

    top_k: Count = 8
    """How many further blocks are read densely: the most relevant ones. As many as there are: dense decoding."""
    block_size: Count = 4
    """Groups of frames per block (``selected_chunk_size`` of the released selections)."""
    pool: Count = 4
    """Visual tokens averaged into one in all other blocks (``compression``); timestamps stay as they are."""
    relevance: Annotated[Relevance, PlainValidator(_relevance)] = "attention"
    """How blocks are judged. ``attention`` reads the question once against the averages. ``siglip`` compares it with
    the frames' SigLIP features (``encode(..., siglip=True)``). ``words`` compares it with subtitles and other tracks
    that were read. Several with ``+`` between, as ``attention+siglip``, count alike. Block numbers, from 0, are read
    whatever ``top_k``. A function gets the memory and the question and returns a score per block; the attribute
    ``label``, or else its name, stands for it in ``str()``."""
    looks: Annotated[int, Ge(1), Le(2), NotBool, Must("be 1 or 2")] = 1
    """2: the four times ``top_k`` best blocks are compared once more, by the attention that the question gives them
    when they are read densely. They are fetched for it, wherever the memory is kept."""

    def __post_init__(self) -> None:
        if self.looks > 1 and isinstance(self.relevance, tuple):
            raise ValueError(f"looks={self.looks} chooses among blocks, and relevance names them: leave one out")

    @property
    def judges(self) -> tuple[str, ...]:
        """The names in ``relevance``; none for block numbers and functions."""
        return tuple(self.relevance.split("+")) if isinstance(self.relevance, str) else ()

    def __str__(self) -> str:
        return to_string("bilevel", self)


PrefillStrategy = FullPrefill | ChunkedPrefill | BeaconPrefill | SelectivePrefill | StateKVPrefill
DecodeStrategy = DenseDecode | BiLevelDecode

PREFILLS: dict[str, type[PrefillStrategy]] = {
    "full": FullPrefill,
    "chunked": ChunkedPrefill,
    "beacon": BeaconPrefill,
    "selective": SelectivePrefill,
    "statekv": StateKVPrefill,
}
"""Name -> prefill strategy. The command line, docs and tests iterate over this table."""
DECODES: dict[str, type[DecodeStrategy]] = {"dense": DenseDecode, "bilevel": BiLevelDecode}
"""Name -> decode strategy."""


def is_offloading(prefill: PrefillStrategy) -> bool:
    """Whether a strategy keeps keys and values in host memory."""
    return isinstance(prefill, FullPrefill | ChunkedPrefill) and prefill.offload


def _texts(given: Any) -> Any:
    """One text, or several in any sequence, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


Text = Annotated[str, Must("be text")]


@settings
class Generation:
    """How an answer is written: greedily, unless ``do_sample``.

    Sampling has its own seeded generator, so it neither reads nor changes a global random state.
    """

    max_new_tokens: Count = 256
    """Longest answer, in tokens."""
    do_sample: bool = False
    """Draw tokens instead of taking the likeliest one."""
    temperature: Positive | None = None
    """With ``do_sample``: below 1 sharper, above 1 flatter. Default 1.0."""
    top_p: Positive | None = None
    """With ``do_sample``: keep the smallest set of tokens with this probability mass."""
    top_k: Count | None = None
    """With ``do_sample``: keep this many tokens."""
    seed: CountOrZero = 0
    """With ``do_sample``: the same seed gives the same answer."""
    num_beams: Count = 1
    """Beam search width; 1 is greedy."""
    repetition_penalty: Positive | None = None
    """Above 1 discourages tokens already in the prompt or the answer."""
    stop: Annotated[tuple[str, ...], BeforeValidator(_texts), Must("be texts")] = ()
    """The answer ends before the first of these texts."""
    min_new_tokens: CountOrZero = 0
    """The model does not end its answer before so many tokens; a stop text may."""
    prefix: Text = ""
    """The answer begins with this text. It is no part of ``max_new_tokens``. Best without a space at its end."""
    system: Text = ""
    """A system turn between video and question. The system prompt before the video is a setting of ``encode``."""
    n: Count = 1
    """With ``do_sample``: so many answers from one reading of the video, drawn with ``seed``, ``seed + 1`` ..."""
    logprobs: CountOrZero | None = None
    """Also give the log-probability of every token, and those of so many likeliest ones at its place."""
    choices: Annotated[tuple[str, ...], BeforeValidator(_texts), Must("be texts")] = ()
    """The answer is the likeliest of these texts, each with its probability. Nothing is written token by token."""
    schema: Annotated[Schema | None, PlainValidator(schema_text)] = None
    """The answer is JSON that fits a JSON schema: a mapping, a file, JSON text, or a class that pydantic knows. Kept as
    JSON text. Needs the extra ``structured``, as ``regex`` does."""
    regex: Annotated[str | None, Must("be text or None")] = None
    """All of the answer, ``prefix`` included, matches this regular expression (without look-around and references)."""
    evidence: bool = True
    """Say which stretches of the video the answer's tokens looked at."""

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise ValueError("stop holds an empty text, before which every answer would end: leave it out")
        if self.top_p is not None and self.top_p > 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        for name in ("stop", "prefix", "system", "choices", "regex"):
            for text in _texts(getattr(self, name) or ()):
                require_characters(text, name)
        if self.regex == "":
            raise ValueError("regex is empty, which only an empty answer matches: leave it out")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens={self.min_new_tokens} is above max_new_tokens={self.max_new_tokens}")
        check_choices(self.choices)
        check_together(self)


def prefill_from_string(text: str) -> PrefillStrategy:
    """Inverse of ``str(prefill)``. Raises ``ValueError`` naming what is available."""
    return from_string(text, PREFILLS, "prefill strategy")


def decode_from_string(text: str) -> DecodeStrategy:
    """Inverse of ``str(decode)``. Raises ``ValueError`` naming what is available."""
    return from_string(text, DECODES, "decode strategy")
