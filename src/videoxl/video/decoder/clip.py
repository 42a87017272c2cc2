"""Inside the decoder process: a stretch of the video as a file of its own, which leaves through the pipe in parts.

The pictures are copied as they are stored where the stretch begins at a key frame, else they are encoded anew. Sound
and subtitles are always copied. All times are moved by the same amount, so what belongs together stays together.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, TypeVar

import av
import av.error
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from videoxl.errors import VideoError
from videoxl.video.decoder.demux import OpenedStream, Opener
from videoxl.video.decoder.index import FrameIndex
from videoxl.video.decoder.messages import ClipCommand, ClipFormat, ClipReport
from videoxl.video.decoder.packets import Heartbeat
from videoxl.video.frames import Pixels

PART_BYTES = 2**20
BEFORE = 20.0
"""Seconds before a stretch at which reading begins: sound lies before its pictures in a file, and so may subtitles."""
BEHIND = 20.0
"""Seconds behind the stretch at which reading ends, if some track has not said that it is over."""
SOUND_LATE = 0.15
"""A sound that begins later than this, in seconds, is mentioned."""
SAME = 1e-4
"""Times nearer than this, in seconds, are the same."""
ENCODERS = {
    "libx264": {"crf": "18", "preset": "veryfast"},
    "libopenh264": {"b": "8M"},
    "mpeg4": {"qscale": "2", "flags": "+qscale"},
}
"""Encoders in the order in which they are tried, with their settings."""
BT709 = 1
CLOCK = Fraction(1, 90_000)
"""Unit of the times of pictures that are encoded anew."""
HELD: dict[ClipFormat, dict[str, frozenset[str]]] = {
    "mp4": {
        "video": frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"}),
        "audio": frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}),
        "subtitle": frozenset({"mov_text"}),
    },
    "matroska": {
        "video": frozenset({"h264", "hevc", "av1", "vp9", "vp8", "mpeg4", "mjpeg", "mpeg2video", "ffv1", "prores"}),
        "audio": frozenset(
            {"aac", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "vorbis", "dts", "pcm_s16le", "pcm_s24le"}
        ),
        "subtitle": frozenset({"subrip", "srt", "ass", "ssa", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle"}),
    },
}
"""The codecs that each container holds, by the kind of a track."""

PictureT = TypeVar("PictureT")


class Decoding(Protocol[PictureT]):
    """What encoding anew needs of a backend."""

    def begin(self, segments: int) -> None: ...
    def frames(self, numbers: Any) -> Iterator[tuple[int, PictureT]]: ...
    def to_rgb(self, picture: PictureT) -> Pixels: ...


class PartWriter:
    """A file for FFmpeg to write. What is written one after the other leaves as one part; the sandbox has no files."""

    def __init__(self, send: Callable[[int, bytes], None]) -> None:
        """``send(offset, bytes)``."""
        self._send = send
        self._held = bytearray()
        self._begin = 0
        self._at = 0
        self.size = 0

    def write(self, data: bytes) -> int:
        if self._at != self._begin + len(self._held) or len(self._held) >= PART_BYTES:
            self.flush()
        self._held += data
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self._send(self._begin, bytes(self._held))
        self._held.clear()
        self._begin = self._at

    def restart(self) -> None:
        """Begin the file anew."""
        self._held.clear()
        self._begin = self._at = self.size = 0


@dataclass(frozen=True)
class Cut:
    """The frames of a stretch. Times are seconds on the clock of the file."""

    first: int
    last: int
    start: float
    end: float
    key: int | None
    """Number of the key frame that is the first frame, or that is copied from; None: there is none."""


def cut_of(index: FrameIndex, start: float, end: float) -> Cut:
    """The frames that are on screen between two times. Raises ``VideoError`` where there are none."""
    times_F = index.times_F
    if start >= index.end or end <= times_F[0]:
        raise VideoError(
            f"shows nothing from {start:g} s to {end:g} s: it has pictures of {times_F[0]:.2f} to {index.end:.2f} s",
            code="no_frames_selected",
        )
    first = max(0, int(np.searchsorted(times_F, start + SAME, side="right")) - 1)
    last = max(first, int(np.searchsorted(times_F, end - SAME, side="left")) - 1)
    key = None if index.by_order or not len(index.key_pts_K) else index.key_before(first)
    return Cut(first, last, float(times_F[first]), _until(index, last), key)


def _until(index: FrameIndex, last: int) -> float:
    """When frame ``last`` leaves the screen."""
    return float(index.times_F[last + 1]) if last + 1 < len(index.times_F) else index.end


@dataclass
class Clipper:
    """Writes stretches of one opened video."""

    opener: Opener
    index: FrameIndex
    decoding: Decoding[Any]
    heartbeat: Heartbeat

    def write(self, command: ClipCommand, writer: PartWriter) -> ClipReport:
        """Write a stretch. Raises ``VideoError`` where it cannot be written as it was asked for."""
        cut = cut_of(self.index, command.start, command.end)
        obstacle = self._obstacle(cut, command)
        if obstacle is None and command.how != "encode":
            try:
                return self._copied(cut, command, writer)
            except (av.error.FFmpegError, LookupError, ValueError) as error:
                obstacle = f"copying failed ({' '.join(str(error).split())[:200]})"
                writer.restart()
        if command.how == "copy":
            raise VideoError(f"cannot be copied: {obstacle}; leave out --how copy", code="unsupported_container")
        return self._encoded(cut, command, writer)

    def _obstacle(self, cut: Cut, command: ClipCommand) -> str | None:
        """Why the pictures cannot be copied; None: they can."""
        opened = self.opener()
        codec = opened.stream.codec_context.codec.canonical_name
        if codec not in HELD[command.format]["video"]:
            return f"{codec} is not kept in {command.format}"
        if self.index.by_order or not self.index.one_packet_each or self.index.may_hide or cut.key is None:
            return "its packets have no times of their own"
        if int(self.index.key_pts_K[cut.key]) != int(self.index.pts_F[cut.first]) and command.how == "auto":
            return "it begins between two key frames"
        return None

    # ---------------------------------------------------------------------------------------------------- copying

    def _copied(self, cut: Cut, command: ClipCommand, writer: PartWriter) -> ClipReport:
        index, key = self.index, int(cut.key or 0)
        first = int(np.searchsorted(index.pts_F, index.key_pts_K[key]))
        zero = float(index.zero + index.times_F[first])
        opened = self.opener()
        wanted = set(index.pts_F[first : cut.last + 1].tolist())
        with _container(writer, command.format) as made:
            video = made.add_stream_from_template(opened.stream, opaque=True)
            tracks = Tracks(opened, made, command.format, zero, cut.end - float(index.times_F[first]))
            shown = self._mux_copied(opened, tracks, video, int(index.key_pts_K[key]), wanted)
        last = int(np.searchsorted(index.pts_F, shown))
        return self._report(command, writer, first, last, tracks.notes(), copied=True)

    def _mux_copied(self, opened: OpenedStream, tracks: Tracks, video: Any, first_pts: int, wanted: set[int]) -> int:
        """Copy packets until all ``wanted`` pictures are there; more come along where those are made of them.

        Returns the time of the last picture that was copied.
        """
        shown, begun, left = first_pts, False, set(wanted)
        for packet in _packets_from(self.opener, tracks.zero, self.heartbeat):
            if packet.stream_index != opened.stream.index:
                tracks.mux(packet)
                if not left and tracks.over(packet):
                    break
                continue
            begun = begun or packet.pts == first_pts
            if not begun or not left or packet.pts is None or packet.pts < first_pts:
                continue  # pictures before the key frame in time need what was left out
            left.discard(packet.pts)
            shown = max(shown, packet.pts)
            packet.pts, packet.dts = packet.pts - first_pts, None if packet.dts is None else packet.dts - first_pts
            packet.stream = video
            tracks.made.mux(packet)
        if left:
            raise LookupError(f"{len(left)} pictures did not come")
        return shown

    # --------------------------------------------------------------------------------------------------- encoding

    def _encoded(self, cut: Cut, command: ClipCommand, writer: PartWriter) -> ClipReport:
        opened = self.opener()
        zero = self.index.zero + cut.start
        pictures, written = self._pictures(cut), 0
        first = next(pictures, None)
        if first is None:
            raise VideoError("none of the frames of this stretch could be decoded", code="undecodable")
        with _container(writer, command.format) as made:
            encoder = _Encoder(made, first[1], opened, self._rate())
            tracks = Tracks(opened, made, command.format, zero, cut.end - cut.start)
            others = _packets_from(self.opener, zero, self.heartbeat)
            for number, pixels_HWC in itertools.chain([first], pictures):
                begin = float(self.index.times_F[number]) - cut.start
                encoder.write(pixels_HWC, begin, _until(self.index, number) - cut.start - begin)
                tracks.mux_until(others, begin)
                written += 1
            encoder.finish()
            tracks.mux_until(others, cut.end - cut.start + BEHIND)
        lost = cut.last + 1 - cut.first - written
        notes = [*encoder.notes, *tracks.notes(), *([f"{lost} of its frames could not be decoded"] if lost else [])]
        return self._report(command, writer, cut.first, cut.last, notes, copied=False)

    def _pictures(self, cut: Cut) -> Iterator[tuple[int, Pixels]]:
        self.decoding.begin(1)
        for number, picture in self.decoding.frames(list(range(cut.first, cut.last + 1))):
            self.heartbeat()
            yield number, self.decoding.to_rgb(picture)

    def _rate(self) -> Fraction:
        return Fraction(self.index.rate or 25.0).limit_denominator(100_000)

    def _report(
        self, command: ClipCommand, writer: PartWriter, first: int, last: int, notes: list[str], *, copied: bool
    ) -> ClipReport:
        writer.flush()
        return ClipReport(
            id=command.id,
            copied=copied,
            start=float(self.index.times_F[first]),
            end=_until(self.index, last),
            frames=last + 1 - first,
            size=writer.size,
            notes=notes,
        )


class Tracks:
    """The sound and the subtitles of a stretch: copied, with times moved by those of the first picture."""

    def __init__(
        self, opened: OpenedStream, made: OutputContainer, form: ClipFormat, zero: float, seconds: float
    ) -> None:
        """``zero``: seconds of the container's clock at which the stretch begins. ``seconds``: how long it is."""
        self.made, self.zero, self._seconds = made, zero, seconds
        self._copies: dict[int, Any] = {}
        self._left_out: list[str] = []
        self._begins: dict[int, float] = {}
        for stream in opened.container.streams:
            if stream.type not in ("audio", "subtitle"):
                continue
            codec = stream.codec_context.codec.canonical_name if stream.codec_context is not None else "unknown"
            if codec not in HELD[form][stream.type]:
                self._left_out.append(f"its {stream.type} track {stream.index} ({codec}) is not kept in {form}")
                continue
            self._copies[stream.index] = copy = made.add_stream_from_template(stream, opaque=True)
            language = stream.metadata.get("language") or ""
            if language.isascii() and language.isalpha() and len(language) <= 8:
                copy.metadata["language"] = language

    def mux(self, packet: Packet[Stream]) -> None:
        """Copy a packet if it belongs to the stretch."""
        copy = self._copies.get(packet.stream_index)
        if copy is None or packet.pts is None or not packet.size:
            return
        unit = packet.time_base
        begin = float(packet.pts * unit) - self.zero
        end = begin + float(max(packet.duration or 0, 0) * unit)
        is_text = copy.type == "subtitle"
        if begin >= self._seconds or (begin < 0 and not (is_text and end > 0)):
            return
        if is_text:
            begin, end = max(begin, 0.0), min(end, self._seconds)
            packet.duration = max(1, round(Fraction(end - begin) / unit))
        packet.pts = round(Fraction(begin).limit_denominator(10**9) / unit)
        packet.dts = packet.pts
        self._begins.setdefault(packet.stream_index, begin)
        packet.stream = copy
        self.made.mux(packet)

    def over(self, packet: Packet[Stream]) -> bool:
        """Whether nothing of the stretch follows this packet in any track that says so."""
        if packet.pts is None:
            return False
        begin = float(packet.pts * packet.time_base) - self.zero
        sound = [number for number, copy in self._copies.items() if copy.type == "audio"]
        return begin >= self._seconds + (BEHIND if len(sound) > 1 or packet.stream_index not in sound else 0.0)

    def mux_until(self, packets: Iterator[Packet[Stream]], seconds: float) -> None:
        """Copy what comes until ``seconds`` of the stretch."""
        if not self._copies:
            return
        for packet in packets:
            self.mux(packet)
            if packet.pts is not None and float(packet.pts * packet.time_base) - self.zero >= seconds:
                return

    def notes(self) -> list[str]:
        """What is not in the file, or late."""
        late = [
            f"its sound begins {begin:.2f} s after the pictures"
            for number, begin in self._begins.items()
            if begin > SOUND_LATE and self._copies[number].type == "audio"
        ]
        return [*self._left_out, *late]


