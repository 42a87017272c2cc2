"""From a record in LLaVA's format to ids and labels (SPEC 2.7, 3.8), by the prompt code that inference uses.

A record holds ``conversations`` (or ``messages``), a list of turns ``{"from": "human" | "gpt", "value": text}`` (or
``role`` and ``content``), and the names of the pictures that stand where a human's text says ``<image>`` or
``<video>``, or has a part of that type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from videoxl.config import DEFAULT_SYSTEM_PROMPT
from videoxl.errors import TrainingDataError
from videoxl.inference.prompt import IGNORE_INDEX, IM_END, IM_START, IMAGE_TOKEN_INDEX, ChatFormat, expand_placeholders
from videoxl.text import PLACEHOLDER
from videoxl.training.config.data import LABELS, TEMPLATES, Labels, Template, check_choice
from videoxl.training.data.media import EMPTY, PICTURE, PLACEHOLDERS, TURNS, either, media_of, parts_of, shown, turns_of

READ_OF_TURNS = ("from", "role", "value", "content", "id")
"""Keys of a turn that are read, or that nobody means to be."""
NOISE = "QA_GT_caption_based_noisy"
"""A mark left in the texts of VideoInstruct-100K; the released training takes it out."""
SYSTEM_FIELDS = ("system", "system_prompt")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    parts: tuple[str, ...]
    """The human's text, cut at its pictures: one stands between any two parts."""
    answer: str

    @property
    def pictures(self) -> int:
        return len(self.parts) - 1


@dataclass(frozen=True)
class Conversation:
    """The turns of a record under a system prompt."""

    turns: tuple[Turn, ...]
    system: str = DEFAULT_SYSTEM_PROMPT

    @property
    def pictures(self) -> int:
        return sum(turn.pictures for turn in self.turns)

    def only(self, number: int) -> Conversation:
        """One of the turns, asked as if it were the first; the pictures stay those of the first.

        Raises :class:`TrainingDataError` when another one brings pictures.
        """
        first, *others = self.turns
        if any(turn.pictures for turn in others):
            raise TrainingDataError(
                f"only the first question may hold {PICTURE} when questions are packed (turns='packed'); "
                "use turns='multi_turn' for this record"
            )
        turn = self.turns[number]
        behind = "\n" if first.pictures else ""
        parts = first.parts if number == 0 else (*first.parts[:-1], behind + turn.parts[0])
        return Conversation((Turn(parts, turn.answer),), self.system)


def read_conversation(record: Mapping[str, object]) -> Conversation:
    """The conversation of a record.

    As LLaVA does: what an assistant says before the first human is left out, and the one ``<image>`` of a text stands
    in front of it, wherever it was written; several stay where they are. A leading ``system`` turn, or the field
    ``system``, replaces the default system prompt.

    Raises :class:`TrainingDataError`: there is no conversation, roles do not alternate, a question or an answer is
    missing or empty, an answer holds ``<image>``, a text holds another model's placeholder or half a surrogate pair.
    """
    kind, _ = media_of(record)
    said = [_said(number, turn) for number, turn in enumerate(_list_of_turns(record))]
    system = _system(record, said.pop(0)[1] if said and said[0][0] == "system" else None)
    while said and said[0][0] == "assistant":
        said.pop(0)
    if not said:
        raise TrainingDataError("conversations hold no question: give turns from 'human' and 'gpt', in turn")
    for number, (role, _) in enumerate(said):
        if role != ("user", "assistant")[number % 2]:
            raise TrainingDataError(f"a turn of {role!r} is not due: human and gpt must take turns")
    if len(said) % 2:
        raise TrainingDataError("the last question has no answer: end the conversation with a turn from 'gpt'")
    pairs = zip(said[0::2], said[1::2])
    return Conversation(tuple(_turn(_placed(question, kind), answer) for (_, question), (_, answer) in pairs), system)


def _system(record: Mapping[str, object], said: str | None) -> str:
    """The system prompt: of a turn, or of a field of the record."""
    given = [record[name] for name in SYSTEM_FIELDS if record.get(name) not in (None, "")]
    for text in given:
        if not isinstance(text, str) or text != (given[0] if said is None else said):
            raise TrainingDataError(f"a record must have one system prompt, a text, got {shown(text)}")
    found = said if said is not None else str(given[0]) if given else DEFAULT_SYSTEM_PROMPT
    if holds := next((placeholder for placeholder in PLACEHOLDERS if placeholder in found), None):
        raise TrainingDataError(f"a system prompt holds {holds}: pictures stand in a human's text")
    return found if said is not None else _sound(found, "system")


