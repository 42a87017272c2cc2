"""Several linear layers on one input, computed as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class SideBySide:
    """Weights of linear layers on one input, side by side in one tensor; the layers' own parameters become views of it.

    One product then does the work of several. Whatever replaces a layer or its weight (an adapter, quantisation, a
    move to another device) is noticed by :meth:`holds`, and the layers compute on their own again.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.layers = tuple(layers)
        self.weight = torch.cat([layer.weight.detach() for layer in layers])
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        begin = 0
        for layer in layers:
            end = begin + layer.out_features
            layer.weight.data = self.weight[begin:end]
            if self.bias is not None:
                layer.bias.data = self.bias[begin:end]
            begin = end
        self._first, self._last = (layer.weight.data_ptr() for layer in (layers[0], layers[-1]))

    @classmethod
    def of(cls, *layers: nn.Module) -> SideBySide | None:
        """None where the layers are not plain linear layers of one kind, or their weights are not there."""
        plain = [layer for layer in layers if is_plain(layer)]
        kinds = {(p.weight.dtype, p.weight.device, p.bias is None) for p in plain}
        if len(plain) < len(layers) or len(kinds) > 1 or plain[0].weight.is_meta:
            return None
        return cls(plain)

    def holds(self, *layers: nn.Linear) -> bool:
        """Whether these are still the layers, and their weights still views."""
        return (
            not torch.is_grad_enabled()
            and layers == self.layers
            and layers[0].weight.data_ptr() == self._first
            and layers[-1].weight.data_ptr() == self._last
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., D]`` -> the outputs of all layers, one behind the other."""
        return F.linear(x, self.weight, self.bias)


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is a linear layer of torch, with weights that are plain numbers."""
    return type(layer) is nn.Linear and not _is_quantised(layer.weight.data)


def _is_quantised(weight: torch.Tensor) -> bool:
    """Whether a weight is a tensor made of others: torchao quantises the weight and keeps the layer."""
    return hasattr(weight, "__tensor_flatten__")
