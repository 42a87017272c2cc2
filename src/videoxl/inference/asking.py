"""Answer questions about a memory: one at a time, piece by piece, or several together."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from videoxl.config import DecodeStrategy, Generation
from videoxl.inference.answers import Answer, Choice, Piece, Usage
from videoxl.inference.decode.beams import beam_search
from videoxl.inference.decode.bilevel import Question, Start, start_from
from videoxl.inference.decode.given import log_probabilities
from videoxl.inference.decode.loop import DecodedToken, StopText, TextPieces, decode_tokens, finish_reason
from videoxl.inference.decode.together import Prompt, decode_together
from videoxl.inference.evidence import (
    Evidence,
    QueryWatch,
    Seen,
    SharedWatch,
    find_evidence,
    rows_of_answer,
    watched_layers,
)
from videoxl.inference.hardware import peak_bytes
from videoxl.inference.loading import end_tokens
from videoxl.inference.progress import Progress
from videoxl.inference.prompt import IM_END, ChatFormat
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
    own: int
    """How many of ``tail`` are the question, at the end."""
    given: tuple[int, ...] = ()
    """The ids of ``prefix``, with which the answer begins."""

    @property
    def prompt(self) -> list[int]:
        """The ids behind the video that are read before the first token is written."""
        return [*self.tail, *self.given]


@dataclass(frozen=True)
class Written:
    """What was written for a question, and what that took."""

    ids: list[int]
    """New ids, without those of the prefix."""
    seconds: float
    together: int = 1
    """Questions that were answered in the same steps."""
    choices: tuple[Choice, ...] = ()
    confidence: float | None = None


class Asking:
    """What answering needs of an engine: a model, its tokenizer, and how a conversation is laid out."""

    def __init__(
        self, model: VideoXLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, layout: ChatFormat
    ) -> None:
        self.model, self.tokenizer, self.layout = model, tokenizer, layout

    @property
    def device(self) -> torch.device:
        """Where ids go in and logits come out."""
        return self.model.model.text_device

    @property
    def end_ids(self) -> list[int]:
        """Ids at which an answer ends."""
        return end_tokens(self.model, self.tokenizer)

    def asked(
        self,
        memory: VideoMemory,
        question: str,
        generation: Generation,
        decode: DecodeStrategy,
        *,
        earlier: Sequence[int] = (),
        closed: bool = True,
    ) -> Asked:
        """A question after the ``earlier`` turns, the last of which is ``closed``."""
        introduced, own = self.layout.turn(question, first=not earlier, closed=closed, system=generation.system)
        given = self.layout.tokenize_user(generation.prefix)
        return Asked(memory, question, (*earlier, *introduced, *own), generation, decode, len(own), tuple(given))

    def start(self, asked: Asked) -> Start:
        """What the answer starts from. Raises ``ValueError`` for a question that is longer than the model reads."""
        most = self.model.config.text.max_position_embeddings
        if len(asked.prompt) > most:
            raise ValueError(
                f"the question and the turns before it have {len(asked.prompt):,} tokens, and the model was made for "
                f"{most:,}: ask a shorter one"
            )
        question = Question(asked.question, asked.tail, asked.own)
        reserve = len(asked.prompt) + asked.generation.max_new_tokens
        return start_from(self.model, asked.memory, asked.decode, question, reserve=reserve)

    def pieces(self, asked: Asked, start: Start) -> Iterator[Piece]:
        """The answer piece by piece; the last piece carries the whole."""
        if asked.generation.choices:
            chosen = self.answer(asked, start)[0]
            yield from (Piece(chosen.text), Piece("", chosen))
            return
        begin, generation = time.perf_counter(), asked.generation
        cache = start.cache.fork(reserve=len(start.ids) + len(asked.prompt) + generation.max_new_tokens)
        pieces, stop, new_ids = TextPieces(self.tokenizer), StopText(self.tokenizer, generation.stop), []
        text, told, watch = "", 0, self._watch(generation)
        if generation.prefix:
            pieces.follow(asked.given)
            yield Piece(generation.prefix)
        for token in self._tokens([*start.ids, *asked.prompt], cache, generation, watch):
            new_ids.append(token.id)
            text += pieces.push(token.id)
            safe = stop.safe(text)
            if len(safe) > told:
                yield Piece(safe[told:])
                told = len(safe)
        if rest := stop.cut(text + pieces.rest())[told:]:
            yield Piece(rest)
        written = Written(new_ids, time.perf_counter() - begin)
        yield Piece("", self._finish(asked, start, written, self._seen(asked, start, written, cache, watch)))

    def answer(
        self, asked: Asked, start: Start, *, cache: KVCache | None = None, progress: Progress | None = None
    ) -> tuple[Answer, KVCache]:
        """The answer, and the cache that now also holds the question, and the answer unless it was chosen.

        ``cache``: one that begins with ``start`` and already holds the begin of the tail too.
        """
        begin, generation = time.perf_counter(), asked.generation
        ids = [*start.ids, *asked.prompt]
        grown = (start.cache if cache is None else cache).fork(reserve=len(ids) + generation.max_new_tokens)
        watch = self._watch(generation)
        if generation.choices:
            chosen = self._chosen(generation.choices, ids, grown)
            return self._finish(asked, start, chosen, self._seen(asked, start, chosen, grown, watch)), grown
        new_ids: list[int] = []
        if generation.num_beams > 1:
            new_ids = beam_search(self.model, ids, grown.fork(), generation, end_ids=self.end_ids)
        else:
            for token in self._tokens(ids, grown, generation, watch):
                new_ids.append(token.id)
                if progress:
                    progress("generate", len(new_ids), generation.max_new_tokens)
        written = Written(new_ids, time.perf_counter() - begin)
        return self._finish(asked, start, written, self._seen(asked, start, written, grown, watch)), grown

    def _chosen(self, choices: Sequence[str], ids: list[int], cache: KVCache) -> Written:
        """The likeliest of some texts behind ``ids``, which ``cache`` then holds."""
        begin = time.perf_counter()
        end = self.layout.tokenize(IM_END)
        texts = [[*self.layout.tokenize_user(choice), *end] for choice in choices]
        found = judged(choices, log_probabilities(self.model, ids, cache, texts))
        best = max(range(len(found)), key=lambda number: found[number].logprob)
        mean = found[best].logprob / found[best].tokens
        return Written(texts[best], time.perf_counter() - begin, choices=found, confidence=mean)

    def _seen(
        self, asked: Asked, start: Start, written: Written, cache: KVCache, watch: QueryWatch | None
    ) -> Seen | None:
        """What the answer's rows attended to: ``cache``. Rows that nobody watched are computed once more."""
        if watch is None:
            return None
        count = len(written.ids)
        if watch.forwards >= count:  # more were written where the end was seen late
            return cache, partial(watch.rows, count)
        again, ids = cache.fork(), [*start.ids, *asked.prompt]
        return again, partial(rows_of_answer, self.model, ids, written.ids, again, watch.layers)

    def answers(self, asked: Sequence[Asked], *, progress: Progress | None = None) -> list[Answer]:
        """All answers. Those that start from the whole of a memory, and are written, are written together.

        A cache mixed for one question alone, beams, or choices are a question's own: these are answered one by one.
        """
        found: dict[int, Answer] = {}
        shared: list[tuple[int, Start]] = []
        for number, one in enumerate(asked):
            start, how = self.start(one), one.generation
            if start.cache is one.memory.cache and how.num_beams == 1 and not how.choices:
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
            Prompt([*start.ids, *one.prompt], start.cache, one.generation, self._stop(one.generation))
            for one, start in batch
        ]
        new_ids: list[list[int]] = [[] for _ in batch]
        most = sum(one.generation.max_new_tokens for one, _ in batch)
        watch = (
            SharedWatch(watched_layers(self.model.config)) if any(one.generation.evidence for one, _ in batch) else None
        )
        written = decode_together(self.model, prompts, end_ids=self.end_ids, watch=watch)
        for done, (number, token) in enumerate(written):
            new_ids[number].append(token)
            if progress:
                progress("generate", done + 1, most)
        seconds = time.perf_counter() - begin
        answers = []
        for number, ((one, start), ids) in enumerate(zip(batch, new_ids)):
            seen = (start.cache, partial(watch.rows, number, len(ids))) if watch and one.generation.evidence else None
            answers.append(self._finish(one, start, Written(ids, seconds, len(batch)), seen))
        return answers

    def _tokens(
        self, ids: list[int], cache: KVCache, generation: Generation, watch: QueryWatch | None
    ) -> Iterator[DecodedToken]:
        stop = self._stop(generation)
        return decode_tokens(self.model, ids, cache, generation, end_ids=self.end_ids, stop=stop, watch=watch)

    def _watch(self, generation: Generation) -> QueryWatch | None:
        return QueryWatch(watched_layers(self.model.config)) if generation.evidence else None

    def _stop(self, generation: Generation) -> StopText | None:
        return StopText(self.tokenizer, generation.stop) if generation.stop else None

    def _finish(self, asked: Asked, start: Start, written: Written, seen: Seen | None) -> Answer:
        """``seen``: what the answer's rows attended to, for its evidence."""
        memory, generation = asked.memory, asked.generation
        evidence = find_evidence(self.model.config, memory, start.ids, *seen) if seen else Evidence()
        paid, stop = memory.usage, StopText(self.tokenizer, generation.stop)
        usage = Usage(
            frames=memory.frames,
            video_seconds=memory.duration,
            visual_tokens=paid.visual_tokens,
            memory_tokens=len(memory.token_ids),
            read_tokens=len(start.ids),
            prompt_tokens=len(asked.prompt),
            new_tokens=len(written.ids),
            memory_bytes=memory.nbytes,
            peak_gpu_bytes=peak_bytes(self.device),
            seconds={**paid.seconds, **start.seconds, "generate": round(written.seconds, 6), **evidence.seconds},
            prefill=memory.prefill,
            decode=str(asked.decode),
            sampling=paid.sampling,
            window_ratios=paid.window_ratios,
            device=str(self.device),
            dtype=str(self.model.dtype).removeprefix("torch."),
            finish_reason=finish_reason(written.ids, generation, self.end_ids, stop),
            together=written.together,
        )
        return Answer(
            self._text(asked, written, stop),
            start.read,
            usage,
            (*memory.warnings, *evidence.warnings),
            (*asked.given, *written.ids),
            evidence.spans,
            confidence=written.confidence,
            choices=written.choices,
        )

    def _text(self, asked: Asked, written: Written, stop: StopText) -> str:
        if written.choices:
            return max(written.choices, key=lambda choice: choice.logprob).text
        pieces = TextPieces(self.tokenizer)
        pieces.follow(asked.given)
        return (asked.generation.prefix + stop.cut(pieces.push_all(written.ids))).strip()


def judged(choices: Sequence[str], logprobs: Sequence[Sequence[float]]) -> tuple[Choice, ...]:
    """Options with their probabilities among one another, from the log-probabilities of their tokens."""
    sums = [math.fsum(one) for one in logprobs]
    weights = [math.exp(one - max(sums)) for one in sums]
    total = math.fsum(weights)
    return tuple(
        Choice(text, weight / total, whole, len(one))
        for text, weight, whole, one in zip(choices, weights, sums, logprobs)
    )
