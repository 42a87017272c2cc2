"""Films of the generated world as examples to train on, drawn anew for every step.

An example holds one film and many questions, each of which sees the film and itself (``turns="apart"``): what a film
costs to read is paid once. A step reads films of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from videoxl.config import ChunkedPrefill
from videoxl.inference.prompt import IGNORE_INDEX, ChatFormat, VisualSpan, span_for
from videoxl.memory.positions import positions_of as visual_positions
from videoxl.training.data.collator import Collator, positions_of
from videoxl.training.data.examples import Example
from videoxl.world import Film, Question, Thing, ask, kinds_for, sample_film
from videoxl.world.film import COLORS, SHAPES
from videoxl.world.questions import seconds

AUX_TARGETS = ("begin", "end", "start", "past color", "past kind", "shapes")
"""Seconds at which a token's group begins and ends, and at which what it shows began; colour and kind of what was shown
before that, 0 for nothing; how many shapes were shown so far. A time that is asked for begins itself."""
SEEN = ("color", "kind")
"""Auxiliary targets of the last token of a frame or group: colour and kind of what it shows, 0 for nothing."""
Show = Callable[[np.random.Generator, Film], dict[str, Any]]
"""What is seen of a film, under the names of :class:`FilmExample`: pixels, features, or words in their place."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What a run of steps reads, and how fast it learns."""

    groups: tuple[int, int]
    """Shortest and longest film; lengths are drawn evenly on a logarithmic scale."""
    films: int
    """Per step."""
    questions: int
    """Per film."""
    steps: int
    """Optimizer steps."""
    rate: float
    """Peak learning rate."""
    kinds: Mapping[str, float]
    """How often each kind of question is drawn."""
    events: int | None = None
    """In every film, as far as they fit; default as films have them. The more there are, the more there is to confuse,
    and the more a question teaches."""
    chunked: float = 0.0
    """Share of steps read under the mask of chunked prefill."""
    skips: float = 0.0
    """Share of films with positions left out, so that late positions are met without long films."""
    longest: int = 4600
    """Position at which a film with positions left out ends, at most."""
    diluted: int = 0
    """Groups that most films count as, at most. Attention is shared out as if every group of scenery stood there many
    times: what finds a thing among that many groups is learned from short films."""
    multi_turn: bool = False
    """Questions follow one another as turns of one conversation, as they must where a film is compressed."""
    keyword_questions: float = 0.0
    """Share of questions that are asked in key words, without the chat format: a third of the tokens."""


