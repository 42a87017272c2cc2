"""Video files, decoded in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from videoxl.errors import VideoError
from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.decoder.messages import FrameBatch, OpenCommand, ReadCommand, ReadReport, Result, VideoFacts
from videoxl.video.frames import Frames, Resize, Selection, Times
from videoxl.video.info import VideoInfo, VideoLimits
from videoxl.video.local_file import LocalFile, file_digest, mp4_complaint
from videoxl.video.sampling import Timeline
from videoxl.video.source import VideoSource, check_batch_frames

OPEN_COMMAND = 0
NAMED_FRAMES = 5
"""A warning names at most so many missing frames."""


class FileSource(VideoSource):
    """A video file. Opening reads all its packets, so the number and the times of its frames are exact."""

    def __init__(
        self, file: LocalFile, *, stream: int | None, reader: tuple[str, str], limits: VideoLimits, strict: bool
    ) -> None:
        self.name = file.name
        self.warnings = []
        self.digest = file_digest(file.fd)
        self._file = file
        self._strict = strict
        self._command = OPEN_COMMAND
        self._process = DecoderProcess(file.fd, file.name, limits.stall_seconds)
        try:
            facts, self.times_F = self._open(stream, reader[0], limits)
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

    def _open(self, stream: int | None, reader: str, limits: VideoLimits) -> tuple[VideoFacts, Times]:
        try:
            self._process.request(OpenCommand(id=OPEN_COMMAND, stream=stream, reader=reader, limits=limits))
            facts, payload = self._process.receive(OPEN_COMMAND)
        except VideoError as error:
            complaint = mp4_complaint(self._file)
            if error.code not in ("not_a_video", "undecodable", "no_video_stream") or complaint is None:
                raise
            raise VideoError(f"{self.name}: is not a playable video; {complaint}", code=error.code) from None
        if not isinstance(facts, VideoFacts):
            raise ValueError(f"{facts.kind} in answer to open")
        return facts, np.frombuffer(payload, np.float64)

    def _explain(self, loss: str) -> str:
        complaint = mp4_complaint(self._file)
        return f"{loss}; {complaint}" if complaint else loss

    def _describe(self, facts: VideoFacts, times_F: Times, reader: tuple[str, str]) -> VideoInfo:
        timeline = Timeline.from_times(times_F, facts.fps)
        return VideoInfo(
            width=facts.width,
            height=facts.height,
            duration=timeline.end,
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

    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        check_batch_frames(batch_frames)
        self._command += 1
        indices = selection.indices_F.tolist()
        self._process.request(ReadCommand(id=self._command, indices=indices, resize=resize, batch_frames=batch_frames))
        return self._batches(self._command, len(selection), resize, batch_frames)

    def _batches(self, command: int, count: int, resize: Resize | None, batch_frames: int) -> Iterator[Frames]:
        read = 0
        while True:
            if command != self._command:
                raise RuntimeError(f"{self.name}: another read() of this source has begun; use one at a time")
            answer, payload = self._next_answer(command)
            if isinstance(answer, ReadReport):
                self._report(answer, read, count)
                return
            frames = self._unpack(answer, payload, resize, batch_frames)
            read += len(frames)
            yield frames

    def _next_answer(self, command: int) -> tuple[Result, bytearray]:
        try:
            return self._process.receive(command)
        except VideoError as error:
            if not self._file.changed():
                raise
            raise VideoError(f"{error} (the file changed while reading)", code=error.code) from None

    def _unpack(self, batch: Result, payload: bytearray, resize: Resize | None, batch_frames: int) -> Frames:
        """Compare an answer with what was asked for: a decoder process that was taken over may send anything."""
        try:
            if not isinstance(batch, FrameBatch):
                raise ValueError(f"{batch.kind} in answer to read")
            size_fits = resize is None or batch.shape[1:3] == (resize.height, resize.width)
            if not size_fits or not 0 < batch.shape[0] <= batch_frames:
                raise ValueError(f"frames of shape {batch.shape}")
            return Frames(
                np.frombuffer(payload, np.uint8).reshape(batch.shape),
                np.array(batch.timestamps, np.float64),
                np.array(batch.indices, np.int64),
            )
        except (OverflowError, ValueError) as error:
            raise self._process.garbage(error) from None

    def _report(self, report: ReadReport, read: int, count: int) -> None:
        """Warn about what is missing or damaged; refuse when nothing could be read."""
        if read == 0:
            raise VideoError(
                f"{self.name}: none of the {count} chosen frames could be decoded; get the file again",
                code="undecodable",
            )
        changed = "; the file changed while reading" if self._file.changed() else ""
        if missing := report.missing:
            named = ", ".join(map(str, missing[:NAMED_FRAMES])) + ("..." if len(missing) > NAMED_FRAMES else "")
            text = f"{len(missing)} of {count} chosen frames could not be decoded (numbers {named}){changed}"
            self._warn(text, partial=True, strict=self._strict)
        elif report.damaged or report.bad_packets:
            text = f"{report.damaged} frames are damaged, {report.bad_packets} packets were unreadable{changed}"
            self._warn(text, partial=True, strict=self._strict)
        elif changed:
            self._warn(changed[2:], partial=True, strict=self._strict)

    def close(self) -> None:
        self._process.close()
        self._file.close()
