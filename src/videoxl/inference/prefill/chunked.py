"""Chunked prefill of Video-XL-2 (SPEC 3.6), in two ways that give the same numbers.

``streaming`` runs the language model tile by tile on top of the cache so far. In every layer, the rows of a block read
[landmarks before the window, gathered] + [the window], an order of keys under which the mask is causal and aligned at
the end, as the fast kernels want it; rows of timestamps are then done again over everything before them. ``mask`` runs
one forward under the whole mask and is there to check the other.

Kernels: with ``sdpa`` on a GPU in half precision, windows go through the flash kernel without any mask, and so do
timestamps over everything before their tile; over the tile itself they are written out, and both are merged. Elsewhere
both take torch's fused kernels, timestamps under a mask of timestamps by tokens. ``flash_attention_2`` needs no mask
for either, ``eager`` materialises all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from videoxl.config import ChunkedPrefill, FullPrefill
from videoxl.inference.prefill.full import TiledPrefiller
from videoxl.inference.prefill.prefiller import NewCache, WholeGroups, plain_caches
from videoxl.inference.prefill.tiles import GROUPS_PER_TILE
from videoxl.inference.prompt import VisualSpan
from videoxl.memory.host_cache import DeviceStore, HostStore
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import GroupLayout, RowRun, TilePlan, TilePlanner, allowed_mask
from videoxl.model.attention import AttentionLayer, Pair, causal_attention, masked_attention, rotate_wide
from videoxl.model.attention_parts import merge, plain_with_sums
from videoxl.model.decoder import LanguageModel
from videoxl.model.flash import flash_with_sums, is_flash
from videoxl.model.private import attention_kernel
from videoxl.model.upload import to_device

EVERYTHING = 1 << 40
"""Blocks before its own that a token sees which sees all."""
LEAST_ROWS = 64
"""Timestamp rows that attend at once, at least: every piece reads all keys."""
MASK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Largest mask of timestamps by tokens that is made at once, beyond that; a GPU needs many rows to be busy."""


class StreamingPrefiller(TiledPrefiller):
    """Tile by tile; neither the number of groups handed over at once nor that of a forward changes the numbers."""

    def __init__(
        self,
        model: Any,
        prefix_ids: Sequence[int],
        strategy: ChunkedPrefill | FullPrefill,
        *,
        tile_groups: int = GROUPS_PER_TILE,
        still: bool = False,
        **before: Any,
    ) -> None:
        """
        Args:
            strategy: chunked, or full: every token then attends to all before it.
            still: whether the video is one picture.
            before: see :class:`TiledPrefiller`; of a video that was read before, everything follows from its ids.
        """
        super().__init__(model, prefix_ids, tile_groups=tile_groups, **before)
        self.sees_all = isinstance(strategy, FullPrefill)
        step, previous = 1, EVERYTHING
        if isinstance(strategy, ChunkedPrefill):
            step, previous = strategy.step_size, strategy.previous_blocks
        visual_id = model.config.image_token_id if still else model.config.video_token_id
        self.book = TilePlanner(len(self.prefix_ids), visual_id, block_size=step, previous_blocks=previous)
        read = self._planned(self.ids[len(self.prefix_ids) :]) if self.ids else None
        landmarks = read.global_tokens.tolist() if read else ()
        if strategy.offload:
            tail_from = read.keep_from if read else 0
            self.store: DeviceStore = HostStore(self.cache, landmarks, tail_from=tail_from)
            self.cache = self.store.cache
        else:
            self.store = DeviceStore(self.cache, landmarks)

    def read(self, ids: Sequence[int], tokens_PD: torch.Tensor) -> None:
        self._mark = self.book.mark()
        plan = self._planned(ids)
        new = [*(() if self.ids else self.prefix_ids), *ids]
        base, positions = self.model.model, self._positions(new)
        attention = TileAttention(base.language_model, self.store, plan, positions)
        self.store.begin(plan.end, attention.last_layer if plan.timestamps or self.sees_all else 0)
        embeds, added = base.embed_span_in_layers(new, tokens_PD)
        base.language_model.run_plan(embeds, attention, layer_inputs=added)
        self.store.forget_before(plan.keep_from)
        self._went_on(new, positions)

    def _planned(self, ids: Sequence[int]) -> TilePlan:
        """The tile of these ids. Where all is seen, nothing is kept on the device for it."""
        plan = self.book.add(ids)
        if not self.sees_all:
            return plan
        return replace(plan, keep_from=plan.end, global_tokens=plan.global_tokens[:0])

    def rollback(self) -> None:
        self.book.rewind(self._mark)
        self.store.rewind(len(self.ids), self.book.global_tokens if self.ids else 0)

    def finish(self) -> None:
        self.store.finish()


