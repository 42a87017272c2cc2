"""The process that keeps the search index: ``python -m videoxl.server.indexer DESCRIPTOR INDEX SETTINGS``.

Files are indexed one at a time by a thread of low priority, so that questions and readings come first on the
CPU. The main thread turns questions of searches into vectors meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from videoxl.catalogue import Catalogue, Entry
from videoxl.catalogue.entries import Embedder, Source
from videoxl.catalogue.frames import FrameModel
from videoxl.catalogue.indexing import index_videos, only_writer
from videoxl.catalogue.making import TrackMaker, Wanted, screen_maker, speech_maker, subtitle_maker
from videoxl.catalogue.sentences import DEFAULT, SentenceModel
from videoxl.errors import CatalogueError, VideoXLError
from videoxl.inference.loading import is_cached
from videoxl.inference.progress import as_progress
from videoxl.server.protocol import (
    Embed,
    Embedded,
    Failed,
    Index,
    Indexed,
    IndexerReady,
    IndexReply,
    QuestionModel,
    Unindex,
    from_line,
    to_line,
)
from videoxl.server.settings import IndexSettings
from videoxl.settings import from_plain

logger = logging.getLogger(__name__)
LOW = 10
"""Niceness of the thread that indexes: a tenth of the weight of what answers."""
WORDS_ALONE = "texts are found by their words alone: the server has no sentence model (--meaning)"
WAIT_S = 30.0
"""How long the indexer of a server that was killed may hold the index, at most."""


class Indexer:
    """Serves the requests of one front until that is gone."""

    def __init__(self, connection: socket.socket, index: Path, settings: IndexSettings) -> None:
        self._out, self._lines = connection.makefile("wb", buffering=0), connection.makefile("rb")
        self._writing = threading.Lock()
        _wait_for_the_last_one(index)
        self._catalogue, self._settings = Catalogue(index, write=True), settings
        self._models: dict[Source, Embedder | None] = {
            "meaning": _sentence_model(settings.meaning),
            "frames": FrameModel.load(settings.frames) if settings.frames else None,
        }
        self._waiting: queue.SimpleQueue[Index] = queue.SimpleQueue()

    def run(self) -> None:
        """Do what comes in. Ends the process with the connection, whatever is in work."""
        threading.Thread(target=self._index_all, name="videoxl-index", daemon=True).start()
        notes = [] if self._models["meaning"] or self._settings.meaning == "none" else [WORDS_ALONE]
        self._tell(IndexerReady(self._about("meaning"), self._about("frames"), notes))
        for line in self._lines:
            message = from_line(line)
            if isinstance(message, Index):
                self._waiting.put(message)
            elif isinstance(message, Unindex):
                self._forget(message.paths)
            elif isinstance(message, Embed):
                self._embed(message)
        os._exit(0)  # a file in work is written whole or not at all

    def _about(self, source: Source) -> QuestionModel | None:
        model = self._models[source]
        return None if model is None else QuestionModel(model.name, model.fingerprint)

    def _embed(self, question: Embed) -> None:
        source: Source = "frames" if question.source == "frames" else "meaning"
        model = self._models[source]
        try:
            if model is None:
                raise ValueError(f"there is no model for {source}")
            self._tell(Embedded(question.id, model.of_question(question.text).tolist()))
        except Exception as error:  # noqa: BLE001  a search must not wait for nothing
            traceback.print_exc()
            self._tell(Failed(question.id, "worker_failed", _one_line(error)))

    def _forget(self, paths: list[str]) -> None:
        known = {video.path: video.id for video in self._catalogue.videos()}
        try:
            self._catalogue.delete(known[path] for path in paths if path in known)
        except CatalogueError as error:  # they are not found all the same: the front looks for what it has
            logger.warning("%s", error)

    # ---------------------------------------------------------------------------------------------- the thread

    def _index_all(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW)
        wanted = self._load()  # by this thread, so that threads of these models have its priority
        while True:
            job = self._waiting.get()
            try:
                self._tell(Indexed(job.path, self._index(job, wanted)))
            except Exception as error:  # noqa: BLE001  the next file must be indexed
                if not isinstance(error, VideoXLError):
                    traceback.print_exc()
                self._tell(Indexed(job.path, _one_line(error)))

    def _load(self) -> Wanted:
        """The models that read files. That of sentences is not the one of questions: they are used at one time."""
        try:
            return Wanted(makers=tuple(_makers(self._settings)), text_model=_sentence_model(self._settings.meaning))
        except Exception:  # noqa: BLE001  without them nothing can be indexed: the front starts this process again
            traceback.print_exc()
            os._exit(1)

    def _index(self, job: Index, wanted: Wanted) -> str:
        if job.given_up:
            self._catalogue.add_failure(Entry(job.path, "", 0, 0), job.given_up)
            return job.given_up
        done = next(iter(index_videos(self._catalogue, [job.path], wanted, progress=as_progress(False))))
        return done.problem

    def _tell(self, reply: IndexReply) -> None:
        try:
            with self._writing:
                self._out.write(to_line(reply))
        except BrokenPipeError:
            logger.info("the front has gone")


def _sentence_model(name: str) -> SentenceModel | None:
    if name == "none" or (name == "auto" and not is_cached(DEFAULT)):
        return None
    return SentenceModel(DEFAULT, local_files_only=True) if name == "auto" else SentenceModel(name)


def _makers(settings: IndexSettings) -> Iterator[TrackMaker]:
    yield subtitle_maker(settings.subtitles)
    if settings.speech is not None:
        from videoxl.words.speech_model import load_speech_model

        yield speech_maker(load_speech_model(settings.speech, device="cpu"), settings.language)
    if settings.screen:
        yield screen_maker(settings.fps)


def _wait_for_the_last_one(index: Path) -> None:
    """Wait until no other process indexes into the file. Raises :class:`CatalogueError`."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            with only_writer(index):
                return
        except CatalogueError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, VideoXLError | ValueError) and text else f"{type(error).__name__}: {text}"


def main(arguments: list[str]) -> None:
    """``DESCRIPTOR``: of a connected socket. ``INDEX``: the file. ``SETTINGS``: JSON of :class:`IndexSettings`."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    connection = socket.socket(fileno=int(arguments[0]))
    Indexer(connection, Path(arguments[1]), from_plain(IndexSettings, json.loads(arguments[2]))).run()


if __name__ == "__main__":
    main(sys.argv[1:])
