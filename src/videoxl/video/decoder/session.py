"""Inside the decoder process: one opened video, described once and read as often as asked."""

from __future__ import annotations

import ctypes
import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
from av.video.frame import VideoFrame

from videoxl.errors import VideoError
from videoxl.video.decoder.channel import Channel
from videoxl.video.decoder.clip import Clipper, PartWriter
from videoxl.video.decoder.decode import FrameDecoder
from videoxl.video.decoder.demux import OpenedStream, Opener, check_pixels, open_stream
from videoxl.video.decoder.duration import held_until, missing_end
from videoxl.video.decoder.handover import ONLY_THE_FIRST, pack_index, starts_of, unpack_index
from videoxl.video.decoder.hdr import NAMES, transfer_of
from videoxl.video.decoder.index import FrameIndex, build_index
from videoxl.video.decoder.messages import (
    ClipCommand,
    ClipPart,
    FrameBatch,
    OpenCommand,
    ReadCommand,
    ReadReport,
    SoundBatch,
    SoundCommand,
    SoundFacts,
    SoundReport,
    SubtitleAnswer,
    SubtitleCommand,
    VideoFacts,
)
from videoxl.video.decoder.packets import Heartbeat
from videoxl.video.decoder.pyav import Orientation, PyAVBackend, orientation_of
from videoxl.video.decoder.sound_tracks import SoundReader, choose_sound
from videoxl.video.decoder.subtitle_tracks import read_track
from videoxl.video.decoder.trial import confirm_index
from videoxl.video.frames import Pixels, Resize, TimedPicture
from videoxl.video.resize import resize_pixels
from videoxl.video.source import batches

IN_FLIGHT = 2
"""For each thread that converts and resizes, at most so many decoded pictures wait for it, or are in it."""
PROBED_FRAMES = 300
"""So many frames are tried first when looking for one that can be decoded."""

PictureT = TypeVar("PictureT")


class Backend(Protocol[PictureT]):
    """Decodes pictures by frame number, in whatever form it has them, and converts them to RGB."""

    @property
    def bad_packets(self) -> int:
        """Number of packets that the decoder refused during the last ``frames``."""

    @property
    def damaged(self) -> int:
        """Number of pictures that were decoded only in part during the last ``frames``."""

    @property
    def missing(self) -> list[int]:
        """Numbers of the frames that could not be decoded during the last ``frames``."""

    def begin(self, segments: int) -> None:
        """Begin a reading of so many segments."""

    def can_begin_at(self, number: int) -> bool:
        """Whether decoding can begin in the middle, for frame ``number``."""

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, PictureT]]:
        """Yield (number, picture) for ascending, distinct numbers."""

    def to_rgb(self, picture: PictureT) -> Pixels:
        """uint8 [H, W, 3], upright; called from several threads."""


