"""In which dtype keys and values of a video are held (``kv_dtype``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from videoxl.config import KVDtype
from videoxl.memory.quantised import Quantisation, usable
from videoxl.model.decoder import LanguageModel


def quantisations(language_model: LanguageModel, kv_dtype: KVDtype) -> list[Quantisation]:
    """How each layer packs its keys and values. Beacons are what stays of Video-XL's keys, so their bias counts."""
    found = []
    for layer in language_model.decoder_layers:
        own = layer.self_attn
        keys = cast(nn.Linear, own.get_submodule("beacon_k_proj" if "k" in own.beacon_param else "k_proj"))
        bias = cast(torch.Tensor | None, keys.bias)
        shaped = None if bias is None else bias.detach().view(own.kv_heads, own.head_dim)
        found.append(Quantisation(kv_dtype, shaped, None if bias is None else language_model.rope_tables))
    return found


def usable_kv_dtype(kv_dtype: KVDtype, devices: Sequence[torch.device]) -> tuple[KVDtype, str | None]:
    """The dtype, or ``int8`` where a device lacks it, and then a sentence that says so."""
    for device in dict.fromkeys(devices):
        if not usable(kv_dtype, device):
            return "int8", f"{device} has no {kv_dtype}: keys and values are held in int8, which takes as much"
    return kv_dtype, None
