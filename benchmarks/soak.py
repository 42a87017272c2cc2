"""Threads that read, ask and extend side by side, interrupted now and then: every number is compared with a serial run.

    python benchmarks/soak.py --rounds 10000 --json benchmarks/results/soak-cpu2.json
    python benchmarks/soak.py --rounds 2000 --shared-tokenizer   # as it was before users' text had its own tokenizer

Each case is a model, a prefill and a decode strategy. A serial run notes what its memory is after every change (read,
extended, extended again, trimmed): the bits of keys and values, and for each question the prompt's length and the ids
of the answer. Then threads do the same on memories of their own and on memories that all of them share, by ``ask``,
``stream``, chat sessions, from files, and sampled. A *round* compares one memory and one answer about it.

A round that differs is wrong in the *cache*, in the *prompt* (its length) or only in the *decoding*. What was got and
what is right are kept under ``wrong``. Any exception but the ``KeyboardInterrupt`` that was sent is kept under
``errors``; a changed memory must be what it was before an interrupted change, or after.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one order of sums: the comparison is bit by bit

import argparse
import collections
import ctypes
import datetime
import faulthandler
import hashlib
import json
import platform
import random
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import videoxl
from videoxl.inference.engine import VideoXL
from videoxl.inference.prompt import ChatFormat
from videoxl.memory.video_memory import VideoMemory
from videoxl.world import Renderer, sample_film
from videoxl.world.writing import write_film

READ, MORE, CHANGES = 17, 7, 3
"""Frames of the first reading, frames of each extension, and changes: two extensions and, where it can be, a trim."""
SAMPLED = {"do_sample": True, "temperature": 1.3, "seed": 5}
QUESTIONS = (
    "What happens in the video?",
    "When is something red shown, and what is it? <|im_end|>",  # in what a user typed that is just text
    "How many things are shown before the last one?",
)
HUNG_SECONDS = 300
Told = tuple[int, tuple[int, ...]]
"""Length of the prompt, ids of the answer."""


@dataclass(frozen=True)
class Case:
    """A model, how it reads, and how its memory is read."""

    model: str
    prefill: str
    decode: str = "dense"
    from_file: bool = False
    """Read from a video file, which the decoder process decodes."""

    def __str__(self) -> str:
        return f"{self.model} {self.prefill} {self.decode}{' file' if self.from_file else ''}"


CASES = (
    Case("tiny", "full"),
    Case("tiny", "full", from_file=True),
    Case("tiny", "full", "bilevel:top_k=1,block_size=1"),
    Case("tiny", "chunked:chunk_size=2,step_size=1"),
    Case("tiny", "chunked:chunk_size=2,step_size=1,offload=True", "bilevel:relevance=0+1,block_size=2"),
    Case("tiny-v1", "beacon"),
    Case("tiny-v1", "beacon:ratio=9"),
    Case("tiny-v1", "full"),
)


@dataclass
class Expected:
    """What a case gives when nothing else runs."""

    states: list[str] = field(default_factory=list)
    """Digest of the memory after each change."""
    answers: dict[tuple[int, str, bool], Told] = field(default_factory=dict)
    """By number of the state, question, and whether it is sampled."""


@dataclass
class Found:
    """What the threads found. Lists are appended to by all of them."""

    rounds: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    interrupts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, case: Case) -> None:
        with self.lock:
            self.rounds[str(case)] += 1

    @property
    def total(self) -> int:
        return sum(self.rounds.values())


def digest(memory: VideoMemory) -> str:
    """Hash ids, times and the bits of all keys and values of one state of a memory."""
    now = memory.fork()
    found = hashlib.sha256(repr((now.token_ids, now.timestamps, now.groups, now.prefix_length)).encode())
    for layer in now.cache.layers:
        for states in (layer.keys, layer.values):
            found.update(states.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


class Subject:
    """A case with its film: how its memory is made and changed, and what it is known to give."""

    def __init__(self, case: Case, engine: VideoXL, folder: Path) -> None:
        self.case, self.engine, self.folder = case, engine, folder
        film = replace(sample_film(np.random.default_rng(7), groups=-(-(READ + 2 * MORE) // 4)), step=4.0)
        self.film = folder / "film.mp4"
        if case.from_file and not self.film.exists():
            write_film(film, self.film)
        self.pictures = Renderer(film).frames(64, 0, READ + 2 * MORE)
        self.seconds = [0.5 * number for number in range(len(self.pictures))]
        self.expected = Expected()
        self.shared = self.read()
        self.turn = threading.Lock()

    def read(self) -> VideoMemory:
        """The first state."""
        if self.case.from_file:
            return self.engine.encode(self.film, prefill=self.case.prefill, end=READ)
        return self.engine.encode(
            frames=self.pictures[:READ], timestamps=self.seconds[:READ], prefill=self.case.prefill
        )

    def change(self, memory: VideoMemory, number: int) -> None:
        """Make state ``number + 1`` of a memory in state ``number``."""
        if number == 2:
            if self.case.model == "tiny":
                memory.trim(start=4.0)
        elif self.case.from_file:
            memory.extend(self.film, end=READ + MORE * (number + 1))
        else:
            begin, end = READ + MORE * number, READ + MORE * (number + 1)
            memory.extend(iter(zip(self.pictures[begin:end], self.seconds[begin:end])))

    def ask(self, memory: VideoMemory, question: str, way: str) -> Told:
        """One answer, in one of several ways."""
        given: dict[str, Any] = {"max_new_tokens": 6, "decode": self.case.decode}
        if way == "stream":
            answer = list(self.engine.stream(memory, question, **given))[-1].answer
            assert answer is not None
        elif way == "chat":
            answer = self.engine.chat_session(memory, decode=given.pop("decode")).ask(question, **given)
        else:
            answer = self.engine.ask(memory, question, **given, **(SAMPLED if way == "sampled" else {}))
        return answer.usage.prompt_tokens, answer.token_ids

    def learn(self) -> None:
        """Note what is right."""
        memory = self.read()
        for number in range(CHANGES + 1):
            self.expected.states.append(digest(memory))
            for question in QUESTIONS:
                for sampled in (False, True):
                    told = self.ask(memory, question, "sampled" if sampled else "ask")
                    self.expected.answers[number, question, sampled] = told
            if number < CHANGES:
                self.change(memory, number)


class Worker:
    """What one thread does, round after round."""

    def __init__(self, subjects: list[Subject], found: Found, seed: int) -> None:
        self.subjects, self.found, self.draw = subjects, found, random.Random(seed)
        self.weights = [0.2 if subject.case.from_file else 1.0 for subject in subjects]  # decoding takes longest
        self.stop = self.armed = False  # armed: it is ready to be interrupted, once
        self.thread = threading.Thread(target=self.run, name=f"worker {seed}", daemon=True)

    def run(self) -> None:
        """Go on until told to stop, whatever is interrupted."""
        while not self.stop:
            try:
                while not self.stop:
                    self.armed = True
                    self.step(self.draw.choices(self.subjects, self.weights)[0])
            except KeyboardInterrupt:
                continue
            finally:
                self.armed = False

    def step(self, subject: Subject) -> None:
        """A few rounds. An interrupt ends them, and an error is noted."""
        try:
            if self.draw.random() < 0.5:
                self.own(subject)
            else:
                self.together(subject)
        except Exception:  # noqa: BLE001 - noted: any error but the interrupt is a finding
            self.found.errors.append(f"{subject.case}\n{traceback.format_exc()}")
            print(self.found.errors[-1], file=sys.stderr, flush=True)

    def own(self, subject: Subject) -> None:
        """Read, ask, extend, ask ..., now and then from a file.

        A file is read by threads. One that is being started while an interrupt is sent to the thread that starts it
        gets the interrupt in its place and dies, and CPython waits for it for ever: then none is sent.
        """
        memory = subject.read()
        through_files = self.draw.random() < 0.25
        self.armed = not through_files
        for number in range(CHANGES + 1):
            if through_files:
                path = subject.folder / f"{threading.get_ident()}.vxl"
                memory.save(path)
                memory = VideoMemory.load(path, subject.engine)
            for _ in range(2):
                self.compare(subject, memory, range(number, number + 1))
            if number < CHANGES:
                self.changed(subject, memory, number)

    def changed(self, subject: Subject, memory: VideoMemory, number: int) -> None:
        """Change a memory; what an interrupt leaves must be the old state or the new one."""
        try:
            subject.change(memory, number)
        except KeyboardInterrupt:
            self.compare(subject, memory, range(number, number + 2))
            raise

    def together(self, subject: Subject) -> None:
        """Ask about a memory that other threads ask and change meanwhile; change it, if nobody does."""
        for _ in range(3):
            self.compare(subject, subject.shared.fork(), range(CHANGES + 1))
            if subject.turn.acquire(blocking=False):
                try:
                    number = subject.expected.states.index(digest(subject.shared))
                    if number < CHANGES:
                        subject.change(subject.shared, number)
                    else:
                        subject.shared = subject.read()
                finally:
                    subject.turn.release()

    def compare(self, subject: Subject, memory: VideoMemory, allowed: range) -> None:
        """A round: the memory must be one of the states, and the answer the one that belongs to it."""
        seen, expected = digest(memory), subject.expected
        number = next((n for n in allowed if expected.states[n] == seen), None)
        question, way = self.draw.choice(QUESTIONS), self.draw.choice(["ask", "ask", "stream", "chat", "sampled"])
        told = subject.ask(memory, question, way)
        right = expected.answers[allowed[0] if number is None else number, question, way == "sampled"]
        if number is None or told != right:
            half = "cache" if number is None else "prompt" if told[0] != right[0] else "decode"
            again = subject.ask(memory, question, way)
            self.found.wrong.append(
                {
                    "half": half,
                    "case": str(subject.case),
                    "way": way,
                    "question": question,
                    "states": [expected.states[n] for n in allowed],
                    "state": seen,
                    "state_again": digest(memory),
                    "got": told,
                    "right": right,
                    "got_again": again,
                }
            )
        self.found.count(subject.case)


def interrupt(workers: list[Worker], found: Found, draw: random.Random) -> None:
    """Send a KeyboardInterrupt to one of the threads, unless it still deals with the one before."""
    worker = draw.choice(workers)
    if worker.armed and worker.thread.is_alive():
        worker.armed = False
        thread = ctypes.c_ulong(worker.thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(KeyboardInterrupt))
        found.interrupts += 1


def share_tokenizers(engine: VideoXL) -> None:
    """Tokenise template and users' text on one tokenizer, whose state every call switches: the fault that was."""
    encode = partial(engine.tokenizer.encode, add_special_tokens=False)
    engine.chat_format = ChatFormat(
        partial(encode, split_special_tokens=False), partial(encode, split_special_tokens=True)
    )


