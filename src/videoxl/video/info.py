"""What is known about a video, and what a video may cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LEAST_MEMORY = 2**30


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts about an opened video. ``None`` means unknown, never zero."""

    width: int
    """Pixels, after rotation."""
    height: int
    """Pixels, after rotation."""
    duration: float | None
    """Seconds that can be shown: from the first frame to the end of the last."""
    fps: float | None
    """Frames per second; the mean rate when ``variable_rate``."""
    frames: int | None
    """Frames that can be shown."""
    codec: str
    """FFmpeg's name of the codec, or what kind of pictures came in."""
    container: str
    """FFmpeg's name of the container, or where the pictures came from."""
    rotation: int = 0
    """Degrees counter-clockwise by which stored pictures are turned before they are handed out."""
    stream: int = 0
    """Number of the chosen stream in its container."""
    variable_rate: bool = False
    """Whether frame times leave a constant-rate clock."""
    reader: str = "memory"
    """What decodes: a name of :data:`READERS`, or ``memory``."""
    reader_reason: str = "the pictures are already decoded"
    """Why this reader was chosen."""
    warnings: tuple[str, ...] = ()
    """What was found wrong or unusual when the video was opened."""

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return {**asdict(self), "warnings": list(self.warnings)}


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """What one video may cost. Raise a limit when you trust the file."""

    max_pixels: int = 33_177_600
    """Largest picture, height x width (default 8K UHD)."""
    max_frames_walked: int = 2_000_000
    """Most coded frames of a file that are looked at (about 18 hours at 30 fps)."""
    max_duration: float = 12 * 3600.0
    """Longest video, in seconds."""
    stall_seconds: float = 60.0
    """The decoder process is stopped when it is silent this long; time spent by the caller does not count."""
    cpu_seconds: int = 24 * 3600
    """Processor time the decoder process may use."""
    memory_bytes: int = 4 * 2**30
    """Address space of the decoder process, at least 1 GiB."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
        if self.memory_bytes < LEAST_MEMORY:
            raise ValueError(f"memory_bytes must be at least {LEAST_MEMORY}, got {self.memory_bytes}")
