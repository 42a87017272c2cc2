"""Tokens behind a prompt that was read: by single launches on a cache that grows, or over buffers that stay in place.

A step over fixed buffers is the same for the host whatever was written before. On a GPU it is captured once as a CUDA
graph, and from then on is one launch a token (:mod:`videoxl.inference.decode.graph`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import torch

from videoxl.inference.decode.choice import TokenChoice
from videoxl.inference.decode.graph import CapturedStep
from videoxl.memory.kv_cache import KVCache, SharedBuffer
from videoxl.model.attention import Watch
from videoxl.model.token_step import DevicePositions, DevicePrompt, HostPositions, TokenStep, tables_for
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration

ROOM = 512
"""Tokens that buffers are made ready for at once."""
KEPT = 8
"""Tokens written on a GPU whose logits are kept."""


Record = Callable[[Sequence[int], torch.Tensor, torch.Tensor], None]
"""Sees what was written: for each row the number of its answer, its logits ``[B, V]``, and its token ``[B]``. Rows of
one answer are places in a row."""


@dataclass(frozen=True)
class Written:
    """Tokens that were written on the device and not looked at yet."""

    tokens_n: torch.Tensor
    logits_nV: torch.Tensor | None
    """What each was chosen from; None where nobody wants it."""

    def record_first(self, count: int, record: Record | None) -> None:
        """Record the first ``count`` tokens, of answer 0."""
        if record is not None and self.logits_nV is not None and count:
            record((0,) * count, self.logits_nV[:count], self.tokens_n[:count])


class Steps(Protocol):
    """A way to write tokens."""

    def write(
        self, token_1: torch.Tensor, count: int, choose: TokenChoice, new_ids: Sequence[int], *, keep_logits: bool
    ) -> Written:
        """``count`` tokens behind ``token_1``, which is not in the cache yet. ``new_ids``: the answer so far."""
        ...


def begin(
    model: VideoXLForConditionalGeneration, ids: Sequence[int], cache: KVCache, most: int, watch: Watch | None = None
) -> tuple[torch.Tensor, Steps]:
    """Read ``ids`` behind the cache: the logits ``[1, V]`` of what follows, and the fastest way to ``most`` tokens."""
    step = TokenStep.of(model.model.language_model)
    feed_1L = to_device(torch.tensor([list(ids)]), model.model.text_device)
    if step is not None and step.device.type == "cuda" and _serves(cache, step):
        steps = DeviceSteps(model, cache, step, most, watch)
        return steps.read(feed_1L), steps
    logits_1V = model.next_logits(feed_1L, cache, watch)
    if step is None or any(layer.device != step.device or layer.is_packed for layer in cache.layers):
        return logits_1V, GrowingSteps(model, cache, watch)
    if step.device.type == "cpu":
        return logits_1V, HostSteps(model, cache, step, most, watch)
    if _serves(cache, step):  # what waited on the host has come
        return logits_1V, DeviceSteps(model, cache, step, most, watch)
    return logits_1V, GrowingSteps(model, cache, watch)


def _serves(cache: KVCache, step: TokenStep) -> bool:
    """Whether the kernel that reads the number of tokens from the GPU takes what the cache holds."""
    here = all(not layer.is_empty and layer.device == step.device and not layer.is_packed for layer in cache.layers)
    return here and DevicePositions.serves(cache.layers[0].keys)


def joined(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one behind the other; a lone one as it is."""
    return rows[0] if len(rows) == 1 else torch.cat(tuple(rows))


class GrowingSteps:
    """The ordinary forward of the model, on a cache that grows."""

    def __init__(self, model: VideoXLForConditionalGeneration, cache: KVCache, watch: Watch | None = None) -> None:
        self.model, self.cache, self.watch = model, cache, watch

    def write(
        self, token_1: torch.Tensor, count: int, choose: TokenChoice, new_ids: Sequence[int], *, keep_logits: bool
    ) -> Written:
        tokens, kept = [], []
        for _ in range(count):
            logits_1V = self.next_logits(token_1)
            token_1 = choose(logits_1V, new_ids)
            tokens.append(token_1)
            if keep_logits:
                kept.append(logits_1V)
        return Written(joined(tokens), joined(kept) if kept else None)

    def next_logits(self, token_1: torch.Tensor) -> torch.Tensor:
        """``[1, V]``."""
        return self.model.next_logits(token_1[:, None], self.cache, self.watch)


