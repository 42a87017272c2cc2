"""Write an answer: transformers' ``generate`` on a filled cache, with sampling that has its own random state."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from videoxl.config import Generation
from videoxl.errors import DoesNotFitError
from videoxl.inference.progress import Progress
from videoxl.memory.kv_cache import KVCache
from videoxl.model.videoxl import VideoXLForConditionalGeneration

FinishReason = Literal["stop", "length"]


class SeededSampler(LogitsProcessor):
    """Turns greedy decoding into sampling with a private generator.

    Adding Gumbel noise to log-probabilities and taking the largest draws from their distribution. ``generate`` would
    draw from the global random state, which other threads and calls share.
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

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        scores = self.warpers(input_ids, scores).float()
        uniform = torch.rand(scores.shape, generator=self.generator, device=scores.device)
        return scores - torch.log(-torch.log(uniform.clamp_min(1e-20)))  # type: ignore[return-value]


class _Cancelled(StoppingCriteria):
    """Stops generation at the next token once nobody reads it any more."""

    def __init__(self, flag: threading.Event) -> None:
        self.flag = flag

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        return torch.full((input_ids.shape[0],), self.flag.is_set(), device=input_ids.device)  # type: ignore[return-value]


class _Reported(StoppingCriteria):
    """Stops nothing; tells how many tokens there are."""

    def __init__(self, progress: Progress, prompt_tokens: int, most: int) -> None:
        self.progress, self.prompt_tokens, self.most = progress, prompt_tokens, most

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        self.progress("generate", input_ids.shape[1] - self.prompt_tokens, self.most)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


def generation_config(
    model: VideoXLForConditionalGeneration,
    settings: Generation,
    end_ids: Sequence[int] = (),
    output_logits: bool = False,
) -> GenerationConfig:
    """What ``generate`` is told. Sampling settings in the checkpoint's own file have no say here."""
    stored = model.generation_config
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
        do_sample=False,
        repetition_penalty=settings.repetition_penalty or 1.0,
        eos_token_id=list(end_ids) or None,
        pad_token_id=end_ids[0] if stored.pad_token_id is None and end_ids else stored.pad_token_id,
        bos_token_id=stored.bos_token_id,
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=output_logits,
    )


@torch.inference_mode()
def generate(
    model: VideoXLForConditionalGeneration,
    ids: Sequence[int],
    cache: KVCache,
    settings: Generation,
    *,
    streamer: BaseStreamer | None = None,
    cancelled: threading.Event | None = None,
    progress: Progress | None = None,
    end_ids: Sequence[int] = (),
    stopping_criteria: Sequence[StoppingCriteria] = (),
    output_logits: bool = False,
) -> Any:
    """New token ids after ``ids``, the first ``S`` of which are in ``cache`` (which grows).

    It stops at one of ``end_ids``, by ``stopping_criteria``, or after ``max_new_tokens``. Returns the list of ids, or
    transformers' output object with ``output_logits``.
    """
    device = model.model.text_device
    # through numpy: torch reads a list number by number, ten times as slowly, and a memory has tens of thousands
    input_ids = torch.from_numpy(np.asarray(ids, dtype=np.int64))[None].to(device)
    watchers = StoppingCriteriaList([*stopping_criteria, *([_Cancelled(cancelled)] if cancelled else [])])
    if progress:
        watchers.append(_Reported(progress, len(ids), settings.max_new_tokens))
    processors = LogitsProcessorList([SeededSampler(settings, device)] if settings.do_sample else [])
    try:
        out = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            past_key_values=cache,
            generation_config=generation_config(model, settings, end_ids, output_logits),
            logits_processor=processors,
            streamer=streamer,
            stopping_criteria=watchers,
        )
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"the GPU ran out of memory at a prompt of {len(ids):,} tokens and up to {settings.max_new_tokens} new "
            "ones; the memory is unharmed: ask for fewer tokens, or with decode='bilevel', which reads less of it"
        ) from error
    return out if output_logits else out.sequences[0, len(ids) :].tolist()


def finish_reason(new_ids: Sequence[int], end_ids: Sequence[int]) -> FinishReason:
    """``stop`` when the model ended the answer itself, ``length`` when ``max_new_tokens`` did."""
    return "stop" if new_ids and new_ids[-1] in end_ids else "length"


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class TokenStream:
    """Run :func:`generate` in a thread and iterate over pieces of text; ``new_ids`` is there when they are exhausted.

    Closing the iterator early stops the thread at its next token. Errors of the thread are raised here.
    """

    def __init__(
        self,
        model: VideoXLForConditionalGeneration,
        tokenizer: Any,
        ids: Sequence[int],
        cache: KVCache,
        settings: Generation,
        end_ids: Sequence[int] = (),
    ) -> None:
        if settings.num_beams > 1:
            raise ValueError(f"num_beams={settings.num_beams} cannot be streamed: beams are compared at the end")
        self.new_ids: list[int] = []
        self._pieces: queue.SimpleQueue[str | _Failed | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(
            target=self._work,
            args=(model, tokenizer, ids, cache, settings, end_ids),
            name="videoxl-generate",
            daemon=True,
        )

    def _work(
        self,
        model: Any,
        tokenizer: Any,
        ids: Sequence[int],
        cache: KVCache,
        settings: Generation,
        end_ids: Sequence[int],
    ) -> None:
        try:
            streamer = _QueueStreamer(tokenizer, self._pieces)
            self.new_ids = generate(
                model, ids, cache, settings, streamer=streamer, cancelled=self._cancelled, end_ids=end_ids
            )
            self._pieces.put(None)
        except BaseException as error:  # noqa: BLE001  (handed to the reader, which raises it)
            self._pieces.put(_Failed(error))

    def __iter__(self) -> Iterator[str]:
        self._thread.start()
        try:
            while (piece := self._pieces.get()) is not None:
                if isinstance(piece, _Failed):
                    raise piece.error
                if piece:
                    yield piece
        finally:
            self._cancelled.set()
            self._thread.join()


class _QueueStreamer(BaseStreamer):
    """Puts text on a queue as soon as its characters are complete.

    transformers' own streamer waits for a space or line break, which some languages, and some answers, do not have.
    """

    def __init__(self, tokenizer: Any, pieces: queue.SimpleQueue[str | _Failed | None]) -> None:
        self.tokenizer = tokenizer
        self.pieces = pieces
        self._prompt_seen = False
        self._told: list[int] = []  # the tokens of the last piece: what follows is decoded behind them
        self._new: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        """Called by ``generate``: first with the prompt, then with each token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._new += value.flatten().tolist()
        text = self._text()
        if not text.endswith("\ufffd"):  # else a character whose last bytes are still to come
            self._tell(text)

    def end(self) -> None:
        """Called by ``generate`` when it is done."""
        self._tell(self._text())

    def _text(self) -> str:
        before = self.tokenizer.decode(self._told, skip_special_tokens=True)
        return self.tokenizer.decode(self._told + self._new, skip_special_tokens=True)[len(before) :]

    def _tell(self, text: str) -> None:
        self.pieces.put(text)
        if self._new:
            self._told, self._new = self._new, []
