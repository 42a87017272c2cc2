"""Video files, decoded in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from videoxl.errors import VideoError
from videoxl.video.decoder.checks import CheckedFacts, ExpectedFrames, check_facts
from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.decoder.messages import (
    ClipCommand,
    ClipFormat,
    ClipHow,
    ClipPart,
    ClipReport,
    OpenCommand,
    ReadReport,
    SoundCommand,
    SubtitleAnswer,
    SubtitleCommand,
    VideoFacts,
)
from videoxl.video.decoder.pool import DecoderPool
from videoxl.video.decoder.segments import DecoderProcesses, Segment, choose_processes, cut, useful_processes
from videoxl.video.decoder.sound_client import SoundReading
from videoxl.video.frames import Frames, Numbers, Resize, Selection, Times
from videoxl.video.info import DecodingWork, VideoInfo, VideoLimits
from videoxl.video.local_file import LocalFile, content_digest, file_digest, mp4_complaint
from videoxl.video.sampling import Timeline
from videoxl.video.sound import Sound
from videoxl.video.source import VideoSource, check_batch_frames
from videoxl.video.subtitles import Cue, cues_from

OPEN_COMMAND = 0
NAMED_FRAMES = 5
"""A warning names at most so many missing frames."""


@dataclass(frozen=True)
class _Reading:
    """What one ``read`` asked for, and from whom."""

    command: int
    segments: list[Segment]
    processes: list[DecoderProcess]
    """They take the segments in turn."""
    resize: Resize | None
    batch_frames: int

    @property
    def count(self) -> int:
        """How many frames were asked for."""
        return sum(len(segment.numbers) for segment in self.segments)


class FileSource(VideoSource):
    """A video file. Opening reads all its packets, so the number and the times of its frames are exact."""

    def __init__(
        self,
        file: LocalFile,
        *,
        stream: int | None,
        reader: tuple[str, str],
        limits: VideoLimits,
        strict: bool,
        decoder_processes: DecoderProcesses = "auto",
    ) -> None:
        self.name = file.name
        self.warnings = []
        self.digest = file_digest(file.fd)
        self._file = file
        self._strict = strict
        self._allowed: DecoderProcesses = decoder_processes if reader[0] == "pyav" else 1
        self._limits = limits
        self._command = OPEN_COMMAND
        self._process = DecoderProcess(file.fd, file.name, limits)
        self._pool = DecoderPool(self._process, file.fd, file.name)
        try:
            opening = OpenCommand(id=OPEN_COMMAND, stream=stream, reader=reader[0], limits=limits)
            checked = self._open(opening)
            facts, self.times_F, self._starts_K = checked.facts, checked.times_F, checked.starts_K
            self._pool.share_index(opening, checked.index)
            for text in facts.problems:
                self._warn(text, partial=False, strict=strict)
            for text in facts.losses:
                self._warn(self._explain(text), partial=True, strict=strict)
            self.info = self._describe(facts, self.times_F, reader)
        except (IndexError, ValueError) as error:
            self.close()
            raise self._process.garbage(error) from None
        except BaseException:
            self.close()
            raise

    def _open(self, opening: OpenCommand) -> CheckedFacts:
        try:
            self._process.request(opening)
            return check_facts(*self._process.receive(OPEN_COMMAND), opening)
        except VideoError as error:
            complaint = mp4_complaint(self._file)
            if error.code not in ("not_a_video", "undecodable", "no_video_stream") or complaint is None:
                raise
            raise VideoError(f"{self.name}: is not a playable video; {complaint}", code=error.code) from None

    def _explain(self, loss: str) -> str:
        complaint = mp4_complaint(self._file)
        return f"{loss}; {complaint}" if complaint else loss

    def _describe(self, facts: VideoFacts, times_F: Times, reader: tuple[str, str]) -> VideoInfo:
        timeline = Timeline.from_times(times_F, facts.fps, facts.end)
        return VideoInfo(
            width=facts.width,
            height=facts.height,
            start=timeline.start,
            duration=timeline.end - timeline.start,
            fps=timeline.fps,
            frames=len(times_F),
            codec=facts.codec,
            container=facts.container,
            rotation=facts.rotation,
            stream=facts.stream,
            variable_rate=timeline.variable_rate,
            reader=reader[0],
            reader_reason=reader[1],
            warnings=tuple(self.warnings),
        )

    def subtitle_track(self, which: str = "") -> tuple[Cue, ...]:
        self._command += 1
        self._process.request(SubtitleCommand(id=self._command, which=which))
        answer, _ = self._process.receive(self._command)
        try:
            if not isinstance(answer, SubtitleAnswer):
                raise ValueError(f"{answer.kind} in answer to subtitles")
            cues = cues_from(answer.texts)
        except ValueError as error:
            raise self._process.garbage(error) from None
        for note in answer.notes:
            self.note(note)
        return cues

    def sound(self, which: str = "", start_s: float = 0.0, end_s: float | None = None) -> Sound | None:
        self._command += 1
        command = self._command
        most = self._limits.max_duration
        end = most if end_s is None else min(end_s, most)

        def check() -> None:
            if command != self._command:
                raise RuntimeError(f"{self.name}: another reading of this source has begun; use one at a time")

        asked = SoundCommand(id=command, which=which, start=min(start_s, end), end=end)
        with self._errors_of_processes():
            return SoundReading(self._process, asked, check, self.note).begin()

    def clip(
        self, start: float, end: float, form: ClipFormat, how: ClipHow
    ) -> Iterator[tuple[int, bytearray] | ClipReport]:
        """The bytes of a stretch as a file of its own, in parts with their places, and at last a report.

        Raises ``VideoError``: ``no_frames_selected``, ``unsupported_container``.
        """
        self._command += 1
        with self._errors_of_processes():
            self._process.request(ClipCommand(id=self._command, start=start, end=end, format=form, how=how))
            while True:
                answer, payload = self._process.receive(self._command)
                if isinstance(answer, ClipReport):
                    yield answer
                    return
                if not isinstance(answer, ClipPart):
                    raise self._process.garbage(ValueError(f"{answer.kind} in answer to clip"))
                yield answer.offset, payload

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    def garbage(self, what: Exception) -> VideoError:
        """The error for an answer that cannot be right. Ends the process that gave it."""
        return self._process.garbage(what)

    def content_digest(self) -> str | None:
        return content_digest(self._file.fd)

    def decoding_work(self, selection: Selection) -> DecodingWork:
        """What it takes to decode a selection, and how many of the allowed processes can share it."""
        segments = self._cut(selection.indices_F)
        most = useful_processes(segments)
        return DecodingWork(
            sum(segment.work for segment in segments), most if self._allowed == "auto" else min(most, self._allowed)
        )

    def _cut(self, numbers_F: Numbers) -> list[Segment]:
        return cut(numbers_F, self._starts_K, self.info.width * self.info.height)

    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        check_batch_frames(batch_frames)
        numbers_F = selection.indices_F
        self._check_numbers(numbers_F)
        self._command += 1
        pixels = self.info.width * self.info.height
        segments = self._cut(numbers_F)
        processes = choose_processes(
            segments,
            self._allowed,
            pixels=pixels,
            batch_frames=batch_frames,
            resized_pixels=resize.width * resize.height if resize else pixels,
        )
        with self._errors_of_processes():
            chosen = self._pool.begin(self._command, segments, processes, resize=resize, batch_frames=batch_frames)
        return self._batches(_Reading(self._command, segments, chosen, resize, batch_frames))

    def _check_numbers(self, numbers_F: Numbers) -> None:
        assert self.times_F is not None
        if not len(numbers_F) or (np.diff(numbers_F) < 0).any():
            raise ValueError("a selection names at least one frame, and frame numbers never descend")
        if numbers_F[0] < 0 or numbers_F[-1] >= len(self.times_F):
            raise ValueError(f"frame numbers lie in 0..{len(self.times_F) - 1}, got {numbers_F[0]}..{numbers_F[-1]}")

    def _batches(self, reading: _Reading) -> Iterator[Frames]:
        read = 0
        reports: list[ReadReport] = []
        for turn, segment in enumerate(reading.segments):
            process = reading.processes[turn % len(reading.processes)]
            expected = self._expected(reading, segment)
            while not isinstance(answer := self._next_answer(reading, expected, process), ReadReport):
                read += len(answer)
                yield answer
            reports.append(answer)
        self._report(reports, read, reading.count)

    def _expected(self, reading: _Reading, segment: Segment) -> ExpectedFrames:
        assert self.times_F is not None
        return ExpectedFrames(
            segment.numbers,
            self.times_F,
            resize=reading.resize,
            batch_frames=reading.batch_frames,
            max_pixels=self._limits.max_pixels,
        )

    def _next_answer(self, reading: _Reading, expected: ExpectedFrames, process: DecoderProcess) -> Frames | ReadReport:
        if reading.command != self._command:
            raise RuntimeError(f"{self.name}: another read() of this source has begun; use one at a time")
        with self._errors_of_processes():
            answer, payload = process.receive(reading.command)
            try:
                if isinstance(answer, ReadReport):
                    return expected.report(answer)
                return expected.frames(answer, payload)
            except ValueError as error:
                raise process.garbage(error) from None

    @contextmanager
    def _errors_of_processes(self) -> Iterator[None]:
        """End all processes where one has ended, and say so when the file changed in the meantime."""
        try:
            yield
        except VideoError as error:
            self._pool.close_if_one_ended()
            if not self._file.changed():
                raise
            raise VideoError(f"{error} (the file changed while reading)", code=error.code) from None

    def _report(self, reports: list[ReadReport], read: int, count: int) -> None:
        """Warn about what is missing or damaged; refuse when nothing could be read."""
        if read == 0:
            raise VideoError(
                f"{self.name}: none of the {count} chosen frames could be decoded; get the file again",
                code="undecodable",
            )
        changed = "; the file changed while reading" if self._file.changed() else ""
        missing = [number for report in reports for number in report.missing]
        damaged, bad_packets = sum(r.damaged for r in reports), sum(r.bad_packets for r in reports)
        if missing:
            named = ", ".join(map(str, missing[:NAMED_FRAMES])) + ("..." if len(missing) > NAMED_FRAMES else "")
            text = f"{len(missing)} of {count} chosen frames could not be decoded (numbers {named}){changed}"
            self._warn(text, partial=True, strict=self._strict)
        elif damaged or bad_packets:
            text = f"{damaged} frames are damaged, {bad_packets} packets were unreadable{changed}"
            self._warn(text, partial=True, strict=self._strict)
        elif changed:
            self._warn(changed[2:], partial=True, strict=self._strict)

    def close(self) -> None:
        self._pool.close()
        self._file.close()
