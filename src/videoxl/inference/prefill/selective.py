"""Video-XL-Pro's prefill: all visual tokens are scored, then the best of them are read (SPEC 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn.utils.rnn import pad_sequence

from videoxl.config import SelectivePrefill
from videoxl.inference.prefill.prefiller import NewCache, WholeGroups, plain_caches
from videoxl.inference.prompt import VisualSpan
from videoxl.model.token_scores import kept_count, normalise_scores, scored_embeddings, select_tokens
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration


@dataclass(frozen=True)
class _Tile:
    """Visual tokens that wait, and their scores."""

    span: VisualSpan
    tokens_PD: torch.Tensor
    scores_P: torch.Tensor
    """Raw; they are normalised when all of the video has been scored."""


class SelectivePrefiller(WholeGroups):
    """Collects visual tokens and their scores; at the end reads timestamps and the tokens that stay.

    Which tokens stay is known when the last one has been scored, so all of them are held until then: ``P x D`` numbers,
    a small part of what their keys and values would take. The language model runs tile by tile on its cache.
    """

    def __init__(
        self,
        model: VideoXLForConditionalGeneration,
        prefix_ids: Sequence[int],
        strategy: SelectivePrefill,
        *,
        text_ids: Sequence[int],
        visual_tokens: int | None = None,
        tokens: int = 0,
        new_cache: NewCache | None = None,
    ) -> None:
        """
        Args:
            text_ids: the whole prompt but the video, which judges what is relevant.
            visual_tokens, tokens: how many visual tokens, and tokens in all, will come, where known; for buffer sizes.
        """
        super().__init__(model, prefix_ids)
        self.keep, self.text_ids = strategy.keep, list(text_ids)
        reserve = tokens - visual_tokens + kept_count(visual_tokens, strategy.keep) if visual_tokens else 0
        self.cache = (new_cache or plain_caches(model))(reserve)
        self._tiles: list[_Tile] = []

    def add(self, span: VisualSpan, tokens_PD: torch.Tensor) -> None:
        weight = cast(torch.Tensor, self.model.get_input_embeddings().weight)
        tokens_PD = tokens_PD.to(weight.device, weight.dtype)
        self._tiles.append(_Tile(span, tokens_PD, self._score(span, tokens_PD)))

    def _score(self, span: VisualSpan, tokens_PD: torch.Tensor) -> torch.Tensor:
        """Raw scores ``[P]`` of whole groups. Timestamps need not be equally long: a video over 9,999 s has both.

        Subtitles behind a timestamp take no part in it: the scores were trained on timestamps alone.
        """
        base = self.model.model
        embed = base.get_input_embeddings()
        ends = span.time_ends
        ids = [span.ids[g.token_start : end] for g, end in zip(span.groups, ends)]
        times = embed(self._ids([token for of_group in ids for token in of_group])).split([len(one) for one in ids])
        real_GT = pad_sequence([torch.ones(len(t), dtype=torch.bool) for t in times], batch_first=True)
        visual_GPD = tokens_PD.unflatten(0, (len(times), -1))
        scores_GP = base.token_scores(
            visual_GPD,
            pad_sequence(times, batch_first=True),
            to_device(real_GT, visual_GPD.device),
            embed(self._ids(self.text_ids)),
        )
        scores_P: torch.Tensor = scores_GP.flatten().to(tokens_PD.device)
        return scores_P

    def _ids(self, ids: Sequence[int]) -> torch.Tensor:
        return to_device(torch.tensor(list(ids)), self.model.model.text_device)

    def finish(self) -> None:
        """Select and read. Leaves nothing but the cache."""
        self._read_text(self.prefix_ids)
        for ids, embeds_LD in self._selected():
            self._read(ids, embeds_LD)
        self._tiles = []

    def _read_text(self, ids: list[int]) -> None:
        self._read(ids, self.model.get_input_embeddings()(self._ids(ids)))

    def _read(self, ids: list[int], embeds_LD: torch.Tensor) -> None:
        self.model.model.language_model(inputs_embeds=embeds_LD[None], past_key_values=self.cache, use_cache=True)
        self.ids += ids

    def _selected(self) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Per tile what stays: its ids, visual tokens as placeholders, and its embeddings ``[L, D]``."""
        if not self._tiles:
            return
        scores_P = normalise_scores(torch.cat([tile.scores_P for tile in self._tiles]))
        sizes = [len(tile.tokens_PD) for tile in self._tiles]
        kept_P = select_tokens(scores_P, self.keep).cpu()  # once: the host waits for the device only here
        position = 0
        for tile, scores, kept in zip(self._tiles, scores_P.split(sizes), kept_P.split(sizes)):
            yield self._kept(tile, scores, kept, position)
            position += len(tile.span.ids)

    def _kept(
        self, tile: _Tile, scores_P: torch.Tensor, kept_P: torch.Tensor, position: int
    ) -> tuple[list[int], torch.Tensor]:
        """Of a tile that begins at ``position`` in the visual span. ``kept_P`` is on the host, ``scores_P`` is not."""
        ids_L, device = torch.tensor(tile.span.ids), scores_P.device
        visual_L = ids_L == self.model.config.video_token_id
        stays_L = (~visual_L).masked_scatter(visual_L, kept_P)
        visual, stays, kept = (to_device(chosen.nonzero()[:, 0], device) for chosen in (visual_L, stays_L, kept_P))
        scores_L = scores_P.new_zeros(len(ids_L)).index_copy(0, visual, scores_P)
        ids = ids_L[stays_L].tolist()
        embeds_LD = self.model.model.embed_span(ids, tile.tokens_PD.index_select(0, kept))[0]
        return ids, scored_embeddings(embeds_LD, stays + position, scores_L.index_select(0, stays))
