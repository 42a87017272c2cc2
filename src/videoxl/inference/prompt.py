"""Lay out text and video as one sequence of ids, for inference and training alike.

A prompt is ``prefix + visual span + suffix`` (SPEC 3.4). The visual span holds, for every group of frames, the tokens
of its timestamp ("Time 12.0s:") and then one placeholder id per visual token.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from videoxl.memory.layout import Group
from videoxl.model.families.family import Chat, Family, TokenLayout
from videoxl.text import require_characters

IMAGE_TOKEN_INDEX = -200
"""Id that stands for a whole picture or video in released prompts (`<image>`)."""
IGNORE_INDEX = -100
"""Label of a position that carries no loss."""
IM_START, IM_END = "<|im_start|>", "<|im_end|>"

Tokenize = Callable[[str], list[int]]
PLAIN_CHAT = Chat()


def round_time(seconds: float) -> float:
    """Round a timestamp as the model reads it: to one decimal, by Python's own rounding (SPEC 3.4)."""
    return round(float(seconds), 1)


def time_text(seconds: float, time_format: str = "Time {:.1f}s:") -> str:
    """Format the text in front of a group: ``Time 12.0s:``. Video-XL-Pro pads it, ``Time 0012.0s:``."""
    return time_format.format(round_time(seconds))


@dataclass(frozen=True)
class VisualSpan:
    """Ids of the visual part of a prompt and the groups they belong to."""

    ids: tuple[int, ...]
    groups: tuple[Group, ...]
    time_ends: tuple[int, ...] = ()
    """Per group, where its timestamp ends among ``ids``. Its subtitles stand between that and its frames."""

    @property
    def visual_tokens(self) -> int:
        return sum(g.token_end - g.visual_start for g in self.groups)


def visual_span(
    timestamps: Sequence[float],
    tokenize: Tokenize,
    *,
    frames_per_group: int,
    tokens_per_group: int,
    video_token_id: int,
    time_format: str = "Time {:.1f}s:",
    end_s: float | None = None,
    subtitle_ids: Sequence[Sequence[int]] | None = None,
    layout: TokenLayout | None = None,
    continued: bool = False,
) -> VisualSpan:
    """Lay out the visual span of frames shown at ``timestamps`` (seconds, ascending).

    A group is told the time of its first frame, unless ``layout`` says otherwise. It ends, for evidence spans, where
    the next one begins; the last ends at ``end_s``, by default one frame distance after its last frame.
    ``subtitle_ids``: per group the ids of its subtitles, which stand behind its timestamp. ``layout``: further text
    around a group; ``continued``: there are groups before these, so that the first of them begins with what closes the
    one before it.
    """
    opening = tokenize(layout.opening) if layout and layout.opening else []
    closing = tokenize(layout.closing) if layout and layout.closing else []
    if len(timestamps) == 0:
        return VisualSpan((), ())
    ids: list[int] = []
    starts = list(range(0, len(timestamps), frames_per_group))
    times = [float(t) for t in timestamps]
    ends = [times[s] for s in starts[1:]] + [last_end(times, end_s)]
    groups, time_ends = [], []
    for number, (first, group_end) in enumerate(zip(starts, ends)):
        begin = len(ids)
        ids += closing if number or continued else []
        told = group_time(layout, times[first : first + frames_per_group])
        ids += tokenize(time_text(told, time_format)) if time_format else []
        time_ends.append(len(ids))
        ids += subtitle_ids[number] if subtitle_ids else []
        ids += opening
        visual = len(ids)
        ids += [video_token_id] * tokens_per_group
        groups.append(Group(times[first], group_end, begin, visual, len(ids)))
    return VisualSpan(tuple(ids), tuple(groups), tuple(time_ends))


def group_time(layout: TokenLayout | None, times: Sequence[float]) -> float:
    """The time that a group is told, of its frames: that of the first, or the middle between first and last."""
    middle = layout is not None and layout.time_of == "middle"
    return (times[0] + times[-1]) / 2 if middle else times[0]


def last_end(timestamps: Sequence[float], end_s: float | None = None) -> float:
    """The second at which the last group ends: ``end_s``, or one frame distance after the last frame."""
    first, last = float(timestamps[0]), float(timestamps[-1])
    step = (last - first) / (len(timestamps) - 1) if len(timestamps) > 1 else 0.0
    return max(last, end_s if end_s is not None else last + step)


