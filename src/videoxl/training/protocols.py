"""Protocols of the tokenizers and processors that training takes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """A tokenizer of transformers, as far as training uses it."""

    pad_token_id: int

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """All tokens and their ids."""
        ...

    def save_pretrained(self, save_directory: str | Path) -> object:
        """Write its files into a folder."""
        ...


class Processor(Protocol):
    """Makes inputs for a model, and is saved beside it."""

    def save_pretrained(self, save_directory: str | Path) -> object:
        """Write its files into a folder."""
        ...
