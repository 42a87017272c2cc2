"""What each source finds for a question: words, meaning, frames. Each gives candidates, the best first."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from videoxl.catalogue.entries import Embedder, Filter, Source, TrackName
from videoxl.catalogue.view import Numbers, SpaceView, View
from videoxl.catalogue.words import Phrase, Query, holds, parts_of, words_in

MOST_RANKED = 10_000
"""Cues that are ranked at most: what is in more of them is too common to rank by."""
RERANKED = 2000
"""Vectors that are compared exactly."""
ALIKE = 0.35
"""Passages with this cosine or more count whole. MiniLM gives unrelated ones less than 0.2, related ones 0.4 and more;
models that give all texts more are not changed by it."""
FEW_TRACKS = 64
"""A search in no more tracks looks into each of them, also for words that are common elsewhere."""


@dataclass(frozen=True)
class Candidate:
    """A moment that one source found."""

    source: Source
    video: int
    track: int
    kind: TrackName
    start: float
    end: float
    score: float
    text: str = ""
    weight: float = 1.0
    """How much its place counts, from 0 to 1: of words, how much of the question they are; of meaning, how alike it is
    where that is little. Some passage is always the nearest."""


# ----------------------------------------------------------------------------------------------------------- words


def by_words(
    db: sqlite3.Connection, view: View, allowed: Numbers, query: Query, wanted: Filter, most: int
) -> list[Candidate]:
    """Cues that hold words of the question, by BM25; those with all quoted phrases, where something is quoted."""
    if not query.phrases or not len(allowed):
        return []
    found = _Words(db, view, allowed)
    ids, scores = found.required(query.quoted) if query.quoted else found.any_of(query.words)
    made = list(_candidates(db, view, ids, scores, found.rarities(query.phrases), wanted, most))
    return sorted(made, key=lambda one: -one.score)


class _Words:
    """Cues of a search by words, with scores."""

    def __init__(self, db: sqlite3.Connection, view: View, allowed: Numbers) -> None:
        self._db, self._view, self._allowed = db, view, allowed
        self._counts: dict[Phrase, int] = {}

    def any_of(self, phrases: Sequence[Phrase]) -> tuple[Numbers, list[float]]:
        """Cues with any of the words. Only rare words are ranked by; the common ones count where no other is found."""
        phrases = [part for phrase in phrases for part in ([phrase] if self._count(phrase) else parts_of(phrase))]
        counts = {phrase: self._count(phrase) for phrase in phrases}
        there = [phrase for phrase in sorted(counts, key=lambda one: counts[one]) if counts[phrase]]
        rare, total = [], 0
        for phrase in there:
            total += counts[phrase]
            if total > MOST_RANKED:
                break
            rare.append(phrase)
        if rare and len((found := self._ranked(_either(rare)))[0]):
            return found
        common = [phrase for phrase in there if phrase not in rare]
        if not common:
            return np.zeros(0, np.int64), []
        found = self._unranked(_all(common))
        return found if len(found[0]) else self._unranked(_either(common))

    def required(self, phrases: Sequence[Phrase]) -> tuple[Numbers, list[float]]:
        """Cues with all of the phrases."""
        small = min(self._count(phrase) for phrase in phrases) <= MOST_RANKED
        return (self._ranked if small else self._unranked)(_all(phrases))

    def rarities(self, phrases: Sequence[Phrase]) -> dict[Phrase, float]:
        """How much each word tells: the fewer cues hold it, the more; most, if none does."""
        cues = int(self._view.cue_counts.sum())
        return {phrase: math.log1p(cues / (self._count(phrase) + 0.5)) for phrase in phrases}

    def _count(self, phrase: Phrase) -> int:
        """In how many cues a phrase is; one more than :data:`MOST_RANKED` for any larger number."""
        if phrase not in self._counts:
            found = self._db.execute(
                "SELECT count(*) FROM (SELECT rowid FROM words WHERE words MATCH ? LIMIT ?)",
                (_quoted(phrase), MOST_RANKED + 1),
            )
            self._counts[phrase] = int(found.fetchone()[0])
        return self._counts[phrase]

    def _ranked(self, expression: str) -> tuple[Numbers, list[float]]:
        rows = self._db.execute("SELECT rowid, rank FROM words WHERE words MATCH ?", (expression,)).fetchall()
        ids = np.array([row[0] for row in rows], np.int64)
        good = self._good(ids)
        scores = -np.array([row[1] for row in rows], np.float64)[good]
        order = np.argsort(-scores, kind="stable")
        return ids[good][order], scores[order].tolist()

    def _unranked(self, expression: str) -> tuple[Numbers, list[float]]:
        """Some of the cues, in their order: ranking all would take seconds, and tell nothing."""
        found: list[int] = []
        for first, last in self._ranges():
            rows = self._db.execute(
                "SELECT rowid FROM words WHERE words MATCH ? AND rowid BETWEEN ? AND ? LIMIT ?",
                (expression, first, last, MOST_RANKED - len(found)),
            )
            found += [row[0] for row in rows]
            if len(found) >= MOST_RANKED:
                break
        ids = np.array(found, np.int64)
        ids = ids[self._good(ids)]
        return ids, [0.0] * len(ids)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        if len(self._allowed) > FEW_TRACKS:
            yield 0, 1 << 62
            return
        tracks = [self._view.tracks[track] for track in self._allowed.tolist()]
        for track in sorted(tracks, key=lambda one: one.first_cue):
            yield track.first_cue, track.first_cue + track.cues - 1

    def _good(self, ids: Numbers) -> np.ndarray:
        return np.isin(self._view.tracks_of_cues(ids), self._allowed)


def _quoted(phrase: Phrase) -> str:
    """A phrase in the language of FTS5. Words are letters and digits, so that nothing in them means anything else."""
    return f'"{" ".join(phrase)}"'


def _either(phrases: Iterable[Phrase]) -> str:
    return " OR ".join(_quoted(phrase) for phrase in phrases)


def _all(phrases: Iterable[Phrase]) -> str:
    return " AND ".join(_quoted(phrase) for phrase in phrases)


def _candidates(
    db: sqlite3.Connection,
    view: View,
    ids: Numbers,
    scores: Sequence[float],
    rarities: Mapping[Phrase, float],
    wanted: Filter,
    most: int,
) -> Iterator[Candidate]:
    """The first ``most`` cues within the times that are wanted. Common words of the question count a little."""
    left = most
    for begin in range(0, len(ids), most):
        part = dict(zip(ids[begin : begin + most].tolist(), scores[begin : begin + most]))
        rows = db.execute(
            "SELECT id, track, start_s, end_s, text FROM cues WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([*part]),),
        ).fetchall()
        order = {id_: place for place, id_ in enumerate(part)}
        for id_, track, start, end, text in sorted(rows, key=lambda row: order[row[0]]):
            if not _within(start, end, wanted) or not left:
                continue
            left -= 1
            words = list(words_in(text))
            share = sum(told for phrase, told in rarities.items() if holds(words, phrase)) / sum(rarities.values())
            score = part[id_] + share - 0.001 * math.log1p(len(words))
            row = view.tracks[track]
            yield Candidate("words", row.video, track, row.kind, start, end, score, text, share**3)
        if not left:
            return


def _within(start: float, end: float, wanted: Filter) -> bool:
    return (wanted.start is None or end > wanted.start) and (wanted.end is None or start < wanted.end)


# --------------------------------------------------------------------------------------------------------- vectors


def by_vectors(
    db: sqlite3.Connection,
    view: View,
    allowed: Numbers,
    space: SpaceView,
    model: Embedder,
    query: Query,
    wanted: Filter,
    most: int,
) -> list[Candidate]:
    """Passages or frames that are most alike the question, by cosine. ``space``: that of ``model``."""
    segments = space.segments  # before the scores: codes are added before the segments that name them
    question_D = model.of_question(query.text)
    if len(question_D) != len(space.centre_D):
        return []
    good_N = segments.of_tracks(allowed)
    if wanted.start is not None:
        good_N &= segments.times_N2[:, 1] > wanted.start
    if wanted.end is not None:
        good_N &= segments.times_N2[:, 0] < wanted.end
    places = space.table.best(question_D, RERANKED, good_N)
    exact = _exact(db, segments.vector_ids(places), question_D)
    order = np.argsort(-exact, kind="stable")[:most]
    best = places[order]
    made = []
    for place, track, score in zip(best.tolist(), segments.tracks_at(best).tolist(), exact[order].tolist()):
        row, (start, end) = view.tracks[track], segments.times_N2[place].tolist()
        source: Source = "frames" if space.space.kind == "frames" else "meaning"
        weight = min(1.0, max(0.0, score) / ALIKE) if source == "meaning" else 1.0
        made.append(Candidate(source, row.video, track, row.kind, start, end, score, weight=weight))
    return made


def _exact(db: sqlite3.Connection, ids: Numbers, question_D: np.ndarray) -> np.ndarray:
    """Cosines of the question and the vectors themselves."""
    rows = dict(
        db.execute(
            "SELECT id, vector FROM vectors WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids.tolist()),)
        )
    )
    if not len(ids):
        return np.zeros(0, np.float32)
    vectors_ND = np.frombuffer(b"".join(rows[id_] for id_ in ids.tolist()), "<f2").reshape(len(ids), -1)
    cosines: np.ndarray = vectors_ND.astype(np.float32) @ question_D
    return cosines
