"""Settings of a training config by name: ``--set data.num_workers=2``, YAML files, and configs as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Annotated, TypeVar, get_args, get_origin

import yaml

from videoxl.config import PREFILLS
from videoxl.settings import from_plain, settable
from videoxl.training.config.old_names import with_new_names

T = TypeVar("T")
STRATEGIES = tuple(PREFILLS.values())


class _YamlLoader(yaml.SafeLoader):
    """Reads ``1e-5`` as a number, which YAML 1.1 takes for a text."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def read_yaml(text: str) -> object:
    """The value that a YAML or JSON text holds. Raises ``yaml.YAMLError``."""
    return yaml.load(text, _YamlLoader)  # a SafeLoader


def with_settings(config: T, assignments: Sequence[str]) -> T:
    """``config`` with settings given as ``key=value``; a key reaches inside: ``data.sampling.fps=2``.

    Values are read as YAML: ``none``, ``true``, ``[2, 4, 8]``. ``none`` takes a group out of ``learning_rates``. Raises
    ``ValueError`` naming the settings there are, or what a value may be.
    """
    changes: dict[str, object] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise ValueError(f"--set takes key=value, got {assignment!r}")
        place = changes
        *above, last = key.split(".")
        for step in above:
            inside = place.setdefault(step, {})
            if not isinstance(inside, dict):
                raise ValueError(f"--set {assignment}: {step} was set as a whole before; give it once")
            place = inside
        if last in place:
            raise ValueError(f"--set {key} is given twice")
        place[last] = _parsed(text)
    return changed(config, changes)


def _parsed(text: str) -> object:
    try:
        return read_yaml(text) if text.strip() else text
    except yaml.YAMLError:
        return text  # a strategy or a path may hold characters that have a meaning in YAML


def changed(config: T, changes: Mapping[str, object], where: str = "") -> T:
    """``config``, settings, with the fields in ``changes``; a mapping for settings changes what is inside.

    ``where`` is put before names in errors. Raises ``ValueError`` with one line.
    """
    kind = type(config)
    values = {field.name: getattr(config, field.name) for field in fields(kind) if field.init}  # type: ignore[arg-type]
    for name, value in tidied(kind, changes, where).items():
        values[name] = _merged(values.get(name), value, f"{where}.{name}" if where else name)
    return from_plain(kind, values, where)


def _merged(current: object, value: object, path: str) -> object:
    if isinstance(current, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} is a table: set its entries, {path}.NAME=..., got {value!r}")
        return {name: item for name, item in {**current, **value}.items() if item is not None}
    if is_dataclass(current) and not isinstance(current, (type, *STRATEGIES)):
        if isinstance(value, Mapping):
            return changed(current, value, path)
        if value is not None and not isinstance(value, type(current)):
            names = ", ".join(settable(type(current)))
            raise ValueError(f"{path} has settings of its own ({names}), got {value!r}")
    return value


def made(kind: type[T], values: Mapping[str, object], where: str = "") -> T:
    """Settings of ``kind`` from plain values. Raises ``ValueError`` with one line."""
    return from_plain(kind, tidied(kind, values, where), where)


def tidied(kind: object, values: Mapping[str, object], where: str = "") -> dict[str, object]:
    """Plain values of settings with the names of today, and None where a text ``none`` stands for it."""
    types = settable(kind)
    found: dict[str, object] = {}
    for name, value in with_new_names(values, getattr(kind, "OLD_NAMES", {}), where).items():
        inside = _members(types.get(name))
        if value == "none" and NoneType in inside:
            value = None
        settings = next((part for part in inside if settable(part)), None)
        if isinstance(value, Mapping) and get_origin(types.get(name)) is Mapping:
            value = {key: None if item == "none" else item for key, item in value.items()}
        elif isinstance(value, Mapping) and settings is not None:
            value = tidied(settings, value, f"{where}.{name}" if where else name)
        found[name] = value
    return found


def _members(hint: object) -> tuple[object, ...]:
    """The types that a union allows, or the one type that is none."""
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    return tuple(member for part in get_args(hint) for member in _members(part)) or (hint,)


def plain(value: object) -> object:
    """A config as JSON holds it; strategies as their strings. :func:`made` is the inverse."""
    if isinstance(value, STRATEGIES):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def differences(one: object, other: object, path: str = "") -> dict[str, tuple[object, object]]:
    """Settings in which two configs as plain values differ: name -> the two values."""
    if isinstance(one, dict) and isinstance(other, dict):
        found: dict[str, tuple[object, object]] = {}
        for key in [*one, *(k for k in other if k not in one)]:
            found |= differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
        return found
    return {} if one == other else {path: (one, other)}
