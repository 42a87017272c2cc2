"""Keywords of :meth:`~videoxl.VideoXL.answer`, as a type; see :mod:`videoxl.config_keywords`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videoxl.config import PrefillStrategy, Sampling
from videoxl.config_keywords import GenerationKeywords, SamplingKeywords
from videoxl.cues import Track
from videoxl.inference.decode.siglip import SiglipRelevance
from videoxl.inference.progress import Progress
from videoxl.video import VideoLimits


class AnswerKeywords(GenerationKeywords, SamplingKeywords, total=False):
    """Those of ``encode``, and of how an answer is written. ``system`` is that of ``encode``."""

    frames: Any
    timestamps: Any
    sampling: Sampling | None
    prefill: PrefillStrategy | str | None
    kv_dtype: str | None
    subtitles: Any
    tracks: Sequence[Track | str]
    before: Sequence[Mapping[str, Any]]
    siglip: bool | str | SiglipRelevance
    stream: int | None
    reader: str
    limits: VideoLimits | None
    strict: bool
    progress: bool | Progress
