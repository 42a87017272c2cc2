"""Functions of the released package's ``utils`` that scripts call."""

from __future__ import annotations

import torch.distributed


def disable_torch_init() -> None:
    """Do nothing. It kept torch from drawing weights that a checkpoint then replaced; transformers draws none."""


def rank0_print(*values: object) -> None:
    """Print in one process of several."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        print(*values)
    elif torch.distributed.get_rank() == 0:
        print("Rank 0: ", *values)


__all__ = ["disable_torch_init", "rank0_print"]
