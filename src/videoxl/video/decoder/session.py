"""Inside the decoder process: one opened video, described once and read as often as asked."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from av.video.frame import VideoFrame

from videoxl.errors import VideoError
from videoxl.video.decoder.decode import FrameDecoder
from videoxl.video.decoder.demux import Opener, OpenVideo, check_pixels, open_stream
from videoxl.video.decoder.duration import missing_end
from videoxl.video.decoder.index import FrameIndex, build_index
from videoxl.video.decoder.pyav import Orientation, PyAVBackend, orientation_of
from videoxl.video.frames import Frames, Resize
from videoxl.video.info import VideoLimits
from videoxl.video.resize import resize_pixels
from videoxl.video.source import batches

if TYPE_CHECKING:
    from videoxl.video.decoder.worker import Channel

RESIZERS = 2
IN_FLIGHT = 2 * RESIZERS
"""Decoded pictures waiting for, or in, conversion and resizing."""
PROBED_FRAMES = 300


class Backend(Protocol):
    """What makes pictures out of frame numbers."""

    @property
    def bad_packets(self) -> int:
        """Packets the decoder refused during the last ``frames``."""

    @property
    def damaged(self) -> int:
        """Pictures the decoder could only guess in part during the last ``frames``."""

    @property
    def missing(self) -> list[int]:
        """Frames that could not be decoded during the last ``frames``."""

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield (number, picture) for ascending, distinct numbers."""

    def to_rgb(self, picture: Any) -> np.ndarray:
        """uint8 [H, W, 3], upright; called from several threads."""


@dataclass(frozen=True)
class DecodeSession:
    """An opened video in the decoder process."""

    channel: Channel
    index: FrameIndex
    facts: dict[str, Any]
    backend: Backend
    pool: ThreadPoolExecutor

    def describe(self) -> None:
        """Send what is known, with the frame times (float64) as payload."""
        self.channel.send({"kind": "info", **self.facts}, self.index.times_F.data.cast("B"))

    def read(self, command: dict[str, Any]) -> None:
        """Send the frames of a ``read`` command in batches, then a report of what is missing."""
        request = command["id"]
        resize = Resize(**command["resize"]) if command["resize"] else None
        for frames in batches(self._timed(command["indices"], resize), command["batch_frames"]):
            self.channel.send(_frame_facts(frames, request), frames.pixels_FHWC.data.cast("B"))
            _return_memory()
        backend = self.backend
        report = {"missing": backend.missing, "bad_packets": backend.bad_packets, "damaged": backend.damaged}
        self.channel.send({"kind": "done", "id": request, **report})

    def _timed(self, numbers: list[int], resize: Resize | None) -> Iterator[tuple[np.ndarray, float, int]]:
        """(pixels, seconds, number) for each of ``numbers``; one that occurs twice is decoded once."""
        repeats: dict[int, int] = {}
        for number in numbers:
            repeats[number] = repeats.get(number, 0) + 1
        for number, pixels in self._pictures(list(repeats), resize):
            for _ in range(repeats[number]):
                yield pixels, float(self.index.times_F[number]), number

    def _pictures(self, numbers: list[int], resize: Resize | None) -> Iterator[tuple[int, np.ndarray]]:
        """Convert and resize in threads while the next pictures are decoded."""
        working: deque[tuple[int, Future[np.ndarray]]] = deque()
        for number, picture in self.backend.frames(numbers):
            self.channel.beat()
            working.append((number, self.pool.submit(self._finish, picture, resize)))
            if len(working) == IN_FLIGHT:
                ready, future = working.popleft()
                yield ready, future.result()
        for number, future in working:
            yield number, future.result()

    def _finish(self, picture: Any, resize: Resize | None) -> np.ndarray:
        pixels = self.backend.to_rgb(picture)
        return resize_pixels(pixels, resize) if resize else pixels


_LIBC = ctypes.CDLL(None)


def _return_memory() -> None:
    """Give the holes that pictures of many sizes leave in the heap back to the system, or they add up for hours."""
    if hasattr(_LIBC, "malloc_trim"):  # glibc
        _LIBC.malloc_trim(0)


def _frame_facts(frames: Frames, request: int) -> dict[str, Any]:
    return {
        "kind": "frames",
        "id": request,
        "shape": frames.pixels_FHWC.shape,
        "indices": frames.indices_F.tolist(),
        "timestamps": frames.timestamps_F.tolist(),
    }


def open_session(
    channel: Channel, fd: int, stream: int | None, reader: str, limits: VideoLimits, opened: Callable[[], None]
) -> DecodeSession:
    """Open, index and try out the video behind ``fd``. ``opened`` is called before the first picture is decoded."""

    def opener() -> OpenVideo:
        return open_stream(fd, stream, limits)

    video = opener()
    index = build_index(video, limits, channel.beat)
    seconds = float(index.times_F[-1])
    if seconds > limits.max_duration:
        raise VideoError(
            f"lasts {seconds:.0f} s, more than {limits.max_duration:g} s; raise VideoLimits(max_duration=...)",
            code="limits_duration",
        )
    opened()
    first = _first_picture(opener, index, channel)
    check_pixels(first.width, first.height, limits)
    orientation = orientation_of(first)
    facts = _describe(video, index, first, orientation, missing_end(opener, video, index))
    backend = _backend(reader, opener, fd, index, channel, orientation)
    return DecodeSession(channel, index, facts, backend, ThreadPoolExecutor(RESIZERS))


def _backend(
    reader: str, opener: Opener, fd: int, index: FrameIndex, channel: Channel, orientation: Orientation
) -> Backend:
    if reader == "torchcodec":
        from videoxl.video.decoder.torchcodec import TorchcodecBackend  # brings torch with it

        return TorchcodecBackend(fd, opener().stream.index, index, channel.beat)
    return PyAVBackend(opener, index, channel.beat, orientation)


def _first_picture(opener: Opener, index: FrameIndex, channel: Channel) -> VideoFrame:
    """The first picture that can be decoded: proof that there is one, and its true size and orientation."""
    decoder = FrameDecoder(opener, index, channel.beat)
    for tried in (PROBED_FRAMES, len(index.times_F)):
        for _, frame in decoder.frames(range(min(tried, len(index.times_F)))):
            return frame
    raise VideoError(
        f"0 of {len(index.times_F)} frames could be decoded ({decoder.bad_packets} bad packets); get the file again",
        code="undecodable",
    )


def _describe(
    video: OpenVideo, index: FrameIndex, first: VideoFrame, orientation: Orientation, lost_end: str | None
) -> dict[str, Any]:
    size = (first.height, first.width) if orientation.quarter_turns % 2 else (first.width, first.height)
    problems = list(index.problems)
    if orientation.problem:
        problems.append(orientation.problem)
    if video.others:
        others = ", ".join(map(str, video.others))
        problems.append(f"holds several video streams: stream {video.stream.index} is read, not {others}")
    rate = video.stream.average_rate
    return {
        "width": size[0],
        "height": size[1],
        "fps": float(rate) if rate else None,
        "codec": video.stream.codec_context.codec.canonical_name,
        "container": video.container.format.name,
        "rotation": 90 * orientation.quarter_turns,
        "stream": video.stream.index,
        "problems": problems,
        "losses": [*index.losses, *([lost_end] if lost_end else [])],
    }
