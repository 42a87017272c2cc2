"""The base of everything that a user sets: a frozen, keyword-only dataclass, checked by pydantic when it is made.

``@settings`` makes a class one. ``dataclasses.replace`` and ``fields``, equality, hashing and pickling work as for any
dataclass. What cannot be set raises a ``ValueError`` of one line: the setting, what is allowed, what came.

In Python code, types must match. :func:`from_plain` also reads text, as files and command lines hold it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args, get_type_hints

from annotated_types import Ge, Gt
from pydantic import (
    AllowInfNan,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from videoxl.errors import closest

T = TypeVar("T")

CONFIG = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
WORDS = {
    "bool": "be true or false",
    "int": "be a whole number",
    "float": "be a number",
    "finite": "be a finite number",
    "string": "be text",
    "tuple": "be a list",
    "list": "be a list",
}
"""How errors say what a type allows, by the first word of pydantic's name for the error."""
TAGS = {"int", "float", "str", "bool", "none", "list", "tuple", "dict", "callable", "any"}
"""What pydantic puts into the place of an error to say which type of a union it tried."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Class decorator. Checks every field when an instance is made; ``__post_init__`` checks what depends on several.

    Raises ``ValueError`` with one line for the first setting that is unknown, missing, or not allowed.
    """
    checked = dataclass(frozen=True, kw_only=True, config=CONFIG)(cls)
    check: Callable[..., None] = checked.__init__

    def __init__(self: T, /, **given: object) -> None:  # noqa: N807
        try:
            check(self, **given)
        except ValidationError as error:
            raise _as_value_error(error, cls) from None

    checked.__init__ = __init__  # type: ignore[method-assign, assignment]
    return cast(type[T], checked)


def made_of(kind: type[T], values: Mapping[str, object]) -> T:
    """``kind(**values)``, for values whose types only the check knows. Raises ``ValueError`` like the class itself."""
    return kind(**values)


def from_plain(kind: type[T], values: object, where: str = "") -> T:
    """A ``kind`` (settings, or any type) from plain values: numbers may be text, settings may be mappings.

    ``where`` is put before the name of a setting in errors. Raises ``ValueError`` with one line.
    """
    try:
        return cast(T, _adapter(cast(Hashable, kind)).validate_python(values, strict=False))
    except ValidationError as error:
        raise _as_value_error(error, kind, where) from None


def from_json(kind: type[T], text: str | bytes, where: str = "") -> T:
    """A ``kind`` (a dataclass) from JSON text, as files hold it: types must match, unknown names are ignored.

    ``where`` is put before the name of a value in errors. Raises ``ValueError`` with one line.
    """
    try:
        return cast(T, _adapter(cast(Hashable, kind)).validate_json(text, strict=True))
    except ValidationError as error:
        raise _as_value_error(error, kind, where) from None


@functools.lru_cache(maxsize=256)
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    """Made once for each type: making one takes milliseconds, using one microseconds."""
    return TypeAdapter(cast(Any, kind))


class Must:
    """In ``Annotated[type, ..., Must("be a number above 0")]``: what an error says instead of pydantic's own words.

    Stands last, and covers everything before it, so that a union fails with one sentence. pydantic's own
    ``custom_error_schema`` would also take an interrupt (Ctrl-C) within a validator for a value that is wrong.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._checked, handler(source))

    def _checked(self, value: object, check: ValidatorFunctionWrapHandler) -> object:
        try:
            return check(value)
        except ValidationError:
            raise PydanticCustomError("setting", "{text}", {"text": self.text}) from None


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is no number")
    return value


NotBool = BeforeValidator(_no_bool)
"""Refuses True and False where a number is read from text, which pydantic takes for 1 and 0."""
Count = Annotated[int, Ge(1), NotBool, Must("be a whole number of at least 1")]
CountOrZero = Annotated[int, Ge(0), NotBool, Must("be a whole number of at least 0")]
Positive = Annotated[
    Annotated[int, Gt(0)] | Annotated[float, Gt(0), AllowInfNan(False)], NotBool, Must("be a finite number above 0")
]
"""A whole number stays one: ``fps=2`` reads ``fps=2``."""
Seconds = Annotated[
    Annotated[int, Ge(0)] | Annotated[float, Ge(0), AllowInfNan(False)],
    NotBool,
    Must("be a finite number of seconds, 0 or more"),
]


class SettingNameError(ValueError, TypeError):
    """A setting that does not exist, or one that is missing. A TypeError too, as Python raises for such arguments."""


def _as_value_error(error: ValidationError, kind: object, where: str = "") -> ValueError:
    """The first problem with settings of ``kind`` that pydantic found, in one line."""
    found = error.errors(include_url=False)
    of_one_setting = [other for other in found if other["loc"][:1] == found[0]["loc"][:1]]
    first = max(of_one_setting, key=lambda other: len(other["loc"]))  # the union member that came closest
    *above, name = _path(first) or [""]
    path = _joined(where, *above, name)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        what = _joined(where, *above) or _name_of(kind)
        return SettingNameError(unknown_setting(str(name), _settings_at(kind, above), what))
    if first["type"].startswith("missing"):
        return SettingNameError(f"{_joined(where, *above) or _name_of(kind)} lacks {name}")
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"])
        return ValueError(text if not path or text.startswith(path) else f"{path}: {text}")
    if first["type"] == "json_invalid":
        return ValueError(f"{path or _name_of(kind)} is no JSON that can be read: {first['ctx']['error']}")
    return ValueError(f"{path} must {_allowed(first)}, got {_short(repr(first['input']))}")


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def unknown_setting(name: str, known: Mapping[str, object], what: str) -> str:
    """The sentence about a setting that ``what`` does not have, with the closest of those it has."""
    close = closest(name.partition("=")[0], known)
    hint = f"did you mean {close}? Settings" if close else "settings"
    return f"{what} has no setting {name!r}; {hint}: {', '.join(known) or 'none'}"


def settable(kind: object) -> dict[str, Any]:
    """Name -> type of the settings of a class; empty for what is none."""
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return {}
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _allowed(error: ErrorDetails) -> str:
    if error["type"] == "setting":
        return error["msg"]
    if error["type"] == "literal_error":
        return "be one of " + ", ".join(part.strip("'") for part in re.split(", | or ", error["ctx"]["expected"]))
    return WORDS.get(error["type"].split("_")[0]) or "be " + error["msg"].removeprefix("Input should be ")


def _path(error: ErrorDetails) -> list[str | int]:
    """Names and numbers that lead to a setting, without the marks of union members."""
    return [
        part
        for part in error["loc"]
        if isinstance(part, int) or (part.isidentifier() and part.islower() and part not in TAGS)
    ]


def _joined(*parts: str | int) -> str:
    """``data.sources[0].path``."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path and part else part
    return path


def _settings_at(kind: object, path: list[str | int]) -> dict[str, Any]:
    """The settings of the class that ``path`` leads to."""
    for part in path:
        kind = settable(_class_in(kind)).get(str(part), kind)
    return settable(_class_in(kind))


def _class_in(kind: object) -> object:
    """The settings class that an annotation such as ``tuple[Source, ...] | None`` holds; itself where it is one."""
    if settable(kind):
        return kind
    return next((found for part in get_args(kind) if settable(found := _class_in(part))), kind)


def _name_of(kind: object) -> str:
    return getattr(kind, "__name__", str(kind))
