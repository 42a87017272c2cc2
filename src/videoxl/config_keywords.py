"""Keywords of public functions as types, so that a type checker finds a setting that does not exist.

``def ask(..., **settings: Unpack[GenerationKeywords])``. What each means, its default and its limits stand in the
settings class of the same fields (:mod:`videoxl.config`); ``tests/test_config_keywords.py`` compares names and types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

from videoxl.config_answers import Schema


class GenerationKeywords(TypedDict, total=False):
    """The settings of :class:`~videoxl.config.Generation`."""

    max_new_tokens: int
    do_sample: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int
    num_beams: int
    repetition_penalty: float | None
    stop: str | Sequence[str]
    min_new_tokens: int
    prefix: str
    system: str
    n: int
    logprobs: int | None
    choices: Sequence[str]
    evidence: bool
    schema: Schema | None
    regex: str | None


class SamplingKeywords(TypedDict, total=False):
    """The settings of :class:`~videoxl.config.Sampling` that choose no single frames."""

    fps: float | None
    max_fps: float | None
    max_frames: int | None
    num_frames: int | None
    start: float | None
    end: float | None


class ExtendKeywords(SamplingKeywords, total=False):
    """Keywords of :meth:`~videoxl.VideoMemory.extend`."""

    timestamps: Any
    frames: Iterable[float] | None
    sampling: Any
    subtitles: Any
    tracks: Any
    progress: bool | Callable[[str, int, int | None], None]
