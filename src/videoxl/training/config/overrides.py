"""Single settings of a training config by name: ``--set data.workers=2``, YAML files, and configs as plain values."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from videoxl.config import PREFILLS, prefill_from_string

_Config = TypeVar("_Config")
_STRATEGIES = tuple(PREFILLS.values())


def with_settings(config: _Config, assignments: Sequence[str]) -> _Config:
    """``config`` with settings given as ``key=value``; a key reaches inside: ``data.sampling.fps=2``.

    Values are read as YAML: ``none``, ``true``, ``[2, 4, 8]``. Of ``learning_rates``, ``none`` takes a part out. Raises
    ``ValueError`` naming the settings there are, or what a value may be.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise ValueError(f"--set takes key=value, got {assignment!r}")
        place = changes
        *above, last = key.split(".")
        for step in above:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {assignment}: {step} was set as a whole before; give it once")
        if last in place:
            raise ValueError(f"--set {key} is given twice")
        place[last] = _parsed(text, assignment)
    return changed(config, changes)


def _parsed(text: str, assignment: str) -> Any:
    try:
        return yaml.safe_load(text) if text.strip() else text
    except yaml.YAMLError:
        return text  # a strategy or a path may hold what YAML takes for its own signs


def changed(config: _Config, changes: Mapping[str, Any], where: str = "") -> _Config:
    """``config``, a dataclass, with the fields in ``changes``; a mapping for a dataclass changes what is inside."""
    known = _settable(type(config))
    values = {}
    for name, value in changes.items():
        if name not in known:
            raise ValueError(_unknown(name, known, where))
        path = f"{where}.{name}" if where else name
        values[name] = _coerced(known[name], value, getattr(config, name), path)
    return replace(config, **values)  # type: ignore[type-var]


def made(kind: type[_Config], values: Mapping[str, Any], where: str = "") -> _Config:
    """A dataclass of ``kind`` from plain values."""
    known = _settable(kind)
    given = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(_unknown(name, known, where))
        given[name] = _coerced(known[name], value, None, f"{where}.{name}" if where else name)
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    if missing := required - set(given):
        raise ValueError(f"{where or kind.__name__} lacks {', '.join(sorted(missing))}")
    return kind(**given)


def _settable(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.init}


def _unknown(name: str, known: Mapping[str, Any], where: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{where or 'a training config'} has no setting {name!r}{hint} Settings: {', '.join(known)}".replace(
        "' Settings", "'. Settings"
    )


def _coerced(kind: Any, value: Any, current: Any, path: str) -> Any:
    """``value`` as the type a field has. Raises ``ValueError`` saying what is allowed."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, current, path)
    if origin is Literal:
        if value not in arguments:
            value = {None: "none"}.get(value, value)
        if value not in arguments:
            raise ValueError(f"{path} must be one of {', '.join(map(str, arguments))}; got {value!r}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, path)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(arguments, value, current, path)
    if is_dataclass(kind):
        return _dataclass(kind, value, current, path)
    return _plain(kind, value, path)


def _one_of(kinds: tuple[Any, ...], value: Any, current: Any, path: str) -> Any:
    if (value is None or value == "none") and type(None) in kinds:
        return None
    if all(kind in _STRATEGIES for kind in kinds if kind is not type(None)):
        return _strategy(kinds, value, path)
    errors = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _coerced(kind, value, current, path)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(errors[0] if len(errors) == 1 else "; or: ".join(errors) or f"{path} must be none, got {value!r}")


def _strategy(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    found = prefill_from_string(value) if isinstance(value, str) else value
    if not isinstance(found, kinds):
        names = ", ".join(name for name, kind in PREFILLS.items() if kind in kinds)
        raise ValueError(f"{path} must be one of {names} with its settings (chunked:chunk_size=16), got {value!r}")
    return found


def _tuple(arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    items = [value] if isinstance(value, (str, int, float, Mapping)) else value
    if items is None:
        return ()
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"{path} must be a list, got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_coerced(arguments[0], item, None, f"{path}[{n}]") for n, item in enumerate(items))
    if len(items) != len(arguments):
        raise ValueError(f"{path} must be a list of {len(arguments)}, got {value!r}")
    return tuple(_coerced(kind, item, None, f"{path}[{n}]") for n, (kind, item) in enumerate(zip(arguments, items)))


def _mapping(arguments: tuple[Any, ...], value: Any, current: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} is a table: set its entries, {path}.NAME=..., got {value!r}")
    merged = dict(current or {})
    for name, item in value.items():
        if item is None or item == "none":
            merged.pop(name, None)
        else:
            merged[name] = _coerced(arguments[1], item, None, f"{path}.{name}")
    return merged


def _dataclass(kind: Any, value: Any, current: Any, path: str) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, str) and "path" in _settable(kind):  # a source of data is often no more than its file
        return made(kind, {"path": value}, path)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} has settings of its own ({', '.join(_settable(kind))}), got {value!r}")
    return changed(current, value, path) if isinstance(current, kind) else made(kind, value, path)


def _plain(kind: Any, value: Any, path: str) -> Any:
    try:
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is str and isinstance(value, (str, int, float, Path)):
            return str(value)
    except (TypeError, ValueError, OverflowError):
        pass  # said below
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(kind, str(kind))
    raise ValueError(f"{path} must be {wanted}, got {value!r}")


def plain(value: Any) -> Any:
    """A config as JSON holds it; strategies as their strings. :func:`made` is the inverse."""
    if isinstance(value, _STRATEGIES):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Settings in which two configs as plain values differ: name -> the two values."""
    if isinstance(one, dict) and isinstance(other, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*one, *(k for k in other if k not in one)]:
            found |= differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
        return found
    return {} if one == other else {path: (one, other)}
