"""Parameter groups: which weights are trained, and at which rate.

Freezing is a rule about names, so that what moves can be listed before a run and compared after it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from videoxl.errors import MissingDependencyError
from videoxl.model.configuration import VideoXLConfig
from videoxl.training.config.training import Lora, TrainingConfig
from videoxl.training.muon import OptimizerGroup

_RULES = tuple(
    (part, re.compile(rule))
    for part, rule in (
        ("vision_tower", r"(^|\.)vision_tower\."),
        ("token_synthesis", r"(^|\.)token_synthesis\."),
        ("projector", r"(^|\.)multi_modal_projector\."),
        ("token_scores", r"(^|\.)token_scores\."),
        ("beacon", r"(^|\.)beacon_(embed_tokens|[qkv]_proj)\."),
        ("language_model", r"(^|\.)(language_model|lm_head)\."),
    )
)
_WHOLE_MODULES: dict[str, tuple[str, ...]] = {
    "vision_tower": ("vision_tower",),
    "token_synthesis": ("token_synthesis",),
    "projector": ("multi_modal_projector",),
    "token_scores": ("token_scores",),
    "beacon": ("beacon_embed_tokens",),
}
"""Part -> names of the modules that PEFT saves whole beside adapters."""


def group_of(name: str) -> str:
    """The part a parameter belongs to, by its full name; also under PEFT's and an objective's prefixes."""
    return next((part for part, rule in _RULES if rule.search(name)), "objective")


def freeze(model: nn.Module, learning_rates: Mapping[str, float], *, adapters: bool = False) -> list[str]:
    """Let exactly the parts that have a rate be trained; returns the names of their parameters.

    What a vision tower has behind the layer that is read stays frozen: it would never get a gradient, which FSDP takes
    for a damaged checkpoint. ``adapters``: the language model's own weights stay frozen and its adapters are trained.
    Raises ``ValueError`` for a part that the model does not have.
    """
    trained, unread = [], unread_by(cast(PreTrainedModel, model).config)
    for name, parameter in model.named_parameters():
        part = group_of(name)
        wanted = part in learning_rates and ".original_module." not in name and parameter.is_floating_point()
        wanted = wanted and is_read(name, unread)
        if adapters and part == "language_model":
            wanted = wanted and ".lora_" in name
        parameter.requires_grad_(wanted)
        if wanted:
            trained.append(name)
    found = {group_of(name) for name in trained}
    if missing := set(learning_rates) - found:
        has = sorted({group_of(name) for name, _ in model.named_parameters()})
        raise ValueError(
            f"learning_rates names {', '.join(sorted(missing))}, which this model lacks; it has {', '.join(has)}"
        )
    return trained


def unread_by(config: VideoXLConfig) -> tuple[str, ...]:
    """Beginnings of the names of vision tower weights that no feature depends on (``patch_features`` of the model)."""
    vision: PreTrainedConfig = config.vision_config
    layers = range(vision.num_hidden_layers)[vision.num_hidden_layers + 1 + config.vision_select_layer :]
    behind = ("post_layernorm", "head", *(f"encoder.layers.{number}" for number in layers))
    return tuple(f"vision_tower.{name}." for name in behind)


def is_read(name: str, unread: Collection[str]) -> bool:
    """Whether anything depends on a parameter, by its full name."""
    plain = name.replace("modules_to_save.default.", "")  # PEFT's
    return not any(begin in plain for begin in unread)


def optimizer_groups(
    model: nn.Module, learning_rates: Mapping[str, float], weight_decay: float
) -> list[OptimizerGroup]:
    """The optimiser's groups: per part, matrices with and other parameters without weight decay."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((group_of(name), parameter.ndim > 1), []).append(parameter)
    return [
        {"part": part, "params": found, "lr": learning_rates[part], "weight_decay": weight_decay if decays else 0.0}
        for (part, decays), found in groups.items()
    ]


def target_pattern(targets: tuple[str, ...]) -> str:
    """The linear layers of the language model that get adapters, as PEFT matches names: whole.

    The dot before the name keeps ``beacon_q_proj`` apart from ``q_proj``.
    """
    return rf"(.*\.)?language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(targets)})"


def add_adapters(model: nn.Module, lora: Lora, learning_rates: Mapping[str, float]) -> nn.Module:
    """``model`` with fresh adapters, and the parts that have a rate of their own marked to be saved with them."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingDependencyError("lora needs peft: pip install 'videoxl[train]'") from error
    whole = [module for part in learning_rates for module in _WHOLE_MODULES.get(part, ())]
    if "beacon" in learning_rates:
        whole += [f"beacon_{name}_proj" for name in model.config.beacon_param]  # type: ignore[union-attr]
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=lora.dropout,
        target_modules=target_pattern(lora.target_modules),
        modules_to_save=whole or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


def weight_dtype(config: TrainingConfig) -> torch.dtype:
    """The dtype that the weights of a run are held in."""
    low_memory = config.lora is not None and config.precision == "bf16"
    held = config.weight_dtype if config.weight_dtype != "auto" else ("bf16" if low_memory else "fp32")
    return torch.bfloat16 if held == "bf16" else torch.float32


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Compute activations again in the backward pass; the form that works with DDP, adapters and the window loop."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
