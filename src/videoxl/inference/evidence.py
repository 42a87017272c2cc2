"""Where an answer's own tokens looked in the video: attention that was paid while it was written.

The rows that produce the answer are the last one of the prompt and those of the answer's tokens but the last; the one
that produces its end is left out, as it looks nowhere in particular. Their queries are kept while they are computed
(:class:`QueryWatch`), in the few layers that the family names. In the end they are compared with the keys of the whole
cache once more: no second reading, and no forward of the model. What a group of frames gets is the mean over these
rows, and over all heads of these layers, of the attention to its tokens.

``docs/notes/evidence.md`` says how layers and rows were chosen, and how often the best span is the true one.
Shapes: ``N`` query heads, ``K`` key/value heads, ``L`` rows, ``S`` tokens in a cache, ``E`` head width, ``G`` groups.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from videoxl.inference.evidence_spans import EvidenceSpan, GroupTokens, UnknownTokensError, spans_of
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration

SCORES_AT_ONCE = 1 << 24
"""Scores that are written out together: 64 MB in fp32."""


@dataclass(frozen=True)
class Rows:
    """Some rows of one layer: what they look for, and what else they see."""

    queries_NLE: torch.Tensor
    """Rotated."""
    sees: int
    """Tokens at the start of the cache that the last row sees, itself among them."""
    others_NL: torch.Tensor | None = None
    """Log-sum-exps of their scores with keys that are kept elsewhere, the rows' own among them. All rows then see the
    same of the cache."""


@dataclass
class QueryWatch:
    """Keeps the rotated queries of the last row of every forward, in some layers."""

    layers: frozenset[int]
    seen: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    """Per layer ``[1, N, 1, E]`` of each forward."""

    def see(self, layer: int, queries_BNLE: torch.Tensor) -> None:
        """Called by the attention plan of a forward."""
        if layer in self.layers:
            last = queries_BNLE[:, :, -1:]
            self.seen.setdefault(layer, []).append(last.clone() if queries_BNLE.shape[2] > 1 else last)

    @property
    def forwards(self) -> int:
        """How many were seen. A captured graph shows none."""
        return min((len(self.seen.get(layer, ())) for layer in self.layers), default=0)

    def rows(self, count: int, prompt: int) -> dict[int, Rows]:
        """Of every layer, those of the first ``count`` forwards behind a prompt of so many tokens."""
        sees = prompt + count - 1
        return {layer: Rows(torch.cat(seen[:count], dim=2)[0], sees) for layer, seen in sorted(self.seen.items())}


@dataclass
class SharedWatch:
    """A :class:`QueryWatch` over several answers that are written together, each with its tail of its own."""

    layers: frozenset[int]
    seen: dict[int, list[tuple[tuple[int, ...], torch.Tensor, torch.Tensor]]] = field(default_factory=dict)
    """Per layer and forward: numbers of the answers, queries ``[B, N, 1, E]``, log-sum-exps over the tails."""

    def see(self, layer: int, answers: Sequence[int], queries_BNLE: torch.Tensor, tail_sums_BNL: torch.Tensor) -> None:
        if layer in self.layers:
            last = (queries_BNLE[:, :, -1:].clone(), tail_sums_BNL[:, :, -1:].clone())
            self.seen.setdefault(layer, []).append((tuple(answers), *last))

    def rows(self, answer: int, count: int, sees: int) -> dict[int, Rows]:
        """Of every layer, for one of the answers: those of its first ``count`` forwards. It started from ``sees``
        tokens."""
        found = {}
        for layer, seen in sorted(self.seen.items()):
            places = [(answers.index(answer), q, sums) for answers, q, sums in seen if answer in answers][:count]
            queries = torch.cat([q[row] for row, q, _ in places], dim=1)
            found[layer] = Rows(queries, sees, torch.cat([sums[row] for row, _, sums in places], dim=1))
        return found


def rows_that_tell(new_ids: Sequence[int], end_ids: Sequence[int]) -> int:
    """How many of the rows that produced ``new_ids`` count: all but that of the end, which looks anywhere."""
    return len(new_ids) - (len(new_ids) > 1 and new_ids[-1] in end_ids)


def watched_layers(config: VideoXLConfig) -> frozenset[int]:
    """The layers whose attention is evidence: the family's share of the depth, at least one."""
    count = config.text.num_hidden_layers
    first, last = config.traits.evidence_layers
    begin = min(round(first * count), count - 1)
    return frozenset(range(begin, max(begin + 1, round(last * count))))


Seen = tuple[KVCache, Callable[[], Mapping[int, Rows]]]
"""A cache that begins with the memory, and the rows of every layer watched that attended to it."""


