"""An indexer without models: ``python -m tests.server.fake_indexer DESCRIPTOR INDEX SETTINGS``.

A file holds what is said in it: a line each, of seconds and text. ``die`` ends the process, ``bad`` fails, ``wait``
takes half a second. A memory holds frames of the first topic.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import numpy as np

from tests.topics import Topics
from videoxl.catalogue import Catalogue, Entry, IndexedTrack, Space, Vectors
from videoxl.cues import Cue, Track, TrackKind
from videoxl.server.protocol import (
    Embed,
    Embedded,
    Failed,
    Index,
    Indexed,
    IndexerReady,
    QuestionModel,
    Unindex,
    from_line,
    to_line,
)


def entry_of(path: str) -> Entry:
    content = Path(path).read_bytes()
    digest, size = str(hash(content)), len(content)
    if path.endswith(".vxl"):
        times, dog = np.array([[0.0, 5.0], [30.0, 35.0]]), Topics().of_question("dog")
        seen = Vectors(Space("frames", Topics.name, Topics.fingerprint), times, np.stack([dog, -dog]))
        return Entry(path, digest, size, 1, 35.0, (IndexedTrack("frames", "s", vectors=seen),))
    cues = []
    for line in content.decode(errors="replace").splitlines():
        second, _, text = line.partition(" ")
        if second.isdecimal():
            cues.append(Cue(float(second), float(second) + 2, text))
    times = np.array([(cue.start_s, cue.end_s) for cue in cues]).reshape(-1, 2)
    vectors = np.array([Topics().of_question(cue.text) for cue in cues])
    said = Vectors(Space("text", Topics.name, Topics.fingerprint), times, vectors) if cues else None
    track = IndexedTrack("speech", "s", Track(TrackKind.SPEECH, tuple(cues)), said)
    return Entry(path, digest, size, 1, 60.0, (track,), ((1.0, b"jpeg"),))


def index(catalogue: Catalogue, job: Index) -> str:
    content = Path(job.path).read_bytes()
    problem = job.given_up or (f"{os.path.basename(job.path)} is no video" if content.startswith(b"bad") else "")
    if problem:
        catalogue.add_failure(Entry(job.path, "", 0, 0), problem)
        return problem
    if content.startswith(b"die"):
        os._exit(9)
    if content.startswith(b"wait"):
        time.sleep(0.5)
    catalogue.add(entry_of(job.path))
    return ""


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    out, catalogue = connection.makefile("wb", buffering=0), Catalogue(sys.argv[2], write=True)
    model = QuestionModel(Topics.name, Topics.fingerprint)
    out.write(to_line(IndexerReady(model, model, [])))
    for line in connection.makefile("rb"):
        message = from_line(line)
        if isinstance(message, Index):
            out.write(to_line(Indexed(message.path, index(catalogue, message))))
        elif isinstance(message, Unindex):
            catalogue.delete(one.id for one in catalogue.videos() if one.path in message.paths)
        elif isinstance(message, Embed) and message.text == "die":
            os._exit(9)
        elif isinstance(message, Embed) and message.text == "fail":
            out.write(to_line(Failed(message.id, "worker_failed", "it failed")))
        elif isinstance(message, Embed):
            out.write(to_line(Embedded(message.id, Topics().of_question(message.text).tolist())))


if __name__ == "__main__":
    main()
