"""Write an answer token by token on a filled cache.

:func:`decode_tokens` is the loop, a generator: ``stream`` is this loop, ``ask`` drains it, and whoever stops iterating
stops it. Beams alone go through transformers' ``generate`` (:mod:`videoxl.inference.decode.beams`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from videoxl.config import Generation
from videoxl.errors import DoesNotFitError
from videoxl.memory.kv_cache import KVCache
from videoxl.model.attention import Watch
from videoxl.model.generation import check_ids
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration

Stop = Callable[[list[int]], bool]
"""Looks at the new ids, the last one included, and says whether the answer ends with it."""


LOOK_AFTER: dict[str, tuple[int, ...]] = {"cuda": (1, 2, 4, 8)}
"""Per kind of device: tokens to write before each look whether the answer has ended; the last number goes on.

A look makes the host wait for the device, which then has nothing to do. What was written behind the end is lost work.
"""


class LogitsProcessor(Protocol):
    """Sees the logits of each step, and may change them."""

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads ``new_ids``. Then every token is looked at before the next one is written."""
        ...

    def __call__(self, scores_BV: torch.Tensor, new_ids: Sequence[int], /) -> torch.Tensor:
        """``[B, V] -> [B, V]`` in float32, before penalties and sampling.

        ``new_ids``: the answer so far; without ``reads_tokens`` the last tokens of it may be missing.
        """
        ...


Record = Callable[[Sequence[int], torch.Tensor, torch.Tensor], None]
"""Sees what was written: numbers of answers, the logits ``[B, V]`` of one place in each, and the tokens ``[B]``."""


@dataclass(frozen=True)
class DecodedToken:
    """One token of an answer."""

    id: int
    logits_V: torch.Tensor | None = None
    """What the model gave for this place, before penalties and sampling; where it was asked for."""


@torch.inference_mode()
def decode_tokens(
    model: VideoXLForConditionalGeneration,
    ids: Sequence[int],
    cache: KVCache,
    settings: Generation,
    *,
    end_ids: Sequence[int] = (),
    stop: Stop | None = None,
    processor: LogitsProcessor | None = None,
    keep_logits: bool = False,
    watch: Watch | None = None,
    record: Record | None = None,
) -> Iterator[DecodedToken]:
    """The tokens after ``ids``, the first ``len(cache)`` of which are in ``cache`` (which grows).

    The last token is one of ``end_ids``, or the one after which ``stop`` is true, or number ``max_new_tokens``. It is
    not in the cache. ``settings``: sampling draws from a generator of its own; ``num_beams`` is not read here.
    ``processor`` sees the logits of every step, and may change them; ``record`` gets those of every token that is
    given, as the model made them. ``watch`` is shown the queries of every forward.

    On a GPU several tokens are written before one is looked at (:data:`LOOK_AFTER`). Those behind the end are thrown
    away, and the cache is cut, also where the caller stops iterating. ``watch`` saw their queries, too.

    Raises ``ValueError`` when nothing is left to read, and :class:`DoesNotFitError` when the GPU's memory is full.
    """
    if len(cache) >= len(ids):
        raise ValueError(f"the cache holds {len(cache):,} tokens and the prompt {len(ids):,}: nothing is left to read")
    device, ends, rows = model.model.text_device, frozenset(end_ids), model.model.vocabulary_rows
    check_ids(ids[len(cache) :], rows)
    choose = TokenChoice(settings, ids, device, rows, processor)
    looks = looks_on(device, every_step=processor is not None and processor.reads_tokens)
    new_ids: list[int] = []
    try:
        logits_BV = model.next_logits(to_device(torch.tensor([ids[len(cache) :]]), device), cache, watch)
        written = Written([choose(logits_BV, new_ids)], [logits_BV])
        steps = GrowingSteps(model, cache, watch)
        while True:
            given = torch.cat(written.tokens).tolist()
            for token, token_B, logits_BV in zip(given, written.tokens, written.logits):
                new_ids.append(token)
                if record is not None:
                    record((0,), logits_BV, token_B)
                yield DecodedToken(token, logits_BV[0] if keep_logits else None)
                ended = token in ends or (stop is not None and stop(new_ids))
                if ended or len(new_ids) >= settings.max_new_tokens:
                    return
            count = min(next(looks), settings.max_new_tokens - len(new_ids))
            written = steps.write(written.tokens[-1], count, choose, new_ids)
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"the GPU ran out of memory at a prompt of {len(ids):,} tokens and up to {settings.max_new_tokens} "
            "new ones; the memory is unharmed: ask for fewer tokens, or with decode='bilevel', which reads less "
            "of it"
        ) from error
    finally:
        cache.truncate(len(ids) + max(0, len(new_ids) - 1))


