"""What is known about a video, and how much one video may take."""

from __future__ import annotations

from dataclasses import asdict, dataclass

LEAST_MEMORY = 2**30
"""Bytes: with less, a decoder process cannot start."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts about an opened video. ``None`` means unknown, never zero."""

    width: int
    """Pixels, after rotation."""
    height: int
    """Pixels, after rotation."""
    duration: float | None
    """Seconds that can be shown: from the first frame to the end of the last."""
    start: float = 0.0
    """Seconds from the start of the file (of its earliest stream, which may be sound) to the first frame."""
    fps: float | None
    """Frames per second; the mean rate when ``variable_rate``."""
    frames: int | None
    """Frames that can be shown."""
    codec: str
    """FFmpeg's name of the codec, or the kind of pictures."""
    container: str
    """FFmpeg's name of the container, or where the pictures come from."""
    rotation: int = 0
    """Degrees counter-clockwise by which stored pictures are turned."""
    stream: int = 0
    """Number of the stream that is read, in its container."""
    variable_rate: bool = False
    """Whether frames come at uneven times."""
    reader: str = "memory"
    """Which library decodes: a name in :data:`READERS`, ``pillow`` for several pictures in a file, or ``memory``."""
    reader_reason: str = "the pictures are already decoded"
    """Why this reader was chosen."""
    warnings: tuple[str, ...] = ()
    """What was found wrong or unusual when the video was opened."""

    @property
    def end(self) -> float | None:
        """Seconds from the start of the file to the end of the last frame."""
        return None if self.duration is None else self.start + self.duration

    def to_dict(self) -> dict[str, object]:
        """All fields as JSON-ready values."""
        return {**asdict(self), "warnings": list(self.warnings)}


@dataclass(frozen=True)
class DecodingWork:
    """What it takes to decode a selection of frames."""

    pictures: float = 0.0
    """Pictures of 1920x1080 that would cost as much; those that must be decoded for others are counted."""
    processes: int = 1
    """Most decoder processes that can share it."""


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """How much one video may take. Raise a limit when you trust the file."""

    max_pixels: int = 33_177_600
    """Largest picture, height x width (default 8K UHD)."""
    max_frames_walked: int = 2_000_000
    """Largest number of coded frames in a file (about 18 hours at 30 fps)."""
    max_duration: float = 12 * 3600.0
    """Longest video, in seconds."""
    stall_seconds: float = 60.0
    """The decoder process is stopped when nothing comes from it for this long; the caller's own time does not count."""
    total_seconds: float = 24 * 3600.0
    """It is stopped as well when the caller has waited for it this long in all."""
    cpu_seconds: int = 24 * 3600
    """Processor time, in seconds, that the decoder process may use."""
    memory_bytes: int = 4 * 2**30
    """Address space, in bytes, of the decoder process: at least 1 GiB."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
        if self.memory_bytes < LEAST_MEMORY:
            raise ValueError(f"memory_bytes must be at least {LEAST_MEMORY}, got {self.memory_bytes}")