class TileAttention:
    """Attention of one tile in every layer; an :class:`~videoxl.model.attention.AttentionPlan`."""

    beacon_slots: torch.Tensor | None = None

    def __init__(
        self,
        language_model: LanguageModel,
        store: DeviceStore,
        plan: TilePlan,
        positions: torch.Tensor | None = None,
    ) -> None:
        """``positions``: of the tile's tokens ``[3, L]``, where they are not the indices."""
        self.language_model, self.store, self.plan, self.positions = language_model, store, plan, positions
        self.last_layer = len(language_model.layers) - 1
        self._made: dict[Any, Any] = {}

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        """Un-rotated queries, keys and values of the tile; they join the store, rotated."""
        number, plan = layer.layer_idx, self.plan
        tables = self._once("tables", keys_BKLE.device, self._tables)
        keys_BKLE = rotate_wide(keys_BKLE, tables)
        global_tokens = self._once(
            "global tokens", keys_BKLE.device, partial(to_device, torch.from_numpy(plan.global_tokens))
        )
        self.store.append(number, keys_BKLE, values_BKLE, global_tokens)
        if number == self.last_layer:  # what comes out of it is read by nobody
            return torch.zeros_like(queries_BNLE)
        q = rotate_wide(queries_BNLE, tables)
        parts = [self._run(layer, run, q[:, :, run.begin - plan.begin : run.end - plan.begin]) for run in plan.runs]
        out_BNLE = torch.cat(parts, dim=2)
        if plan.timestamps:
            self._timestamps(layer, q, out_BNLE)
        return out_BNLE

    def _tables(self, device: torch.device) -> Pair:
        if self.positions is not None:
            return self.language_model.rope_tables(to_device(self.positions, device), device)
        positions = torch.arange(self.plan.begin, self.plan.end, device=device)
        return self.language_model.rope_tables(positions, device)

    def _run(self, layer: AttentionLayer, run: RowRun, q_BNLE: torch.Tensor) -> torch.Tensor:
        return causal_attention(layer, q_BNLE, *self.store.read(layer.layer_idx, run))

    def _timestamps(self, layer: AttentionLayer, q_BNLE: torch.Tensor, out_BNLE: torch.Tensor) -> None:
        """Replace the rows of timestamps in ``out``: they see everything before them."""
        begin, end = self.plan.begin, self.plan.timestamps[-1][1]
        k, v = self.store.everything(layer.layer_idx, end)
        if layer.kernel == "sdpa" and is_flash(q_BNLE, k):
            self._timestamps_in_two(layer, q_BNLE, k, v, out_BNLE)
            return
        if "flash" in layer.kernel:  # takes no mask, but causal pieces
            for first, stop in self.plan.timestamps:
                rows = slice(first - begin, stop - begin)
                out_BNLE[:, :, rows] = causal_attention(layer, q_BNLE[:, :, rows], k[:, :, :stop], v[:, :, :stop])
            return
        for number, positions in enumerate(self._timestamp_rows(end, q_BNLE.device)):
            rows, mask = self._once(("rows", number), q_BNLE.device, partial(rows_and_mask, positions, end))
            out_BNLE[:, :, rows - begin] = masked_attention(layer, q_BNLE[:, :, rows - begin], k, v, mask)

    def _timestamps_in_two(
        self, layer: AttentionLayer, q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Over all before the tile without a mask, in the flash kernel; over the tile itself written out; merged."""
        begin, end = self.plan.begin, self.plan.timestamps[-1][1]
        own = partial(rows_and_mask, self._all_timestamp_rows() - begin, end - begin)
        rows, mask = self._once("own rows", q_BNLE.device, own)
        q = q_BNLE.index_select(2, rows)
        parts = [plain_with_sums(q, k_BKSE[:, :, begin:], v_BKSE[:, :, begin:], mask, scale=layer.scaling)]
        if begin:
            before = (q, k_BKSE[:, :, :begin], v_BKSE[:, :, :begin])
            parts.append(flash_with_sums(*before, scale=layer.scaling, causal=False))
        out.index_copy_(2, rows, merge(parts))

    def _all_timestamp_rows(self) -> torch.Tensor:
        return torch.cat([torch.arange(*bounds) for bounds in self.plan.timestamps])

    def _timestamp_rows(self, keys: int, device: torch.device) -> Sequence[torch.Tensor]:
        """Positions of the rows to be done again, in pieces of few enough for a mask over ``keys`` tokens."""
        pieces: Sequence[torch.Tensor] = self._all_timestamp_rows().split(
            max(LEAST_ROWS, MASK_ELEMENTS.get(device.type, MASK_ELEMENTS["cuda"]) // keys)
        )
        return pieces

    def _once(self, name: Any, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """Something made once per device, for all layers."""
        key = (name, device)
        if key not in self._made:
            self._made[key] = make(device)
        return self._made[key]


def rows_and_mask(rows_L: torch.Tensor, keys: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a sequence, and which of its first ``keys`` tokens each sees: those up to itself, ``[L, keys]``."""
    rows_L = to_device(rows_L, device)
    return rows_L, torch.arange(keys, device=device) <= rows_L[:, None]


class MaskPrefiller(WholeGroups):
    """All groups in one forward, under the whole mask: memory grows with the square of the length."""

    def __init__(
        self,
        model: Any,
        prefix_ids: Sequence[int],
        strategy: ChunkedPrefill,
        *,
        reserve: int = 0,
        cache: KVCache | None = None,
        ids: Sequence[int] = (),
        new_cache: NewCache | None = None,
    ) -> None:
        """As :class:`TiledPrefiller`."""
        super().__init__(model, prefix_ids)
        self.strategy = strategy
        self.cache = cache if cache is not None else (new_cache or plain_caches(model))(reserve)
        self.ids += ids
        self._waiting = [] if self.ids else list(prefix_ids)
        self._spans: list[tuple[int, ...]] = []
        self._tokens: list[torch.Tensor] = []

    def add(self, span: VisualSpan, tokens_PD: torch.Tensor) -> None:
        self._spans.append(span.ids)
        self._tokens.append(tokens_PD)

    def finish(self) -> None:
        if not self._spans:
            return
        seen, model = len(self.ids), self.model.model
        new = [*self._waiting, *(token for ids in self._spans for token in ids)]
        self.ids += new
        embeds_BLD = model.embed_span(new, torch.cat(self._tokens))
        layout = GroupLayout.from_ids(self.ids, len(self.prefix_ids), self.model.config.video_token_id)
        allowed = allowed_mask(
            layout,
            len(self.ids),
            block_size=self.strategy.step_size,
            previous_blocks=self.strategy.previous_blocks,
            first_row=seen,
        )
        mask_LS = torch.from_numpy(allowed).to(embeds_BLD.device)
        mask = attention_mask(model.language_model.config, mask_LS, embeds_BLD.dtype)
        model.language_model(inputs_embeds=embeds_BLD, attention_mask=mask, past_key_values=self.cache, use_cache=True)
        self._waiting, self._spans, self._tokens = [], [], []


def attention_mask(config: Any, allowed_LS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``[1, 1, L, S]`` in the form the attention in use takes. Raises ``ValueError`` where it takes none."""
    kernel = attention_kernel(config)
    if "flash" in kernel:
        raise ValueError(f"mode='mask' needs attention='sdpa' or 'eager', the model was loaded with {kernel!r}")
    if kernel == "sdpa":
        return allowed_LS[None, None]
    barred = torch.zeros(allowed_LS.shape, dtype=dtype, device=allowed_LS.device)
    return barred.masked_fill_(~allowed_LS, torch.finfo(dtype).min)[None, None]


def chunked_prefiller(
    model: Any, prefix_ids: Sequence[int], strategy: ChunkedPrefill, **before: Any
) -> StreamingPrefiller | MaskPrefiller:
    """The prefiller of a strategy's ``mode``. ``before``: see :class:`TiledPrefiller`."""
    kind = MaskPrefiller if strategy.mode == "mask" else StreamingPrefiller
    return kind(model, prefix_ids, strategy, **before)
