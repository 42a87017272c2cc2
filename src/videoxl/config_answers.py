"""What settings of an answer mean together, and what may stand for a JSON schema."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

Schema = str | os.PathLike[str] | Mapping[str, Any] | type
"""JSON text, a file, a mapping, or a class that pydantic knows (a model, a dataclass, a TypedDict ...)."""


class AnswerSettings(Protocol):
    """The settings of :class:`~videoxl.config.Generation` that exclude each other."""

    @property
    def num_beams(self) -> int: ...
    @property
    def do_sample(self) -> bool: ...


ONLY_SAMPLING = ("temperature", "top_p", "top_k", "n")
EXCLUDED: dict[str, tuple[str, ...]] = {
    "num_beams": ("stop", "do_sample", "n", "logprobs", "schema", "regex", "choices"),
    "choices": (*("schema", "regex", "stop", "do_sample", "n", "min_new_tokens", "repetition_penalty", "logprobs"),),
    "schema": ("regex", "stop", "min_new_tokens"),
    "regex": ("stop", "min_new_tokens"),
}
"""Settings that have no meaning together."""
PLAIN: dict[str, object] = {"num_beams": 1, "n": 1, "do_sample": False, "min_new_tokens": 0}
"""Values that ask for nothing, besides None and empty ones."""


def check_together(given: AnswerSettings) -> None:
    """Raise ``ValueError`` for settings that exclude each other, or have no meaning without another."""
    if not given.do_sample and (lost := [_shown(given, name) for name in ONLY_SAMPLING if _asks(given, name)]):
        raise ValueError(
            f"{', '.join(lost)} only has a meaning when sampling: add do_sample=True, or leave it out for greedy "
            "decoding"
        )
    for name, others in EXCLUDED.items():
        for other in others if _asks(given, name) else ():
            if _asks(given, other):
                raise ValueError(f"{_shown(given, other)} and {_shown(given, name)} exclude each other")


def _asks(given: AnswerSettings, name: str) -> bool:
    value = getattr(given, name)
    return value is not None and value != () and value != PLAIN.get(name)


def _shown(given: AnswerSettings, name: str) -> str:
    """``num_beams=3``; of longer settings only the name."""
    value = getattr(given, name)
    return f"{name}={value}" if isinstance(value, bool | int | float) else name


def check_choices(choices: Sequence[str]) -> None:
    """Raise ``ValueError`` for options that cannot be told apart, for an empty one, and for one alone."""
    if len(choices) == 1:
        raise ValueError(f"choices holds one option, {choices[0]!r:.60}: give at least two")
    seen: dict[str, str] = {}
    for choice in choices:
        plain = choice.strip()
        if not plain:
            raise ValueError(f"choices holds an empty option, {choice!r}: leave it out")
        if plain in seen:
            raise ValueError(f"choices holds {choice!r:.60} twice: options must differ, not only in spaces")
        seen[plain] = choice


def schema_text(given: object) -> str | None:
    """A JSON schema as JSON text. Raises ``ValueError`` for what is none, or cannot be read."""
    if given is None:
        return None
    if isinstance(given, str) and given.lstrip()[:1] == "{":
        return _json_object(given, "schema")
    if isinstance(given, str | os.PathLike):
        try:
            with open(given, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8 text"
            raise ValueError(f"schema must be a file with a JSON schema; {os.fspath(given)!r:.200}: {reason}") from None
        return _json_object(text, f"schema {os.fspath(given)}")
    if isinstance(given, Mapping):
        try:
            return json.dumps(dict(given), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"schema holds what JSON cannot hold: {error}") from None
    return _of_class(given)


def _of_class(kind: Any) -> str:
    try:
        return json.dumps(TypeAdapter(kind).json_schema())
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        raise ValueError(
            "schema must be a mapping, a file, JSON text or a class that pydantic knows, got "
            f"{type(kind).__name__} {kind!r:.60}"
        ) from None


def _json_object(text: str, where: str) -> str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON that can be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(found).__name__}")
    return json.dumps(found)
