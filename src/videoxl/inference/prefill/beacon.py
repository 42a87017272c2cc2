"""Video-XL's prefill: visual tokens are compressed window by window as they come (SPEC 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from videoxl.config import BeaconPrefill
from videoxl.inference.prefill.prefiller import Committed, NewCache, plain_caches
from videoxl.inference.prompt import VisualSpan
from videoxl.memory.kv_cache import KVCache
from videoxl.model.beacon import ratio_chooser, require_beacons, run_window
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.windows import RatioChooser, WindowLoop, WindowStep


def window_loop(
    config: VideoXLConfig,
    strategy: BeaconPrefill,
    prefix_tokens: int,
    visual_tokens: int | None,
    *,
    total: int | None = None,
    ratios: RatioChooser | None = None,
) -> WindowLoop:
    """Make the bookkeeping of one video; arguments and errors as of :class:`BeaconPrefiller`."""
    window = strategy.window or config.beacon_window
    if window % config.tokens_per_group:
        raise ValueError(
            f"window={window} is no multiple of the {config.tokens_per_group} visual tokens of a frame: frames would "
            f"be cut in two; the checkpoint's window is {config.beacon_window}"
        )
    if max(strategy.ratios) > window:
        raise ValueError(
            f"ratio {max(strategy.ratios)} is larger than the window of {window} visual tokens: no beacon would be "
            f"left; use a ratio of at most {window}, or a larger window"
        )
    if strategy.mix == "adaptive" and visual_tokens is None:
        raise ValueError(
            "mix='adaptive' needs to know how long the video is, and an iterator does not say: use another mix, or "
            "hand over all pictures at once"
        )
    return WindowLoop(
        window,
        ratios or ratio_chooser(strategy, config),
        skip_first=prefix_tokens,
        total=total if total is not None else prefix_tokens + (visual_tokens or 0) or None,
        accumulate=config.beacon_accum,
    )


def count_beacons(config: VideoXLConfig, strategy: BeaconPrefill, prefix_tokens: int, visual_tokens: int) -> int:
    """Count the beacons of a whole video. Raises ``ValueError`` where a window could not be compressed."""
    loop = window_loop(config, strategy, prefix_tokens, visual_tokens)
    loop.skip_last = length = prefix_tokens + visual_tokens
    while loop.end < length:
        require_beacons(loop.next(length))
    return loop.beacons


UNKEPT = "not kept are"
"""How the warning about tokens without a beacon begins; it is outdated when more frames follow."""


class BeaconPrefiller:
    """Keeps prefix and beacons. Holds at most one window of visual tokens beyond those it was just handed."""

    def __init__(
        self,
        model: VideoXLForConditionalGeneration,
        prefix_ids: Sequence[int],
        strategy: BeaconPrefill,
        *,
        visual_tokens: int | None = None,
        spare: int = 0,
        total: int | None = None,
        ratios: RatioChooser | None = None,
        cache: KVCache | None = None,
        seen: int = 0,
        new_cache: NewCache | None = None,
    ) -> None:
        """
        Args:
            visual_tokens: how many will come, where known; for buffer sizes and the ``adaptive`` mix.
            spare: further tokens that the buffers should have capacity for.
            total: length of the whole uncompressed prompt, question included, for the ``adaptive`` mix. Default: prefix
                and visual tokens; what a question adds is covered by ``headroom``.
            ratios: instead of those of ``strategy``, to go on with a random stream.
            cache, seen: what was read before: whole windows of ``seen`` visual tokens.

        Raises ``ValueError`` when the window is no multiple of a frame's tokens, or the length is needed and unknown.
        """
        self.model, self.prefix_ids = model, list(prefix_ids)
        self.ratios_used: list[int] = []
        self.warnings: list[str] = []
        self._seen = seen
        self._whole_beacons = 0
        self._waiting: list[torch.Tensor] = []
        prefix = len(self.prefix_ids)
        self.loop = window_loop(model.config, strategy, prefix, visual_tokens, total=total, ratios=ratios)
        while seen and self.loop.end < prefix + seen:
            self._count(self.loop.next(prefix + seen))
        reserve = prefix + (visual_tokens or 0) // min(strategy.ratios) + 2 * self.loop.window + spare
        made = new_cache or plain_caches(model)
        self.cache = cache if cache is not None else made(reserve if visual_tokens else 0)

    @property
    def ids(self) -> list[int]:
        """The prefix and a placeholder for every beacon."""
        return self.prefix_ids + [self.model.config.video_token_id] * self.loop.beacons

    def add(self, span: VisualSpan, tokens_PD: torch.Tensor) -> None:
        self._seen += len(tokens_PD)
        self._waiting.append(tokens_PD)
        while self.loop.end < self.length and (self.loop.steps == 0 or self.loop.windows_ready(self.length)):
            self._step()

    def finish(self) -> None:
        """The last window ends with the visual tokens and is compressed, however short (SPEC 2.3)."""
        self._whole_beacons = self.loop.beacons
        self.loop.skip_last = self.length
        while self.loop.end < self.length:
            self._step()
        if rest := self.loop.remainder:
            ratio = self.ratios_used[-1]
            self.warnings.append(
                f"{UNKEPT} the last {rest} visual tokens, which are fewer than the ratio {ratio} and have no beacon "
                "behind them (as released); a ratio that divides the tokens of a frame keeps all"
            )

    @property
    def length(self) -> int:
        """Tokens of the uncompressed sequence so far."""
        return len(self.prefix_ids) + self._seen

    def _step(self) -> None:
        step = self.loop.next(self.length)
        base = self.model.model
        if step.kind == "prefix":
            ids_BL = to_device(torch.tensor([self.prefix_ids]), base.text_device)
            raw_BLD = base.get_input_embeddings()(ids_BL)
        else:
            self._count(step)
            raw_BLD = self._take(step.end - step.begin)
        run_window(base.language_model, self.cache, step, raw_BLD)

    def _count(self, step: WindowStep) -> None:
        if step.kind == "window" and step.ratio:
            self.ratios_used.append(step.ratio)

    @property
    def window_ratios(self) -> tuple[int, ...]:
        return tuple(self.ratios_used)

    @property
    def most_pending_frames(self) -> int:
        return self.loop.window // self.model.config.tokens_per_group

    def committed(self, frames: int, span: VisualSpan) -> Committed:
        """Commit whole windows."""
        window, prefix = self.loop.window, len(self.prefix_ids)
        whole = self._seen // window * window
        tokens = prefix + (self._whole_beacons if whole else 0)
        return Committed(whole // self.model.config.tokens_per_group, tokens)

    def _take(self, count: int) -> torch.Tensor:
        """Take the next ``count`` visual tokens as embeddings ``[1, count, D]``."""
        waiting = torch.cat(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting = [waiting[count:]]
        like = cast(torch.Tensor, self.model.get_input_embeddings().weight)
        return waiting[None, :count].to(like.device, like.dtype)
