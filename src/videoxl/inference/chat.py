"""Conversations about one video: turns that see those before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from videoxl.config import DecodeStrategy, DenseDecode, Generation
from videoxl.config_keywords import GenerationKeywords
from videoxl.inference.answers import Answer
from videoxl.inference.asking import Asking, check_question, generation_of
from videoxl.inference.prompt import IM_END, ChatFormat
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.video_memory import VideoMemory


class ChatSession:
    """Several turns about one video. The memory it started from stays as it was.

    With :class:`BiLevelDecode` every turn chooses blocks anew and reads the turns before it again: what one question
    found relevant does not bind the next.
    """

    def __init__(self, asking: Asking, memory: VideoMemory, decode: DecodeStrategy) -> None:
        """``memory``: a snapshot, which nobody else changes. Made by :meth:`VideoXL.chat_session`."""
        self.memory, self.decode = memory, decode
        self.history: list[tuple[str, Answer]] = []
        self._asking = asking
        self._cache: KVCache | None = None
        self._tail: list[int] = []

    def __repr__(self) -> str:
        turns = f"{len(self.history)} turn{'s' * (len(self.history) != 1)}"
        return f"ChatSession({turns} about {self.memory!r}, decode={self.decode})"

    def ask(
        self, question: str, *, generation: Generation | None = None, **settings: Unpack[GenerationKeywords]
    ) -> Answer:
        """The next turn. A turn that fails leaves the session as it was."""
        chosen = generation_of(generation, settings)
        check_question(question)
        if chosen.n > 1:
            raise ValueError(f"n={chosen.n} has no meaning in a conversation, which goes on from one answer; use ask")
        asked = self._asking.asked(
            self.memory, question, chosen, self.decode, earlier=self._tail, closed=self._is_closed()
        )
        answer, cache = self._asking.answer(asked, self._asking.start(asked), cache=self._cache)
        self._tail = [*asked.tail, *answer.token_ids]
        self._cache = cache if isinstance(self.decode, DenseDecode) else None
        self.history.append((question, answer))
        return answer

    def _is_closed(self) -> bool:
        """Whether the last answer ended by itself, and was not cut off."""
        closing = self._asking.layout.tokenize(IM_END)
        return self._tail[-len(closing) :] == closing


def earlier_turns(layout: ChatFormat, history: Sequence[tuple[str, str]]) -> list[int]:
    """The ids of turns given as text: (question, answer) pairs."""
    ids: list[int] = []
    for number, (asked, answered) in enumerate(history):
        ids += layout.closed_turn(asked, answered, first=number == 0)
    return ids