def join_spans(spans: Sequence[VisualSpan], end_s: float) -> VisualSpan:
    """Lay spans one behind the other: what laying all of their frames out at once gives, without tokenising again.

    All but the last must consist of full groups. ``end_s``: the second at which the last group ends.
    """
    ids: list[int] = []
    time_ends: list[int] = []
    groups: list[Group] = []
    for span in spans:
        at = len(ids)
        if groups and span.groups:
            groups[-1] = replace(groups[-1], end_s=span.groups[0].start_s)
        groups += [_later(group, at) for group in span.groups] if at else span.groups
        time_ends += [end + at for end in span.time_ends]
        ids += span.ids
    if groups:
        groups[-1] = replace(groups[-1], end_s=end_s)
    return VisualSpan(tuple(ids), tuple(groups), tuple(time_ends))


def _later(group: Group, tokens: int) -> Group:
    """The same group behind so many more tokens."""
    return Group(
        group.start_s,
        group.end_s,
        group.token_start + tokens,
        group.visual_start + tokens,
        group.token_end + tokens,
    )


class SpanSizes(Protocol):
    """The part of a model's configuration that the visual span depends on."""

    frames_per_group: int
    video_token_id: int
    time_format: str

    @property
    def tokens_per_group(self) -> int: ...
    @property
    def traits(self) -> Family: ...


def span_for(
    config: SpanSizes,
    timestamps: Sequence[float],
    tokenize: Tokenize,
    end_s: float | None = None,
    subtitle_ids: Sequence[Sequence[int]] | None = None,
    *,
    continued: bool = False,
) -> VisualSpan:
    """Call :func:`visual_span` with the sizes of a model. ``continued``: groups stand before these."""
    return visual_span(
        timestamps,
        tokenize,
        frames_per_group=config.frames_per_group,
        tokens_per_group=config.tokens_per_group,
        video_token_id=config.video_token_id,
        time_format=config.time_format,
        end_s=end_s,
        subtitle_ids=subtitle_ids,
        layout=config.traits.tokens,
        continued=continued,
    )


@dataclass(frozen=True)
class ChatFormat:
    """The Qwen chat template around a video, tokenised piece by piece as released (SPEC 2.10).

    ``tokenize`` encodes template text, special tokens included; ``tokenize_user`` encodes what a user typed, in which
    ``<|im_end|>`` is just text.
    """

    tokenize: Tokenize
    tokenize_user: Tokenize
    chat: Chat = PLAIN_CHAT
    closing: str = ""
    """What closes a video, in front of whatever follows it."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, traits: Family | None = None) -> ChatFormat:
        """Wrap a transformers tokenizer. The result can be pickled if the tokenizer can.

        ``traits``: of the family, how its models are talked to; default as Video-XL's are.

        Template and text of users go through a copy each. ``split_special_tokens``, truncation and padding are a
        state of the tokenizer that every call sets anew, so calls in two threads on one tokenizer change each other's
        result: a user's ``<|im_end|>`` came out as the control token.
        """
        own, users = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
        users.model_max_length = sys.maxsize  # how much the model reads is checked elsewhere
        template = partial(own.encode, add_special_tokens=False, split_special_tokens=False)
        typed = partial(users.encode, add_special_tokens=False, split_special_tokens=True)
        made = cls(template, partial(_tokenize_typed, typed))
        return made if traits is None else replace(made, chat=traits.chat, closing=traits.tokens.closing)

    def prefix(self, system: str | None = None) -> list[int]:
        """Encode everything before the visual span: system turn and head of the user's turn (14 ids by default).

        ``system``: default the family's; where it has none, there is no system turn.
        """
        system = self.chat.system if system is None else system
        if system is None or (not system and self.chat.system is None):
            return self.tokenize(f"{IM_START}user\n")
        return (
            self.tokenize(f"{IM_START}system\n")
            + self.tokenize_user(system)
            + self.tokenize(f"{IM_END}\n{IM_START}user\n")
        )

    def user_text(self, *parts: str) -> list[int]:
        """Encode what a user typed. A picture stands between two parts, as -200."""
        ids: list[int] = []
        for number, part in enumerate(parts):
            ids += [IMAGE_TOKEN_INDEX] * (number > 0) + self.tokenize_user(part)
        return ids

    def user_turn(self, *parts: str) -> list[int]:
        """Encode what a user typed, and the head of the assistant's turn."""
        return self.user_text(*parts) + self.tokenize(f"{IM_END}\n{IM_START}assistant\n")

    def suffix(self, question: str) -> list[int]:
        """Encode everything after the visual span: the question and the head of the assistant's turn."""
        return self.closing_ids() + self.user_turn(f"{self.chat.before_question}{question}")

    def closing_ids(self) -> list[int]:
        """Encode what closes a video."""
        return self.tokenize(self.closing) if self.closing else []

    def system_turn(self, system: str, *, closed: bool) -> list[int]:
        """Encode a system turn behind what was read, and the head of a user's turn.

        ``closed``: the turn before it ended with ``<|im_end|>``, as answers do and a user's turn with a video does not.
        """
        head = self.tokenize(f"\n{IM_START}system\n" if closed else f"{IM_END}\n{IM_START}system\n")
        return head + self.tokenize_user(system) + self.tokenize(f"{IM_END}\n{IM_START}user\n")

    def turn_head(self, *, answer_closed: bool = True) -> list[int]:
        """Encode the head of a further user's turn. ``answer_closed``: the last answer ended with ``<|im_end|>``."""
        return self.tokenize(f"\n{IM_START}user\n" if answer_closed else f"{IM_END}\n{IM_START}user\n")

    def next_turn(self, question: str, *, answer_closed: bool) -> list[int]:
        """Encode a further question; ``answer_closed`` says whether the answer before it ended with ``<|im_end|>``."""
        return self.turn_head(answer_closed=answer_closed) + self.user_turn(question)

    def turn(self, question: str, *, first: bool, closed: bool, system: str = "") -> tuple[list[int], list[int]]:
        """Encode a question: what introduces it, and the ids of its own.

        ``first``: it follows the video, else an answer; ``closed``: that answer ended with ``<|im_end|>``.
        """
        if system:
            head = self.closing_ids() if first else []
            return head + self.system_turn(system, closed=closed and not first), self.user_turn(question)
        return [], self.suffix(question) if first else self.next_turn(question, answer_closed=closed)

    def closed_turn(self, question: str, answer: str, *, first: bool) -> list[int]:
        """Encode a finished turn of an earlier conversation, ending with ``<|im_end|>``."""
        head = self.suffix(question) if first else self.next_turn(question, answer_closed=True)
        return head + self.assistant_turn(answer)

    def assistant_turn(self, answer: str) -> list[int]:
        """Encode an answer and the ``<|im_end|>`` that closes it."""
        return self.tokenize_user(answer) + self.tokenize(IM_END)


