"""Strategies as text and back: ``name`` or ``name:key=value,key=value``, as ``chunked:chunk_size=8,offload=true``.

Only settings that differ from their defaults are written. ``2+4`` is a list. A comma in a text is ``%2C``, a percent
sign ``%25``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TypeVar
from urllib.parse import unquote

from videoxl.errors import did_you_mean
from videoxl.settings import from_plain, settable, unknown_setting

T = TypeVar("T")


def to_string(name: str, strategy: object) -> str:
    """The text of a strategy, settings made by :func:`videoxl.settings.settings`, that goes by ``name``."""
    values = {f: getattr(strategy, f.name) for f in fields(strategy)}  # type: ignore[arg-type]
    changed = [f"{f.name}={_value(value)}" for f, value in values.items() if value != f.default]
    return name + (":" + ",".join(changed) if changed else "")


def from_string(text: str, table: Mapping[str, type[T]], what: str) -> T:
    """Inverse of :func:`to_string`. ``table``: the strategies there are by name; ``what``: what errors call them.

    Raises ``ValueError`` naming what is available.
    """
    name, _, rest = text.partition(":")
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; available: {', '.join(table)}{did_you_mean(name, table)}")
    known = settable(table[name])
    values: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in known:
            raise ValueError(unknown_setting(item, known, f"{what} {name!r}"))
        values[key] = unquote(value)
    return from_plain(table[name], values)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    if isinstance(value, str):
        return value.replace("%", "%25").replace(",", "%2C")
    return getattr(value, "label", None) or getattr(value, "__name__", None) or str(value)