@dataclass(frozen=True)
class FilmExample(Example):
    """An example with what only this recipe needs."""

    positions: np.ndarray = field(default_factory=lambda: np.zeros((1, 0), dtype=np.int64))
    """The position of every token, ``[1, L]``, or ``[3, L]`` where positions are time, height and width."""
    kinds: tuple[str, ...] = ()
    """Kinds of its questions, in the order of their segments, from 1."""
    aux_targets: np.ndarray = field(default_factory=lambda: np.full((0, len(AUX_TARGETS + SEEN)), -1))
    """Auxiliary targets of every token, :data:`AUX_TARGETS` and :data:`SEEN`; -1 where there is none."""
    attention_targets: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Tokens that are followed by one of an answer, and the tokens that it can be read from."""
    copies: float = 1.0
    """How many times a group of scenery counts."""
    scenery: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """The number of the group of scenery that each token belongs to, from 1; 0 for all other tokens."""
    chunked: bool = False
    """Whether the film is read under the mask of chunked prefill."""
    words: torch.Tensor | None = None
    """Ids of words in the place of each visual token, ``[tokens, WORDS]``, -1 where there are fewer."""


class PromptWriter:
    """Writes films and questions as ids, by the prompt code of inference."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        @lru_cache(maxsize=100_000)
        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        self.config = config
        self.encode = encode
        traits = config.traits
        self.chat = ChatFormat(self.ids, self.ids, traits.chat, traits.tokens.closing)
        self.prefix = self.chat.prefix()
        self.end = self.ids("<|im_end|>")

    def ids(self, text: str) -> list[int]:
        return list(self.encode(text))

    def span(self, film: Film) -> VisualSpan:
        return span_for(self.config, film.timestamps, self.ids)

    def positions(self, ids: Sequence[int], segments: Sequence[int], span: VisualSpan, begin: int) -> np.ndarray:
        """Positions ``[1, L]`` or ``[3, L]`` of a prompt with its video at ``begin``, and questions behind it."""
        plain = positions_of(segments)[None]
        if self.config.traits.tokens.position_dimensions == 1:
            return plain
        end = begin + len(span.ids)
        seen = visual_positions(ids[:end], (self.config.video_token_id,), self.config.visual_grid, 0).numpy()
        return np.concatenate([seen, np.repeat(plain[:, end:] - end + seen.max() + 1, len(seen), axis=0)], axis=1)

    def turn(self, question: Question, *, as_keywords: bool = False, first: bool = True) -> tuple[list[int], list[int]]:
        """Ids of a question with its answer, and the labels: the answer and its end."""
        if as_keywords:
            asked = self.chat.closing_ids() + self.ids(keywords_of(question.text))
        else:
            chat = self.chat
            asked = chat.suffix(question.text) if first else chat.next_turn(question.text, answer_closed=True)
        answer = [*self.ids(question.answer), *self.end]
        return asked + answer, [IGNORE_INDEX] * len(asked) + answer


DILUTED = 0.7
"""Share of films that count as longer, where a phase says so."""
NEVER_SHORT = ("choice", "list")
"""Kinds that key words do not do for."""
LEFT_OUT = {"What", "Which", "How", "is", "are", "the", "a", "an", "of", "these", "on", "there", "shown"}


def keywords_of(text: str) -> str:
    """The key words of a question: ``color star``. What is asked about comes last, and the answer right behind it."""
    return " ".join(word for word in text.rstrip("?").split(" ") if word not in LEFT_OUT)