def looks_on(device: torch.device, *, every_step: bool) -> Iterator[int]:
    """How many tokens to write before the next look at them, again and again."""
    counts = (1,) if every_step else LOOK_AFTER.get(device.type, (1,))
    yield from counts
    yield from repeat(counts[-1])


@dataclass(frozen=True)
class Written:
    """Tokens that were written on the device and not looked at yet."""

    tokens: list[torch.Tensor]
    """Each ``[B]``."""
    logits: list[torch.Tensor]
    """What each was chosen from, ``[B, V]``."""


class GrowingSteps:
    """Writes tokens by the ordinary forward of the model, on a cache that grows."""

    def __init__(self, model: VideoXLForConditionalGeneration, cache: KVCache, watch: Watch | None = None) -> None:
        self.model, self.cache, self.watch = model, cache, watch

    def write(self, token_B: torch.Tensor, count: int, choose: TokenChoice, new_ids: Sequence[int]) -> Written:
        """``count`` tokens behind ``token_B``."""
        written = Written([], [])
        for _ in range(count):
            logits_BV = self.model.next_logits(token_B[:, None], self.cache, self.watch)
            token_B = choose(logits_BV, new_ids)
            written.tokens.append(token_B)
            written.logits.append(logits_BV)
        return written


class TokenChoice:
    """The next token: the likeliest one, or one drawn with a private generator."""

    def __init__(
        self,
        settings: Generation,
        prompt_ids: Sequence[int],
        device: torch.device,
        vocabulary: int,
        processor: LogitsProcessor | None = None,
    ) -> None:
        """``vocabulary``: how many ids there are scores for; placeholders may lie beyond."""
        self.processor = processor
        self.sampler = SeededSampler(settings, device) if settings.do_sample else None
        penalty = settings.repetition_penalty or 1.0
        known = (token_id for token_id in prompt_ids if token_id < vocabulary)
        self.penalty = RepetitionPenalty(penalty, known, device) if penalty != 1.0 else None

    @property
    def is_plain(self) -> bool:
        """Whether it is the likeliest token, whatever came before."""
        return self.sampler is None and self.penalty is None and self.processor is None

    def __call__(self, logits_BV: torch.Tensor, new_ids: Sequence[int] = ()) -> torch.Tensor:
        """``[B, V] -> [B]``. ``new_ids``: the answer so far, for a processor that reads it."""
        if self.is_plain:
            return logits_BV.argmax(-1)
        scores = logits_BV.float()
        if self.processor is not None:
            scores = self.processor(scores, new_ids)
        if self.penalty is not None:
            scores = self.penalty(scores)
        token = (scores if self.sampler is None else self.sampler(scores)).argmax(-1)
        if self.penalty is not None:
            self.penalty.add(token)
        return token


class RepetitionPenalty:
    """Makes tokens that stand in prompt or answer less likely: positive scores are divided, others multiplied."""

    def __init__(self, penalty: float, prompt_ids: Iterable[int], device: torch.device) -> None:
        self.penalty = penalty
        self.seen = torch.tensor(sorted(set(prompt_ids)), device=device)

    def __call__(self, scores_BV: torch.Tensor) -> torch.Tensor:
        seen = self.seen.expand(len(scores_BV), -1)
        held = scores_BV.gather(1, seen)
        return scores_BV.scatter(1, seen, torch.where(held < 0, held * self.penalty, held / self.penalty))

    def add(self, tokens: torch.Tensor) -> None:
        """Count what was just chosen, ``[B]``."""
        self.seen = torch.cat([self.seen, tokens])


class SeededSampler:
    """Adds noise to scores so that their maximum is a draw from their distribution.

    Gumbel noise on log-probabilities does that. The noise comes from a generator of its own: the global random state
    is shared by other threads and calls.
    """

    def __init__(self, settings: Generation, device: torch.device) -> None:
        self.warpers = LogitsProcessorList()
        if settings.temperature is not None:
            self.warpers.append(TemperatureLogitsWarper(float(settings.temperature)))
        if settings.top_k is not None:
            self.warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p is not None:
            self.warpers.append(TopPLogitsWarper(float(settings.top_p)))
        self.generator = torch.Generator(device).manual_seed(settings.seed)

    def __call__(self, scores_BV: torch.Tensor) -> torch.Tensor:
        no_ids = torch.empty((len(scores_BV), 0), dtype=torch.long)  # none of the warpers looks at them
        scores = self.warpers(no_ids, scores_BV).float()
        uniform = torch.rand(scores.shape, generator=self.generator, device=scores.device)
        noisy: torch.Tensor = scores - torch.log(-torch.log(uniform.clamp_min(1e-20)))
        return noisy
