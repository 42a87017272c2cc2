"""Write several answers at once: weights are read once a step, and a memory's keys once for all questions about it.

Each question has a tail of its own: the tokens after its memory. Attention over the memory needs no mask, and the rows
of all questions about it go through it together; attention over the tails is small. Both are merged by their
log-sum-exps (:mod:`videoxl.model.attention_parts`). That rounds differently from one softmax over all, so logits agree
with those of one question at a time to float noise, not bit for bit.

Shapes: ``B`` questions, ``L`` new tokens of each, ``T`` tokens of the tails so far, otherwise as in
:mod:`videoxl.model.attention`. Tails are aligned at their end: a shorter question begins with padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from videoxl.config import Generation
from videoxl.errors import DoesNotFitError
from videoxl.inference.decode.choice import LogitsProcessor, TokenChoice
from videoxl.inference.decode.loop import Stop
from videoxl.inference.decode.steps import Record
from videoxl.memory.kv_cache import KVCache
from videoxl.model.attention import AttentionLayer, Pair, attention_with_sums, rotate
from videoxl.model.attention_parts import Part, merge
from videoxl.model.decoder import LanguageModel
from videoxl.model.generation import check_ids
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration


class TailWatch(Protocol):
    """A :class:`~videoxl.model.attention.Watch` of several answers."""

    def see(
        self, layer: int, answers: Sequence[int], queries_BNLE: torch.Tensor, tail_sums_BNL: torch.Tensor, /
    ) -> None:
        """Rotated queries of the answers with these numbers, and log-sum-exps of their scores over the tails."""
        ...


@dataclass(frozen=True)
class Prompt:
    """One question of several."""

    ids: Sequence[int]
    """The whole prompt, the first ``len(cache)`` ids of which are in ``cache``."""
    cache: KVCache
    """What it starts from; stays as it is. Questions that share one are read together."""
    settings: Generation
    stop: Stop | None = None
    processor: LogitsProcessor | None = None

    @property
    def tail(self) -> Sequence[int]:
        """The ids that are still to be read."""
        return self.ids[len(self.cache) :]


@torch.inference_mode()
def decode_together(
    model: VideoXLForConditionalGeneration,
    prompts: Sequence[Prompt],
    *,
    end_ids: Sequence[int] = (),
    watch: TailWatch | None = None,
    record: Record | None = None,
) -> Iterator[tuple[int, int]]:
    """The tokens of all answers as they come: (number of the prompt, id). Each ends as its own settings say.

    ``watch`` is shown the queries of every forward, ``record`` gets the logits of every token as the model made them.

    Raises ``ValueError`` for a prompt with nothing left to read or with beams, and :class:`DoesNotFitError` when the
    GPU's memory is full.
    """
    for prompt in prompts:
        if not prompt.tail:
            raise ValueError(f"the cache holds all {len(prompt.ids):,} tokens of a prompt: nothing is left to read")
        check_ids(prompt.tail, model.model.vocabulary_rows)
        if prompt.settings.num_beams > 1:
            raise ValueError(f"num_beams={prompt.settings.num_beams}: beams are searched one question at a time")
    device, ends = model.model.text_device, frozenset(end_ids)
    batch = Batch(model, prompts, watch)
    vocabulary = model.model.vocabulary_rows
    choose = [TokenChoice(one.settings, one.ids, device, vocabulary, one.processor) for one in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    live = [number for number, prompt in enumerate(prompts) if prompt.settings.max_new_tokens]
    batch.keep(live)
    feed_BL = batch.first_tokens()
    while live:
        try:
            logits_BV = batch.next_logits(feed_BL)
        except torch.OutOfMemoryError as error:
            raise DoesNotFitError(
                f"the GPU ran out of memory with {len(live)} questions at once; the memories are unharmed: ask fewer "
                "at a time"
            ) from error
        tokens_B = _choose(logits_BV, [(choose[number], answers[number]) for number in live])
        if record is not None:
            record(live, logits_BV, tokens_B)
        going = []
        for row, (number, token) in enumerate(zip(live, tokens_B.tolist())):
            prompt, answer = prompts[number], answers[number]
            answer.append(token)
            yield number, token
            ended = token in ends or (prompt.stop is not None and prompt.stop(answer))
            if not ended and len(answer) < prompt.settings.max_new_tokens:
                going.append(row)
        if len(going) < len(live):
            batch.keep(going)
            tokens_B = tokens_B[to_device(torch.tensor(going, dtype=torch.long), device)]
            live = [live[row] for row in going]
        feed_BL = tokens_B[:, None]


def _choose(logits_BV: torch.Tensor, choices: Sequence[tuple[TokenChoice, Sequence[int]]]) -> torch.Tensor:
    """The next token of every row, ``[B]``; ``choices``: how it is chosen, and the answer so far."""
    if all(choice.is_plain for choice, _ in choices):
        return logits_BV.argmax(-1)
    return torch.cat([choice(row[None], answer) for (choice, answer), row in zip(choices, logits_BV)])


class Batch:
    """Questions that are being answered: what each starts from, and the tails so far."""

    def __init__(
        self, model: VideoXLForConditionalGeneration, prompts: Sequence[Prompt], watch: TailWatch | None = None
    ) -> None:
        self.model, self.prompts, self.watch = model, list(prompts), watch
        self.numbers = list(range(len(prompts)))
        """Of the prompts that are left, among those there were."""
        self.device = model.model.text_device
        longest = max(len(prompt.tail) for prompt in prompts)
        most = longest + max(prompt.settings.max_new_tokens for prompt in prompts)
        text = model.config.text
        self.tails = Tails(text.num_hidden_layers, most)
        self.padding = [longest - len(prompt.tail) for prompt in prompts]
        self.starts: dict[int, list[Pair]] = {}
        """Per cache that a question starts from, its keys and values on the device of each layer."""

    def first_tokens(self) -> torch.Tensor:
        """The tails as ids ``[B, L]``, padded in front with the first of each."""
        rows = [[prompt.tail[0]] * pad + list(prompt.tail) for prompt, pad in zip(self.prompts, self.padding)]
        return to_device(torch.tensor(rows, dtype=torch.long), self.device)

    def next_logits(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """Feed ``[B, L]``; logits ``[B, V]`` of what follows."""
        embeds_BLD = self.model.get_input_embeddings()(ids_BL)
        plan = TogetherPlan(self.model.model.language_model, self, ids_BL.shape[1])
        hidden_BLD = self.model.model.language_model.run_plan(embeds_BLD, plan)
        self.tails.length += ids_BL.shape[1]
        logits_BV: torch.Tensor = self.model.lm_head(hidden_BLD[:, -1]).to(self.device)
        return logits_BV

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        if len(rows) == len(self.prompts):
            return
        self.prompts = [self.prompts[row] for row in rows]
        self.numbers = [self.numbers[row] for row in rows]
        self.padding = [self.padding[row] for row in rows]
        self.tails.keep(rows)

    def rows_by_cache(self) -> list[tuple[KVCache, list[int]]]:
        """Every cache that questions start from, with their rows."""
        found: dict[int, tuple[KVCache, list[int]]] = {}
        for row, prompt in enumerate(self.prompts):
            found.setdefault(id(prompt.cache), (prompt.cache, []))[1].append(row)
        return list(found.values())

    def start(self, cache: KVCache, layer: int, device: torch.device) -> Pair:
        """Keys and values of a cache in one layer; brought to the device once, where they wait elsewhere."""
        held = cache.layers[layer]
        if not held.on_host and held.device == device:
            return held.keys, held.values
        copies = self.starts.setdefault(id(cache), [])
        if len(copies) == layer:
            copies.append((held.keys.to(device), held.values.to(device)))
        return copies[layer]


class Tails:
    """Keys and values of the tails, ``[B, K, capacity, E]`` per layer."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.layers: list[Pair | None] = [None] * layers

    def update(self, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, layer: int) -> Pair:
        """Append to a layer; returns all of its keys and values ``[B, K, T, E]``."""
        held = self.layers[layer]
        if held is None:
            batch, heads, _, width = keys_BKLE.shape
            shape = (batch, heads, self.capacity, width)
            held = self.layers[layer] = (keys_BKLE.new_empty(shape), values_BKLE.new_empty(shape))
        end = self.length + keys_BKLE.shape[2]
        for states, new in zip(held, (keys_BKLE, values_BKLE)):
            states[:, :, self.length : end] = new
        return held[0][:, :, :end], held[1][:, :, :end]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        for number, held in enumerate(self.layers):
            if held is not None:
                index = to_device(torch.tensor(rows, dtype=torch.long), held[0].device)
                self.layers[number] = (held[0].index_select(0, index), held[1].index_select(0, index))


