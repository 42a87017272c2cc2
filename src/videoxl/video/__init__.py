"""From a video of any kind to frames with true times, in bounded memory."""

from videoxl.video.frames import Frames, Resize, Selection
from videoxl.video.info import VideoInfo, VideoLimits
from videoxl.video.open import READERS, choose_reader, open_video
from videoxl.video.source import VideoSource

__all__ = [
    "READERS",
    "Frames",
    "Resize",
    "Selection",
    "VideoInfo",
    "VideoLimits",
    "VideoSource",
    "choose_reader",
    "open_video",
]