def _list_of_turns(record: Mapping[str, object]) -> Sequence[object]:
    turns = turns_of(record)
    if not turns:
        given = next((record[name] for name in TURNS if name in record), None)
        others = ", ".join(sorted(map(str, record))[:8])
        raise TrainingDataError(
            f"conversations must be a list of turns and not empty, got {shown(given)}; the record has {others:.100}"
        )
    return turns


def _said(number: int, turn: object) -> tuple[str, str]:
    """Role and text of one turn."""
    if not isinstance(turn, dict):
        raise TrainingDataError(f"turn {number + 1} must be an object with 'from' and 'value', got {shown(turn)}")
    if unread := next((name for name in turn if name not in READ_OF_TURNS and turn[name] not in EMPTY), None):
        raise TrainingDataError(f"turn {number + 1} has {unread!r:.40}, which is not read: leave it out")
    given = either(turn, "from", "role")
    role = ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise TrainingDataError(f"turn {number + 1} is from {shown(given)}; allowed: {', '.join(ROLES)}")
    text = either(turn, "value", "content")
    if parts := parts_of(turn):
        text = "".join(name or "" if kind == "text" else f"{PICTURE}\n" for kind, name in parts)
    if not isinstance(text, str):
        raise TrainingDataError(f"turn {number + 1} ({given}) must say a text, got {shown(text)}")
    return role, _sound(text, f"turn {number + 1}")


