"""Pieces of sound: everything once, cut in pauses, with a bounded amount held."""

from __future__ import annotations

import numpy as np
import pytest

from videoxl.cues import SpokenWord
from videoxl.video.sound import SAMPLE_RATE, SoundChunk
from videoxl.words.speech_cues import cue_of, join
from videoxl.words.speech_pieces import LONG_GAP, pieces

RATE = SAMPLE_RATE


def chunks(seconds: float, each: float = 3.0, first: float = 0.0) -> list[SoundChunk]:
    """Samples that count up."""
    samples_N = np.arange(round(seconds * RATE), dtype=np.float32) + first * RATE
    size = round(each * RATE)
    return [SoundChunk(round(first * RATE) + at, samples_N[at : at + size]) for at in range(0, len(samples_N), size)]


def test_pieces_end_in_the_longest_pause_and_hold_everything_once():
    pause = (round(1.0 * RATE), round(1.4 * RATE))
    found = list(pieces(chunks(40), lambda samples_N: [(0, RATE // 10), pause], piece_seconds=10))
    assert [piece.start_s for piece in found] == pytest.approx([0, 11.2, 22.4, 33.6])
    assert [piece.overlap_s for piece in found] == [0, 0, 0, 0]
    assert (np.concatenate([piece.samples_N for piece in found]) == np.arange(40 * RATE)).all()


@pytest.mark.parametrize("found", [[], [(0, RATE // 10)]])
def test_pieces_overlap_where_nobody_pauses(found):
    made = list(pieces(chunks(40), lambda samples_N: found, piece_seconds=10))
    assert [piece.start_s for piece in made] == [0, 10, 20, 30]
    assert [piece.overlap_s for piece in made] == [0, 5, 5, 5]
    assert [piece.end_s for piece in made] == [15, 25, 35, 40]
    for piece in made:
        assert (piece.samples_N == np.arange(round(piece.start_s * RATE), round(piece.end_s * RATE))).all()


def test_short_gaps_are_silence_and_long_ones_end_a_piece():
    sound = [*chunks(2), *chunks(2, first=3.5), *chunks(1, first=3.5 + 2 + LONG_GAP + 1)]
    made = list(pieces(sound, lambda samples_N: [], piece_seconds=100))
    assert [(piece.start_s, piece.end_s) for piece in made] == [(0, 5.5), (11.5, 12.5)]
    assert not made[0].samples_N[2 * RATE : round(3.5 * RATE)].any()
    assert made[0].samples_N[round(3.5 * RATE)] == round(3.5 * RATE)


def test_a_long_video_is_held_a_piece_at_a_time():
    held = 0

    def endless():
        nonlocal held
        for number in range(200):
            held += 30 * RATE
            yield SoundChunk(number * 30 * RATE, np.zeros(30 * RATE, np.float32))

    for piece in pieces(endless(), lambda samples_N: [(0, len(samples_N))]):
        held -= len(piece.samples_N)
        assert held <= 400 * RATE
    assert held == 0


def test_no_sound_makes_no_piece():
    assert list(pieces([], lambda samples_N: [])) == []


def spoken(text: str, at: float = 0.0, every: float = 1.0, off: float = 0.0):
    """A cue whose words begin a second apart."""
    return cue_of(
        [SpokenWord(at + n * every + off, at + n * every + off + 0.6, w, 0.9) for n, w in enumerate(text.split())]
    )


@pytest.mark.parametrize("off", [-0.3, 0.0, 0.3])
@pytest.mark.parametrize(
    ("later", "whole"),
    [
        ("e f g h i j", "a b c d e f g h i j"),
        ("E, f. g h i j", "a b c d e f g h i j"),
        ("x f g y i j", "a b c d e f g y i j"),  # which of two readings is right is not known
        ("x x x x i j", "a b c d e f x x i j"),
    ],
)
def test_words_at_a_border_are_neither_lost_nor_doubled(later, whole, off):
    earlier = [spoken("a b c"), spoken("d e f g h", at=3)]
    joined = join(earlier, [spoken(later, at=4, off=off)], 4.0, 8.0)
    said = " ".join(word.text for cue in joined for word in cue.words)
    assert [w.strip(",.").lower() for w in said.split()] == whole.split()
    begins = [cue.start_s for cue in joined]
    assert begins == sorted(begins)


def test_an_overlap_in_which_one_piece_heard_nothing():
    assert [c.text for c in join([], [spoken("a b", at=4)], 0, 4.5)] == ["a b"]
    assert [c.text for c in join([spoken("a b")], [], 1.5, 9)] == ["a b"]
