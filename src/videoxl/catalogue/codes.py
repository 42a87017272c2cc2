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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
BITS = 64
LEVELS = 4
"""Bits of each dimension of a question."""
PART = 1 << 15
"""Vectors that are compared at a time: what they need stays in the cache of a core."""
COARSE = 1 << 14
"""Vectors that are left by the signs of the question alone."""
FEW_WORDS = 3
"""Words of a code whose bits a byte can count."""
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

    def best(self, question_D: Floats, count: int, allowed_N: Flags) -> Places:
        """Places of the ``count`` allowed vectors with the largest estimates of ``q.(x - c)``, in no order.

        ``question_D``: of any length. ``allowed_N``: for the first ``N`` vectors; others are not looked at.
        """
        turned_D, size = rotation(len(question_D)) @ question_D, len(allowed_N)
        words_WN, ones_N, scales_N = self._words_WN, self._ones_N, self._scales_N
        if size > COARSE:
            signs_W = _packed(turned_D > 0, len(words_WN))
            places = _largest(_coarse(words_WN[:, :size], scales_N, signs_W, allowed_N, len(turned_D)), COARSE)
            places = places[allowed_N[places]]
            places.sort()  # near ones lie near one another in memory
        else:
            places = np.flatnonzero(allowed_N)
        fine = _fine(words_WN[:, places], ones_N[places], scales_N[places], turned_D)
        best: Places = places[_largest(fine, count)]
        return best


def _largest(scores_N: Floats, count: int) -> Places:
    """Places of the largest numbers, in no order."""
    if len(scores_N) <= count:
        return np.arange(len(scores_N))
    return np.argpartition(scores_N, len(scores_N) - count)[-count:]


def _coarse(words_WN: Words, scales_N: Floats, signs_W: Words, allowed_N: Flags, width: int) -> Floats:
    """Estimates, up to a factor, from the signs of the question alone; minus infinity for what is not allowed."""
    scores_N = np.empty(len(allowed_N), np.float32)

    def part(begin: int) -> None:
        end = min(begin + PART, len(allowed_N))
        unlike = _unlike(words_WN[:, begin:end], signs_W)
        np.multiply(scales_N[begin:end], width - 2.0 * unlike.astype(np.float32), out=scores_N[begin:end])
        scores_N[begin:end][~allowed_N[begin:end]] = -np.inf

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(part, range(0, len(allowed_N), PART)))
    return scores_N


def _unlike(words_WN: Words, signs_W: Words) -> npt.NDArray[np.uint16]:
    """How many bits of each code differ from those of the question."""
    shape = words_WN.shape[1]
    sums = np.zeros(shape, np.uint16)
    differing, ones, few = np.empty(shape, np.uint64), np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for begin in range(0, len(words_WN), FEW_WORDS):
        few.fill(0)
        for word_N, sign in zip(words_WN[begin : begin + FEW_WORDS], signs_W[begin : begin + FEW_WORDS]):
            np.bitwise_xor(word_N, sign, out=differing)
            np.bitwise_count(differing, out=ones)
            few += ones  # of bytes, many at once
        sums += few
    return sums


def _fine(words_WN: Words, ones_N: Floats, scales_N: Floats, turned_D: Floats) -> Floats:
    """Estimates from a question that is rounded to :data:`LEVELS` bits a dimension."""
    step = _step(turned_D)
    levels_D = _levels(turned_D, step)
    middle = (2**LEVELS - 1) / 2
    total = step * float((levels_D - np.float32(middle)).sum())
    planes_PW = [_packed((levels_D & (1 << plane)) > 0, len(words_WN)) for plane in range(LEVELS)]
    inside = step * (_counts(words_WN, planes_PW) - middle * ones_N)
    estimates: Floats = scales_N * (2 * inside - total).astype(np.float32)
    return estimates


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


def _packed(bits_D: Flags, words: int) -> Words:
    """Bits in words, as those of codes."""
    padded = np.zeros(words * BITS, np.uint8)
    padded[: len(bits_D)] = bits_D
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)


def _counts(words_WN: Words, planes_PW: Sequence[Words]) -> Floats:
    """Sums of the question's levels over the bits that are set in each code."""
    counts = np.zeros(words_WN.shape[1], np.float32)
    for plane, plane_W in enumerate(planes_PW):
        for word_N, word in zip(words_WN, plane_W):
            counts += np.float32(1 << plane) * np.bitwise_count(word_N & word)
    return counts
