"""Arguments and results of operators: values in lists, tuples and mappings. torch's own trees cost much more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same tree with every leaf changed."""
    if isinstance(value, tuple):
        return tuple([mapped(change, part) for part in value])
    if isinstance(value, list):
        return [mapped(change, part) for part in value]
    if isinstance(value, dict):
        return {name: mapped(change, part) for name, part in value.items()}
    return change(value)


def tensors_in(*values: Any) -> list[torch.Tensor]:
    """All tensors of some trees, in their order."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found