def soak(
    *,
    rounds: int | None = None,
    seconds: float | None = None,
    threads: int = 4,
    interrupt_every: float | None = 0.25,
    shared_tokenizer: bool = False,
    seed: int = 0,
    say: Any = None,
) -> dict[str, Any]:
    """Run until ``rounds`` rounds or ``seconds`` are over, and return what was found.

    ``interrupt_every``: mean seconds between two interrupts; None: there are none. ``say`` is told the count now and
    then.
    """
    torch.set_num_threads(1)
    found, draw = Found(), random.Random(seed)
    engines = {name: videoxl.load(name, device="cpu") for name in sorted({case.model for case in CASES})}
    if shared_tokenizer:
        for engine in engines.values():
            share_tokenizers(engine)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        subjects = [Subject(case, engines[case.model], Path(folder)) for case in CASES]
        for subject in subjects:
            subject.learn()
        workers = [Worker(subjects, found, seed + 1 + number) for number in range(threads)]
        for worker in workers:
            worker.thread.start()
        last, since = 0, time.monotonic()
        while (rounds is None or found.total < rounds) and (seconds is None or time.monotonic() - begin < seconds):
            time.sleep(draw.expovariate(1 / interrupt_every) if interrupt_every else 0.2)
            if interrupt_every:
                interrupt(workers, found, draw)
            if found.total > last:
                if say and found.total // 250 > last // 250:
                    say(found.total, len(found.wrong), len(found.errors))
                last, since = found.total, time.monotonic()
            if time.monotonic() - since > HUNG_SECONDS or not any(w.thread.is_alive() for w in workers):
                faulthandler.dump_traceback()
                found.errors.append(f"no round in {HUNG_SECONDS} s: the threads hang, or have ended")
                break
        for worker in workers:
            worker.stop = True
        for worker in workers:
            worker.thread.join(HUNG_SECONDS)
    halves = collections.Counter(one["half"] for one in found.wrong)
    return {
        "rounds": found.total,
        "wrong": len(found.wrong),
        "wrong_by_half": dict(halves),
        "errors": len(found.errors),
        "interrupts": found.interrupts,
        "threads": threads,
        "seconds": round(time.monotonic() - begin, 1),
        "rounds_by_case": dict(found.rounds),
        "wrong_rounds": found.wrong[:20],
        "error_texts": found.errors[:20],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="stop after so many")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interrupt-every", type=float, default=0.25, help="mean seconds; 0: never")
    parser.add_argument("--shared-tokenizer", action="store_true", help="put the fault back that threads once met")
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here, beside those of the other tokenizers")
    given = parser.parse_args()
    found = soak(
        rounds=given.rounds if given.rounds or given.seconds else 1000,
        seconds=given.seconds,
        threads=given.threads,
        seed=given.seed,
        interrupt_every=given.interrupt_every or None,
        shared_tokenizer=given.shared_tokenizer,
        say=lambda *counts: print("{:,} rounds, {} wrong, {} errors".format(*counts), file=sys.stderr, flush=True),
    )
    document = {
        "benchmark": "soak",
        "date": datetime.date.today().isoformat(),
        "hardware": given.hardware,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "videoxl": videoxl.__version__,
        },
        "results": {"shared_tokenizer" if given.shared_tokenizer else "own_tokenizers": found},
    }
    if given.json and given.json.exists():
        document["results"] = {**json.loads(given.json.read_text())["results"], **document["results"]}
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(1 if found["wrong"] or found["errors"] else 0)


if __name__ == "__main__":
    main()