@dataclass(frozen=True)
class Evidence:
    """Where an answer looked, and what it took to say so."""

    spans: tuple[EvidenceSpan, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """Why there are no spans."""


def find_evidence(
    config: VideoXLConfig,
    memory: VideoMemory,
    ids: Sequence[int],
    cache: KVCache,
    rows: Callable[[], Mapping[int, Rows]],
) -> Evidence:
    """The evidence of an answer that is written. An answer without it still counts: what is in the way is a warning.

    ``ids``: of the memory as it was read, which stand first in ``cache``.
    """
    begin = time.perf_counter()
    try:
        tokens = GroupTokens.of(memory, ids, config)
        spans = spans_of(group_masses(rows(), cache, tokens, config), memory.groups)
    except UnknownTokensError as error:
        return Evidence(warnings=(f"no evidence for this answer: {error}",))
    except torch.OutOfMemoryError:
        return Evidence(warnings=("no evidence for this answer: the GPU ran out of memory when it was looked for",))
    return Evidence(spans, {"evidence": round(time.perf_counter() - begin, 6)})


@torch.inference_mode()
def group_masses(rows: Mapping[int, Rows], cache: KVCache, tokens: GroupTokens, config: VideoXLConfig) -> np.ndarray:
    """Attention to each group, the mean over rows, heads and the layers of ``rows``: ``[G]``, at most 1 in all."""
    masses = [
        token_masses(some, cache.layers[layer].keys[0], tokens.end, config.head_width**-0.5)
        for layer, some in rows.items()
    ]
    mass_S = np.sum([mass.double().cpu().numpy() for mass in masses], axis=0)
    return tokens.sum(mass_S) / len(masses)


def token_masses(rows: Rows, keys_KSE: torch.Tensor, count: int, scale: float) -> torch.Tensor:
    """Attention of rows to each of the first ``count`` tokens, mean over rows and heads: ``[count]`` in fp32.

    Written out a key/value head at a time, and so many rows that the scores stay small.
    """
    q_NLE, heads = rows.queries_NLE, keys_KSE.shape[0]
    length, keys = q_NLE.shape[1], rows.sees
    mass = torch.zeros(count, device=q_NLE.device)
    step = max(1, SCORES_AT_ONCE // (keys * (len(q_NLE) // heads)))
    for head, q_RLE in enumerate(q_NLE.unflatten(0, (heads, -1))):
        k_SE = to_device(keys_KSE[head, :keys], q_NLE.device).float()
        others_RL = None if rows.others_NL is None else rows.others_NL.unflatten(0, (heads, -1))[head]
        for first in range(0, length, step):
            some = slice(first, min(first + step, length))
            scores_RLS = (q_RLE[:, some].float() @ k_SE.T) * scale
            if others_RL is None:
                sums_RL1 = _mask_later(scores_RLS, first, length).logsumexp(-1, keepdim=True)
            else:
                sums_RL1 = torch.logaddexp(scores_RLS.logsumexp(-1), others_RL[:, some])[..., None]
            mass += (scores_RLS[..., :count] - sums_RL1).exp_().sum((0, 1))
    return mass / (len(q_NLE) * length)


def _mask_later(scores_RLS: torch.Tensor, first: int, length: int) -> torch.Tensor:
    """Hide from rows ``first, first + 1 ...`` of ``length``, the last tokens there are, what comes after each."""
    later = torch.ones(scores_RLS.shape[1], length, dtype=torch.bool, device=scores_RLS.device).triu_(first + 1)
    scores_RLS[..., -length:].masked_fill_(later, -torch.inf)
    return scores_RLS


@torch.inference_mode()
def rows_of_answer(
    model: VideoXLForConditionalGeneration,
    ids: Sequence[int],
    new_ids: Sequence[int],
    cache: KVCache,
    layers: Iterable[int],
) -> dict[int, Rows]:
    """The rows that produce ``new_ids`` behind ``ids``, by one forward of what ``cache`` lacks, which it then holds.

    For answers that nobody watched, as those of beams and of choices, and the plain reference of :class:`QueryWatch`.
    """
    cache.truncate(len(ids) - 1)
    fed = [*ids, *new_ids[:-1]][len(cache) :]
    watch = WholeWatch(frozenset(layers))
    model.next_logits(to_device(torch.tensor([fed]), model.model.text_device), cache, watch)
    seen = sorted(watch.seen.items())
    return {layer: Rows(q_BNLE[0, :, -len(new_ids) :], len(cache)) for layer, q_BNLE in seen}


@dataclass
class WholeWatch:
    """Keeps the queries of all rows of one forward."""

    layers: frozenset[int]
    seen: dict[int, torch.Tensor] = field(default_factory=dict)

    def see(self, layer: int, queries_BNLE: torch.Tensor) -> None:
        if layer in self.layers:
            self.seen[layer] = queries_BNLE
