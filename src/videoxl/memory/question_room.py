"""Where keys and values that are mixed for a question stand: one question after the other finds them in the same place.

Nothing is allocated then, and what was recorded over these buffers, such as a CUDA graph, still holds.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from videoxl.memory.kv_cache import KVCache, PreallocatedLayer, SharedBuffer

CAPACITY_STEP = 512
"""Room is made in steps of so many tokens: questions about one memory differ by their own and their answers' tokens."""


@dataclass(frozen=True)
class MixedStates:
    """Keys and values of all layers, and the buffers that share them out."""

    keys_X1KSE: torch.Tensor
    """``X`` layers."""
    values_X1KSE: torch.Tensor
    buffers: tuple[SharedBuffer, ...]

    @classmethod
    def like(cls, states_1KME: torch.Tensor, layers: int, capacity: int) -> MixedStates:
        """Empty ones, for tokens such as these."""
        _, heads, _, width = states_1KME.shape
        keys, values = (states_1KME.new_empty((layers, 1, heads, capacity, width)) for _ in range(2))
        return cls(keys, values, tuple(SharedBuffer(*pair) for pair in zip(keys, values)))

    @property
    def nbytes(self) -> int:
        return 2 * self.keys_X1KSE.numel() * self.keys_X1KSE.element_size()

    def cache(self, length: int) -> KVCache:
        """A cache of the first ``length`` tokens; those behind them are its spare capacity."""
        return KVCache([PreallocatedLayer.on(buffer, length) for buffer in self.buffers])


class QuestionRoom:
    """Keeps the room of the last question for the next one. A question asked meanwhile gets a room of its own."""

    def __init__(self) -> None:
        self._kept: MixedStates | None = None
        self._lock = threading.Lock()
        ROOMS.add(self)

    def take(self, like_1KME: torch.Tensor, layers: int, length: int, capacity: int) -> tuple[KVCache, MixedStates]:
        """A cache of ``length`` tokens that are not there yet, with room up to ``capacity``; and where to put them."""
        with self._lock:
            if self._kept is not None and self._kept.buffers[0].in_use:
                states = MixedStates.like(like_1KME, layers, capacity)
            else:
                if self._kept is None or self._kept.buffers[0].capacity < capacity:
                    self._kept = None  # let go of it before the next is made
                    self._kept = MixedStates.like(like_1KME, layers, -(-capacity // CAPACITY_STEP) * CAPACITY_STEP)
                states = self._kept
            return states.cache(length), states

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        kept = self._kept
        return 0 if kept is None else kept.nbytes

    def let_go(self) -> None:
        """Keep nothing. A question that is being answered goes on."""
        with self._lock:
            self._kept = None


ROOMS: weakref.WeakSet[QuestionRoom] = weakref.WeakSet()


def let_go_of(rooms: Iterable[QuestionRoom] = ROOMS) -> int:
    """Free what is kept for the next questions, of all memories by default: the bytes there were."""
    found = list(rooms)
    nbytes = sum(room.nbytes for room in found)
    for room in found:
        room.let_go()
    return nbytes
