"""Video files, decoded in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from videoxl.errors import VideoError
from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.frames import Frames, Resize, Selection
from videoxl.video.info import VideoInfo, VideoLimits
from videoxl.video.local_file import LocalFile, file_digest, mp4_complaint
from videoxl.video.selection import Timeline
from videoxl.video.source import VideoSource, check_batch_frames

OPEN_REQUEST = 0
NAMED_FRAMES = 5


class FileSource(VideoSource):
    """A video file. Opening scans all packets, so count and times of its frames are exact."""

    def __init__(
        self, file: LocalFile, *, stream: int | None, reader: tuple[str, str], limits: VideoLimits, strict: bool
    ) -> None:
        self.name = file.name
        self.warnings = []
        self.digest = file_digest(file.fd)
        self._file = file
        self._strict = strict
        self._requests = OPEN_REQUEST
        self._process = DecoderProcess(file.fd, file.name, limits.stall_seconds)
        try:
            facts, payload = self._open(stream, reader[0], limits)
            self.times_F: np.ndarray = np.frombuffer(payload, np.float64)
            for text in facts["problems"]:
                self._warn(text, partial=False, strict=strict)
            for text in facts["losses"]:
                self._warn(self._explain(text), partial=True, strict=strict)
            self.info = self._describe(facts, reader)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            self.close()
            raise self._process.nonsense(error) from None
        except BaseException:
            self.close()
            raise

    def _open(self, stream: int | None, reader: str, limits: VideoLimits) -> tuple[dict[str, Any], bytearray]:
        command = {"op": "open", "id": OPEN_REQUEST, "stream": stream, "reader": reader, "limits": asdict(limits)}
        try:
            self._process.request(command)
            return self._process.receive(OPEN_REQUEST)
        except VideoError as error:
            complaint = mp4_complaint(self._file)
            if error.code not in ("not_a_video", "undecodable", "no_video_stream") or complaint is None:
                raise
            raise VideoError(f"{self.name}: is not a playable video; {complaint}", code=error.code) from None

    def _explain(self, loss: str) -> str:
        complaint = mp4_complaint(self._file)
        return f"{loss}; {complaint}" if complaint else loss

    def _describe(self, facts: dict[str, Any], reader: tuple[str, str]) -> VideoInfo:
        timeline = Timeline.from_times(self.times_F, facts["fps"])
        same = ("width", "height", "codec", "container", "rotation", "stream")
        return VideoInfo(
            **{name: facts[name] for name in same},
            duration=timeline.end,
            fps=timeline.fps,
            frames=len(self.times_F),
            variable_rate=timeline.variable_rate,
            reader=reader[0],
            reader_reason=reader[1],
            warnings=tuple(self.warnings),
        )

    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        check_batch_frames(batch_frames)
        self._requests += 1
        self._process.request(
            {
                "op": "read",
                "id": self._requests,
                "indices": selection.indices_F.tolist(),
                "resize": asdict(resize) if resize else None,
                "batch_frames": batch_frames,
            }
        )
        return self._answers(self._requests, len(selection), resize, batch_frames)

    def _answers(self, request: int, count: int, resize: Resize | None, batch_frames: int) -> Iterator[Frames]:
        read = 0
        while True:
            if request != self._requests:
                raise RuntimeError(f"{self.name}: another read() of this source has begun; use one at a time")
            facts, payload = self._next_answer(request)
            if facts["kind"] == "done":
                self._report(facts, read, count)
                return
            frames = self._unpack(facts, payload, resize, batch_frames)
            read += len(frames)
            yield frames

    def _next_answer(self, request: int) -> tuple[dict[str, Any], bytearray]:
        try:
            return self._process.receive(request)
        except VideoError as error:
            if not self._file.changed():
                raise
            raise VideoError(f"{error} (the file changed while reading)", code=error.code) from None

    def _unpack(self, facts: dict[str, Any], payload: bytearray, resize: Resize | None, most: int) -> Frames:
        """Judge a message by what was asked for; a decoder process that was taken over may send anything."""
        try:
            shape = tuple(facts["shape"])
            if (resize and shape[1:3] != (resize.height, resize.width)) or not 0 < shape[0] <= most:
                raise ValueError(f"frames of shape {shape}")
            return Frames(
                np.frombuffer(payload, np.uint8).reshape(shape),
                np.array(facts["timestamps"], np.float64),
                np.array(facts["indices"], np.int64),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._process.nonsense(error) from None

    def _report(self, facts: dict[str, Any], read: int, count: int) -> None:
        """Warn about what is missing or damaged; refuse when nothing could be read."""
        if read == 0:
            raise VideoError(
                f"{self.name}: none of the {count} chosen frames could be decoded; get the file again",
                code="undecodable",
            )
        changed = "; the file changed while reading" if self._file.changed() else ""
        missing = facts["missing"]
        if missing:
            named = ", ".join(map(str, missing[:NAMED_FRAMES])) + ("..." if len(missing) > NAMED_FRAMES else "")
            text = f"{len(missing)} of {count} chosen frames could not be decoded (numbers {named}){changed}"
            self._warn(text, partial=True, strict=self._strict)
        elif facts["damaged"] or facts["bad_packets"]:
            text = f"{facts['damaged']} frames are damaged, {facts['bad_packets']} packets were unreadable{changed}"
            self._warn(text, partial=True, strict=self._strict)
        elif changed:
            self._warn(changed[2:], partial=True, strict=self._strict)

    def close(self) -> None:
        self._process.close()
        self._file.close()
