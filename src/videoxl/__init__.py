"""Ask questions about hours of video on one GPU: Video-XL, Video-XL-Pro and Video-XL-2.

Importing this package also makes transformers' Auto classes know its models; transformers has no plug-in hook.
"""

from videoxl._version import __version__
from videoxl.config import DenseDecode, FullPrefill, Generation, Sampling
from videoxl.errors import (
    CheckpointError,
    DoesNotFitError,
    MissingDependencyError,
    PartialVideoWarning,
    VideoError,
    VideoNotFoundError,
    VideoXLError,
)
from videoxl.inference.answers import Answer, Piece, Span, Usage
from videoxl.inference.auto import register
from videoxl.inference.engine import ChatSession, VideoXL, load
from videoxl.inference.planner import Plan, plan
from videoxl.memory.video_memory import VideoMemory
from videoxl.video import Frames, VideoLimits, open_video

register()
del register

__all__ = [
    "Answer",
    "ChatSession",
    "CheckpointError",
    "DenseDecode",
    "DoesNotFitError",
    "Frames",
    "FullPrefill",
    "Generation",
    "MissingDependencyError",
    "PartialVideoWarning",
    "Piece",
    "Plan",
    "Sampling",
    "Span",
    "Usage",
    "VideoError",
    "VideoLimits",
    "VideoMemory",
    "VideoNotFoundError",
    "VideoXL",
    "VideoXLError",
    "__version__",
    "load",
    "open_video",
    "plan",
]
