"""The process that owns the engine: ``python -m videoxl.server.worker DESCRIPTOR SETTINGS``.

It reads one video at a time. At every tile border of a reading it answers the questions that wait. What goes wrong with
a request is that request's error; only a dead process is an error of the worker.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from videoxl.config import Generation, Sampling, decode_from_string, prefill_from_string
from videoxl.errors import MemoryFileError, VideoXLError
from videoxl.inference.answers import Answer
from videoxl.inference.asking import TOGETHER
from videoxl.inference.decode.siglip import SiglipRelevance
from videoxl.inference.engine import VideoXL, load
from videoxl.inference.progress import Progress
from videoxl.memory.video_memory import VideoMemory
from videoxl.server.inbox import Inbox
from videoxl.server.protocol import (
    STREAM,
    Answered,
    Ask,
    Failed,
    Progressed,
    Read,
    ReadDone,
    Ready,
    Reply,
    Said,
    Watch,
    to_line,
)
from videoxl.server.shared import Between, SharedMemories, SharedMemory
from videoxl.server.stream_worker import Streams
from videoxl.settings import from_plain
from videoxl.video import VideoLimits

logger = logging.getLogger(__name__)
NO_NAMES: Mapping[str, str] = {}
LOOK_EVERY = 0.1
"""Seconds between two looks at whether a stream has brought something."""
TELL_EVERY = 0.2
"""Seconds between two reports of progress."""
PR_SET_PDEATHSIG = 1
ALIVE_EVERY = 5.0
"""Seconds after which a long answer says that it goes on."""


class CancelledError(Exception):
    """The request in work was cancelled."""


class HotMemories:
    """Memories that are loaded. Those that were not asked longest go first."""

    def __init__(self, engine: VideoXL, most_bytes: int) -> None:
        self._engine, self._most = engine, most_bytes
        self._held: OrderedDict[str, VideoMemory] = OrderedDict()

    def get(self, path: str) -> VideoMemory:
        """The memory in a file, loaded if it is not. Raises :class:`videoxl.MemoryFileError`."""
        memory = self._held.get(path)
        if memory is None:
            memory = VideoMemory.load(path, self._engine)
        self.put(path, memory)
        return memory

    def put(self, path: str, memory: VideoMemory) -> None:
        """Hold a memory, and let go of others where there is too much."""
        self._held[path] = memory
        self._held.move_to_end(path)
        while len(self._held) > 1 and sum(one.nbytes for one in self._held.values()) > self._most:
            self._held.popitem(last=False)

    def clear(self) -> None:
        """Let go of all: each is loaded again when it is asked."""
        self._held.clear()

    def forget(self, path: str) -> None:
        """Let go of a memory."""
        self._held.pop(path, None)


class Worker:
    """Serves the requests of one front until that is gone."""

    def __init__(
        self,
        engine: VideoXL,
        connection: socket.socket,
        hot_bytes: int,
        siglip: SiglipRelevance | None = None,
        shared: str | None = None,
    ) -> None:
        """``siglip``: looks at the frames that are read, so that search finds them."""
        self.engine, self._siglip = engine, siglip
        self._shared = SharedMemories(shared) if shared else None
        self._out = connection.makefile("wb", buffering=0)
        self._hot = HotMemories(engine, hot_bytes)
        self._inbox = Inbox(connection.makefile("rb"), self._cancelled)
        self._streams = Streams(engine, self._tell)

    def run(self) -> None:
        """Do what comes in."""
        about = self.engine.model_id
        device, two_levels = str(self.engine.device), self.engine.config.traits.two_levels
        self._tell(Ready(self.engine.name, about.family, about.fingerprint, device, about.dtype, two_levels))
        pause: float | None = None
        while self._inbox.wait(pause):
            self._serve_questions()
            pause = self._watch_streams()
            if (reading := self._inbox.next_read()) is not None:
                with self._answering([reading.id], {os.path.basename(reading.path): reading.name}):
                    self._read(reading)

    def _watch_streams(self) -> float | None:
        """Read a stretch of the stream whose turn it is. Returns how long nothing will be to do, for streams."""
        while (message := self._inbox.next_stream()) is not None:
            if isinstance(message, Watch):
                self._streams.begin(message)
            else:
                self._streams.end(message)
        read = self._streams.step()
        return 0.0 if read else LOOK_EVERY if len(self._streams) else None

    def _serve_questions(self) -> None:
        while (forgotten := self._inbox.next_forget()) is not None:
            self._hot.forget(forgotten.memory)
        waiting = self._inbox.waiting_asks()  # not those that come meanwhile: a reading would never go on
        while asks := self._inbox.next_asks(TOGETHER, waiting):
            with self._answering([ask.id for ask in asks]):
                if asks[0].memory.startswith(STREAM):
                    for ask in asks:
                        with self._answering([ask.id]):
                            self._answer_one(ask)
                elif len(asks) > 1:
                    self._answer_together(asks)
                elif asks[0].stream:
                    self._stream(asks[0])
                else:
                    self._answer_one(asks[0])

    # ------------------------------------------------------------------------------------------------ readings

    def _read(self, reading: Read) -> None:
        problems: list[str] = []
        if not os.path.exists(reading.target) and not self._fetched(reading, problems):
            if not reading.path:
                raise MemoryFileError(f"{reading.name} is shared no more: upload the video", code="memory_not_found")
            memory = self._encode(reading)
            memory.save(reading.target)
            self._hot.put(reading.target, memory)
            if self._shared is not None:
                self._shared.publish(key_of(reading), Path(reading.target), self._copying(reading, "share"), problems)
        memory = self._hot.get(reading.target)
        facts = {
            "frames": memory.frames,
            "tokens": len(memory.token_ids),
            "seconds": memory.duration,
            "bytes": os.path.getsize(reading.target),
            "warnings": [*memory.warnings, *problems],
        }
        if self._shared is not None and reading.path:
            about = SharedMemory(key_of(reading), os.path.basename(reading.path), reading.settings, facts)
            self._shared.describe(reading.id, about)
        self._tell(ReadDone(reading.id, facts))

    def _fetched(self, reading: Read, problems: list[str]) -> bool:
        """Whether another server has read this, and its memory is here now."""
        if self._shared is None:
            return False
        return self._shared.fetch(key_of(reading), Path(reading.target), self._copying(reading, "fetch"), problems)

    def _copying(self, reading: Read, phase: str) -> Between:
        """What is called while a file is copied: questions are answered meanwhile."""
        between = self._between(reading)
        return lambda done, total: between(phase, done, total)

    def _between(self, reading: Read) -> Callable[[str, int, int | None], None]:
        """What is called at every tile border: it tells how far a reading is, ends it, and answers questions."""
        told = [0.0]

        def between_tiles(phase: str, done: int, total: int | None) -> None:
            if self._inbox.is_stopped(reading.id):
                raise CancelledError
            if time.monotonic() - told[0] > TELL_EVERY or done == total:
                told[0] = time.monotonic()
                self._tell(Progressed(reading.id, phase, done, total))
            if phase in ("vision", "prefill", "fetch", "share"):
                self._serve_questions()
                self._watch_streams()

        return between_tiles

    def _encode(self, reading: Read) -> VideoMemory:
        settings = dict(reading.settings)
        prefill = settings.pop("prefill", None)
        subtitles = settings.pop("subtitles", None)
        sampling = from_plain(Sampling, settings)
        return self.engine.encode(
            reading.path,
            limits=VideoLimits(max_duration=reading.max_seconds),
            sampling=sampling,
            prefill=prefill_from_string(prefill) if prefill else None,
            subtitles=subtitles,
            siglip=self._siglip or False,
            progress=self._between(reading),
        )

    # ------------------------------------------------------------------------------------------------ questions

    def _answer_one(self, ask: Ask) -> None:
        if ask.memory.startswith(STREAM):
            self._tell(Answered(ask.id, self._streams.answer(ask)))
            return
        memory, generation = self._hot.get(ask.memory), _generation(ask)
        answer = self.engine.continue_conversation(
            memory, ask.history, ask.question, generation, _decode(ask), progress=self._while_wanted([ask])
        )
        self._tell(Answered(ask.id, answer.to_dict()))

    def _answer_together(self, asks: list[Ask]) -> None:
        memory = self._hot.get(asks[0].memory)
        generations = [_generation(ask) for ask in asks]
        questions = [ask.question for ask in asks]
        try:
            answers = self.engine.ask(
                memory,
                questions,
                generation=generations,
                decode=_decode(asks[0]),
                progress=self._while_wanted(asks),
            )
        except (VideoXLError, ValueError):  # one of them is to blame: the others get their answers
            for ask in asks:
                with self._answering([ask.id]):
                    self._answer_one(ask)
            return
        for ask, answer in zip(asks, answers):
            self._tell(Answered(ask.id, answer.to_dict()))

    def _while_wanted(self, asks: list[Ask]) -> Progress:
        """Called after each token: ends what nobody waits for any more, and tells that work goes on."""
        told = [time.monotonic()]

        def written(phase: str, done: int, total: int | None) -> None:
            if all(self._inbox.is_stopped(ask.id) for ask in asks):
                raise CancelledError
            if time.monotonic() - told[0] > ALIVE_EVERY:
                told[0] = time.monotonic()
                self._tell(Progressed(asks[0].id, phase, done, total))

        return written

    def _stream(self, ask: Ask) -> None:
        memory = self._hot.get(ask.memory)
        pieces = self.engine.stream(
            memory, ask.question, generation=_generation(ask), decode=_decode(ask), history=ask.history
        )
        answer: Answer | None = None
        for piece in pieces:
            if self._inbox.is_stopped(ask.id):
                raise CancelledError
            if piece.text:
                self._tell(Said(ask.id, piece.text))
            answer = piece.answer or answer
        if answer is None:
            raise RuntimeError("the stream ended without an answer")
        self._tell(Answered(ask.id, answer.to_dict()))

    # ------------------------------------------------------------------------------------------------- replies

    @contextmanager
    def _answering(self, ids: list[str], names: Mapping[str, str] = NO_NAMES) -> Iterator[None]:
        """Tell what went wrong with requests, whatever it was: the next one must be served.

        ``names``: how clients call files, by their names here.
        """

        def failed(code: str, error: object) -> None:
            text = " ".join(str(error).split())
            for here, theirs in names.items():
                text = text.replace(here, theirs)
            for one in ids:
                self._tell(Failed(one, code, text))

        try:
            yield
        except CancelledError:
            for one in ids:
                self._cancelled(one)
        except VideoXLError as error:
            failed(error.code, error)
        except ValueError as error:
            failed("invalid_value", error)
        except (MemoryError, torch.OutOfMemoryError) as error:
            self._hot.clear()  # what it holds is on the disk
            failed("out_of_memory", f"out of memory: ask again, or ask for less ({error})"[:500])
        except Exception as error:  # noqa: BLE001  a fault of this package must not leave a client waiting
            traceback.print_exc()
            failed("worker_failed", f"{type(error).__name__}: {error}")
        finally:
            for one in ids:
                self._inbox.done(one)

    def _cancelled(self, request_id: str) -> None:
        self._tell(Failed(request_id, "cancelled", "cancelled before it was done"))

    def _tell(self, reply: Reply) -> None:
        try:
            self._out.write(to_line(reply))
        except BrokenPipeError:
            logger.info("the front has gone")


def key_of(reading: Read) -> str:
    """The key of the memory that a reading makes."""
    return os.path.basename(reading.target).removesuffix(".vxl")


def _generation(ask: Ask) -> Generation:
    return from_plain(Generation, ask.generation)


def _decode(ask: Ask) -> Any:
    return decode_from_string(ask.decode) if ask.decode else None


def _end_with_the_front() -> None:
    """Have the kernel end this process when the one that started it is gone, also in the middle of a step (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """``DESCRIPTOR``: of a connected socket. ``SETTINGS``: JSON of what the model is, ``hot_bytes`` and ``frames``."""
    _end_with_the_front()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    connection = socket.socket(fileno=int(arguments[0]))
    chosen = json.loads(arguments[1])
    hot_bytes, shared = chosen.pop("hot_bytes"), chosen.pop("shared")
    frames = chosen.pop("frames")
    engine = load(chosen.pop("model"), **chosen)
    siglip = SiglipRelevance(frames, device=engine.device) if frames else None
    Worker(engine, connection, hot_bytes, siglip, shared).run()


if __name__ == "__main__":
    main(sys.argv[1:])
