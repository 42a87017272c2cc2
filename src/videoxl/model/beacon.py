"""Beacon compression: a window of visual tokens becomes the keys and values of a few beacons (SPEC 2.3 to 2.5).

The released cache holds keys as they are before rotation and rotates all of them at every forward, at positions
counted over what is left. Those positions never change once a token is in the cache: a beacon's is the number of
tokens kept before it. So each key is rotated once, for the place it will keep, and what results is an ordinary cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch

from videoxl.config import BeaconPrefill
from videoxl.errors import CheckpointError
from videoxl.model.attention import AttentionLayer, Pair, TokenCache, causal_attention, rotate_wide
from videoxl.model.decoder import LanguageModel
from videoxl.model.token_loss import IGNORED, token_losses
from videoxl.model.upload import to_device
from videoxl.model.windows import RatioChooser, WindowLoop, WindowStep


class LostWindowError(ValueError):
    """A window so short that no beacon would stand for it; the released code loses it (SPEC 2.3)."""


class WindowCache(TokenCache, Protocol):
    """A cache whose layers can be cut back one by one."""

    def truncate_layer(self, layer: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a layer."""
        ...


class GradientCache:
    """Keys and values that gradients reach through: every append makes new tensors."""

    def __init__(self) -> None:
        self.layers: list[Pair] = []

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int) -> Pair:
        """Append ``[B, K, L, E]`` to a layer; returns all of its keys and values ``[B, K, S, E]``."""
        if layer_idx == len(self.layers):
            self.layers.append((key_states, value_states))
        else:
            keys, values = self.layers[layer_idx]
            self.layers[layer_idx] = (torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2))
        return self.layers[layer_idx]

    def get_seq_length(self) -> int:
        """Tokens in the first layer."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def truncate_layer(self, layer: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a layer; a layer that does not exist yet has none."""
        if layer < len(self.layers):
            keys, values = self.layers[layer]
            self.layers[layer] = (keys[:, :, :length], values[:, :, :length])


class _Rows(NamedTuple):
    """What every layer on one device needs of a step."""

    slots: torch.Tensor
    """Places of the beacons among its tokens."""
    tables: Pair
    """Cosines and sines of its tokens."""
    kept_tables: Pair
    """Cosines and sines of the beacons, at the positions they keep."""


class BeaconPlan:
    """Attention of one step of the window loop on a cache (an :class:`~videoxl.model.attention.AttentionPlan`).

    The step's own keys join the cache while it runs. A full window leaves only its beacons behind.
    Running a layer a second time gives the same cache, as gradient checkpointing needs.
    """

    def __init__(
        self, language_model: LanguageModel, cache: WindowCache, step: WindowStep, *, device: torch.device
    ) -> None:
        self.language_model, self.cache, self.step = language_model, cache, step
        self._rows: dict[torch.device, _Rows] = {}
        self.slots = to_device(torch.tensor(step.beacon_slots, dtype=torch.long), device)

    @property
    def beacon_slots(self) -> torch.Tensor | None:
        return self.slots if self.step.beacons else None

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        """Causal over everything in the cache and the step: ``[B, N, L, E]``."""
        number, rows = layer.layer_idx, self._rows_on(keys_BKLE.device)
        self.cache.truncate_layer(number, self.step.past)
        keys, values = self.cache.update(rotate_wide(keys_BKLE, rows.tables), values_BKLE, number)
        out = causal_attention(layer, rotate_wide(queries_BNLE, rows.tables), keys, values)
        if self.step.full and self.step.kind == "window":
            self._compress(number, keys_BKLE, values_BKLE, rows)
        return out

    def _rows_on(self, device: torch.device) -> _Rows:
        """What all layers on a device share, made once."""
        if device not in self._rows:
            prefix, beacons, _ = self.step.kept
            kept = torch.arange(prefix + beacons - len(self.slots), prefix + beacons, device=device)
            own = torch.arange(self.step.past, self.step.past + self.step.tokens, device=device)
            tables = self.language_model.rope_tables
            self._rows[device] = _Rows(self.slots.to(device), tables(own, device), tables(kept, device))
        return self._rows[device]

    def _compress(self, layer: int, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, rows: _Rows) -> None:
        """Leave only the beacons, at the positions they keep from now on."""
        prefix, beacons, _ = self.step.kept
        self.cache.truncate_layer(layer, prefix + beacons - len(rows.slots))
        kept = rotate_wide(keys_BKLE.index_select(2, rows.slots), rows.kept_tables)
        self.cache.update(kept, values_BKLE.index_select(2, rows.slots), layer)


def step_embeddings(
    language_model: LanguageModel, step: WindowStep, raw_BLD: torch.Tensor, slots: torch.Tensor
) -> torch.Tensor:
    """The input of a step ``[1, L, D]``: its raw embeddings with the beacon embedding in the beacon slots."""
    if not step.beacons:
        return raw_BLD
    beacon = language_model.beacon_embed_tokens.weight.to(raw_BLD)
    is_raw = torch.ones(step.tokens, dtype=torch.long, device=raw_BLD.device).index_fill_(0, slots, 0)
    source = (is_raw.cumsum(0) - 1).index_fill_(0, slots, raw_BLD.shape[1])  # where in raw, the beacon behind it
    return torch.cat([raw_BLD, beacon[None]], dim=1).index_select(1, source)


def require_beacons(step: WindowStep) -> None:
    """Raise :class:`LostWindowError` for a window without a beacon."""
    if step.kind == "window" and not step.beacons:
        raise LostWindowError(
            f"the last window holds {step.end - step.begin} visual tokens, fewer than the ratio {step.ratio}: it would "
            "be lost without a trace; use a smaller ratio or another number of frames"
        )


