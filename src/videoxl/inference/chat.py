"""Conversations about one video: turns that see those before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from videoxl.config import DecodeStrategy, DenseDecode, Generation
from videoxl.inference.answers import Answer
from videoxl.inference.asking import Asked, Asking, check_question, generation_of
from videoxl.inference.prompt import ChatFormat
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.video_memory import VideoMemory


class ChatSession:
    """Several turns about one video. The memory it started from stays as it was.

    With :class:`BiLevelDecode` every turn chooses blocks anew and reads the turns before it again: what one question
    found relevant does not bind the next.
    """

    def __init__(self, asking: Asking, layout: ChatFormat, memory: VideoMemory, decode: DecodeStrategy) -> None:
        """``memory``: a snapshot, which nobody else changes. Made by :meth:`VideoXL.chat_session`."""
        self.memory, self.decode = memory, decode
        self.history: list[tuple[str, Answer]] = []
        self._asking, self._layout = asking, layout
        self._cache: KVCache | None = None
        self._tail: list[int] = []

    def __repr__(self) -> str:
        turns = f"{len(self.history)} turn{'s' * (len(self.history) != 1)}"
        return f"ChatSession({turns} about {self.memory!r}, decode={self.decode})"

    def ask(self, question: str, *, generation: Generation | None = None, **settings: Any) -> Answer:
        """The next turn. A turn that fails leaves the session as it was."""
        chosen = generation_of(generation, settings)
        check_question(question)
        own = self._turn_ids(question)
        tail = [*self._tail, *own]
        asked = Asked(self.memory, question, tail, chosen, self.decode, len(own))
        answer, cache = self._asking.answer(asked, self._asking.start(asked), cache=self._cache)
        self._tail = [*tail, *answer.token_ids]
        self._cache = cache if isinstance(self.decode, DenseDecode) else None
        self.history.append((question, answer))
        return answer

    def _turn_ids(self, question: str) -> list[int]:
        if not self.history:
            return self._layout.suffix(question)
        closing = self._layout.tokenize("<|im_end|>")
        closed = self._tail[-len(closing) :] == closing
        return self._layout.next_turn(question, answer_closed=closed)


def conversation_ids(
    layout: ChatFormat, history: Sequence[tuple[str, str]], question: str
) -> tuple[list[int], list[int]]:
    """Of a conversation given as text: the ids behind the video, and those of the last question alone."""
    earlier: list[int] = []
    for number, (asked, answered) in enumerate(history):
        earlier += layout.closed_turn(asked, answered, first=number == 0)
    own = layout.next_turn(question, answer_closed=True) if history else layout.suffix(question)
    return [*earlier, *own], own
