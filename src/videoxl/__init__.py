"""Ask questions about hours of video on one GPU: Video-XL, Video-XL-Pro and Video-XL-2.

``import videoxl`` is quick. Torch and transformers are imported when something that needs them is first used; at that
moment transformers' Auto classes get to know the models of this package.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from videoxl._on_import import register_when_cheap
from videoxl._version import __version__

if TYPE_CHECKING:
    from videoxl.config import (
        BeaconPrefill,
        BiLevelDecode,
        ChunkedPrefill,
        DenseDecode,
        FullPrefill,
        Generation,
        Sampling,
        SelectivePrefill,
        StateKVPrefill,
    )
    from videoxl.errors import (
        CheckpointError,
        DoesNotFitError,
        EndpointError,
        MemoryFileError,
        MissingDependencyError,
        PartialVideoWarning,
        VideoError,
        VideoNotFoundError,
        VideoXLError,
    )
    from videoxl.inference.answers import Answer, Choice, Elsewhere, Piece, Quote, Span, TokenLogprob, Usage
    from videoxl.inference.chat import ChatSession
    from videoxl.inference.decode.released_units import released_selection
    from videoxl.inference.decode.siglip import SiglipRelevance
    from videoxl.inference.elsewhere.answering import AnswerWith
    from videoxl.inference.elsewhere.endpoint import Endpoint
    from videoxl.inference.engine import VideoXL, load
    from videoxl.inference.evidence_spans import EvidenceSpan
    from videoxl.inference.look_again import LookAgain
    from videoxl.inference.plan.planner import Plan, plan
    from videoxl.many.answering import answer_many
    from videoxl.many.encoding import encode_many
    from videoxl.many.record import AnswerRecord, MemoryRecord
    from videoxl.memory.video_memory import VideoMemory
    from videoxl.video import Frames, VideoLimits, open_video

logging.getLogger("videoxl").addHandler(logging.NullHandler())  # what is told is for whoever asks for it

_HOMES = {
    "videoxl.config": (
        "BeaconPrefill",
        "BiLevelDecode",
        "ChunkedPrefill",
        "DenseDecode",
        "FullPrefill",
        "Generation",
        "Sampling",
        "SelectivePrefill",
        "StateKVPrefill",
    ),
    "videoxl.errors": (
        "CheckpointError",
        "DoesNotFitError",
        "EndpointError",
        "MemoryFileError",
        "MissingDependencyError",
        "PartialVideoWarning",
        "VideoError",
        "VideoNotFoundError",
        "VideoXLError",
    ),
    "videoxl.inference.answers": ("Answer", "Choice", "Elsewhere", "Piece", "Quote", "Span", "TokenLogprob", "Usage"),
    "videoxl.inference.chat": ("ChatSession",),
    "videoxl.inference.elsewhere.answering": ("AnswerWith",),
    "videoxl.inference.elsewhere.endpoint": ("Endpoint",),
    "videoxl.inference.engine": ("VideoXL", "load"),
    "videoxl.inference.evidence_spans": ("EvidenceSpan",),
    "videoxl.inference.look_again": ("LookAgain",),
    "videoxl.inference.plan.planner": ("Plan", "plan"),
    "videoxl.inference.decode.released_units": ("released_selection",),
    "videoxl.inference.decode.siglip": ("SiglipRelevance",),
    "videoxl.many.answering": ("answer_many",),
    "videoxl.many.encoding": ("encode_many",),
    "videoxl.many.record": ("AnswerRecord", "MemoryRecord"),
    "videoxl.memory.video_memory": ("VideoMemory",),
    "videoxl.video": ("Frames", "VideoLimits", "open_video"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "AnswerRecord",
    "AnswerWith",
    "BeaconPrefill",
    "BiLevelDecode",
    "ChatSession",
    "CheckpointError",
    "Choice",
    "ChunkedPrefill",
    "DenseDecode",
    "DoesNotFitError",
    "Elsewhere",
    "Endpoint",
    "EndpointError",
    "EvidenceSpan",
    "Frames",
    "FullPrefill",
    "Generation",
    "LookAgain",
    "MemoryFileError",
    "MemoryRecord",
    "MissingDependencyError",
    "PartialVideoWarning",
    "Piece",
    "Plan",
    "Quote",
    "Sampling",
    "SelectivePrefill",
    "SiglipRelevance",
    "Span",
    "StateKVPrefill",
    "TokenLogprob",
    "Usage",
    "VideoError",
    "VideoLimits",
    "VideoMemory",
    "VideoNotFoundError",
    "VideoXL",
    "VideoXLError",
    "__version__",
    "answer_many",
    "encode_many",
    "load",
    "open_video",
    "plan",
    "released_selection",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'videoxl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


register_when_cheap()
