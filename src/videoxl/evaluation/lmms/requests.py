"""Read what lmms-eval hands over: documents of tasks, messages, and the videos in them.

Tasks are other people's code, so nothing is known of these values but what is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypedDict, TypeVar

from videoxl.errors import EvaluationError

MAX_FACT_LENGTH = 200
"""Values of a document with more characters are not kept."""

Document = Mapping[str, object]
"""One sample of a task, as lmms-eval loads it."""
Found = TypeVar("Found")


class Part(TypedDict, total=False):
    """A piece of a message: a text, or one video or picture, of which a part may be named in seconds."""

    type: str
    text: str
    url: object
    start_time: float | None
    end_time: float | None


class Message(TypedDict):
    """A turn of a conversation."""

    role: str
    content: str | list[Part]


def facts(document: Document) -> dict[str, object]:
    """Return the short plain values of a document: its category, its id, the right answer."""
    plain = (str, int, float, bool)
    return {k: v for k, v in document.items() if isinstance(v, plain) and len(str(v)) <= MAX_FACT_LENGTH}


def call_task(function: Callable[[Document], Found], document: Document) -> tuple[Found | None, str | None]:
    """Return what a task's function returns, or why it gave up. Tasks end the process if a file is missing."""
    try:
        return function(document), None
    except (SystemExit, AssertionError, OSError) as error:
        return None, f"the task found no video: {error or type(error).__name__}"


def only_one(media: Iterable[object], task: str) -> object:
    """Return the one video or picture, or None. Raises :class:`EvaluationError` for several."""
    items = list(_flat(media))
    kinds = {item.get("type") for item in items if isinstance(item, Mapping)} - {"video", "image"}
    if len(items) > 1 or kinds - {None}:
        raise EvaluationError(
            f"task {task}: videoxl reads one video or one picture for a question, got {len(items)} "
            f"{'/'.join(sorted(map(str, kinds))) or 'items'}: choose a task of videos (longvideobench_val_v, say, "
            "instead of longvideobench_val_i)"
        )
    return items[0] if items else None


def split_messages(messages: Iterable[Message], key: str) -> tuple[str, list[Message]]:
    """Return the system prompt and the turns. Raises :class:`EvaluationError` for turns that do not alternate."""
    system, turns = "", []
    for message in messages:
        if message["role"] == "system":
            system = text_of(message)
        else:
            turns.append(message)
    roles = [turn["role"] for turn in turns]
    if not turns or roles != (["user", "assistant"] * len(turns))[: len(turns)] or roles[-1] != "user":
        raise EvaluationError(f"{key}: messages must be turns of user and assistant, a user's last; got {roles}")
    return system, turns


def media_of(turns: Sequence[Message], key: str) -> list[Part]:
    """Return the videos and pictures. Raises :class:`EvaluationError` if they are not in the first turn."""
    if [part for turn in turns[1:] for part in _parts(turn) if part["type"] != "text"]:
        raise EvaluationError(f"{key}: the video must be in the first turn, videoxl reads it before all text")
    return [part for part in _parts(turns[0]) if part["type"] != "text"]


def text_of(message: Message) -> str:
    """Join the texts of a message."""
    return "\n".join(part["text"] for part in _parts(message) if part["type"] == "text")


def _parts(message: Message) -> list[Part]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _flat(items: Iterable[object]) -> Iterator[object]:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item
