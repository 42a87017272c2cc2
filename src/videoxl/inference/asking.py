"""Answer questions about a memory: one at a time, piece by piece, or several together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from videoxl.config import DecodeStrategy, Generation
from videoxl.inference.answers import Answer, Piece, Usage
from videoxl.inference.decode.beams import beam_search
from videoxl.inference.decode.bilevel import Question, Start, start_from
from videoxl.inference.decode.loop import DecodedToken, StopText, TextPieces, decode_tokens, finish_reason
from videoxl.inference.decode.together import Prompt, decode_together
from videoxl.inference.hardware import peak_bytes
from videoxl.inference.loading import end_tokens
from videoxl.inference.progress import Progress
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.text import require_characters

DEFAULT_GENERATION = Generation()
TOGETHER = 16
"""Questions that are answered together, at most."""


def check_question(question: Any) -> None:
    """Raise ``ValueError`` unless ``question`` is text with something in it."""
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"a question must be text with something in it, got {question!r}")
    require_characters(question, "the question")


def generation_of(generation: Generation | None, settings: dict[str, Any]) -> Generation:
    """The settings given as one value, or the default ones, with single ones in their place."""
    known = Generation.__dataclass_fields__
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"unknown setting {', '.join(unknown)}; allowed: {', '.join(known)}")
    return replace(generation or DEFAULT_GENERATION, **settings)


@dataclass(frozen=True)
class Asked:
    """A question about a memory, and how it is to be answered."""

    memory: VideoMemory
    """A snapshot: nobody else extends it."""
    question: str
    tail: Sequence[int]
    """The ids after the video: earlier turns, then the question."""
    generation: Generation
    decode: DecodeStrategy
    own: int | None = None
    """How many of ``tail`` are the question, at the end; default all."""


class Asking:
    """What answering needs of an engine: a model and its tokenizer."""

    def __init__(self, model: VideoXLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @property
    def device(self) -> torch.device:
        """Where ids go in and logits come out."""
        return self.model.model.text_device

    @property
    def end_ids(self) -> list[int]:
        """Ids at which an answer ends."""
        return end_tokens(self.model, self.tokenizer)

    def start(self, asked: Asked) -> Start:
        """What the answer starts from. Raises ``ValueError`` for a question that is longer than the model reads."""
        most = self.model.config.text.max_position_embeddings
        if len(asked.tail) > most:
            raise ValueError(
                f"the question and the turns before it have {len(asked.tail):,} tokens, and the model was made for "
                f"{most:,}: ask a shorter one"
            )
        question = Question(asked.question, asked.tail, asked.own or len(asked.tail))
        reserve = len(asked.tail) + asked.generation.max_new_tokens
        return start_from(self.model, asked.memory, asked.decode, question, reserve=reserve)

    def pieces(self, asked: Asked, start: Start) -> Iterator[Piece]:
        """The answer piece by piece; the last piece carries the whole."""
        begin, generation = time.perf_counter(), asked.generation
        cache = start.cache.fork(reserve=len(start.ids) + len(asked.tail) + generation.max_new_tokens)
        pieces, stop, new_ids = TextPieces(self.tokenizer), StopText(self.tokenizer, generation.stop), []
        text, told = "", 0
        for token in self._tokens([*start.ids, *asked.tail], cache, generation):
            new_ids.append(token.id)
            text += pieces.push(token.id)
            safe = stop.safe(text)
            if len(safe) > told:
                yield Piece(safe[told:])
                told = len(safe)
        if rest := stop.cut(text + pieces.rest())[told:]:
            yield Piece(rest)
        yield Piece("", self._finish(asked, start, new_ids, time.perf_counter() - begin))

    def answer(
        self, asked: Asked, start: Start, *, cache: KVCache | None = None, progress: Progress | None = None
    ) -> tuple[Answer, KVCache]:
        """The answer, and the cache that now also holds question and answer.

        ``cache``: one that begins with ``start`` and already holds the begin of the tail too.
        """
        begin, generation = time.perf_counter(), asked.generation
        ids = [*start.ids, *asked.tail]
        grown = (start.cache if cache is None else cache).fork(reserve=len(ids) + generation.max_new_tokens)
        new_ids: list[int] = []
        if generation.num_beams > 1:
            new_ids = beam_search(self.model, ids, grown.fork(), generation, end_ids=self.end_ids)
        else:
            for token in self._tokens(ids, grown, generation):
                new_ids.append(token.id)
                if progress:
                    progress("generate", len(new_ids), generation.max_new_tokens)
        return self._finish(asked, start, new_ids, time.perf_counter() - begin), grown

    def answers(self, asked: Sequence[Asked], *, progress: Progress | None = None) -> list[Answer]:
        """All answers. Those that start from the whole of a memory, without beams, are written together.

        A cache mixed for one question alone, or beams, are a question's own: these are answered one by one.
        """
        found: dict[int, Answer] = {}
        shared: list[tuple[int, Start]] = []
        for number, one in enumerate(asked):
            start = self.start(one)
            if start.cache is one.memory.cache and one.generation.num_beams == 1:
                shared.append((number, start))
            else:
                found[number] = self.answer(one, start)[0]
        for first in range(0, len(shared), TOGETHER):
            batch = shared[first : first + TOGETHER]
            answers = self._together([(asked[number], start) for number, start in batch], progress)
            found.update(zip((number for number, _ in batch), answers))
        return [found[number] for number in range(len(asked))]

    def _together(self, batch: Sequence[tuple[Asked, Start]], progress: Progress | None) -> list[Answer]:
        begin = time.perf_counter()
        prompts = [
            Prompt([*start.ids, *one.tail], start.cache, one.generation, self._stop(one.generation))
            for one, start in batch
        ]
        new_ids: list[list[int]] = [[] for _ in batch]
        most = sum(one.generation.max_new_tokens for one, _ in batch)
        for done, (number, token) in enumerate(decode_together(self.model, prompts, end_ids=self.end_ids)):
            new_ids[number].append(token)
            if progress:
                progress("generate", done + 1, most)
        seconds = time.perf_counter() - begin
        return [self._finish(one, start, ids, seconds, len(batch)) for (one, start), ids in zip(batch, new_ids)]

    def _tokens(self, ids: list[int], cache: KVCache, generation: Generation) -> Iterator[DecodedToken]:
        return decode_tokens(self.model, ids, cache, generation, end_ids=self.end_ids, stop=self._stop(generation))

    def _stop(self, generation: Generation) -> StopText | None:
        return StopText(self.tokenizer, generation.stop) if generation.stop else None

    def _finish(self, asked: Asked, start: Start, new_ids: list[int], seconds: float, together: int = 1) -> Answer:
        memory, generation = asked.memory, asked.generation
        paid, stop = memory.usage, StopText(self.tokenizer, generation.stop)
        text = stop.cut(self.tokenizer.decode(new_ids, skip_special_tokens=True)).strip()
        usage = Usage(
            frames=memory.frames,
            video_seconds=memory.duration,
            visual_tokens=paid.visual_tokens,
            memory_tokens=len(memory.token_ids),
            read_tokens=len(start.ids),
            prompt_tokens=len(asked.tail),
            new_tokens=len(new_ids),
            memory_bytes=memory.nbytes,
            peak_gpu_bytes=peak_bytes(self.device),
            seconds={**paid.seconds, **start.seconds, "generate": round(seconds, 6)},
            prefill=memory.prefill,
            decode=str(asked.decode),
            sampling=paid.sampling,
            window_ratios=paid.window_ratios,
            device=str(self.device),
            dtype=str(self.model.dtype).removeprefix("torch."),
            finish_reason=finish_reason(new_ids, generation, self.end_ids, stop),
            together=together,
        )
        return Answer(text, start.spans, usage, memory.warnings, tuple(new_ids))