class _Encoder:
    """Encodes RGB pictures as H.264, with the times they have."""

    def __init__(self, made: OutputContainer, first_HWC: Pixels, opened: OpenedStream, rate: Fraction) -> None:
        height, width = (side - side % 2 for side in first_HWC.shape[:2])
        if not height or not width:
            raise VideoError("pictures of one row or column cannot be encoded", code="no_decoder")
        name = next((name for name in ENCODERS if _has_encoder(name)), None)
        if name is None:
            raise VideoError("this FFmpeg has no encoder for video; use --how copy", code="no_decoder")
        self._made, self._height, self._width = made, height, width
        stream: Any = made.add_stream(name, rate=rate, options=ENCODERS[name])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = CLOCK
        context.colorspace, context.color_range = BT709, ColorRange.MPEG
        context.color_primaries, context.color_trc = BT709, BT709
        ratio, turned = opened.stream.sample_aspect_ratio, first_HWC.shape[:2] != _stored(opened)
        if ratio:
            context.sample_aspect_ratio = 1 / ratio if turned else ratio
        self._stream, self._reformatter = stream, VideoReformatter()
        self._durations: dict[int, int] = {}
        odd = first_HWC.shape[:2] != (height, width)
        self.notes = ["its last row or column of pixels is left out, since H.264 wants even sizes"] if odd else []

    def write(self, pixels_HWC: Pixels, begin: float, seconds: float) -> None:
        """Encode a picture that is shown from ``begin`` on for ``seconds``."""
        pixels_HWC = pixels_HWC[: self._height, : self._width]
        if pixels_HWC.shape[:2] != (self._height, self._width):
            raise VideoError("changes the size of its pictures in this stretch", code="undecodable")
        frame = self._reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC), format="rgb24"),
            format="yuv420p",
            src_colorspace=BT709,
            dst_colorspace=BT709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts, frame.time_base = round(begin / CLOCK), CLOCK
        self._durations[frame.pts] = max(1, round((begin + seconds) / CLOCK) - frame.pts)
        self._mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._mux(self._stream.encode())

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, 0)
            self._made.mux(packet)