@dataclass(frozen=True)
class DecodeSession(Generic[PictureT]):
    """An opened video in the decoder process."""

    channel: Channel
    index: FrameIndex
    facts: VideoFacts
    index_was_given: bool
    backend: Backend[PictureT]
    opener: Opener
    """Opens the file once more."""

    def describe(self) -> None:
        """Send what is known about the video: its facts and, if it was made here, its index."""
        if self.index_was_given:
            self.channel.send(self.facts)
            return
        starts_K = starts_of(self.index)
        if len(starts_K) > 1 and not self.backend.can_begin_at(int(starts_K[len(starts_K) // 2])):
            starts_K = ONLY_THE_FIRST
        facts = self.facts.model_copy(update={"starts": len(starts_K)})
        self.channel.send(facts, self.index.times_F.tobytes() + starts_K.tobytes() + pack_index(self.index))

    def read(self, command: ReadCommand) -> None:
        """For each segment send the frames asked for in batches, then a report of what is missing."""
        self.backend.begin(command.segments_in_all)
        with ThreadPoolExecutor(command.finishers) as pool:
            for segment in command.segments:
                self._read_segment(segment, command, pool)

    def read_subtitles(self, command: SubtitleCommand) -> None:
        """Send the texts of a subtitle track."""
        texts, notes = read_track(self.opener, self.index.zero, command.which, self.channel.heartbeat)
        self.channel.send(SubtitleAnswer(id=command.id, texts=texts, notes=notes))

    def read_sound(self, command: SoundCommand) -> None:
        """Send which track of sound is read, its sound in batches, and a report of what is missing."""
        chosen = choose_sound(self.opener, command.which)
        if isinstance(chosen, str):
            self.channel.send(SoundFacts(id=command.id, there=False, track=chosen, language="", end=None))
            return
        end = None if chosen.end is None else round(chosen.end - self.index.zero, 6)
        language = chosen.track.language
        self.channel.send(SoundFacts(id=command.id, there=True, track=str(chosen.track), language=language, end=end))
        reader = SoundReader(chosen, self.index.zero, command.start, command.end, self.channel.heartbeat)
        for batch in reader.batches():
            payload = np.ascontiguousarray(batch.samples_N).data.cast("B")
            self.channel.send(SoundBatch(id=command.id, first=batch.first), payload)
        self.channel.send(SoundReport(id=command.id, goes_on=reader.goes_on, notes=reader.notes()))

    def write_clip(self, command: ClipCommand) -> None:
        """Send a stretch of the video as a file, in parts, then a report."""
        writer = PartWriter(lambda offset, data: self.channel.send(ClipPart(id=command.id, offset=offset), data))
        clipper = Clipper(self.opener, self.index, self.backend, self.channel.heartbeat)
        self.channel.send(clipper.write(command, writer))

    def _read_segment(self, segment: list[int], command: ReadCommand, pool: ThreadPoolExecutor) -> None:
        pictures = _Pictures(self.backend, self.channel.heartbeat, pool, IN_FLIGHT * command.finishers, command.resize)
        for frames in batches(self._timed(segment, pictures), command.batch_frames):
            batch = FrameBatch(
                id=command.id,
                shape=frames.pixels_FHWC.shape,
                indices=frames.indices_F.tolist(),
            )
            self.channel.send(batch, frames.pixels_FHWC.data.cast("B"))
            _return_memory()
        backend = self.backend
        self.channel.send(
            ReadReport(id=command.id, missing=backend.missing, bad_packets=backend.bad_packets, damaged=backend.damaged)
        )

    def _timed(self, numbers: list[int], pictures: _Pictures[PictureT]) -> Iterator[TimedPicture]:
        """Yield a picture for each of ``numbers``; one that occurs twice is decoded once."""
        repeats: dict[int, int] = {}
        for number in numbers:
            repeats[number] = repeats.get(number, 0) + 1
        for number, pixels in pictures.finished(list(repeats)):
            for _ in range(repeats[number]):
                yield pixels, float(self.index.times_F[number]), number


@dataclass(frozen=True)
class _Pictures(Generic[PictureT]):
    """Converts and resizes in threads while the next pictures are decoded."""

    backend: Backend[PictureT]
    heartbeat: Heartbeat
    pool: ThreadPoolExecutor
    in_flight: int
    resize: Resize | None

    def finished(self, numbers: list[int]) -> Iterator[tuple[int, Pixels]]:
        """Yield (number, uint8 [H, W, 3]) for ascending, distinct ``numbers``."""
        in_flight: deque[tuple[int, Future[Pixels]]] = deque()
        for number, picture in self.backend.frames(numbers):
            self.heartbeat()
            in_flight.append((number, self.pool.submit(self._finish, picture)))
            if len(in_flight) == self.in_flight:
                oldest, future = in_flight.popleft()
                yield oldest, future.result()
        for number, future in in_flight:
            yield number, future.result()

    def _finish(self, picture: PictureT) -> Pixels:
        pixels = self.backend.to_rgb(picture)
        return resize_pixels(pixels, self.resize) if self.resize else pixels


_LIBC = ctypes.CDLL(None)


def _return_memory() -> None:
    """Give free parts of the heap back to the system: pictures of many sizes leave more and more of them."""
    if hasattr(_LIBC, "malloc_trim"):  # glibc
        _LIBC.malloc_trim(0)


def open_session(
    channel: Channel, fd: int, command: OpenCommand, index_bytes: bytes, on_opened: Callable[[], None]
) -> DecodeSession[VideoFrame] | DecodeSession[Pixels]:
    """Open, index and try out the video behind ``fd``.

    ``index_bytes``: its index, if another process has made it. ``on_opened`` is called before a picture is decoded.
    """

    def opener() -> OpenedStream:
        return open_stream(fd, command.stream, command.limits)

    gc.freeze()  # what is loaded stays: collections that free old decoders need not look at it
    opened = opener()
    index = unpack_index(index_bytes) if index_bytes else build_index(opened, command.limits, channel.heartbeat)
    seconds = index.end - float(index.times_F[0])
    if seconds > command.limits.max_duration:
        raise VideoError(
            f"lasts {seconds:.0f} s, more than {command.limits.max_duration:g} s; raise VideoLimits(max_duration=...)",
            code="limits_duration",
        )
    on_opened()
    if not index_bytes:
        index = confirm_index(opener, index, command.limits, channel.heartbeat)
    first = _first_picture(opener, index, channel)
    check_pixels(first.width, first.height, command.limits)
    orientation = orientation_of(first)
    hdr = transfer_of(first, opened.stream.codec_context.color_trc)
    lost_end = None if index_bytes else missing_end(opener, opened, index)
    if not index_bytes and lost_end is None:
        index = replace(index, end=held_until(opener, opened, index, channel.heartbeat))
    facts = _facts(command, opened, index, first, orientation, lost_end, hdr)
    given = bool(index_bytes)
    if command.reader == "torchcodec":
        from videoxl.video.decoder.torchcodec import TorchcodecBackend  # brings torch with it

        torchcodec = TorchcodecBackend(fd, opener().stream.index, index, channel.heartbeat)
        return DecodeSession(channel, index, facts, given, torchcodec, opener)
    pyav = PyAVBackend(opener, index, channel.heartbeat, orientation, hdr)
    return DecodeSession(channel, index, facts, given, pyav, opener)


def _first_picture(opener: Opener, index: FrameIndex, channel: Channel) -> VideoFrame:
    """The first picture that can be decoded: proof that there is one, and its true size and orientation."""
    decoder = FrameDecoder(opener, index, channel.heartbeat)
    for tried in (PROBED_FRAMES, len(index.times_F)):
        for _, frame in decoder.frames(range(min(tried, len(index.times_F)))):
            return frame
    raise VideoError(
        f"0 of {len(index.times_F)} frames could be decoded ({decoder.bad_packets} bad packets); get the file again",
        code="undecodable",
    )


def _conversions(first: VideoFrame, hdr: int | None, reader: str) -> list[str]:
    """How pictures differ from what is stored, or what they lack."""
    said = []
    if hdr is not None:
        done = "its brightness and colours are brought to those of SDR"
        left = f"reader={reader!r} leaves its colours pale; use reader='pyav'"
        said.append(f"is HDR ({NAMES[hdr]}): {done if reader == 'pyav' else left}")
    if first.interlaced_frame and reader != "pyav":
        said.append(f"is flagged as interlaced: reader={reader!r} leaves combs where things move; use reader='pyav'")
    return said


def _facts(
    command: OpenCommand,
    opened: OpenedStream,
    index: FrameIndex,
    first: VideoFrame,
    orientation: Orientation,
    lost_end: str | None,
    hdr: int | None,
) -> VideoFacts:
    turned = orientation.quarter_turns % 2
    problems = list(index.problems)
    if orientation.problem:
        problems.append(orientation.problem)
    problems += _conversions(first, hdr, command.reader)
    codec = opened.stream.codec_context.codec.canonical_name
    if codec == "hevc" and first.interlaced_frame:  # FFmpeg sets this only for single fields, and does not join them
        problems.append("codes the fields of each picture apart: every frame is one field, half as high as the picture")
    if opened.others:
        others = ", ".join(map(str, opened.others))
        problems.append(f"holds several video streams: stream {opened.stream.index} is read, not {others}")
    return VideoFacts(
        id=command.id,
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        fps=index.rate,
        end=index.end,
        codec=codec,
        container=opened.container.format.name,
        rotation=90 * orientation.quarter_turns,
        stream=opened.stream.index,
        frames=len(index.times_F),
        starts=1,
        problems=problems,
        losses=[*index.losses, *([lost_end] if lost_end else [])],
    )