class TogetherPlan:
    """Attention of one step of a :class:`Batch` (an :class:`~videoxl.model.attention.AttentionPlan`)."""

    beacon_slots: torch.Tensor | None = None

    def __init__(self, language_model: LanguageModel, batch: Batch, new: int) -> None:
        self.language_model, self.batch = language_model, batch
        self.begin, self.end = batch.tails.length, batch.tails.length + new
        self.shared = batch.rows_by_cache()
        self._made: dict[torch.device, _Shared] = {}

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        on = self._on(keys_BKLE)
        heads = queries_BNLE.shape[1]
        both = rotate(torch.cat((queries_BNLE, keys_BKLE), dim=1), on.cos, on.sin)  # half as many small kernels
        q = both[:, :heads]
        keys, values = self.batch.tails.update(both[:, heads:], values_BKLE, layer.layer_idx)
        tails = attention_with_sums(layer, q, keys, values, on.mask_B1LT)
        if self.batch.watch is not None:
            self.batch.watch.see(layer.layer_idx, self.batch.numbers, q, tails[1])
        memories = [torch.empty_like(part) for part in tails] if len(self.shared) > 1 else []
        for (cache, _), rows in zip(self.shared, on.rows):
            start = self.batch.start(cache, layer.layer_idx, q.device)
            out = self._over_memory(layer, q if not memories else q.index_select(0, rows), *start)
            if not memories:
                return merge([out, tails])
            for whole, part in zip(memories, out):
                whole.index_copy_(0, rows, part)
        return merge([(memories[0], memories[1]), tails])

    def _over_memory(
        self, layer: AttentionLayer, q_BNLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor
    ) -> Part:
        """All rows of some questions over one memory, as if they were rows of one question."""
        batch, heads, new, width = q_BNLE.shape
        rows_1NRE = q_BNLE.transpose(0, 1).reshape(1, heads, batch * new, width)
        out, sums = attention_with_sums(layer, rows_1NRE, k_1KSE, v_1KSE, None)
        return (
            out.view(heads, batch, new, width).transpose(0, 1),
            sums.view(heads, batch, new).transpose(0, 1),
        )

    def _on(self, like: torch.Tensor) -> _Shared:
        """What all layers on a device share."""
        if like.device not in self._made:
            self._made[like.device] = self._make(like)
        return self._made[like.device]

    def _make(self, like: torch.Tensor) -> _Shared:
        device = like.device
        padding_B1 = to_device(torch.tensor(self.batch.padding), device)[:, None]
        begins = [len(prompt.cache) + prompt.cache.shift for prompt in self.batch.prompts]
        before_B1 = to_device(torch.tensor(begins), device)[:, None]
        slots_L = torch.arange(self.begin, self.end, device=device)
        places_BL = before_B1 + (slots_L - padding_B1).clamp_min(0)
        cos, sin = self.language_model.text_tables(places_BL, like.dtype)
        all_T = torch.arange(self.end, device=device)
        seen_BLT = (all_T <= slots_L[:, None]) & (all_T >= padding_B1[:, :, None])
        seen_BLT |= all_T == slots_L[:, None]  # padding sees itself, so that no row is empty
        rows = [to_device(torch.tensor(rows), device) for _, rows in self.shared]
        return _Shared(cos[:, None], sin[:, None], seen_BLT[:, None], rows)


@dataclass(frozen=True)
class _Shared:
    """What every layer on one device needs of a step."""

    cos: torch.Tensor
    """``[B, 1, L, E]``."""
    sin: torch.Tensor
    mask_B1LT: torch.Tensor
    rows: list[torch.Tensor]
    """Rows per cache that questions start from."""
