"""This program's side of a decoder process that reads a stream."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from videoxl.errors import VideoError
from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.decoder.messages import LiveCommand, LiveFacts, LiveFrame, LiveReport, Result
from videoxl.video.frames import Pixels
from videoxl.video.info import VideoLimits

FOREVER = 10**8
"""Seconds: a stream may go on for years."""


@dataclass(frozen=True)
class ArrivedFrame:
    """A picture of a stream, with its two times."""

    pixels_HWC: Pixels
    pts: float | None
    """Seconds of the stream's own clock; None: it gave none."""
    arrived: float
    """When it was decoded, in seconds of ``time.monotonic()``."""


class LiveDecoder:
    """A decoder process that gets bytes through a pipe, and gives pictures."""

    def __init__(self, name: str, fps: float, limits: VideoLimits) -> None:
        """Raises :class:`SystemResourceError`."""
        self._limits = replace(limits, total_seconds=float(FOREVER), cpu_seconds=FOREVER)
        reading, self._writing = os.pipe()
        try:
            self._process = DecoderProcess(reading, name, self._limits)
        except BaseException:
            os.close(self._writing)
            raise
        finally:
            os.close(reading)
        self._closing = threading.Lock()
        self._command = LiveCommand(id=0, reader="pyav", fps=fps, limits=self._limits)
        self.facts: LiveFacts | None = None
        """What the stream is, from the first picture on."""
        self.report: LiveReport | None = None
        """What went wrong on the way, once it has ended."""

    def feed(self, chunks: Iterator[bytes]) -> None:
        """Hand bytes on until there are none, or the process is gone. To be called in a thread of its own."""
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self._writing, view) :]
        except BrokenPipeError:
            pass  # the process is gone, which frames() says
        finally:
            self._end_input()

    def _end_input(self) -> None:
        with self._closing:
            if self._writing >= 0:
                os.close(self._writing)
                self._writing = -1

    def frames(self) -> Iterator[ArrivedFrame]:
        """Yield pictures as they come. Raises ``VideoError`` for what is no video."""
        begun = time.monotonic()
        self._process.request(self._command)
        while True:
            answer, payload = self._process.receive(self._command.id)
            if isinstance(answer, LiveReport) and not payload:
                self.report = answer
                return
            if isinstance(answer, LiveFacts) and not payload and self.facts is None:
                self.facts = answer
                continue
            try:
                yield self._checked(answer, payload, begun)
            except ValueError as error:
                raise self._process.garbage(error) from None

    def _checked(self, answer: Result, payload: bytearray, begun: float) -> ArrivedFrame:
        if not isinstance(answer, LiveFrame) or self.facts is None:
            raise ValueError(f"{answer.kind} in answer to live")
        height, width, channels = answer.shape
        if channels != 3 or height * width > self._limits.max_pixels or len(payload) != height * width * 3:
            raise ValueError(f"a picture of {height}x{width}x{channels} in {len(payload)} bytes")
        if not begun <= answer.arrived <= time.monotonic():
            raise ValueError(f"a picture that came in at {answer.arrived} s")
        return ArrivedFrame(np.frombuffer(payload, np.uint8).reshape(answer.shape), answer.pts, answer.arrived)

    def close(self) -> None:
        """End the process. May be called more than once."""
        self._process.close()


def chunks_of(read: Callable[[], bytes]) -> Iterator[bytes]:
    """What a feed reads, until it ends."""
    while chunk := read():
        yield chunk


__all__ = ["ArrivedFrame", "LiveDecoder", "VideoError", "chunks_of"]
