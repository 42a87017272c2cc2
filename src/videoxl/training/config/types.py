"""Types of settings that training adds to :mod:`videoxl.settings`: text from files, and numbers with limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan, BeforeValidator

from videoxl.settings import Must, NotBool


def _as_text(value: object) -> object:
    """A name such as ``7`` is a number to YAML."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if number or isinstance(value, Path) else value


def _only_bool(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Flag = Annotated[bool, BeforeValidator(_only_bool), Must("be true or false")]
"""Takes no numbers and no words such as "yes", unlike pydantic."""
Text = Annotated[str, BeforeValidator(_as_text)]
OneOrMore = BeforeValidator(_as_tuple)
"""Lets one text stand for a list of one."""
Number = Annotated[float, Ge(0), AllowInfNan(False), NotBool, Must("be a number of at least 0")]
Above0 = Annotated[float, Gt(0), AllowInfNan(False), NotBool, Must("be a number above 0")]
Below1 = Annotated[float, Ge(0), Lt(1), NotBool, Must("be a number at least 0 and below 1")]
