"""What makes up a benchmark: how its files are read, how it is asked, and how its answers are scored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from videoxl.errors import EvaluationError
from videoxl.evaluation.benchmarks.items import Item, Record
from videoxl.evaluation.choices import chosen_option
from videoxl.evaluation.log import Json

LETTER_DIRECTLY = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One published way to ask a benchmark and to read its answers."""

    source: str
    """Where it was published."""
    ask: Callable[[Item], str]
    """Returns the whole prompt."""
    letter: Callable[[str, Item], str | None]
    """Returns what an answer says: a letter, or another text to be compared with the right answer; None for nothing."""
    max_new_tokens: int = 16
    stop: tuple[str, ...] = ()
    """Texts before which an answer ends."""
    times_in_seconds: bool = False
    """Whether ``mm:ss`` in prompts is rewritten as seconds."""
    unread: str = "wrong"
    """What the published evaluation does with an answer in which nothing is found: ``wrong``, ``random`` for a random
    option, or ``left out`` for an empty answer that is not counted."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark."""

    name: str
    title: str
    data: str
    """Where annotations and videos come from."""
    read: Callable[[str | os.PathLike[str]], list[Item]]
    """Reads its annotation files. Raises :class:`EvaluationError`, which names the record that cannot be used."""
    item: Callable[[Record, int], Item]
    """Makes an item of one document of lmms-eval, which has the form of the Hub's data, and its number."""
    protocols: Mapping[str, Protocol]
    """``released`` (Video-XL-2's) and ``lmms`` (lmms-eval's), where they exist."""
    average: str = "micro"
    """Which average is published: ``micro``, ``macro``, or the name of one that :attr:`own_scores` returns."""
    average_source: str = ""
    """Who says so."""
    right: Callable[[str | None, Item], bool] = field(default=lambda found, item: found == item.answer)
    """Says whether what was read in an answer is right."""
    own_scores: Callable[[Sequence[tuple[Item, bool]]], Json] | None = None
    """Scores that only this benchmark has, from items and whether they were answered rightly."""
    selection_id: Callable[[Item, str], str] | None = None
    """Names a question in the released selections of bi-level decoding, from the item and its prompt."""
    judged: str = ""
    """For open answers that only a judge can score: who judges, and how. No accuracy is computed then."""

    def protocol(self, name: str | None) -> tuple[str, Protocol]:
        """Return a protocol with its name; by default the released one, or the only one there is.

        Raises ``ValueError`` for one that the benchmark does not have.
        """
        chosen = name or next(iter(self.protocols))
        if chosen not in self.protocols:
            raise ValueError(f"--prompts of {self.name} must be {' or '.join(self.protocols)}, got {chosen!r}")
        return chosen, self.protocols[chosen]

    def strictly_right(self, text: str, item: Item) -> bool:
        """Whether an answer is right by the careful reading, whatever the protocol's rule."""
        if not item.options:
            return self.right(text, item)
        number = chosen_option(text, item.options)
        return number is not None and self.right(item.letters[number], item)


def numbered(items: Iterable[Item]) -> list[Item]:
    """Return items in a list. Raises :class:`EvaluationError` for two with the same key, or for none."""
    found = list(items)
    keys = [item.key for item in found]
    if not found:
        raise EvaluationError("annotations hold no question")
    if twice := [key for key, times in _counted(keys).items() if times > 1]:
        raise EvaluationError(f"annotations hold {len(twice)} questions twice, the first is {twice[0]!r}")
    return found


def _counted(keys: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return counts


def round_options(item: Item) -> str:
    """Write options line by line: ``(A) red``."""
    return "\n".join(f"({letter}) {option}" for letter, option in zip(item.letters, item.options))


def dot_options(item: Item) -> list[str]:
    """Write options with letters: ``A. red``."""
    return [f"{letter}. {option}" for letter, option in zip(item.letters, item.options)]
