"""Compares what a decoder process sends with what it was asked for: one that was taken over may send anything.

Sizes and types of single values are checked where messages are read (:mod:`videoxl.video.decoder.messages`). All
functions here raise ``ValueError``, and the caller ends the process (:meth:`DecoderProcess.garbage`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videoxl.video.decoder.messages import FrameBatch, OpenCommand, ReadReport, Result, VideoFacts
from videoxl.video.frames import Frames, Numbers, Resize, Times


@dataclass(frozen=True)
class CheckedFacts:
    """What a decoder process says about a video, found possible."""

    facts: VideoFacts
    times_F: Times
    starts_K: Numbers
    """Frames at which decoding can begin."""
    index: bytes
    """For other decoder processes, which check it themselves."""


def check_facts(facts: Result, payload: bytearray, opening: OpenCommand) -> CheckedFacts:
    """The answer to an opening command."""
    if not isinstance(facts, VideoFacts):
        raise ValueError(f"{facts.kind} in answer to open")
    limits = opening.limits
    if facts.width * facts.height > limits.max_pixels or facts.frames > limits.max_frames_walked:
        raise ValueError(f"{facts.frames} frames of {facts.width}x{facts.height}, which is above the limits")
    if opening.stream not in (None, facts.stream):
        raise ValueError(f"stream {facts.stream} instead of {opening.stream}")
    times_F = np.frombuffer(payload, np.float64, facts.frames)
    starts_K = np.frombuffer(payload, np.int64, facts.starts, times_F.nbytes)
    if not np.isfinite(times_F).all() or times_F[0] < 0 or (np.diff(times_F) < 0).any():
        raise ValueError("times that do not ascend from 0 or later")
    if facts.end < times_F[-1] or times_F[-1] > limits.max_duration:
        raise ValueError(f"a last frame from {times_F[-1]:g} s to {facts.end:g} s")
    if starts_K[0] != 0 or starts_K[-1] >= facts.frames or (np.diff(starts_K) <= 0).any():
        raise ValueError("key frames that do not ascend from 0")
    return CheckedFacts(facts, times_F, starts_K, bytes(payload[times_F.nbytes + starts_K.nbytes :]))


class ExpectedFrames:
    """What must come in answer to a segment: frames in order, each at most as often as it was asked for."""

    def __init__(
        self, numbers: list[int], times_F: Times, *, resize: Resize | None, batch_frames: int, max_pixels: int
    ) -> None:
        """``numbers``: those asked for, never descending. ``times_F``: of all frames of the video."""
        self._numbers = numbers
        self._times_F = times_F
        self._resize = resize
        self._batch_frames = batch_frames
        self._max_pixels = max_pixels
        self._at = 0
        self._left_out: list[int] = []

    def frames(self, batch: Result, payload: bytearray) -> Frames:
        """The frames in an answer."""
        if not isinstance(batch, FrameBatch):
            raise ValueError(f"{batch.kind} in answer to read")
        self._check_shape(batch.shape, len(payload))
        if len(batch.indices) != batch.shape[0]:
            raise ValueError(f"{len(batch.indices)} numbers of {batch.shape[0]} frames")
        for number in batch.indices:
            self._pass(number)
        indices_F = np.array(batch.indices, np.int64)
        pixels_FHWC = np.frombuffer(payload, np.uint8).reshape(batch.shape)
        return Frames(pixels_FHWC, self._times_F[indices_F], indices_F)

    def report(self, report: ReadReport) -> ReadReport:
        """The report at the end, which must name exactly the frames that did not come."""
        left_out = {*self._left_out, *self._numbers[self._at :]}
        if set(report.missing) != left_out or len(report.missing) != len(left_out):
            raise ValueError(f"{len(report.missing)} frames reported missing, but {len(left_out)} are")
        return report

    def _check_shape(self, shape: tuple[int, int, int, int], size: int) -> None:
        count, height, width, channels = shape
        if self._resize:
            fits = (height, width) == (self._resize.height, self._resize.width)
        else:
            fits = height * width <= self._max_pixels
        if not fits or channels != 3 or count > self._batch_frames or size != count * height * width * channels:
            raise ValueError(f"frames of shape {shape} in {size} bytes")

    def _pass(self, number: int) -> None:
        while self._at < len(self._numbers) and self._numbers[self._at] < number:
            self._left_out.append(self._numbers[self._at])
            self._at += 1
        if self._at == len(self._numbers) or self._numbers[self._at] != number:
            raise ValueError(f"frame {number}, which was not asked for here")
        self._at += 1