class FilmDataset:
    """The films of a curriculum, each drawn from the seed and its number alone: phase after phase, or steps of all of
    them in an order drawn from the seed (``mixed``), so that none is forgotten over another."""

    def __init__(
        self, curriculum: Sequence[Phase], writer: PromptWriter, show: Show, *, seed: int = 0, mixed: bool = False
    ) -> None:
        self.curriculum, self.writer, self.show, self.seed = tuple(curriculum), writer, show, seed
        self._phase_of = [phase for phase in self.curriculum for _ in range(phase.steps)]
        if mixed:
            order = np.random.default_rng((seed, 2)).permutation(len(self._phase_of))
            self._phase_of = [self._phase_of[i] for i in order]
        self.batches: list[list[int]] = []
        """Numbers of the films of every step."""
        for phase in self._phase_of:
            first = len(self)
            self.batches.append(list(range(first, first + phase.films)))
        self._step_of = [step for step, batch in enumerate(self.batches) for _ in batch]

    def __len__(self) -> int:
        return self.batches[-1][-1] + 1 if self.batches else 0

    def share(self, rank: int, world: int) -> list[list[int]]:
        """The films of every step for one of several processes. Raises ``ValueError`` where they cannot be divided."""
        if any(phase.films % world for phase in self.curriculum):
            raise ValueError(
                f"{[phase.films for phase in self.curriculum]} films a step cannot go to {world} processes"
            )
        return [batch[rank * len(batch) // world : (rank + 1) * len(batch) // world] for batch in self.batches]

    def __getitem__(self, number: int) -> FilmExample:
        position = self._step_of[number]
        phase = self._phase_of[position]
        step = np.random.default_rng((self.seed, 0, position))
        groups = draw_length(step, *phase.groups)
        chunked = bool(step.random() < phase.chunked)
        source = np.random.default_rng((self.seed, 1, number))
        film = sample_film(source, groups, phase.events and min(phase.events, groups // 2))
        questions = draw_questions(source, film, phase.questions, phase.kinds)
        skipped = phase.longest if source.random() < phase.skips else 0
        diluted = phase.diluted > groups and source.random() < DILUTED
        copies = float(np.exp(source.uniform(0, np.log(phase.diluted / groups)))) if diluted else 1.0
        return make_example(
            source,
            self.writer,
            film,
            questions,
            self.show,
            chunked=chunked,
            longest=skipped,
            copies=copies,
            keyword_questions=phase.keyword_questions,
            multi_turn=phase.multi_turn,
        )


def draw_length(source: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(source.uniform(np.log(low), np.log(high + 1))))


def draw_questions(source: np.random.Generator, film: Film, count: int, weights: Mapping[str, float]) -> list[Question]:
    """At most ``count`` different ones, of kinds by their weights; a short film may have fewer."""
    kinds = [kind for kind in kinds_for(film) if weights.get(kind)]
    odds = np.array([weights[kind] for kind in kinds])
    found: dict[str, Question] = {}
    for i in source.choice(len(kinds), 2 * count, p=odds / odds.sum()):
        question = ask(source, film, kinds[i])
        if len(found) < count:
            found.setdefault(question.text, question)
    return list(found.values())


def make_example(
    source: np.random.Generator,
    writer: PromptWriter,
    film: Film,
    questions: Sequence[Question],
    show: Show,
    *,
    chunked: bool = False,
    longest: int = 0,
    copies: float = 1.0,
    keyword_questions: float = 0.0,
    multi_turn: bool = False,
) -> FilmExample:
    """A film with its questions. ``longest``: positions are left out, up to this one; 0: none are. ``copies``: how many
    times each group of scenery counts."""
    span = writer.span(film)
    prefix = writer.prefix
    ids, begin = [*prefix, *span.ids], len(prefix)
    labels, segments = [IGNORE_INDEX] * len(ids), [0] * len(ids)
    aux_targets = [_aux_targets(writer, film, span, begin, past=not chunked)]
    parts = len(span.groups) // film.groups  # of a film's group: one, or every frame
    attention_targets = []
    for number, question in enumerate(questions, start=1):
        short = question.kind not in NEVER_SHORT and source.random() < keyword_questions
        turn, answer = writer.turn(question, as_keywords=short, first=number == 1 or not multi_turn)
        for index, (first, end), where in tokens_to_attend(writer, question, answer):
            shown = span.groups[first * parts : end * parts]
            known = [range(group.token_end - 1, group.token_end) for group in shown[parts - 1 :: parts]]
            found = known if where == KNOWN else [range(group.token_start, group.token_end) for group in shown]
            attention_targets.append((len(ids) + index, tuple(begin + token for tokens in found for token in tokens)))
        ids, labels = ids + turn, labels + answer
        segments += [0 if multi_turn else number] * len(turn)
        asked = np.full((len(turn), len(AUX_TARGETS + SEEN)), -1)
        if question.kind == "at":
            group = question.evidence[0][0]
            asked[turn.index(writer.ids(f"at {seconds(film.time_of(group))}")[-1]), 0] = film.time_of(group)
        aux_targets.append(asked)
    positions = writer.positions(ids, segments, span, begin)
    if longest:
        shift = left_out(source, span, longest - int(positions[0, begin + len(span.ids) - 1]) - 1)
        positions[:, begin:] += np.concatenate([shift, np.full(len(ids) - begin - len(shift), shift[-1])])
    return FilmExample(
        id=f"film {film.seed}",
        kind="video",
        input_ids=ids,
        labels=labels,
        segments=segments,
        span=(begin, begin + len(span.ids)),
        crops=False,
        positions=positions,
        kinds=tuple(question.kind for question in questions),
        aux_targets=np.concatenate(aux_targets),
        attention_targets=tuple(attention_targets),
        copies=copies,
        scenery=_scenery(film, span, begin, len(ids)),
        chunked=chunked,
        **{"pixels_FHWC": None, "counts": (len(film.timestamps),), **show(source, film)},
    )


TIME_TOKENS = 2
"""Largest number of tokens of a time: hundreds of seconds, and the rest."""
SHOWN, KNOWN = "shown", "known"
"""Tokens of a group: all of them, or its last one, which alone has seen the group whole and knows what was before."""


def tokens_to_attend(
    writer: PromptWriter, question: Question, labels: Sequence[int]
) -> Iterator[tuple[int, tuple[int, int], str]]:
    """From which tokens of a turn something is looked up: in which groups from ... to before ..., and in what of them.

    From every token that is followed by one of the answer, which says what a single event shows, or that it is
    missing. Asked what came before or after, it is the later of the two events, which alone can know of the other. A
    list goes from event to event. Times end in the last group of an event.
    """
    if question.kind == "count" or not question.evidence:
        return
    answered = [i for i, label in enumerate(labels) if label != IGNORE_INDEX]
    first, last = answered[0] - 1, answered[-1] - 1  # nothing is looked up for the end of the turn
    if question.kind not in ("when", "list"):
        where = KNOWN if question.kind in ("before", "after") else SHOWN
        yield from ((i, question.evidence[-1], where) for i in range(first, last))
        return
    (until, _), (newline, _) = writer.ids(" to 1"), writer.ids("\n1")
    events = iter(question.evidence)
    event, ends = next(events), len(labels)
    for i in range(first, last):
        if labels[i] == newline:
            event, ends = next(events), len(labels)
        if labels[i] == until:
            ends = i
        until_when = ends <= i < ends + TIME_TOKENS
        yield (i, (event[1] - 1, event[1]), KNOWN) if until_when else (i, event, SHOWN)


def _aux_targets(writer: PromptWriter, film: Film, span: VisualSpan, begin: int, *, past: bool) -> np.ndarray:
    """Auxiliary targets of a prefix and the film behind it.

    Every visual token has the time. All others belong to the last token of a group, which alone has seen the whole
    group; :data:`SEEN` also to the last token of each frame that has tokens of its own. ``past``: whether tokens see
    what was shown before. A model that is told no times has no targets of time.
    """
    aux_targets = np.full((begin + len(span.ids), len(AUX_TARGETS + SEEN)), -1)
    visual = begin + np.flatnonzero(np.asarray(span.ids) == writer.config.video_token_id)
    before: Thing | None = None
    shapes = 0
    events = iter(film.events)
    event = next(events, None)
    for group, places in enumerate(visual.reshape(film.groups, -1)):
        if event is not None and group >= event.end:
            before, event = event.thing, next(events, None)
        aux_targets[places, 0] = film.time_of(group)
        last = aux_targets[places[-1]]
        last[1] = film.time_of(group + 1)
        if event is not None and group >= event.start:
            last[2] = film.time_of(event.start)
            shapes += group == event.start and event.thing.shape is not None
        if past:
            last[3 : len(AUX_TARGETS)] = (*numbers_of(before), shapes)
    parts = len(span.groups) // film.groups
    for number, tokens in enumerate(span.groups):
        aux_targets[begin + tokens.token_end - 1, len(AUX_TARGETS) :] = numbers_of(film.thing_in(number // parts))
    if not writer.config.time_format:
        aux_targets[:, :3] = -1
    return aux_targets


def numbers_of(thing: Thing | None) -> tuple[int, int]:
    """Numbers from 1 for a thing's colour and for its shape or digit, digits behind shapes; 0 for nothing."""
    if thing is None:
        return 0, 0
    kind = SHAPES.index(thing.shape) if thing.shape else len(SHAPES) + int(thing.number or 0)
    return 1 + COLORS.index(thing.color), 1 + kind


def _scenery(film: Film, span: VisualSpan, begin: int, length: int) -> np.ndarray:
    """The group of scenery that each of ``length`` tokens is in, from 1, else 0. The film begins at ``begin``."""
    numbers = np.zeros(length, dtype=np.int64)
    parts = len(span.groups) // film.groups
    for number, group in enumerate(span.groups):
        if film.thing_in(number // parts) is None:
            numbers[begin + group.token_start : begin + group.token_end] = number + 1
    return numbers


def left_out(source: np.random.Generator, span: VisualSpan, room: int) -> np.ndarray:
    """By how much each token of a span comes later when positions before some groups are skipped, ``room`` in all."""
    groups = span.groups
    jumps = source.random(len(groups)) * (source.random(len(groups)) < 0.25)
    if room <= 10 or jumps.sum() == 0:
        return np.zeros(len(span.ids), dtype=np.int64)
    total = np.exp(source.uniform(np.log(10), np.log(room)))
    by_group = (jumps / jumps.sum() * total).astype(np.int64).cumsum()
    return np.repeat(by_group, [group.token_end - group.token_start for group in groups])


class FilmCollator:
    """Batches of examples of one length; the ordinary collator, with the positions and marks of this recipe."""

    def __init__(self, config: Any, pad_token_id: int) -> None:
        self.plain = Collator(config, pad_token_id)
        self.chunked = Collator(config, pad_token_id, ChunkedPrefill())

    def __call__(self, examples: Sequence[FilmExample]) -> dict[str, Any]:
        batch = (self.chunked if examples[0].chunked else self.plain)(examples)
        length = batch["input_ids"].shape[1]
        places = np.zeros((len(examples[0].positions), len(examples), length), dtype=np.int64)
        for row, example in enumerate(examples):
            places[:, row, : example.positions.shape[1]] = example.positions
        batch["position_ids"] = torch.from_numpy(places[0] if len(places) == 1 else places)
        batch["segments"] = _rows([e.segments for e in examples], length, 0)
        batch["kinds"] = [e.kinds for e in examples]
        batch["aux_targets"] = torch.full((len(examples), length, len(AUX_TARGETS + SEEN)), -1)
        for row, example in enumerate(examples):
            batch["aux_targets"][row, : len(example.aux_targets)] = torch.from_numpy(example.aux_targets)
        attention_targets = [(row, *look) for row, example in enumerate(examples) for look in example.attention_targets]
        batch["attention_targets"] = torch.tensor([(row, place) for row, place, _ in attention_targets]).reshape(-1, 2)
        batch["attention_target_masks"] = torch.zeros(len(attention_targets), length, dtype=torch.bool)
        for number, (_, _, tokens) in enumerate(attention_targets):
            batch["attention_target_masks"][number, list(tokens)] = True
        if any(e.copies > 1 for e in examples):
            batch["attention_mask"] = diluted(batch["attention_mask"], examples)
        words = [e.words for e in examples if e.words is not None]
        if words:
            batch["words"] = torch.cat(words)
        return batch


def diluted(mask_B1LL: torch.Tensor, examples: Sequence[FilmExample]) -> torch.Tensor:
    """A mask of what is added to scores: the logarithm of how often a token counts for those outside of its group."""
    weights = mask_B1LL
    if mask_B1LL.dtype == torch.bool:
        weights = torch.zeros(mask_B1LL.shape).masked_fill_(~mask_B1LL, torch.finfo(torch.float32).min)
    for row, example in enumerate(examples):
        scenery = torch.from_numpy(example.scenery)
        elsewhere = (scenery[None] > 0) & (scenery[None] != scenery[:, None])
        size = len(scenery)
        weights[row, 0, :size, :size] += elsewhere * float(np.log(example.copies))
    return weights


def _rows(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
