"""A GPU that is full, told as this package's own error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from videoxl.errors import DoesNotFitError


@contextmanager
def fitting(when: str, instead: str) -> Iterator[None]:
    """Raise :class:`DoesNotFitError` where the GPU runs out of memory in the block; nothing else may have changed.

    ``when``: what was being done, behind "the GPU ran out of memory"; ``instead``: what needs less.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(f"the GPU ran out of memory {when}; the memory is unharmed: {instead}") from error
