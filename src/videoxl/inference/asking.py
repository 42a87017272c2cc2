"""Answer questions about a memory: one at a time, piece by piece, or several together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from videoxl.config import DecodeStrategy, Generation
from videoxl.config_keywords import GenerationKeywords
from videoxl.errors import DoesNotFitError
from videoxl.inference.answers import Answer, Piece
from videoxl.inference.decode.beams import beam_search
from videoxl.inference.decode.bilevel import Question, Start, start_from
from videoxl.inference.decode.constrain import Constraint, LeastTokens, Vocabulary, grammar_of
from videoxl.inference.decode.given import log_probabilities
from videoxl.inference.decode.likelihood import Likelihoods, TokenChance
from videoxl.inference.decode.loop import decode_tokens
from videoxl.inference.decode.text import AnswerText
from videoxl.inference.decode.together import Prompt, decode_together
from videoxl.inference.evidence import (
    QueryWatch,
    Seen,
    SharedWatch,
    rows_of_answer,
    rows_that_tell,
    watched_layers,
)
from videoxl.inference.hardware import peak_bytes
from videoxl.inference.loading import end_tokens
from videoxl.inference.progress import Progress
from videoxl.inference.prompt import IM_END, ChatFormat
from videoxl.inference.written import Asked, Writer, Written, judged
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.out_of_memory import fitting
from videoxl.text import require_characters

DEFAULT_GENERATION = Generation()
TOGETHER = 16
"""Questions that are answered together, at most."""


def check_question(question: Any) -> None:
    """Raise ``ValueError`` unless ``question`` is text with something in it."""
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"a question must be text with something in it, got {question!r}")
    require_characters(question, "the question")


def generation_of(generation: Generation | None, settings: GenerationKeywords) -> Generation:
    """The settings given as one value, or the default ones, with single ones in their place."""
    known = Generation.__dataclass_fields__
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"unknown setting {', '.join(unknown)}; allowed: {', '.join(known)}")
    given: Any = settings  # what it takes is wider than what it keeps
    return replace(generation or DEFAULT_GENERATION, **given)


def generations_of(
    generation: Generation | Sequence[Generation] | None, settings: GenerationKeywords, count: int
) -> list[Generation]:
    """The settings of ``count`` questions: the same for all, or those of a list. Raises ``ValueError`` for others."""
    if generation is None or isinstance(generation, Generation):
        return [generation_of(generation, settings)] * count
    if len(generation) != count:
        raise ValueError(f"generation holds settings of {len(generation)} questions, and {count} are asked")
    return [generation_of(one, settings) for one in generation]


class Asking:
    """What answering needs of an engine: a model, its tokenizer, and how a conversation is laid out."""

    def __init__(
        self, model: VideoXLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, layout: ChatFormat
    ) -> None:
        self.model, self.tokenizer, self.layout = model, tokenizer, layout
        self._vocabulary: Vocabulary | None = None

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
        with fitting(f"when it mixed what decode='{asked.decode}' reads", "ask with decode='dense', without a copy"):
            return start_from(self.model, asked.memory, asked.decode, question, reserve=reserve)

    def rules(self, asked: Asked) -> Rules:
        """What the tokens of an answer must keep to. Raises ``ValueError`` for rules that nothing can keep to."""
        how, grammar = asked.generation, grammar_of(asked.generation)
        if (how.logprobs or 0) > self.model.model.vocabulary_rows:
            raise ValueError(
                f"logprobs={how.logprobs} asks for more tokens than there are: {self.model.model.vocabulary_rows:,}"
            )
        stop = AnswerText(self.tokenizer, how.stop, asked.given) if how.stop else None
        if grammar is not None:
            return Rules(stop, Constraint(grammar, self.vocabulary, asked.given))
        return Rules(stop, LeastTokens(how.min_new_tokens, self.end_ids) if how.min_new_tokens else None)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens as llguidance reads them."""
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self.tokenizer, self.model.model.vocabulary_rows, self.end_ids)
        return self._vocabulary

    def pieces(self, asked: Asked, start: Start) -> Iterator[Piece]:
        """The answer piece by piece; the last piece carries the whole. Arguments are checked at the call."""
        if asked.generation.choices:
            return self._chosen_pieces(asked, start)
        return self._written_pieces(asked, start, self.rules(asked))

    def _chosen_pieces(self, asked: Asked, start: Start) -> Iterator[Piece]:
        answer = self.answer(asked, start)[0]
        yield Piece(answer.text)
        yield Piece("", answer)

    def _written_pieces(self, asked: Asked, start: Start, rules: Rules) -> Iterator[Piece]:
        begin, how = time.perf_counter(), asked.generation
        cache = start.cache.fork(reserve=len(start.ids) + len(asked.prompt) + how.max_new_tokens)
        said, new_ids, told = AnswerText(self.tokenizer, how.stop, asked.given), list[int](), 0
        likely, watch = Likelihoods(how.logprobs or 0), self._watch(how)
        if how.prefix:
            yield Piece(how.prefix)
        for token in self._tokens([*start.ids, *asked.prompt], cache, how, rules, likely, watch):
            new_ids.append(token)
            said(new_ids)
            if len(said.certain) > told:
                yield Piece(said.certain[told:])
                told = len(said.certain)
        if rest := said.whole()[told:]:
            yield Piece(rest)
        written = Written(new_ids, time.perf_counter() - begin, likely.of_all(1)[0], rules.constraint)
        yield Piece("", self.writer.answer(asked, start, written, self._seen(asked, start, new_ids, cache, watch)))

    def answer(
        self, asked: Asked, start: Start, *, cache: KVCache | None = None, progress: Progress | None = None
    ) -> tuple[Answer, KVCache]:
        """One answer, and the cache that now also holds the question, and the answer unless it was chosen.

        ``cache``: one that begins with ``start`` and already holds the begin of the tail too.
        """
        how, ids = asked.generation, [*start.ids, *asked.prompt]
        grown = (start.cache if cache is None else cache).fork(reserve=len(ids) + how.max_new_tokens)
        watch = self._watch(how)
        if how.choices:
            written = self._chosen(how.choices, ids, grown)
        elif how.num_beams > 1:
            written = self._searched(how, ids, grown)
        else:
            written = self._written(how, ids, grown, self.rules(asked), watch, progress)
        seen = self._seen(asked, start, written.ids, grown, watch)
        return self.writer.answer(asked, start, written, seen), grown

    def _written(
        self,
        how: Generation,
        ids: list[int],
        cache: KVCache,
        rules: Rules,
        watch: QueryWatch | None,
        progress: Progress | None,
    ) -> Written:
        """Tokens behind ``ids``, one after the other."""
        begin, likely, new_ids = time.perf_counter(), Likelihoods(how.logprobs or 0), list[int]()
        for token in self._tokens(ids, cache, how, rules, likely, watch):
            new_ids.append(token)
            if progress:
                progress("generate", len(new_ids), how.max_new_tokens)
        return Written(new_ids, time.perf_counter() - begin, likely.of_all(1)[0], rules.constraint)

    def _searched(self, how: Generation, ids: list[int], cache: KVCache) -> Written:
        """What beam search finds behind ``ids``, which ``cache`` then holds."""
        begin = time.perf_counter()
        new_ids = beam_search(self.model, ids, cache.fork(), how, end_ids=self.end_ids)
        chances = [TokenChance(one) for one in log_probabilities(self.model, ids, cache, [new_ids])[0]]
        return Written(new_ids, time.perf_counter() - begin, chances)

    def _chosen(self, choices: Sequence[str], ids: list[int], cache: KVCache) -> Written:
        """The likeliest of some texts behind ``ids``, which ``cache`` then holds."""
        begin, end = time.perf_counter(), self.layout.tokenize(IM_END)
        texts = [[*self.layout.tokenize_user(choice), *end] for choice in choices]
        logprobs = log_probabilities(self.model, ids, cache, texts)
        found = judged(choices, logprobs)
        best = max(range(len(found)), key=lambda number: found[number].logprob)
        chances = [TokenChance(one) for one in logprobs[best]]
        return Written(texts[best], time.perf_counter() - begin, chances, choices=found)

    def _watch(self, how: Generation) -> QueryWatch | None:
        return QueryWatch(watched_layers(self.model.config)) if how.evidence else None

    def _seen(
        self, asked: Asked, start: Start, new_ids: list[int], cache: KVCache, watch: QueryWatch | None
    ) -> Seen | None:
        """What the answer's rows attended to: ``cache``. Rows that nobody watched are computed once more."""
        if watch is None:
            return None
        count, ids = rows_that_tell(new_ids, self.end_ids), [*start.ids, *asked.prompt]
        if watch.forwards >= count:  # more were written where the end was seen late
            return cache, partial(watch.rows, count, len(ids))
        again = cache.fork()
        return again, partial(rows_of_answer, self.model, ids, new_ids[:count], again, watch.layers)

    def answers(
        self, asked: Sequence[Asked], *, together: bool = True, progress: Progress | None = None
    ) -> list[Answer]:
        """All answers, ``n`` to each question. ``together``: those that start from the same cache are written together.

        Beams and choices are a question's own: these are answered one by one.
        """
        found: dict[tuple[int, int], Answer] = {}
        shared: list[tuple[tuple[int, int], Asked, Start]] = []
        for number, one in enumerate(asked):
            start, how = self.start(one), one.generation
            whole = start.cache is one.memory.cache
            for draw in range(how.n):
                drawn = one if how.n == 1 else replace(one, generation=replace(how, n=1, seed=how.seed + draw))
                if together and (whole or how.n > 1) and how.num_beams == 1 and not how.choices:
                    shared.append(((number, draw), drawn, start))
                else:
                    found[number, draw] = self.answer(drawn, start, progress=progress)[0]
        size, told = TOGETHER, tuple[str, ...]()
        while shared:
            batch = shared[:size]
            try:
                answers = self._together([(one, start) for _, one, start in batch], progress)
            except DoesNotFitError:
                if len(batch) == 1:
                    raise
                size, many = len(batch) // 2, len(batch)
                told = (f"the GPU ran out of memory with {many} questions at once; went on with {size} at a time",)
                continue
            answers = [replace(answer, warnings=(*answer.warnings, *told)) for answer in answers]
            found.update(zip((key for key, _, _ in batch), answers))
            shared = shared[size:]
        return [
            _with_others([found[number, draw] for draw in range(one.generation.n)]) for number, one in enumerate(asked)
        ]

    def _together(self, batch: Sequence[tuple[Asked, Start]], progress: Progress | None) -> list[Answer]:
        begin, rules = time.perf_counter(), [self.rules(one) for one, _ in batch]
        prompts = [
            Prompt([*start.ids, *one.prompt], start.cache, one.generation, kept.stop, kept.processor)
            for (one, start), kept in zip(batch, rules)
        ]
        new_ids: list[list[int]] = [[] for _ in batch]
        most = sum(one.generation.max_new_tokens for one, _ in batch)
        likely = Likelihoods(max(one.generation.logprobs or 0 for one, _ in batch))
        watched = any(one.generation.evidence for one, _ in batch)
        watch = SharedWatch(watched_layers(self.model.config)) if watched else None
        tokens = decode_together(self.model, prompts, end_ids=self.end_ids, watch=watch, record=likely)
        for done, (number, token) in enumerate(tokens):
            new_ids[number].append(token)
            if progress:
                progress("generate", done + 1, most)
        seconds, chances = time.perf_counter() - begin, likely.of_all(len(batch))
        answers = []
        for number, ((one, start), kept) in enumerate(zip(batch, rules)):
            ids, seen = new_ids[number], None
            if watch and one.generation.evidence:
                count = rows_that_tell(ids, self.end_ids)
                seen = start.cache, partial(watch.rows, number, count, len(start.ids))
            written = Written(ids, seconds, chances[number], kept.constraint, together=len(batch))
            answers.append(self.writer.answer(one, start, written, seen))
        return answers

    def _tokens(
        self,
        ids: list[int],
        cache: KVCache,
        how: Generation,
        rules: Rules,
        likely: Likelihoods,
        watch: QueryWatch | None,
    ) -> Iterator[int]:
        tokens = decode_tokens(
            self.model,
            ids,
            cache,
            how,
            end_ids=self.end_ids,
            stop=rules.stop,
            processor=rules.processor,
            watch=watch,
            record=likely,
        )
        return (token.id for token in tokens)

    @property
    def writer(self) -> Writer:
        """Makes answers of what was written."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return Writer(self.model.config, self.tokenizer, self.end_ids, str(self.device), dtype, peak_bytes(self.device))


@dataclass(frozen=True)
class Rules:
    """What the tokens of one answer must keep to. For one answer alone: they count and follow it."""

    stop: AnswerText | None = None
    processor: Constraint | LeastTokens | None = None

    @property
    def constraint(self) -> Constraint | None:
        return self.processor if isinstance(self.processor, Constraint) else None


def _with_others(answers: Sequence[Answer]) -> Answer:
    """The first answer, with the others as its alternatives."""
    return answers[0] if len(answers) == 1 else replace(answers[0], alternatives=tuple(answers[1:]))