def _stored(opened: OpenedStream) -> tuple[int, int]:
    context = opened.stream.codec_context
    return context.height, context.width


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True


def _container(writer: PartWriter, form: ClipFormat) -> OutputContainer:
    return av.open(writer, mode="w", format=form)


def _packets_from(opener: Opener, zero: float, heartbeat: Heartbeat) -> Iterator[Packet[Stream]]:
    """All packets from :data:`BEFORE` a time of the container's clock on, or from the first one.

    Where the container cannot seek, or goes behind that time, reading begins at the start.
    """
    opened = opener()
    begin = (opened.container.start_time or 0) / av.time_base
    if zero - BEFORE <= begin:
        return _alive(opened.container.demux(), heartbeat)
    try:
        opened.container.seek(int((zero - BEFORE) * av.time_base))
        packets = iter(opened.container.demux())
        held = []
        for packet in packets:
            held.append(packet)
            if packet.stream_index == opened.stream.index and packet.pts is not None:
                break
        if held and held[-1].pts is not None and held[-1].pts * held[-1].time_base <= zero + SAME:
            return _alive(itertools.chain(held, packets), heartbeat)
    except av.error.FFmpegError:
        pass  # it cannot seek
    return _alive(opener().container.demux(), heartbeat)


def _alive(packets: Iterable[Packet[Stream]], heartbeat: Heartbeat) -> Iterator[Packet[Stream]]:
    for packet in packets:
        heartbeat()
        yield packet
