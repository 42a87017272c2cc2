"""What a training run is: one value, checked when it is made, with a sentence under every field.

A stage (:mod:`videoxl.training.config.stages`) is a function that returns one. ``--set`` and YAML files change single
settings of it (:mod:`videoxl.training.config.overrides`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from videoxl.config import BeaconPrefill, ChunkedPrefill, FullPrefill
from videoxl.training.config.data import DataConfig

PARTS = ("vision_tower", "token_synthesis", "projector", "language_model", "beacon", "token_scores", "objective")
"""What learning rates are given for. ``language_model`` is without ``beacon``, the weights that only beacons use;
``objective`` is what an objective has beyond the model, such as the decoder of token synthesis pretraining."""
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Objective = Literal["language", "synthesis", "preference"]
Sharding = Literal["none", "fsdp2", "zero1", "zero2", "zero3"]
IN_STEP: tuple[Sharding, ...] = ("fsdp2", "zero2", "zero3")
"""Processes meet during the backward pass, layer by layer: all must go through the same ones in the same order."""
"""Processes gather weights layer by layer, so all of them must go through the same layers equally often."""
Schedule = Literal["cosine", "linear", "constant", "constant_with_warmup"]
Optimiser = Literal["adamw", "muon", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on the language model instead of its weights (PEFT).

    The rate of ``language_model`` is theirs; every other part that has a rate is trained whole and saved with them.
    """

    rank: int = 16
    """Rank of the update of each matrix."""
    alpha: float = 32.0
    """The update is scaled by ``alpha / rank``."""
    dropout: float = 0.0
    """Share of the adapters' inputs that is dropped while training."""
    targets: tuple[str, ...] = LORA_TARGETS
    """Which linear layers of the language model get one. Beacon projections never do: they are a part of their own."""

    def __post_init__(self) -> None:
        _check_count("lora.rank", self.rank, 1)
        _check_number("lora.alpha", self.alpha, above=0)
        _check_number("lora.dropout", self.dropout, least=0, below=1)
        if not self.targets or set(self.targets) - set(LORA_TARGETS):
            raise ValueError(f"lora.targets may be {', '.join(LORA_TARGETS)}; got {', '.join(self.targets) or 'none'}")


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """The loss of token synthesis pretraining (:mod:`videoxl.training.objectives.synthesis`)."""

    motion: float = 1.0
    """Of the share of motion that is not explained; the share of the mean counts 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.motion < float("inf"):
            raise ValueError(f"motion must be a number of at least 0, got {self.motion!r}")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """The loss of a pair of answers (:mod:`videoxl.training.objectives.preferences`)."""

    beta: float = 0.1
    """How strongly the model is held to where it started: a smaller one lets it move further."""
    label_smoothing: float = 0.0
    """Share of the pairs that is taken to be the wrong way round, below 0.5."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta must be a number above 0, got {self.beta!r}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be from 0 to below 0.5, got {self.label_smoothing!r}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that a run depends on. The same config and weights give the same run."""

    name: str
    """What the run is called in logs."""
    model: str
    """Starting weights: a model folder, a Hub id, or an embedded model; with ``vision``, a language model alone."""
    vision: str | None = None
    """A CLIP or SigLIP to join with ``model``; projector and token synthesis then start fresh. None: ``model`` is
    whole."""
    data: DataConfig
    """What is learnt from, and how it is read."""
    learning_rates: Mapping[str, float]
    """Part -> peak learning rate. A part that is not named is frozen."""
    objective: Objective = "language"
    """``language``: the next token; ``synthesis``: token synthesis by reconstruction; ``preference``: DPO."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """With ``objective="synthesis"``: the weights of its loss."""
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """With ``objective="preference"``: the loss of a pair."""
    prefill: FullPrefill | ChunkedPrefill | BeaconPrefill = field(default_factory=FullPrefill)
    """How a video is read: all of it, under the chunk mask, or in windows whose ratio may be drawn per window."""
    epochs: float = 1.0
    """Passes over the data. Ignored where ``steps`` is given."""
    steps: int | None = None
    """Optimiser steps, however many passes over the data they are."""
    batch: int = 1
    """Samples that go through the model together, per process."""
    accumulation: int = 1
    """Batches whose gradients are added up for one optimiser step. Loss is the mean over the live labels of all of
    them, on all processes: the same as one large batch."""
    optimiser: Optimiser = "adamw"
    """AdamW, Muon (for the matrices of layers; AdamW for the rest), 8-bit AdamW (bitsandbytes), Adafactor, or SGD."""
    muon_share: float = 0.5
    """With ``optimiser="muon"``: the rate of matrices inside layers, as a share of their part's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averages of gradients and of their squares."""
    weight_decay: float = 0.0
    """Of matrices; biases and norms have none."""
    schedule: Schedule = "cosine"
    """How rates fall after the warm-up; ``cosine`` and ``linear`` to 0."""
    warmup: float = 0.03
    """Share of the steps in which rates rise from 0; 1 or more: that number of steps."""
    clip: float | None = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it. None: as they are."""
    precision: Precision = "fp32"
    """Arithmetic. ``bf16``: matrix products in bfloat16, weights and optimiser as ``weights`` says."""
    weights: Literal["auto", "fp32", "bf16"] = "auto"
    """What weights are held in. ``auto``: fp32; with adapters and ``precision="bf16"``, bf16 around fp32 adapters."""
    quantization: Literal["int8", "nf4"] | None = None
    """Hold the frozen language model in 8 or 4 bits (bitsandbytes); needs ``lora``."""
    lora: Lora | None = None
    """Train adapters on the language model instead of its weights."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    sharding: Sharding = "none"
    """Several processes: ``none`` is DDP; ``fsdp2`` and DeepSpeed's ``zero1`` to ``zero3`` divide states among GPUs."""
    device: str = "auto"
    """``auto`` or ``cpu``. Which GPU is the launcher's choice (``CUDA_VISIBLE_DEVICES``)."""
    save_every: int = 1000
    """Optimiser steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    log_every: int = 1
    """Optimiser steps between entries of the log."""
    log_to: tuple[str, ...] = ()
    """``tensorboard`` and ``trackio``, beside ``log.jsonl`` in the output folder."""
    skipped_in_a_row: int = 5
    """Steps with a loss or gradient that is not finite are skipped; this many in a row end the run."""
    skipped_share: float = 0.01
    """So does this share of all steps, once more than ``skipped_in_a_row`` were skipped."""
    seed: int = 0
    """Of the order of samples, of drawn ratios and of fresh weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rates", dict(self.learning_rates))
        if not self.name or not self.model:
            raise ValueError("a training run needs a name and a model to start from")
        for name in ("batch", "accumulation", "save_every", "keep", "log_every", "skipped_in_a_row"):
            _check_count(name, getattr(self, name), 1)
        _check_count("seed", self.seed, 0)
        if self.steps is not None:
            _check_count("steps", self.steps, 1)
        _check_number("epochs", self.epochs, above=0)
        _check_number("muon_share", self.muon_share, above=0)
        _check_number("weight_decay", self.weight_decay, least=0)
        _check_number("warmup", self.warmup, least=0)
        _check_number("skipped_share", self.skipped_share, least=0, most=1)
        if self.clip is not None:
            _check_number("clip", self.clip, above=0)
        for beta in self.betas:
            _check_number("betas", beta, least=0, below=1)
        self._check_rates()
        self._check_adapters()
        self._check_reading()
        if unknown := set(self.log_to) - {"tensorboard", "trackio"}:
            raise ValueError(f"log_to may hold tensorboard and trackio, got {', '.join(sorted(unknown))}")
        if self.device not in ("auto", "cpu"):
            raise ValueError(
                f"device must be auto or cpu, got {self.device!r}; which GPUs are used is said by the launcher "
                "(CUDA_VISIBLE_DEVICES)"
            )
        self._check_sharding()

    def _check_sharding(self) -> None:
        if self.sharding != "none" and self.device == "cpu":
            raise ValueError(f"sharding={self.sharding!r} needs GPUs, and device is 'cpu': leave one of them out")
        if self.sharding not in IN_STEP:
            return
        if isinstance(self.prefill, BeaconPrefill):
            raise ValueError(
                f"sharding={self.sharding!r} needs every process to call every layer equally often, and videos have "
                "different numbers of windows (prefill=beacon): use zero1 or none"
            )
        if self.objective != "language":
            raise ValueError(
                f"sharding={self.sharding!r} needs every process to call every layer in every step, and a batch "
                f"without a usable sample of objective={self.objective!r} calls none: use zero1 or none"
            )

    def _check_rates(self) -> None:
        if unknown := set(self.learning_rates) - set(PARTS):
            raise ValueError(f"learning_rates has no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
        if not self.learning_rates:
            raise ValueError(f"learning_rates is empty, so nothing would be trained; parts: {', '.join(PARTS)}")
        for part, rate in self.learning_rates.items():
            _check_number(f"learning_rates.{part}", rate, above=0)

    def _check_adapters(self) -> None:
        if self.lora is not None and "language_model" not in self.learning_rates:
            raise ValueError("lora adapts the language model: give learning_rates.language_model for the adapters")
        if self.lora is not None and self.objective == "synthesis":
            raise ValueError("objective='synthesis' trains no language model: leave out lora")
        if self.lora is not None and self.vision is not None:
            raise ValueError("lora adapts a whole model: leave out vision, or train the projector first")
        if self.quantization is not None and self.lora is None:
            raise ValueError(f"quantization={self.quantization!r} holds weights that cannot be trained: add lora")

    def _check_reading(self) -> None:
        if not isinstance(self.prefill, BeaconPrefill):
            return
        if self.prefill.mix in ("sequence", "adaptive", "random-once") and self.batch > 1:
            raise ValueError(
                f"prefill mix={self.prefill.mix!r} starts anew with every video, so batch must be 1, got {self.batch}; "
                "use accumulation for a larger step, or mix=random"
            )


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _check_number(
    name: str,
    value: float,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and above < value < below and least <= value <= most:
        return
    limits = [("above", above), ("at least", least), ("below", below), ("at most", most)]
    allowed = " and ".join(f"{word} {limit:g}" for word, limit in limits if math.isfinite(limit))
    raise ValueError(f"{name} must be a number {allowed}, got {value!r}")