class HostSteps(GrowingSteps):
    """A plain model on a CPU: its weights alone, on buffers with room for the next tokens."""

    def __init__(
        self,
        model: VideoXLForConditionalGeneration,
        cache: KVCache,
        step: TokenStep,
        most: int,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(model, cache, watch)
        self.step, self.embed, self.head = step, model.get_input_embeddings(), model.lm_head
        self.place = self.end = len(cache)
        """Of the next token, and where the room ends."""
        self.last = self.end + most

    def next_logits(self, token_1: torch.Tensor) -> torch.Tensor:
        if self.place == self.end:
            self._make_room()
        self.positions.go_to(self.place)
        logits_1V: torch.Tensor = self.head(self.step(self.embed(token_1), self.positions))
        self.place += 1
        self.cache.grow_to(self.place)
        return logits_1V

    def _make_room(self) -> None:
        self.end = min(self.last, self.place + ROOM)
        buffers = self.cache.make_room(self.end)
        begin = self.place + self.cache.shift
        tables = tables_for(self.step.language_model, begin, self.end - self.place, buffers[0][0])
        self.positions = HostPositions(self.step, buffers, self.place, tables, self.watch)


class DeviceSteps:
    """A plain model on a GPU: buffers, places and tokens stay at their addresses, and the host knows none of them."""

    def __init__(
        self,
        model: VideoXLForConditionalGeneration,
        cache: KVCache,
        step: TokenStep,
        most: int,
        watch: Watch | None = None,
    ) -> None:
        self.model, self.cache, self.step, self.watch = model, cache, step, watch
        self.place = self.end = len(cache)
        self.last = self.end + most

    def read(self, ids_1L: torch.Tensor) -> torch.Tensor:
        """Read a prompt: the logits ``[1, V]`` of what follows."""
        end = self.place + ids_1L.shape[1]
        self.last += ids_1L.shape[1]
        buffers = self.cache.make_room(min(self.last, end + ROOM))
        prompt = DevicePrompt(self.step, buffers, self.place, end, self.watch, self.cache.shift)
        hidden_LD = self.step(self.model.get_input_embeddings()(ids_1L[0]), prompt)
        self.place = self.end = end
        self.cache.grow_to(end)
        logits_1V: torch.Tensor = self.model.lm_head(hidden_LD[-1:])
        return logits_1V

    def write(
        self, token_1: torch.Tensor, count: int, choose: TokenChoice, new_ids: Sequence[int], *, keep_logits: bool
    ) -> Written:
        if count > KEPT:
            first = self.write(token_1, KEPT, choose, new_ids, keep_logits=keep_logits)
            rest = self.write(first.tokens_n[-1:], count - KEPT, choose, new_ids, keep_logits=keep_logits)
            both = [part.logits_nV for part in (first, rest) if part.logits_nV is not None]
            return Written(torch.cat((first.tokens_n, rest.tokens_n)), torch.cat(both) if both else None)
        if self.place + count > self.end:
            self._make_room()
        begin = self.fixed.row
        written = self.fixed.write(token_1, count, choose, new_ids, keep_logits)
        if self.watch is not None:
            self.fixed.positions.show(self.watch, begin, begin + count)
        self.place += count
        self.cache.grow_to(self.place)
        return written

    def _make_room(self) -> None:
        self.end = min(self.last, self.place + ROOM)
        self.cache.make_room(self.end)
        watched = frozenset() if self.watch is None else self.watch.layers
        self.fixed = FixedStep.on(self.model, self.step, self.cache, watched)
        self.fixed.go_to(self.place, self.cache.shift)


class FixedStep:
    """Everything a step on a GPU reads and writes, where it stays. Questions that grow in one buffer share it."""

    def __init__(
        self, model: VideoXLForConditionalGeneration, step: TokenStep, cache: KVCache, watched: frozenset[int]
    ) -> None:
        self.step, self.embed, self.head = step, model.get_input_embeddings(), model.lm_head
        buffers = [(layer.buffer().keys, layer.buffer().values) for layer in cache.layers]
        self.positions = DevicePositions(step, buffers, ROOM, watched)
        self.token_1 = torch.zeros(1, dtype=torch.int64, device=step.device)
        self.tokens_R = torch.zeros(ROOM, dtype=torch.int64, device=step.device)
        """The likeliest token at each row of the tables."""
        self.logits_KV: torch.Tensor | None = None
        """What the last of them were chosen from; made when the first are there."""
        self.row = 0
        self.addresses = addresses_of(step, cache, watched)
        own = weakref.proxy(self)  # a circle would keep the buffers until the garbage collector comes by
        self.next_logits = CapturedStep(lambda: FixedStep._next_logits(own))
        self.next_token = CapturedStep(lambda: FixedStep._next_token(own))

    @classmethod
    def on(
        cls, model: VideoXLForConditionalGeneration, step: TokenStep, cache: KVCache, watched: frozenset[int]
    ) -> FixedStep:
        """That of the cache's buffers; a new one where weights or buffers are not where they were."""
        buffer = cache.layers[0].buffer()
        known = FIXED.get(buffer)
        if known is None or known.addresses != addresses_of(step, cache, watched):
            known = FIXED[buffer] = cls(model, step, cache, watched)
        return known

    def go_to(self, place: int, shift: int = 0) -> None:
        """The next token has this place; ``shift`` is added to a place to give the token's position."""
        begin = to_device(torch.tensor([0, place, place + 1]), self.step.device)
        self.positions.go_to(begin, tables_for(self.step.language_model, place + shift, ROOM, self.positions.tables))
        self.row = 0

    def write(
        self, token_1: torch.Tensor, count: int, choose: TokenChoice, new_ids: Sequence[int], keep_logits: bool
    ) -> Written:
        """As :meth:`Steps.write`, for as many tokens as there is room for, and at most :data:`KEPT`."""
        self.token_1.copy_(token_1)
        begin, self.row = self.row, self.row + count
        if choose.is_plain:
            for _ in range(count):
                self.next_token()
            tokens_n = self.tokens_R[begin : self.row].clone()  # later ones stand at the same rows
            return Written(tokens_n, self._kept(begin % KEPT, count) if keep_logits else None)
        tokens, logits = [], []
        for _ in range(count):
            logits_1V = self.next_logits()
            tokens.append(choose(logits_1V, new_ids))
            self.token_1.copy_(tokens[-1])
            if keep_logits:
                logits.append(logits_1V.clone())  # the next step writes over it
        return Written(joined(tokens), joined(logits) if logits else None)

    def _kept(self, begin: int, count: int) -> torch.Tensor:
        """Logits of the last ``count`` tokens, the first of which are at row ``begin``."""
        assert self.logits_KV is not None
        return torch.cat((self.logits_KV[begin : begin + count], self.logits_KV[: max(0, begin + count - KEPT)]))

    def _next_logits(self) -> torch.Tensor:
        hidden_1D = self.step(self.embed(self.token_1), self.positions)
        self.positions.advance()
        logits_1V: torch.Tensor = self.head(hidden_1D)
        return logits_1V

    def _next_token(self) -> torch.Tensor:
        logits_1V = self.head(self.step(self.embed(self.token_1), self.positions))
        if self.logits_KV is None:
            self.logits_KV = logits_1V.new_empty((KEPT, logits_1V.shape[1]))
        torch.argmax(logits_1V, -1, out=self.token_1)
        self.tokens_R.index_copy_(0, self.positions.row, self.token_1)
        self.logits_KV.index_copy_(0, self.positions.row % KEPT, logits_1V)
        self.positions.advance()
        return self.token_1


FIXED: WeakKeyDictionary[SharedBuffer, FixedStep] = WeakKeyDictionary()
"""By the buffer of the first layer."""


def addresses_of(step: TokenStep, cache: KVCache, watched: frozenset[int]) -> tuple[object, ...]:
    """Where everything is that a step reads: it may go on as it is while they are the same."""
    buffers = (layer.buffer().addresses for layer in cache.layers)
    return (id(step.language_model), watched, *step.addresses, *(address for pair in buffers for address in pair))
