"""The decoder processes of one file: the first has made the index, the others get it and share the work."""

from __future__ import annotations

from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.decoder.messages import OpenCommand, ReadCommand, VideoFacts
from videoxl.video.decoder.segments import Segment
from videoxl.video.frames import Resize
from videoxl.video.host import usable_cores

MOST_FINISHERS = 8
"""A process converts and resizes in at most so many threads."""


class DecoderPool:
    """Decoder processes for one file. They end with :meth:`close`, with this object, or with this program."""

    def __init__(self, first: DecoderProcess, file_fd: int, name: str) -> None:
        self._processes = [first]
        self._file_fd = file_fd
        self._name = name
        self._opening: tuple[OpenCommand, bytes] | None = None

    def share_index(self, opening: OpenCommand, index: bytes) -> None:
        """Keep what opens the file in the others: the command that opened it in the first, and the index from there."""
        self._opening = opening, index

    def begin(
        self, command: int, segments: list[Segment], processes: int, *, resize: Resize | None, batch_frames: int
    ) -> list[DecoderProcess]:
        """Ask for the segments, in turn, from ``processes`` processes, or fewer if the system starts no more.

        Returns them in that order. All others end what they are doing.
        """
        first, *others = self._processes
        missing = processes - len(self._processes)
        if missing > 0 and self._opening is not None:
            others += self._start(missing, *self._opening)
        chosen = [first, *others][:processes]
        finishers = min(MOST_FINISHERS, -(-usable_cores() // len(chosen)))
        for turn, process in enumerate([first, *others]):
            share = [segment.numbers for segment in segments[turn :: len(chosen)]] if turn < len(chosen) else []
            process.request(
                ReadCommand(
                    id=command,
                    segments=share,
                    segments_in_all=len(segments),
                    resize=resize,
                    batch_frames=batch_frames,
                    finishers=finishers,
                )
            )
        return chosen

    def _start(self, count: int, opening: OpenCommand, index: bytes) -> list[DecoderProcess]:
        """Start ``count`` processes, and wait until they have opened the file. All of them open it at once."""
        started: list[DecoderProcess] = []
        for _ in range(count):
            try:
                process = DecoderProcess(self._file_fd, self._name, opening.limits)
            except OSError:  # no descriptors or no processes left: those that there are do the work
                break
            self._processes.append(process)
            process.request(opening, index)
            started.append(process)
        for process in started:
            facts, _ = process.receive(opening.id)
            if not isinstance(facts, VideoFacts):
                raise process.garbage(ValueError(f"{facts.kind} in answer to open"))
        return started

    def close_if_one_ended(self) -> None:
        """End all processes when one of them has ended: the file is damaged, or has taken it over."""
        if not all(process.is_open for process in self._processes):
            self.close()

    def close(self) -> None:
        """Kill all processes. May be called more than once."""
        for process in self._processes:
            process.close()
