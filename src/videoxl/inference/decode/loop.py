"""Write an answer token by token on a filled cache.

:func:`decode_tokens` is the loop, a generator: ``stream`` is this loop, ``ask`` drains it, and whoever stops iterating
stops it. Beams alone go through transformers' ``generate`` (:mod:`videoxl.inference.decode.beams`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch

from videoxl.config import Generation
from videoxl.errors import DoesNotFitError
from videoxl.inference.decode.choice import LogitsProcessor, TokenChoice
from videoxl.inference.decode.steps import Record, Written, begin
from videoxl.memory.kv_cache import KVCache
from videoxl.model.attention import Watch
from videoxl.model.generation import check_ids
from videoxl.model.videoxl import VideoXLForConditionalGeneration

Stop = Callable[[list[int]], bool]
"""Looks at the new ids, the last one included, and says whether the answer ends with it."""


LOOK_AFTER: dict[str, tuple[int, ...]] = {"cuda": (1, 2, 4, 8)}
"""Per kind of device: tokens to write before each look whether the answer has ended; the last number goes on.

A look makes the host wait for the device, which then has nothing to do. What was written behind the end is lost work.
"""


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
    recorded = 0
    try:
        logits_1V, steps = begin(model, ids[len(cache) :], cache, settings.max_new_tokens, watch)
        written = Written(choose(logits_1V, new_ids), logits_1V)
        while True:
            try:
                for number, token in enumerate(written.tokens_n.tolist()):
                    new_ids.append(token)
                    kept = written.logits_nV if keep_logits else None
                    yield DecodedToken(token, None if kept is None else kept[number])
                    ended = token in ends or (stop is not None and stop(new_ids))
                    if ended or len(new_ids) >= settings.max_new_tokens:
                        return
            finally:
                written.record_first(len(new_ids) - recorded, record)
                recorded = len(new_ids)
            count = min(next(looks), settings.max_new_tokens - len(new_ids))
            wanted = keep_logits or record is not None
            written = steps.write(written.tokens_n[-1:], count, choose, new_ids, keep_logits=wanted)
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
