"""Names that settings had in version 0.1. Files and ``--set`` may still use them."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import model_validator
from pydantic_core import ArgsKwargs


def with_new_names(values: Mapping[str, object], old_names: Mapping[str, str], where: str = "") -> dict[str, object]:
    """``values`` with every old name replaced by the new one.

    Raises ``ValueError`` where both names of a setting are given. ``where`` is put before them in the message.
    """
    renamed: dict[str, object] = {}
    for name, value in values.items():
        new = old_names.get(name, name)
        if new != name and new in values:
            path = f"{where}." if where else ""
            raise ValueError(
                f"{path}{name} and {path}{new} are given, and {name} is only the old name of {new}: leave out {name}"
            )
        renamed[new] = value
    return renamed


def accepts_old_names(old_names: Mapping[str, str]) -> object:
    """A validator for a settings class, which lets its fields be given by their old names as well."""

    def renamed(values: object) -> object:
        if isinstance(values, ArgsKwargs):
            return ArgsKwargs(values.args, with_new_names(values.kwargs or {}, old_names))
        return with_new_names(values, old_names) if isinstance(values, Mapping) else values

    return model_validator(mode="before")(renamed)
