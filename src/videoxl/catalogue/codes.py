"""Find the vectors most like a question among a million, in one pass over one bit a dimension.

Each vector is kept twice. Its *code* holds the signs of its distance from a centre, one bit a dimension, and a scale.
The codes of all vectors are in memory: 144 MB for a million of 1152 dimensions. The vector itself, in float16, stays in
the database. A question is compared with every code, and the best are compared again with the vectors themselves.

With ``x`` a vector, ``c`` the centre, ``s`` the signs of ``x - c`` and ``q`` the question: ``q.x = q.c + q.(x - c)``,
and ``q.(x - c)`` is estimated as ``scale * q.s``. The scale ``|x - c|^2 / s.(x - c)`` makes the estimate exact for
``q = x - c``. The question is rounded to four bits a dimension, so that ``q.s`` is counting bits. All are turned by the
same rotation first: few dimensions of a model's vectors hold most of what tells them apart, and a sign says as little
about a large one as about a small one.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]
BITS = 64
LEVELS = 4
"""Bits of each dimension of a question."""
PART = 1 << 14
"""Vectors that are compared at a time: what they need stays in the cache of a core."""
THREADS = 2


@dataclass(frozen=True)
class Codes:
    """Codes of ``N`` vectors of ``D`` dimensions."""

    words_NW: Words
    """Bit ``d % 64`` of word ``d // 64`` is set where dimension ``d`` of the turned vector is above the centre."""
    scales_N: Floats

    @classmethod
    def of(cls, vectors_ND: Floats, centre_D: Floats) -> Codes:
        """The codes of vectors."""
        above_ND = (vectors_ND - centre_D) @ rotation(vectors_ND.shape[1]).T
        set_ND = above_ND > 0
        padded = np.zeros((len(above_ND), -(-above_ND.shape[1] // BITS) * BITS), bool)
        padded[:, : above_ND.shape[1]] = set_ND
        words = np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)
        along_N = np.abs(above_ND).sum(axis=1)
        square_N = np.square(above_ND).sum(axis=1)
        scales = np.divide(square_N, along_N, out=np.zeros_like(along_N), where=along_N > 0)
        return cls(words, scales.astype(np.float32))

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Words and scales as they are stored."""
        return self.words_NW.astype("<u8").tobytes(), self.scales_N.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, words: bytes, scales: bytes) -> Codes:
        """What :meth:`to_bytes` gave."""
        scales_N = np.frombuffer(scales, "<f4").astype(np.float32)
        words_NW = np.frombuffer(words, "<u8").astype(np.uint64).reshape(len(scales_N), -1)
        return cls(words_NW, scales_N)


class CodeTable:
    """Codes in memory, in the order in which they are searched. Adding does not disturb who searches meanwhile."""

    def __init__(self, words: int) -> None:
        """``words``: of a code."""
        self._words_WN = np.zeros((words, 0), np.uint64)
        self._ones_N = np.zeros(0, np.float32)
        self._scales_N = np.zeros(0, np.float32)
        self.size = 0

    def add(self, codes: Codes) -> None:
        """Append codes. Only one thread may add at a time."""
        end = self.size + len(codes.scales_N)
        if end > self._words_WN.shape[1]:
            room = max(end, 2 * self.size, 1024) - self.size
            self._words_WN = np.pad(self._words_WN[:, : self.size], ((0, 0), (0, room)))
            self._ones_N = np.pad(self._ones_N[: self.size], (0, room))
            self._scales_N = np.pad(self._scales_N[: self.size], (0, room))
        self._words_WN[:, self.size : end] = codes.words_NW.T
        self._ones_N[self.size : end] = np.bitwise_count(codes.words_NW).sum(axis=1, dtype=np.uint16)
        self._scales_N[self.size : end] = codes.scales_N
        self.size = end

    def scores(self, question_D: Floats) -> Floats:
        """Estimates of ``q.(x - c)``, one a vector in the order of adding. ``question_D``: of any length."""
        size, words_WN, ones_N, scales_N = self.size, self._words_WN, self._ones_N, self._scales_N
        question_D = rotation(len(question_D)) @ question_D
        planes_PW, step = _planes(question_D, len(words_WN))
        middle, total = (2**LEVELS - 1) / 2, float(_rounded(question_D, step).sum())
        scores_N = np.empty(size, np.float32)

        def part(begin: int) -> None:
            end = min(begin + PART, size)
            counts = _counts(words_WN[:, begin:end], planes_PW)
            inside = step * (counts - middle * ones_N[begin:end])
            scores_N[begin:end] = scales_N[begin:end] * (2 * inside - total)

        if size <= PART:
            for begin in range(0, size, PART):
                part(begin)
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(part, range(0, size, PART)))
        return scores_N


@lru_cache(maxsize=4)
def rotation(size: int) -> Floats:
    """An orthogonal matrix that mixes all dimensions, the same everywhere: signs and cosine transforms, twice."""
    at = np.arange(size)
    cosines = np.sqrt(2 / size) * np.cos(np.pi * np.outer(at, 2 * at + 1) / (2 * size))
    cosines[0] /= np.sqrt(2)
    made = np.eye(size)
    for turn in (b"first", b"second"):
        drawn = np.frombuffer(hashlib.shake_256(turn).digest(size), np.uint8)
        made = cosines @ (np.where(drawn & 1, 1.0, -1.0)[:, None] * made)
    turned: Floats = made.astype(np.float32)
    return turned


def _step(question_D: Floats) -> float:
    return float(np.abs(question_D).max(initial=0.0)) / ((2**LEVELS - 1) / 2) or 1.0


def _levels(question_D: Floats, step: float) -> npt.NDArray[np.uint8]:
    levels = np.rint(question_D / step + (2**LEVELS - 1) / 2)
    kept: npt.NDArray[np.uint8] = np.clip(levels, 0, 2**LEVELS - 1).astype(np.uint8)
    return kept


def _rounded(question_D: Floats, step: float) -> Floats:
    rounded: Floats = step * (_levels(question_D, step).astype(np.float32) - np.float32((2**LEVELS - 1) / 2))
    return rounded


def _planes(question_D: Floats, words: int) -> tuple[Words, float]:
    """The bits of a rounded question, a row for each of its levels, and what a level stands for."""
    step = _step(question_D)
    levels = np.zeros(words * BITS, np.uint8)
    levels[: len(question_D)] = _levels(question_D, step)
    planes = [np.packbits((levels >> plane) & 1, bitorder="little").view("<u8") for plane in range(LEVELS)]
    return np.stack(planes).astype(np.uint64), step


def _counts(words_WN: Words, planes_PW: Words) -> npt.NDArray[np.uint16]:
    """Sums of the question's levels over the bits that are set in each code."""
    counts = np.zeros(words_WN.shape[1], np.uint16)
    shared, ones = np.empty(words_WN.shape[1], np.uint64), np.empty(words_WN.shape[1], np.uint8)
    for plane, plane_W in enumerate(planes_PW):
        sums = np.zeros(words_WN.shape[1], np.uint16)
        for word_N, word in zip(words_WN, plane_W):
            np.bitwise_and(word_N, word, out=shared)
            np.bitwise_count(shared, out=ones)
            sums += ones
        counts += sums << np.uint16(plane)
    return counts
