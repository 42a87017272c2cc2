"""Where what is mixed for a question stands: in the same place for the next one, never in that of another."""

from __future__ import annotations

import torch

from videoxl.memory.question_room import CAPACITY_STEP, QuestionRoom, let_go_of

LIKE = torch.zeros(1, 2, 3, 8)
LAYERS = 2


def places(cache) -> list[tuple[int, int]]:
    return [layer.buffer().addresses for layer in cache.layers]


def test_the_next_question_finds_the_same_buffers():
    room = QuestionRoom()
    cache, states = room.take(LIKE, LAYERS, 5, 9)
    states.keys_X1KSE.fill_(1.0)
    assert len(cache) == 5
    assert cache.layers[1].keys.shape == (1, 2, 5, 8)
    assert (cache.layers[1].keys == 1).all()
    first = places(cache)
    del cache
    again, _ = room.take(LIKE, LAYERS, 300, CAPACITY_STEP)
    assert places(again) == first
    assert len(again) == 300


def test_what_is_asked_meanwhile_has_a_room_of_its_own():
    room = QuestionRoom()
    one, _ = room.take(LIKE, LAYERS, 5, 9)
    other, _ = room.take(LIKE, LAYERS, 5, 9)
    fork = one.fork()
    first = places(one)
    del one
    assert not set(places(other)) & set(first)
    assert not set(places(room.take(LIKE, LAYERS, 5, 9)[0])) & set(first)  # the fork reads it still
    del fork
    assert places(room.take(LIKE, LAYERS, 5, 9)[0]) == first


def test_more_tokens_than_there_is_room_for_get_another():
    room = QuestionRoom()
    room.take(LIKE, LAYERS, 5, 9)
    before = room.nbytes
    cache, _ = room.take(LIKE, LAYERS, 5, CAPACITY_STEP + 1)
    assert cache.layers[0].buffer().capacity == 2 * CAPACITY_STEP
    assert room.nbytes == 2 * before


def test_it_is_let_go_of_when_something_else_needs_the_memory():
    room, other = QuestionRoom(), QuestionRoom()
    cache, _ = room.take(LIKE, LAYERS, 5, 9)
    other.take(LIKE, LAYERS, 5, 9)
    assert let_go_of([room]) == 2 * LAYERS * 2 * CAPACITY_STEP * 8 * 4
    assert (room.nbytes, len(cache.layers)) == (0, LAYERS)
    assert other.nbytes
    assert let_go_of() >= other.nbytes
    assert not other.nbytes
    assert not let_go_of([room, other])
