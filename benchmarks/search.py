"""How well and how fast an index of videos is searched.

``quality``: 200 questions with known answers about generated speech, half in the words that were said, half in others,
100 more with one part in other words, and questions about what films of the generated world show, seen by the SigLIP
model of ``tiny``: recall at 1 and 5 by words, by meaning, by frames, and fused. All lie in one index. ``scale``: an
index that grows to a million cues and a million frame vectors: seconds of a search, rate of indexing, size. Vectors of
``scale`` are drawn with a large common part and few strong dimensions, as those of SigLIP have, and each question is
drawn near one of them, which must be found. What the codes leave of the best is measured against a full search over the
vectors themselves.

    python benchmarks/search.py quality --model FOLDER_OF_MINILM -o benchmarks/results/search-quality.json
    python benchmarks/search.py scale -o benchmarks/results/search-scale.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videoxl.catalogue import By, Catalogue, Entry, Hit, IndexedTrack, Space, Vectors
from videoxl.cues import Cue, Track, TrackKind

if TYPE_CHECKING:
    from videoxl.catalogue.frames import FrameModel

PEOPLE = [
    ("the doctor", "a physician"),
    ("the policeman", "a law enforcement officer"),
    ("my grandmother", "an elderly female relative"),
    ("the lawyer", "an attorney"),
    ("the farmer", "someone who grows crops"),
    ("the pilot", "the person flying the plane"),
    ("a child", "a young kid"),
    ("the teacher", "a school instructor"),
    ("the cook", "a chef"),
    ("the thief", "a burglar"),
    ("the sailor", "a man who works on ships"),
    ("the carpenter", "a woodworker"),
]
DEEDS = [
    ("repaired the car", "fixed an automobile"),
    ("bought a house", "purchased a home"),
    ("lost the keys", "could not find what opens the door"),
    ("fed the dog", "gave food to a puppy"),
    ("painted a picture", "made an artwork"),
    ("won the prize", "was awarded the trophy"),
    ("broke a window", "shattered the glass"),
    ("told a joke", "made everybody laugh"),
    ("planted a tree", "put a sapling into the ground"),
    ("fell asleep", "dozed off"),
    ("counted the money", "added up the cash"),
    ("missed the train", "was too late for the railway"),
]
PLACES = [
    ("in the kitchen", "where meals are prepared"),
    ("at the beach", "on the sandy shore"),
    ("in the hospital", "at a clinic"),
    ("near the church", "close to a place of worship"),
    ("in the forest", "among the trees of the woods"),
    ("at the airport", "where planes take off"),
    ("on the roof", "on top of the building"),
    ("in the library", "among shelves of books"),
]
FILLERS = ["and so on", "as I said before", "you know", "let us go on", "that was last year", "we will come back to it"]
FILMS = 40
TEXT = Space("text", "drawn", "drawn-text")
FRAMES = Space("frames", "drawn", "drawn-frames")


# --------------------------------------------------------------------------------------------------------- quality


def quality(model_name: str, folder: Path) -> dict[str, object]:
    """Recall over all combinations of somebody, something and somewhere, each said once, and over films."""
    from videoxl.catalogue.frames import FrameModel
    from videoxl.catalogue.passages import passages_of
    from videoxl.catalogue.sentences import SentenceModel

    rng = random.Random(0)
    facts = list(itertools.product(PEOPLE, DEEDS, PLACES))
    rng.shuffle(facts)
    model, eyes = SentenceModel(model_name), FrameModel.load("tiny")
    where: dict[int, tuple[str, float]] = {}
    with Catalogue(folder / "quality.db", write=True, text_model=model, frames_model=eyes) as catalogue:
        for video, begin in enumerate(range(0, len(facts), 48)):
            cues = []
            for place, fact in enumerate(facts[begin : begin + 48]):
                at = 24.0 * place
                cues += [
                    Cue(at, at + 4, f"{' '.join(part[0] for part in fact)}."),
                    Cue(at + 4, at + 7, rng.choice(FILLERS)),
                ]
                where[begin + place] = (f"/videos/{video}.mp4", at + 2)
            passages = passages_of(cues)
            times = np.array([(one.start_s, one.end_s) for one in passages])
            vectors = Vectors(
                Space("text", model.name, model.fingerprint), times, model.of_texts([one.text for one in passages])
            )
            track = IndexedTrack("speech", "", Track(TrackKind.SPEECH, tuple(cues)), vectors)
            catalogue.add(Entry(f"/videos/{video}.mp4", str(video), 1, 1, 1200.0, (track,)))
        shown = _films(catalogue, eyes, folder)
        asked = rng.sample(range(len(facts)), 200)
        found = {
            kind: {by: _recall(catalogue, facts, where, asked[part], by, forms) for by in ("words", "meaning", "all")}
            for kind, part, forms in (
                ("in the words that were said", slice(0, 100), [(0, 0, 0)]),
                ("in other words", slice(100, 200), [(1, 1, 1)]),
                ("one part in other words", slice(0, 100), [(1, 0, 0), (0, 1, 0), (0, 0, 1)]),
            )
        }
        seen = {by: _recall_of_films(catalogue, shown, by) for by in ("words", "meaning", "frames", "all")}
    return {
        "cues": 2 * len(facts),
        "facts": len(facts),
        "films": FILMS,
        "questions": {"speech": 300, "films": len(shown)},
        **found,
        "what films show": seen,
    }


Shown = dict[str, list[tuple[str, float, float]]]


def _films(catalogue: Catalogue, eyes: FrameModel, folder: Path) -> Shown:
    """Index films of the generated world; returns where each thing is shown, by what it is called."""
    from videoxl.catalogue.indexing import index_videos
    from videoxl.catalogue.making import Wanted
    from videoxl.world import sample_film, write_film

    shown: Shown = {}
    paths = [str(folder / f"film-{number}.mp4") for number in range(FILMS)]
    for number, path in enumerate(paths):
        film = sample_film(np.random.default_rng(number), 16, 5, step=4.0, begin=0.0)
        write_film(film, path)
        for event in film.events:
            shown.setdefault(event.thing.phrase, []).append((path, event.start * film.step, event.end * film.step))
    for outcome in index_videos(catalogue, paths, Wanted(frames_model=eyes), progress=lambda *_: None):
        assert outcome.what == "new", outcome
    return shown


def _recall_of_films(catalogue: Catalogue, shown: Shown, by: By) -> dict[str, float]:
    """A hit is right if it meets one of the stretches in which the thing is shown."""
    at_1 = at_5 = 0
    for question, stretches in shown.items():
        right = [
            any(hit.path == path and hit.start < end and hit.end > start for path, start, end in stretches)
            for hit in catalogue.search(question, by=by, limit=5)
        ]
        at_1 += any(right[:1])
        at_5 += any(right)
    return {"recall@1": round(at_1 / len(shown), 3), "recall@5": round(at_5 / len(shown), 3)}


def _recall(
    catalogue: Catalogue,
    facts: list,
    where: dict[int, tuple[str, float]],
    asked: list[int],
    by: By,
    forms: list[tuple[int, int, int]],
) -> dict[str, float]:
    """``forms``: which parts of a question are in other words; taken in turn."""
    at_1 = at_5 = 0
    for number, form in zip(asked, itertools.cycle(forms)):
        question = " ".join(part[which] for part, which in zip(facts[number], form))
        hits = catalogue.search(question, by=by, limit=5)
        right = [_covers(hit, *where[number]) for hit in hits]
        at_1 += bool(right[:1] and right[0])
        at_5 += any(right)
    return {"recall@1": at_1 / len(asked), "recall@5": at_5 / len(asked)}


def _covers(hit: Hit, path: str, second: float) -> bool:
    return hit.path == path and hit.start <= second <= hit.end


# ----------------------------------------------------------------------------------------------------------- scale


class Drawn:
    """Draws vectors, and questions near some of them."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self._rng = size, np.random.default_rng(seed)
        self._common = self._rng.standard_normal(size)
        self._common /= np.linalg.norm(self._common)
        self._strength = 1 / np.arange(1, size + 1) ** 0.5
        self._strength /= np.linalg.norm(self._strength)
        self.questions: list[tuple[str, float, np.ndarray]] = []
        self.name = "drawn"

    def draw(self, path: str, count: int, step: float, questions: int) -> Vectors:
        scene = self._own(1)
        own = 0.5 * np.repeat(scene, count, axis=0) + self._own(count)
        vectors = self._unit(self._common + own)
        for place in self._rng.choice(count, questions, replace=False):
            noise = self._own(1)[0]
            question = self._unit((0.8 * own[place] / np.linalg.norm(own[place]) + 0.4 * noise)[None])[0]
            self.questions.append((path, step * place, question))
        begin = step * np.arange(count, dtype=np.float64)
        space = FRAMES if self.size > 1000 else TEXT
        return Vectors(space, np.stack([begin, begin + step], 1), vectors)

    def _own(self, count: int) -> np.ndarray:
        return self._rng.standard_normal((count, self.size)) * self._strength

    @staticmethod
    def _unit(vectors: np.ndarray) -> np.ndarray:
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    @property
    def kind(self) -> str:
        return "frames" if self.size > 1000 else "text"

    @property
    def fingerprint(self) -> str:
        return (FRAMES if self.size > 1000 else TEXT).fingerprint

    def anew(self, count: int) -> np.ndarray:
        """Questions that are near no vector more than near others: the hardest, whose best are hardly better."""
        drawn = np.random.default_rng(3).standard_normal((count, self.size)) * self._strength
        return self._unit(self._common + 2 * drawn)

    def of_question(self, text: str) -> np.ndarray:
        """Questions are known by their number."""
        return self.questions[int(text.rsplit("#", 1)[-1])][2]


