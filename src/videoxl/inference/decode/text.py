"""The text of an answer that is being written: as soon as it is certain, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]
"""``length``: ``max_new_tokens`` ended the answer; ``stop``: the model, a stop text, or the end of what was allowed."""


class Decodes(Protocol):
    """What a tokenizer is used for here."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = ...) -> str: ...


class TextPieces:
    """Text of tokens that come one by one, as soon as its characters are complete.

    transformers' own streamer waits for a space or line break, which some languages, and some answers, do not have.
    """

    def __init__(self, tokenizer: Decodes, behind: Sequence[int] = ()) -> None:
        """``behind``: tokens that were told already, and that the text continues."""
        self.tokenizer = tokenizer
        self._told: list[int] = list(behind)  # the tokens of the last piece: what follows is decoded behind them
        self._new: list[int] = []

    def push(self, token: int) -> str:
        """What a token completes; empty while the last bytes of a character are still to come."""
        self._new.append(token)
        text = self._text()
        return "" if text.endswith("\ufffd") else self._tell(text)

    def rest(self) -> str:
        """What is left when no more tokens come."""
        return self._tell(self._text())

    def _text(self) -> str:
        before = self.tokenizer.decode(self._told, skip_special_tokens=True)
        return self.tokenizer.decode(self._told + self._new, skip_special_tokens=True)[len(before) :]

    def _tell(self, text: str) -> str:
        if self._new:
            self._told, self._new = self._new, []
        return text


class AnswerText:
    """The text of an answer while its tokens come, cut before the first of some stop texts.

    Called with the new ids, the last one included, it says whether a stop text ends the answer (a
    :data:`~videoxl.inference.decode.loop.Stop`).
    """

    def __init__(self, tokenizer: Decodes, stops: Sequence[str] = (), behind: Sequence[int] = ()) -> None:
        """``behind``: tokens in front of the answer, which are no part of it."""
        self.stops = tuple(stops)
        self.longest = max((len(stop) for stop in stops), default=0)
        self.text = ""
        """What the tokens so far say, without characters that are not complete."""
        self.end: int | None = None
        """Where the first stop text begins, once there is one."""
        self._pieces, self._read = TextPieces(tokenizer, behind), 0

    def __call__(self, new_ids: Sequence[int]) -> bool:
        for token in new_ids[self._read :]:
            self._add(self._pieces.push(token))
        self._read = len(new_ids)
        return self.end is not None

    @property
    def certain(self) -> str:
        """What can be told while the answer goes on: nothing that may turn out to be the begin of a stop text."""
        if self.end is not None:
            return self.text[: self.end]
        held = max((begun(self.text, stop) for stop in self.stops), default=0)
        return self.text[: len(self.text) - held]

    def whole(self) -> str:
        """All of the text, when no more tokens come."""
        self._add(self._pieces.rest())
        return self.text[: self.end]

    def _add(self, text: str) -> None:
        before = max(0, len(self.text) - self.longest + 1)
        self.text += text
        if self.end is None:
            places = (self.text.find(stop, before) for stop in self.stops)
            self.end = min((place for place in places if place >= 0), default=None)


def begun(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` a stop text may begin with, at most all but its last."""
    return next((count for count in range(len(stop) - 1, 0, -1) if text.endswith(stop[:count])), 0)
