"""Translates our settings into the Trainer's ``TrainingArguments``."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import torch
from transformers import TrainingArguments

from videoxl.errors import MissingDependencyError
from videoxl.training.config.training import TrainingConfig

OPTIMISERS = {
    "adamw": "adamw_torch",
    "muon": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
"""Our names of optimisers where the Trainer has another one. Muon it does not know: see ``create_optimizer``."""
LAYERS = ("DecoderLayer",)
"""The modules by which FSDP divides a model. The rest, vision tower included, is gathered as one when a step begins:
the number of calls of a tower depends on a video's length, and processes must gather the same things equally often."""
BROUGHT_BY = {"tensorboard": "videoxl[train]", "trackio": "trackio", "wandb": "wandb"}
"""The package to install for each logger. trackio is in no extra, since it wants an older Pillow; wandb since few need
it."""


def training_arguments(config: TrainingConfig, output: Path, steps: int) -> TrainingArguments:
    """For a run of ``steps`` optimiser steps. Making them connects the processes, if there are several.

    Raises :class:`MissingDependencyError` for what is asked for and not installed.
    """
    for name in config.report_to:
        _require(name, f"report_to={name}", BROUGHT_BY[name])
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if on_cpu:  # where DeepSpeed is installed, accelerate loads it, and it would say on stdout that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "tensorboard" in config.report_to:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output / "tensorboard"))
    return TrainingArguments(
        output_dir=str(output),
        run_name=config.name,
        project=config.name,
        max_steps=steps,
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=max(config.learning_rates.values()),
        optim=OPTIMISERS.get(config.optim, config.optim),
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        weight_decay=config.weight_decay,
        warmup_steps=_of_steps(config.warmup_steps, steps),
        **_schedule(config, steps),
        max_grad_norm=math.inf if config.max_grad_norm is None else config.max_grad_norm,
        bf16=config.precision == "bf16",
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=True,  # a NaN would stay in the average for good; the guard counts it
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=config.seed,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        # a batch of text leaves the vision side out; the last layer's beacon queries never get a gradient
        ddp_find_unused_parameters=True,
        **_sharding(config, on_cpu),
    )


def _of_steps(given: float, steps: int) -> int:
    """A number of steps, or a fraction of all."""
    return int(given) if given >= 1 else math.ceil(given * steps)


def _schedule(config: TrainingConfig, steps: int) -> dict[str, object]:
    """The Trainer's name of a schedule, and its settings."""
    if config.lr_scheduler_type == "warmup_stable_decay":
        falling = min(_of_steps(config.decay_steps, steps), max(steps - _of_steps(config.warmup_steps, steps), 0))
        settings = {"num_decay_steps": falling, "min_lr_ratio": config.min_lr_ratio, "decay_type": "1-sqrt"}
        return {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": settings}
    if config.min_lr_ratio:
        return {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": config.min_lr_ratio},
        }
    return {"lr_scheduler_type": config.lr_scheduler_type}


def _sharding(config: TrainingConfig, on_cpu: bool) -> dict[str, object]:
    if config.sharding == "none":
        return {}
    if on_cpu:  # the Trainer would quietly leave FSDP out, and DeepSpeed would have to compile its own communication
        raise ValueError(f"sharding={config.sharding!r} needs GPUs, and torch finds none here: leave it out")
    if config.sharding == "fsdp2":
        return {"fsdp": True, "fsdp_config": fsdp_settings(config)}
    _require("deepspeed", f"sharding={config.sharding}", "deepspeed")
    return {"deepspeed": deepspeed_settings(config)}


def fsdp_settings(config: TrainingConfig) -> dict[str, object]:
    """FSDP2's settings: divided by layer, or as one where processes do not call layers equally often."""
    by_layer = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_layer_cls_to_wrap": list(LAYERS)}
    divided = {"auto_wrap_policy": "NO_WRAP"} if config.gathers_whole else by_layer
    return {"version": 2, "cpu_offload": config.offload == "all", **divided}


def deepspeed_settings(config: TrainingConfig) -> dict[str, object]:
    """DeepSpeed's settings for a ZeRO stage; what the Trainer knows it fills in itself."""
    stage: dict[str, object] = {
        "stage": int(config.sharding[-1]),
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    if config.offload != "none":
        stage["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload == "all":
        stage["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": stage,
        # DeepSpeed's own Adam for CPUs is compiled where it runs, and needs a compiler there; torch's does not
        "zero_force_ds_cpu_optimizer": False,
    }


def _require(module: str, what: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingDependencyError(f"{what} needs {module}: pip install '{package}'")