def entries(videos: int, text: Drawn, frames: Drawn) -> Iterator[Entry]:
    """Videos of 1,000 seconds with a cue and a frame a second."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(50_000)]
    weights = list(itertools.accumulate(1 / (number + 1) for number in range(50_000)))
    for video in range(videos):
        path = f"/videos/{video}.mp4"
        cues = tuple(Cue(s, s + 1, " ".join(rng.choices(words, cum_weights=weights, k=10))) for s in range(1000))
        asked = 1 if video % 5 == 0 else 0
        spoken = IndexedTrack("speech", "", Track(TrackKind.SPEECH, cues), text.draw(path, 100, 10.0, asked))
        seen = IndexedTrack("frames", "", vectors=frames.draw(path, 1000, 1.0, asked))
        yield Entry(path, str(video), 1, 1, 1000.0, (spoken, seen))


def scale(folder: Path, steps: tuple[int, ...]) -> dict[str, object]:
    """Grow an index, and search it at each step."""
    text, frames = Drawn(384, 1), Drawn(1152, 2)
    path = folder / "scale.db"
    made, measured, adding = entries(max(steps) // 1000, text, frames), [], 0.0
    with Catalogue(path, write=True) as catalogue:
        done = 0
        for step in steps:
            for entry in itertools.islice(made, step // 1000 - done):
                begin = time.perf_counter()
                catalogue.add(entry)
                adding += time.perf_counter() - begin
            done = step // 1000
            measured.append(_measured(path, step, text, frames, adding))
            print(json.dumps(measured[-1]), flush=True)
    return {"steps": measured}


def _measured(path: Path, step: int, text: Drawn, frames: Drawn, adding: float) -> dict[str, object]:
    with Catalogue(path, text_model=text, frames_model=frames) as catalogue:
        begin = time.perf_counter()
        catalogue.search("w900 #0")
        first = time.perf_counter() - begin
        asked = range(min(20, len(frames.questions)))
        found: dict[str, object] = {
            "words, rare": _timed(catalogue, [f"w{900 + n} w{5000 + n}" for n in asked], "words"),
            "words, common": _timed(catalogue, [f"w0 w{1 + n % 3}" for n in asked], "words"),
            "words, mixed": _timed(catalogue, [f"w0 w2 w{300 + n} w{900 + n}" for n in asked], "words"),
            "meaning": _timed(catalogue, [f"#{n}" for n in asked], "meaning"),
            "frames": _timed(catalogue, [f"#{n}" for n in asked], "frames"),
            "all": _timed(catalogue, [f"w0 w2 w{300 + n} #{n}" for n in asked], "all"),
        }
        right = [_finds(catalogue, frames, number) for number in range(len(frames.questions))]
        kept = {drawn.kind: _kept_by_codes(catalogue, drawn) for drawn in (text, frames)}
    db = sqlite3.connect(path)
    counts = {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("cues", "vectors")}
    db.close()
    return {
        "cues": counts["cues"],
        "frame_vectors": step,
        "text_vectors": counts["vectors"] - step,
        "file_mb": round(path.stat().st_size / 1e6, 1),
        "indexed_per_s": round(2 * step / adding),
        "first_search_s": round(first, 3),
        "search_ms": found,
        "kept_of_the_best": kept,
        "planted_questions": len(right),
        "planted_found_at_1": round(sum(place == 0 for place in right) / len(right), 3),
        "planted_found_at_5": round(sum(place is not None and place < 5 for place in right) / len(right), 3),
    }


def _timed(catalogue: Catalogue, questions: list[str], by: str) -> dict[str, float]:
    """Milliseconds of a search: on the clock, and of computing, which other programs on the machine disturb less."""
    clock, computing = [], []
    for question in questions:
        begin, used = time.perf_counter(), time.process_time()
        catalogue.search(question, by=by)
        clock.append(1e3 * (time.perf_counter() - begin))
        computing.append(1e3 * (time.process_time() - used))
    return {
        "median": round(statistics.median(clock), 1),
        "worst": round(max(clock), 1),
        "computing": round(statistics.median(computing), 1),
    }


def _finds(catalogue: Catalogue, frames: Drawn, number: int) -> int | None:
    path, second, _ = frames.questions[number]
    hits = catalogue.search(f"#{number}", by="frames", limit=5)
    return next((place for place, hit in enumerate(hits) if _covers(hit, path, second + 0.5)), None)


def _kept_by_codes(catalogue: Catalogue, drawn: Drawn, count: int = 8) -> dict[str, dict[str, float]]:
    """Share of the best by a full search that is compared exactly: for planted questions and for others."""
    from videoxl.catalogue.sources import RERANKED

    asked = {"planted": [vector for _, _, vector in drawn.questions[:count]], "others": [*drawn.anew(count)]}
    with catalogue._reading() as (db, view):
        space = next(one for one in view.spaces if one.space.kind == drawn.kind)
        best = _full_search(db, space.id, np.stack([vector for vectors in asked.values() for vector in vectors]))
        shares: dict[str, dict[str, float]] = {}
        rest = iter(best)
        for kind, vectors in asked.items():
            found = [
                space.segments.vector_ids(space.table.best(vector, RERANKED, np.ones(space.segments.total, bool)))
                for vector in vectors
            ]
            pairs = [(set(ids.tolist()), next(rest)) for ids in found]
            shares[kind] = {
                f"of {most}": round(statistics.mean(len(ids & {*right[:most]}) / most for ids, right in pairs), 3)
                for most in (10, 100)
            }
    return shares


def _full_search(db: sqlite3.Connection, space: int, questions_QD: np.ndarray) -> list[list[int]]:
    """Ids of the 100 vectors nearest to each question."""
    scores, ids = [], []
    for (track,) in db.execute("SELECT id FROM tracks WHERE space = ?", (space,)).fetchall():
        rows = db.execute("SELECT id, vector FROM vectors WHERE track = ?", (track,)).fetchall()
        vectors = np.frombuffer(b"".join(row[1] for row in rows), "<f2").reshape(len(rows), -1).astype(np.float32)
        scores.append(vectors @ questions_QD.T)
        ids += [row[0] for row in rows]
    order_NQ = np.argsort(-np.concatenate(scores), axis=0)[:100]
    return [np.array(ids)[order].tolist() for order in order_NQ.T]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("quality", "scale"))
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--steps", default="10000,100000,1000000")
    parser.add_argument("--folder", help="Where the index is written; default: a temporary folder.")
    parser.add_argument("-o", "--output")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        if given.what == "quality":
            result = quality(given.model, Path(name))
        else:
            result = scale(Path(name), tuple(int(step) for step in given.steps.split(",")))
    result = {
        **result,
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "numpy": np.__version__},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.output:
        Path(given.output).write_text(text + "\n")


if __name__ == "__main__":
    main()
