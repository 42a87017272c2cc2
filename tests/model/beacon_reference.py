"""Video-XL's language model with its windows, stated plainly: what is cached is never rotated, so all of it is rotated
again at every step, for positions counted over what is left; masks are dense; both projections are computed for every
row (SPEC 2.3 to 2.7).

Written from the description of the released model, not from the modules it checks; it only borrows their weights.
``L`` rows of a step, ``S`` rows it sees, ``D`` model width, ``E`` head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn import functional as F  # noqa: N812

PARTS = ("prefix", "compressed", "raw")


@dataclass
class PlainCache:
    """One layer's keys, before rotation, and values ``[K, n, E]``: prefix, compressed and raw, in this order."""

    parts: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def read(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        held = [self.parts[name] for name in PARTS if name in self.parts]
        if not held:
            return None
        return torch.cat([k for k, _ in held], 1), torch.cat([v for _, v in held], 1)

    def append(self, name: str, keys: torch.Tensor, values: torch.Tensor) -> None:
        if name in self.parts:
            keys, values = (torch.cat(pair, 1) for pair in zip(self.parts[name], (keys, values)))
        self.parts[name] = (keys, values)


def rotated(x_KSE: torch.Tensor, positions_S: torch.Tensor, theta: float) -> torch.Tensor:
    """Half-split rotary embedding."""
    half = x_KSE.shape[-1] // 2
    speed = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = positions_S.double()[:, None] * speed
    cos, sin = angle.cos().to(x_KSE), angle.sin().to(x_KSE)
    a, b = x_KSE[..., :half], x_KSE[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class PlainBeacons:
    """The decoder of ``model`` and its three caches per layer; fed step by step."""

    def __init__(self, model, *, accumulate: bool = True) -> None:
        self.base, self.head = model.model.language_model, model.lm_head
        config = model.config.text_config
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.theta = config.rope_parameters["rope_theta"]
        self.eps = config.rms_norm_eps
        self.accumulate = accumulate
        self.caches = [PlainCache() for _ in self.base.layers]

    def step(self, raw_LD: torch.Tensor, kind: str, slots: list[int]) -> torch.Tensor:
        """``kind``: prefix, window or text; ``slots`` of the beacons. Last hidden states of the raw rows."""
        is_beacon = [s in slots for s in range(len(raw_LD) + len(slots))]
        rows = iter(raw_LD)
        beacon = self.base.beacon_embed_tokens.weight[0] if slots else None
        x = torch.stack([beacon.to(raw_LD) if b else next(rows) for b in is_beacon])
        flags = torch.tensor(is_beacon)
        for layer, cache in zip(self.base.layers, self.caches):
            x = x + self._attention(layer, self._norm(layer.input_layernorm, x), flags, cache, kind)
            y = self._norm(layer.post_attention_layernorm, x)
            x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(y)) * layer.mlp.up_proj(y))
        return self._norm(self.base.norm, x)[~flags]

    def _norm(self, module, x: torch.Tensor) -> torch.Tensor:
        wide = x.float() if x.dtype != torch.float64 else x
        wide = wide / (wide.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return module.weight * wide.to(x.dtype)

    def _project(self, attn, name: str, x: torch.Tensor, flags: torch.Tensor) -> torch.Tensor:
        out = getattr(attn, f"{name}_proj")(x)
        beacon = getattr(attn, f"beacon_{name}_proj", None)
        if beacon is not None and bool(flags.any()):
            out = torch.where(flags[:, None], beacon(x), out)
        return out.unflatten(-1, (-1, attn.head_dim)).transpose(0, 1)

    def _attention(self, layer, x: torch.Tensor, flags: torch.Tensor, cache: PlainCache, kind: str) -> torch.Tensor:
        attn = layer.self_attn
        q, k, v = (self._project(attn, name, x, flags) for name in "qkv")
        before = cache.read()
        keys = k if before is None else torch.cat([before[0], k], 1)
        values = v if before is None else torch.cat([before[1], v], 1)
        self._remember(cache, k, v, flags, kind)
        new, total = len(x), keys.shape[1]
        places = torch.arange(total)
        q = rotated(q, places[total - new :], self.theta)
        keys = rotated(keys, places, self.theta).repeat_interleave(self.groups, 0)
        values = values.repeat_interleave(self.groups, 0)
        seen = places[None, :] <= places[total - new :, None]
        logits = (q @ keys.transpose(1, 2) * attn.head_dim**-0.5).masked_fill(~seen, -torch.inf)
        weights = (logits if logits.dtype == torch.float64 else logits.float()).softmax(-1).to(values.dtype)
        return attn.o_proj((weights @ values).transpose(0, 1).flatten(1))

    def _remember(self, cache: PlainCache, k, v, flags: torch.Tensor, kind: str) -> None:
        if kind == "window":
            if not self.accumulate:
                cache.parts.pop("compressed", None)
            cache.append("compressed", k[:, flags], v[:, flags])
        else:
            cache.append("prefix" if kind == "prefix" else "raw", k, v)

    def rotated_cache(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys at contiguous positions and values ``[K, S, E]``."""
        keys, values = self.caches[layer].read()
        return rotated(keys, torch.arange(keys.shape[1]), self.theta), values


def plan(first: int, last: int, length: int, window: int, ratios, *, spare_last: bool = False):
    """(kind, begin, end, slots) of every step of a prompt whose visual tokens are ``[first, last)``.

    ``ratios``: an iterator, one per window. A beacon follows every ratio tokens, counted on from the window before.
    ``spare_last``: in training a last chunk is never compressed.
    """
    steps = [("prefix", 0, first, [])]
    since = 0  # raw tokens since the last beacon
    for begin in range(first, last, window):
        end, ratio, slots, slot = min(begin + window, last), next(ratios), [], 0
        if spare_last and end == length:
            steps.append(("text", begin, end, []))
            continue
        for _ in range(begin, end):
            since, slot = since + 1, slot + 1
            if since == ratio:
                slots.append(slot)
                since, slot = 0, slot + 1
        steps.append(("window", begin, end, slots))
    steps += [("text", begin, min(begin + window, length), []) for begin in range(last, length, window)]
    return steps


def read_prompt(plain: PlainBeacons, embeds_LD: torch.Tensor, steps) -> torch.Tensor:
    """All steps; last hidden states ``[L, D]`` of the prompt's own rows."""
    return torch.cat([plain.step(embeds_LD[begin:end], kind, slots) for kind, begin, end, slots in steps])


def loss(plain: PlainBeacons, embeds_LD: torch.Tensor, labels: list[int], steps) -> torch.Tensor:
    """Mean cross entropy of every token that has a label, from the row before it."""
    logits = plain.head(read_prompt(plain, embeds_LD, steps))
    live = [i for i in range(1, len(labels)) if labels[i] != -100]
    losses = [-logits[i - 1].log_softmax(-1)[labels[i]] for i in live]
    return torch.stack(losses).mean()


def continue_greedily(plain: PlainBeacons, hidden_D: torch.Tensor, embed, new: int) -> tuple[list[int], torch.Tensor]:
    """``new`` tokens one by one, the logits each came from; the last one is never fed."""
    tokens, rows = [], [plain.head(hidden_D)]
    for number in range(new):
        tokens.append(int(rows[-1].argmax()))
        if number < new - 1:
            rows.append(plain.head(plain.step(embed(torch.tensor(tokens[-1:])), "text", [])[-1]))
    return tokens, torch.stack(rows)
