"""Host tensors onto a device, without the host waiting for it."""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on ``device``; itself where it is there already.

    A plain copy to a GPU makes the host wait for everything that was queued before it. From pinned memory it does not.
    torch keeps the pinned memory until the copy is done.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