def _tokenize_typed(tokenize: Tokenize, text: str) -> list[int]:
    """Raise ``ValueError`` for text that holds lone surrogates, which tokenizers answer with a TypeError."""
    require_characters(text, "the text")
    return tokenize(text)


def expand_placeholder(
    ids: Sequence[int], span_ids: Sequence[int], labels: Sequence[int] | None = None
) -> tuple[list[int], list[int] | None]:
    """Put a visual span in the place of the one -200 of a released prompt; its labels are -100 (SPEC 3.4, 3.8)."""
    count = list(ids).count(IMAGE_TOKEN_INDEX)
    if count != 1:
        raise ValueError(f"the prompt must hold the placeholder {IMAGE_TOKEN_INDEX} exactly once, found {count}")
    expanded, kept = expand_placeholders(ids, [span_ids], ids if labels is None else labels)
    return expanded, None if labels is None else kept


def expand_placeholders(
    ids: Sequence[int], spans: Sequence[Sequence[int]], labels: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Put visual spans, in order, in the places of as many -200. Raises ``ValueError`` when the numbers differ."""
    places = [i for i, token in enumerate(ids) if token == IMAGE_TOKEN_INDEX]
    if len(places) != len(spans):
        raise ValueError(f"the prompt holds {len(places)} placeholders for {len(spans)} pictures")
    expanded: list[int] = []
    kept: list[int] = []
    begin = 0
    for at, span in zip(places, spans):
        expanded += [*ids[begin:at], *span]
        kept += [*labels[begin:at], *[IGNORE_INDEX] * len(span)]
        begin = at + 1
    return expanded + list(ids[begin:]), kept + list(labels[begin:])


def times_to_seconds(prompt: str) -> str:
    """Rewrite every ``mm:ss`` as ``<n> seconds``, as the released evaluation does (`convert_time_in_prompt`, SPEC 3.5).

    Exactly as released: two digits, colon, two digits, each match replaced wherever it occurs; so ``1:02:33`` becomes
    ``1:153 seconds``. Used to repeat published numbers, not applied to questions otherwise.
    """
    for match in re.findall(r"\d{2}:\d{2}", prompt):
        minutes, seconds = match.split(":")
        prompt = prompt.replace(match, f"{60 * int(minutes) + int(seconds)} seconds")
    return prompt