def _sound(text: str, where: str) -> str:
    """The text, if all of it can be told to the model as it is meant."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TrainingDataError(
            f"{where} holds half a surrogate pair ({text[error.start]!a}), no character: mend the text"
        ) from None
    if found := next((found[0] for found in PLACEHOLDER.finditer(text) if found[0] not in PLACEHOLDERS), None):
        raise TrainingDataError(f"{where} holds {found}, another model's placeholder: write {PICTURE}")
    return text


def _placed(text: str, kind: str) -> str:
    """A question in which ``<image>`` stands for everything shown."""
    for placeholder, only in PLACEHOLDERS.items():
        if only and kind not in (only, "text") and placeholder in text:
            raise TrainingDataError(f"a question holds {placeholder}, but the record shows an {kind}: write {PICTURE}")
        text = text.replace(placeholder, PICTURE)
    return text


def _turn(question: str, answer: str) -> Turn:
    if not answer.strip():
        raise TrainingDataError("an answer is empty: there is nothing to learn")
    if found := next((placeholder for placeholder in PLACEHOLDERS if placeholder in answer), None):
        raise TrainingDataError(f"an answer holds {found}: pictures stand in a human's text")
    parts = _parts(question)
    if len(parts) == 1 and not question.strip():
        raise TrainingDataError("a question is empty: give it a text or a picture")
    return Turn(parts, answer)


def _parts(text: str) -> tuple[str, ...]:
    """The text around its pictures; a single picture is put in front."""
    if text.count(PICTURE) == 1 and not text.startswith(PICTURE):
        text = f"{PICTURE}\n{text.replace(PICTURE, '').strip()}".strip()
    return tuple(text.split(PICTURE))


# ---------------------------------------------------------------------------------------------------- ids and labels


@dataclass(frozen=True)
class Encoded:
    """Ids of a conversation and, aligned with them, what is to be learned."""

    ids: list[int]
    labels: list[int]
    """The id where it is learned, else -100."""
    segments: list[int]
    """0 for what every question sees (text before the pictures, and the pictures), ``n`` for the n-th question and its
    answer when questions are packed; all 0 when they form one conversation."""
    answers: list[int]
    """1 where an answer and its end stand, else 0."""

    def __post_init__(self) -> None:
        lengths = [len(self.ids), len(self.labels), len(self.segments), len(self.answers)]
        if len(set(lengths)) > 1:
            raise ValueError(f"ids, labels, segments and answers must be equally long, got {lengths}")

    def place(self, spans: Sequence[Sequence[int]]) -> Encoded:
        """Put visual spans, in order, in the places of the pictures. They are not supervised."""
        ids, labels = expand_placeholders(self.ids, spans, self.labels)
        flags = [expand_placeholders(self.ids, spans, flag)[1] for flag in (self.segments, self.answers)]
        segments, answers = ([0 if value == IGNORE_INDEX else value for value in flag] for flag in flags)
        return Encoded(ids, labels, segments, answers)

    def first(self, length: int) -> Encoded:
        """The first ``length`` ids."""
        return Encoded(self.ids[:length], self.labels[:length], self.segments[:length], self.answers[:length])


class ConversationEncoder:
    """Turns conversations into ids and labels, with a placeholder -200 for every picture.

    ``labels``: ``answers`` learns every answer and the ``<|im_end|>`` behind it; ``released`` also what the released
    training learns of the chat template: ``<|im_start|>``, ``<|im_end|>`` and the line break behind it, in every turn.

    ``template``: ``inference`` gives the very ids that a model is asked with; ``released`` has one line break more
    behind pictures that stand in a row, as the released training has it; ``plain`` is a picture, its answer and a line
    break, of which all but the picture is learned.
    """

    def __init__(
        self, chat_format: ChatFormat, *, labels: Labels = "released", template: Template = "inference"
    ) -> None:
        check_choice("labels", labels, LABELS)
        check_choice("template", template, TEMPLATES)
        self.chat = chat_format
        self.labels = labels
        self.template = template
        (self._im_start,), (self._im_end,) = chat_format.tokenize(IM_START), chat_format.tokenize(IM_END)
        self._line_break = chat_format.tokenize("\n")

    def multi_turn(self, conversation: Conversation) -> Encoded:
        """One conversation, each turn seeing those before it."""
        if self.template == "plain":
            return self._plain(conversation)
        ids = list(self.chat.prefix(conversation.system))
        answers = [0] * len(ids)
        for number, turn in enumerate(conversation.turns):
            head = self.chat.turn_head() if number else []
            self._add(ids, answers, head + self.chat.user_turn(*self._spoken(turn.parts)), turn.answer)
        self._close(ids, answers)
        return self._encoded(ids, [0] * len(ids), answers)

    def packed(self, conversation: Conversation) -> Encoded:
        """Every question answered from the pictures alone: all of them, packed behind what they share.

        Each question reads as if it were the only one, of :meth:`Conversation.only`.
        """
        alone = [conversation.only(number).turns[0] for number in range(len(conversation.turns))]
        *shown, _ = self._spoken(alone[0].parts)
        ids = self.chat.prefix(conversation.system) + (self.chat.user_text(*shown, "") if shown else [])
        answers, segments = [0] * len(ids), [0] * len(ids)
        for number, turn in enumerate(alone, start=1):
            self._add(ids, answers, self.chat.user_turn(self._spoken(turn.parts)[-1]), turn.answer)
            self._close(ids, answers)
            segments += [number] * (len(ids) - len(segments))
        return self._encoded(ids, segments, answers)

    def _plain(self, conversation: Conversation) -> Encoded:
        """The released pretraining's ``plain``: what is asked is left out. Raises :class:`TrainingDataError`."""
        if len(conversation.turns) != 1 or conversation.pictures != 1:
            raise TrainingDataError(
                f"template='plain' takes one picture with one answer, and the record has {conversation.pictures} "
                f"pictures and {len(conversation.turns)} answers"
            )
        told = self.chat.tokenize_user(conversation.turns[0].answer + "\n")
        ids = [IMAGE_TOKEN_INDEX, *told]
        return Encoded(ids, [IGNORE_INDEX, *told], [0] * len(ids), [0] + [1] * len(told))

    def _add(self, ids: list[int], answers: list[int], asked: list[int], answer: str) -> None:
        answered = self.chat.assistant_turn(answer)
        ids += asked + answered
        answers += [0] * len(asked) + [1] * len(answered)

    def _close(self, ids: list[int], answers: list[int]) -> None:
        """The line break behind the last answer, which only the released labels learn."""
        if self.labels == "released":
            ids += self._line_break
            answers += [0] * len(self._line_break)

    def _spoken(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """What is said around the pictures. Inference puts exactly one line break behind a lone picture, whether one
        was written or not. In the released template nothing but space between pictures makes them a row: its code
        puts them side by side, and cuts as many letters from the text as their placeholders have."""
        if self.template == "inference":
            return ("", "\n" + parts[1].removeprefix("\n")) if len(parts) == 2 and not parts[0] else parts
        clean = [part.replace(NOISE, "") for part in parts]
        return tuple("" if 0 < at < len(clean) - 1 and not part.strip() else part for at, part in enumerate(clean))

    def _encoded(self, ids: list[int], segments: list[int], answers: list[int]) -> Encoded:
        learned = [live or self._in_template(ids, at) for at, live in enumerate(answers)]
        labels = [token if live else IGNORE_INDEX for token, live in zip(ids, learned)]
        whole = Encoded(ids, labels, segments, answers)
        if self.template == "inference":
            return whole
        following = (after for at, after in pairwise([*ids, None]) if at == IMAGE_TOKEN_INDEX)
        breaks: list[list[int]] = [[] if after == IMAGE_TOKEN_INDEX else self._line_break for after in following]
        return whole.place([[IMAGE_TOKEN_INDEX, *line_break] for line_break in breaks])

    def _in_template(self, ids: Sequence[int], at: int) -> bool:
        """Whether the released labels learn this token of the chat template."""
        if self.labels != "released":
            return False
        return ids[at] in (self._im_start, self._im_end) or (at > 0 and ids[at - 1] == self._im_end)
