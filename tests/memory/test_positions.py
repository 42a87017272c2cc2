"""Positions in time, height and width of the tokens of a cache."""

from __future__ import annotations

import pytest
import torch

from videoxl.memory.kv_cache import KVCache
from videoxl.memory.positions import NONE, Positions, positions_of

TEXT, LOOK = 1, 9
IDS = [TEXT, TEXT, *[LOOK] * 6, TEXT, *[LOOK] * 6]


def of(ids, begin=0):
    return positions_of(ids, (LOOK,), (2, 3), begin)


def test_text_goes_on_in_all_dimensions_and_pictures_count_rows_and_columns():
    time, height, width = of(IDS).tolist()
    assert time == [0, 1, *[2] * 6, 5, *[6] * 6]
    assert height == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 6, 6, 7, 7, 7]
    assert width == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8]
    held = Positions.of(of(IDS))
    assert (held.next, held.shift, held.grid(2, 8)) == (9, 9 - 15, (2, 3))


def test_in_pieces_they_are_those_of_the_whole():
    held = NONE
    for begin, end in ((0, 2), (2, 8), (8, 15)):
        held = held.followed_by(of(IDS[begin:end], held.next))
    assert torch.equal(held.held_3S, of(IDS))
    assert torch.equal(held.cut(8).held_3S, of(IDS[:8]))
    assert held.cut(8).next == 5
    assert held.cut(99) is held


def test_what_follows_is_text():
    held = Positions.of(of(IDS[:8]))
    at = held.at(torch.tensor([0, 7, 8, 10]))
    assert at.tolist() == [[0, 2, 5, 7], [0, 3, 5, 7], [0, 4, 5, 7]]
    assert NONE.at(torch.tensor([0, 3])).tolist() == [[0, 3]] * 3


def test_what_is_left_moves_behind_the_head():
    held = Positions.of(of([*IDS, TEXT]))
    kept, distance = held.without(2, 8, 15)
    assert distance == 3
    assert torch.equal(kept.held_3S, of([TEXT, TEXT, TEXT, *[LOOK] * 6]))


def test_another_number_of_placeholders_is_refused():
    with pytest.raises(ValueError, match="a picture of 2 x 3 tokens has 5 placeholders in the prompt"):
        of(IDS[:7])


def test_a_cache_passes_them_on():
    cache = KVCache(1).placed(Positions.of(of(IDS)))
    assert cache.shift == cache.fork().shift == -6
    assert cache.positions_at(torch.tensor([3])).tolist() == [[2], [2], [3]]
    assert KVCache(1).positions_at(torch.tensor([3])).tolist() == [3]
    assert KVCache(1).shift == 0
