"""Full prefill, and what every prefill that goes tile by tile shares."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from videoxl.errors import DoesNotFitError
from videoxl.inference.prefill.prefiller import NewCache, WholeGroups, plain_caches
from videoxl.inference.prompt import VisualSpan
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.positions import NONE, Grid, positions_of
from videoxl.memory.question_room import let_go_of
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration


class TiledPrefiller(WholeGroups, ABC):
    """Runs the language model over a few groups at a time, and over fewer when the GPU's memory does not suffice.

    How many is a matter of speed and memory only. A tile that fails is rolled back.
    """

    def __init__(
        self,
        model: VideoXLForConditionalGeneration,
        prefix_ids: Sequence[int],
        *,
        reserve: int = 0,
        cache: KVCache | None = None,
        ids: Sequence[int] = (),
        tile_groups: int | None = None,
        new_cache: NewCache | None = None,
        grid: Grid | None = None,
    ) -> None:
        """
        Args:
            reserve: tokens expected in the end.
            cache, ids: what was read before, and the ids in it, which begin with ``prefix_ids``. It grows in place.
            tile_groups: most groups per forward; default as many as are handed over at once.
            new_cache: makes the cache where none is given.
            grid: rows and columns of a group's visual tokens, where positions have three dimensions.
        """
        super().__init__(model, prefix_ids)
        self.cache = cache if cache is not None else (new_cache or plain_caches(model))(reserve)
        self.ids += ids
        self.tile_groups = tile_groups
        self.grid = grid

    @abstractmethod
    def read(self, ids: Sequence[int], tokens_PD: torch.Tensor) -> None:
        """Run one forward over whole groups, and before the first of them over the prefix."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo a :meth:`read` that failed."""

    def add(self, span: VisualSpan, tokens_PD: torch.Tensor) -> None:
        self._add(span.ids, [group.token_start for group in span.groups], tokens_PD)

    def finish(self) -> None:
        """Nothing is left over."""

    def _add(self, ids: Sequence[int], starts: list[int], tokens_PD: torch.Tensor) -> None:
        """``starts``: where each group begins in ``ids``."""
        per_group = len(tokens_PD) // max(1, len(starts))
        while starts:
            count = min(self.tile_groups or len(starts), len(starts))
            end = starts[count] if count < len(starts) else len(ids)
            if self._fits(ids[starts[0] : end], tokens_PD[: count * per_group]):
                starts, tokens_PD = starts[count:], tokens_PD[count * per_group :]
            else:
                self.rollback()
                if not let_go_of():
                    self._shrink(count)

    def _fits(self, ids: Sequence[int], tokens_PD: torch.Tensor) -> bool:
        """Read, and say whether memory sufficed. What a failed attempt had made is let go of."""
        try:
            self.read(ids, tokens_PD)
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
            return False
        return True

    def _shrink(self, groups: int) -> None:
        """Go on with tiles half the size. Raises :class:`DoesNotFitError` when they are as small as can be."""
        if groups == 1:
            raise DoesNotFitError(
                f"the GPU ran out of memory after {len(self.ids):,} tokens, with tiles as small as they get: read "
                "fewer frames, or use prefill='chunked:offload=true' (Video-XL-2) or a quantised model"
            )
        self.tile_groups = groups // 2
        self.warnings.append(
            f"the GPU ran out of memory after {len(self.ids):,} tokens; went on with {self.tile_groups} instead of "
            f"{groups} groups at a time"
        )
        torch.cuda.empty_cache()

    def _positions(self, new: Sequence[int]) -> torch.Tensor | None:
        """Those of ids behind what was read, ``[3, L]``; None where they are the indices."""
        if self.grid is None:
            return None
        config, held = self.model.config, self.cache.positions
        begin = held.next if held is not None else 0
        return positions_of(new, (config.video_token_id, config.image_token_id), self.grid, begin)

    def _went_on(self, new: Sequence[int], positions: torch.Tensor | None) -> None:
        """Note what was read."""
        if positions is not None:
            self.cache.positions = (self.cache.positions or NONE).followed_by(positions)
        self.ids += new


class FullPrefiller(TiledPrefiller):
    """Reads with plain causal attention (SPEC: "pure" mode): every tile attends to all before it."""

    def read(self, ids: Sequence[int], tokens_PD: torch.Tensor) -> None:
        new = [*(() if self.ids else self.prefix_ids), *ids]
        base, positions = self.model.model, self._positions(new)
        embeds, added = base.embed_span_in_layers(new, tokens_PD)
        base.language_model(
            inputs_embeds=embeds,
            past_key_values=self.cache,
            use_cache=True,
            layer_inputs=added,
            position_ids=None if positions is None else to_device(positions[:, None], embeds.device),
        )
        self._went_on(new, positions)

    def rollback(self) -> None:
        self.cache.truncate(len(self.ids))