def run_window(
    language_model: LanguageModel, cache: WindowCache, step: WindowStep, raw_BLD: torch.Tensor
) -> tuple[torch.Tensor, BeaconPlan]:
    """One step over its raw embeddings ``[1, end - begin, D]``: the last hidden states ``[1, L, D]`` and the step.

    Raises :class:`LostWindowError` for a window without a beacon.
    """
    require_beacons(step)
    running = BeaconPlan(language_model, cache, step, device=raw_BLD.device)
    embeds = step_embeddings(language_model, step, raw_BLD, running.slots)
    return language_model.run_plan(embeds, running), running


def window_steps(
    language_model: LanguageModel, cache: WindowCache, loop: WindowLoop, embeds_BLD: torch.Tensor
) -> Iterator[tuple[WindowStep, torch.Tensor]]:
    """The whole loop over a sequence of embeddings; per step the hidden states of its raw tokens."""
    length = embeds_BLD.shape[1]
    while loop.end < length:
        step = loop.next(length)
        hidden, running = run_window(language_model, cache, step, embeds_BLD[:, step.begin : step.end])
        if running.beacon_slots is not None:
            raw_L = torch.ones(step.tokens, dtype=torch.bool, device=hidden.device)
            hidden = hidden[:, raw_L.index_fill_(0, running.slots.to(hidden.device), False)]
        yield step, hidden


@torch.no_grad()
def initialise_beacons(model: Any) -> None:
    """The released rule for a checkpoint without beacon weights (SPEC 2.8).

    Every beacon projection becomes a copy of the ordinary one, weight and bias; the beacon's embedding that of the
    first end token or of the begin token, as ``beacon_embed_init`` says.
    """
    base, config = model.base_model, model.config
    for layer in base.language_model.layers:
        for name in config.beacon_param:
            ordinary = getattr(layer.self_attn, f"{name}_proj")
            beacon = getattr(layer.self_attn, f"beacon_{name}_proj")
            beacon.weight.copy_(ordinary.weight)
            beacon.bias.copy_(ordinary.bias)
    text = config.text_config
    token = text.eos_token_id if config.beacon_embed_init == "eos" else text.bos_token_id
    token = token[0] if isinstance(token, (list, tuple)) else token
    if token is None:
        raise CheckpointError(
            f"the checkpoint has no beacon embedding and its config no {config.beacon_embed_init}_token_id to start it "
            "from; name one in config.json"
        )
    base.language_model.beacon_embed_tokens.weight.copy_(base.language_model.embed_tokens.weight[token : token + 1])


def visual_range(ids_L: torch.Tensor, placeholder: int) -> tuple[int, int]:
    """Begin and end of the visual tokens in the ids of one prompt; there must be one run of them, not at the start.

    Raises ``ValueError``: what the released code does otherwise is lose text or pictures without a word (SPEC 2.7).
    """
    places = (ids_L == placeholder).nonzero().squeeze(1)
    if len(places) == 0:
        raise ValueError(
            f"the prompt has 0 placeholders (id {placeholder}) to put the pictures in: build it with the processor, or "
            "give as many placeholders as there are visual tokens"
        )
    first, last = int(places[0]), int(places[-1]) + 1
    if last - first != len(places):
        raise ValueError(
            "the prompt has visual tokens in several places, and they must stand together: Video-XL takes one video or "
            "picture per prompt; give several pictures as the frames of one video"
        )
    if first == 0:
        raise ValueError(
            "the prompt begins with visual tokens, and they must come after some text, which Video-XL keeps "
            "uncompressed; put a system prompt in front"
        )
    return first, last


def make_loop(
    config: Any,
    visual: tuple[int, int],
    *,
    ratios: RatioChooser | None = None,
    training: bool = False,
) -> WindowLoop:
    """The window loop of one prompt as the model's config says. ``ratios``: instead of the config's, seeded anew."""
    return WindowLoop(
        config.beacon_window,
        ratios
        or ratio_chooser(BeaconPrefill.from_released(list(config.beacon_ratio), config.beacon_ratio_mix), config),
        skip_first=visual[0],
        skip_last=visual[1],
        training=training,
        accumulate=config.beacon_accum,
    )


def ratio_chooser(strategy: BeaconPrefill, config: Any) -> RatioChooser:
    """The chooser of a strategy for one video."""
    return RatioChooser(
        strategy.ratios,
        strategy.mix,  # type: ignore[arg-type]
        seed=strategy.seed,
        headroom=strategy.headroom,
        max_positions=config.text_config.max_position_embeddings,
    )


def window_loss(
    head: torch.nn.Module, steps: Iterator[tuple[WindowStep, torch.Tensor]], labels_L: torch.Tensor
) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Sum of token losses, number of live labels, and the last hidden state ``[1, 1, D]`` (SPEC 2.7).

    Labels are moved one to the left over the whole sequence, then cut along the steps. Logits are only computed where
    a label is live.
    """
    following = labels_L.roll(-1)
    following[-1] = IGNORED
    total, last = torch.zeros((), device=labels_L.device, dtype=torch.float32), torch.empty(0)
    for step, hidden_BLD in steps:
        labels = following[step.begin : step.end]
        live = labels != IGNORED
        last = hidden_BLD[:, -1:]
        if bool(live.any()):
            losses = token_losses(head, hidden_BLD[0, live.to(hidden_BLD.device)], labels[live])
            total = total + losses.sum().to(total.device)
    return total, int((following != IGNORED).sum()), last
