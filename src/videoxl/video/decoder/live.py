"""Inside the decoder process: the pictures of a stream that comes in through a pipe, as they come."""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Iterator
from functools import partial

import av.error
import numpy as np
from av.video.frame import VideoFrame

from videoxl.errors import VideoError
from videoxl.video.decoder.channel import Channel
from videoxl.video.decoder.demux import check_pixels, choose_stream, open_container, prepare_stream
from videoxl.video.decoder.hdr import transfer_of
from videoxl.video.decoder.interlaced import deinterlaced
from videoxl.video.decoder.messages import LiveCommand, LiveFacts, LiveFrame, LiveReport
from videoxl.video.decoder.packets import Heartbeat
from videoxl.video.decoder.pyav import Orientation, orientation_of
from videoxl.video.decoder.rgb import RgbConverter
from videoxl.video.frames import Pixels
from videoxl.video.live.clock import StreamClock
from videoxl.video.sampling import ALMOST

WAIT_SECONDS = 0.5
PROBING = {"probesize": "2000000", "analyzeduration": "3000000"}
"""Bytes and microseconds that finding out what a stream holds may take: a live one would be late for as long."""
MOST_BAD_PACKETS = 5000
"""After so many packets in a row without a picture the stream is given up."""


class PipeReader:
    """A file object over a pipe, which cannot seek. Waiting for bytes is no standing still."""

    def __init__(self, fd: int, heartbeat: Heartbeat) -> None:
        self._fd, self._heartbeat = fd, heartbeat

    def read(self, size: int) -> bytes:
        while not select.select([self._fd], [], [], WAIT_SECONDS)[0]:
            self._heartbeat()
        self._heartbeat()
        return os.read(self._fd, size)


class LiveReader:
    """Decodes one stream until it ends, and sends the pictures at the rate that was asked for."""

    def __init__(self, channel: Channel, command: LiveCommand) -> None:
        self._channel, self._command = channel, command
        self._clock = StreamClock()
        self._next_tick = 0
        self._orientation: Orientation | None = None
        self._converter = RgbConverter()
        self._bad = self._damaged = self._sent = 0

    def read(self, fd: int, on_opened: partial[None]) -> None:
        """Send what the stream is, its pictures, and a report. Raises ``VideoError`` for what is no video."""
        container = open_container(PipeReader(fd, self._channel.heartbeat), self._command.limits, PROBING)
        on_opened()
        stream = choose_stream(container, None)
        prepare_stream(stream, self._command.limits)
        codec = stream.codec_context.codec.canonical_name
        told = False
        for frame in self._frames(container.demux(stream)):
            arrived = time.monotonic()
            check_pixels(frame.width, frame.height, self._command.limits)
            if not told:
                told = True
                self._learn(frame, stream.codec_context.color_trc)
                rate = float(stream.average_rate) if stream.average_rate else None
                self._channel.send(
                    LiveFacts(
                        id=self._command.id,
                        codec=codec,
                        container=container.format.name,
                        fps=rate if rate and math.isfinite(rate) and rate > 0 else None,
                    )
                )
            self._pass_on(frame, arrived)
        self._channel.send(
            LiveReport(id=self._command.id, frames=self._sent, bad_packets=self._bad, damaged=self._damaged)
        )

    def _frames(self, packets: Iterator[object]) -> Iterator[VideoFrame]:
        in_a_row = 0
        while True:
            self._channel.heartbeat()
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, IndexError):  # cut off, or the list of streams changed
                return
            if packet is None:
                return
            try:
                frames = packet.decode()  # type: ignore[attr-defined]
            except MemoryError:
                raise
            except av.error.FFmpegError:
                self._bad += 1
                frames = []
            in_a_row = 0 if frames else in_a_row + 1
            if in_a_row > MOST_BAD_PACKETS:
                raise VideoError("sends packets that give no picture", code="undecodable")
            yield from frames

    def _learn(self, frame: VideoFrame, transfer: int) -> None:
        self._orientation = orientation_of(frame)
        self._converter = RgbConverter(transfer_of(frame, transfer))

    def _pass_on(self, frame: VideoFrame, arrived: float) -> None:
        """Send a picture if it is the first at or after a tick."""
        seconds = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        at = self._clock.place(seconds, arrived)
        if at * self._command.fps + ALMOST < self._next_tick:
            return
        self._next_tick = math.floor(at * self._command.fps + ALMOST) + 1
        self._damaged += bool(frame.is_corrupt)
        self._sent += 1
        pixels = np.ascontiguousarray(self._to_rgb(frame))
        answer = LiveFrame(id=self._command.id, shape=pixels.shape, pts=seconds, arrived=arrived)
        self._channel.send(answer, pixels.data.cast("B"))

    def _to_rgb(self, frame: VideoFrame) -> Pixels:
        pixels = self._converter.convert(frame)
        if frame.interlaced_frame:
            pixels = deinterlaced(frame, pixels, self._converter.convert)
        return self._orientation.apply(pixels) if self._orientation else pixels
