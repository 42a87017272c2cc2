"""Inside the decoder process: pictures by torchcodec. The list of frames and their times come from our index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from videoxl.errors import MissingDependencyError, VideoError
from videoxl.video.decoder.demux import FdReader
from videoxl.video.decoder.index import FrameIndex
from videoxl.video.decoder.packets import Heartbeat
from videoxl.video.frames import Pixels

FRAMES_AT_ONCE = 8


def load_torchcodec() -> None:
    """Load torchcodec and torch. Raises ``MissingDependencyError``."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        first_line = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise MissingDependencyError(
            f"torchcodec cannot be loaded ({first_line[:200]}): pip install 'videoxl[torchcodec]' and install the "
            "FFmpeg libraries, or use reader='pyav'"
        ) from error


class TorchcodecBackend:
    """Decodes with torchcodec, and checks each picture's time against that of its frame number in the index."""

    def __init__(self, fd: int, stream: int, index: FrameIndex, heartbeat: Heartbeat) -> None:
        from torchcodec.decoders import VideoDecoder

        if index.by_order:
            raise VideoError("has no usable timestamps, which torchcodec needs; use reader='pyav'", code="undecodable")
        self._index = index
        self._heartbeat = heartbeat
        self._decoder = VideoDecoder(FdReader(fd), stream_index=stream, dimension_order="NHWC", seek_mode="exact")
        self.bad_packets = 0
        self.damaged = 0
        self.missing: list[int] = []

    def begin(self, segments: int) -> None:
        """Begin a reading of so many segments."""

    def can_begin_at(self, number: int) -> bool:
        """False: torchcodec reads in one process."""
        return False

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        """Yield (number, uint8 [H, W, 3]) for ascending, distinct ``numbers``."""
        begin = self._decoder.metadata.begin_stream_seconds or 0.0
        times_F = self._index.times_F - self._index.times_F[0]
        gaps = np.diff(times_F)
        tolerance = float(gaps.min()) / 2 if len(gaps) else 1.0
        for at in range(0, len(numbers), FRAMES_AT_ONCE):
            self._heartbeat()
            some = list(numbers[at : at + FRAMES_AT_ONCE])
            batch = self._decoder.get_frames_at(some)
            for number, pixels, seconds in zip(some, batch.data.numpy(), batch.pts_seconds.tolist()):
                if abs(seconds - begin - float(times_F[number])) > tolerance:
                    raise VideoError(
                        f"torchcodec gave the frame at {seconds - begin:.3f} s for the one at {times_F[number]:.3f} s; "
                        "use reader='pyav'",
                        code="undecodable",
                    )
                yield number, pixels

    def to_rgb(self, picture: Pixels) -> Pixels:
        """The picture itself: torchcodec has converted and turned it already."""
        return np.ascontiguousarray(picture)
