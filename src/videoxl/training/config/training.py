"""The configuration of a training run: one value, checked when it is made, with a sentence under every field.

A stage (:mod:`videoxl.training.config.stages`) is a function that returns one. ``--set`` and YAML files change single
settings of it (:mod:`videoxl.training.config.overrides`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, ClassVar, Literal, get_args

from annotated_types import Ge, Le, Lt, MinLen
from pydantic import BeforeValidator, PlainValidator

from videoxl.config import PREFILLS, BeaconPrefill, ChunkedPrefill, FullPrefill, prefill_from_string
from videoxl.settings import Count, CountOrZero, Must, NotBool, settings
from videoxl.training.config.data import DataConfig
from videoxl.training.config.old_names import accepts_old_names
from videoxl.training.config.types import Above0, Below1, Flag, Number, OneOrMore, Text
from videoxl.training.config.validation import ValidationConfig

PARAM_GROUPS = ("vision_tower", "token_synthesis", "projector", "language_model", "beacon", "token_scores", "objective")
"""The parameter groups that can have a learning rate. ``beacon`` holds the weights that only beacons use, and
``language_model`` the rest of the language model. ``objective`` holds what an objective has beyond the model, such as
the decoder of token synthesis pretraining."""

LoraTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA_TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)
Objective = Literal["language", "synthesis", "preference"]
Sharding = Literal["none", "fsdp2", "zero1", "zero2", "zero3"]
SYNCHRONOUS: tuple[Sharding, ...] = ("fsdp2", "zero2", "zero3")
"""Shardings under which processes meet in the middle of a step, to gather weights or to reduce gradients. All processes
must meet equally often and in the same order."""
Offload = Literal["none", "optimizer", "all"]
OFFLOADS: dict[Sharding, tuple[Offload, ...]] = {
    "none": ("none",),
    "zero1": ("none", "optimizer"),
    "zero2": ("none", "optimizer"),
    "zero3": ("none", "optimizer", "all"),
    "fsdp2": ("none", "all"),
}
"""What can be held in host memory. torch moves what FSDP2 divides as one; DeepSpeed moves weights where it divides
them."""
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup", "warmup_stable_decay"]
Optimizer = Literal["adamw", "muon", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"]
UNDIVIDED: dict[Sharding, tuple[Optimizer, ...]] = {
    "zero1": ("muon", "adafactor"),
    "zero2": ("muon", "adafactor"),
    "zero3": ("muon", "adafactor"),
    "fsdp2": ("muon", "adafactor", "adamw_8bit", "paged_adamw_8bit"),
}
"""Optimisers that a sharding breaks: DeepSpeed makes one long row of all weights, in which matrices are lost."""
Precision = Literal["fp32", "bf16"]
Prefill = FullPrefill | ChunkedPrefill | BeaconPrefill


def _as_prefill(value: object) -> Prefill:
    found = prefill_from_string(value) if isinstance(value, str) else value
    if isinstance(found, Prefill):
        return found
    names = ", ".join(name for name, kind in PREFILLS.items() if issubclass(kind, Prefill))
    raise ValueError(f"prefill must be one of {names} with its settings (chunked:chunk_size=16), got {value!r}")


def _as_sharding(value: object) -> object:
    return "none" if value is None else value


@settings
class Lora:
    """Low-rank adapters on the language model instead of its weights (PEFT).

    The rate of ``language_model`` is theirs. Every other parameter group that has a rate is trained whole and saved
    with them.
    """

    OLD_NAMES: ClassVar[dict[str, str]] = {"targets": "target_modules"}
    """Names of fields in version 0.1; files that use them still load."""

    rank: Count = 16
    """Rank of the update of each matrix."""
    alpha: Above0 = 32.0
    """The update is scaled by ``alpha / rank``."""
    dropout: Below1 = 0.0
    """Fraction of the adapters' inputs that is dropped while training."""
    target_modules: Annotated[
        tuple[LoraTarget, ...], MinLen(1), OneOrMore, Must(f"be one or more of {', '.join(LORA_TARGETS)}")
    ] = LORA_TARGETS
    """Linear layers of the language model that get an adapter. Beacon projections never do: they are a parameter group
    of their own."""

    _old_names = accepts_old_names(OLD_NAMES)


@settings
class SynthesisConfig:
    """The loss of token synthesis pretraining (:mod:`videoxl.training.objectives.synthesis`)."""

    OLD_NAMES: ClassVar[dict[str, str]] = {"motion": "motion_weight"}
    """Names of fields in version 0.1; files that use them still load."""

    motion_weight: Number = 1.0
    """Weight of the unexplained fraction of motion; that of the mean counts 1."""

    _old_names = accepts_old_names(OLD_NAMES)


@settings
class PreferenceConfig:
    """The loss of a pair of answers (:mod:`videoxl.training.objectives.preferences`)."""

    beta: Above0 = 0.1
    """How strongly the model is held to where it started: a smaller one lets it move further."""
    dpo_alpha: Above0 = 1.0
    """Weight of the loss of pairs."""
    gamma: Number = 0.0
    """Weight of the loss of the chosen answer by itself (the SFT term): the mean over its tokens. The released recipe
    of Video-XL-Pro has 0."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5), NotBool, Must("be a number from 0 to below 0.5")] = 0.0
    """Fraction of the pairs that is taken to be the wrong way round."""


@settings
class TrainingConfig:
    """Everything that a run depends on. The same config and weights give the same run."""

    OLD_NAMES: ClassVar[dict[str, str]] = {
        "vision": "vision_tower",
        "epochs": "num_train_epochs",
        "steps": "max_steps",
        "batch": "per_device_batch_size",
        "accumulation": "gradient_accumulation_steps",
        "optimiser": "optim",
        "muon_share": "muon_lr_ratio",
        "schedule": "lr_scheduler_type",
        "warmup": "warmup_steps",
        "clip": "max_grad_norm",
        "weights": "weight_dtype",
        "save_every": "save_steps",
        "keep": "save_total_limit",
        "log_every": "logging_steps",
        "log_to": "report_to",
        "skipped_in_a_row": "max_consecutive_skips",
        "skipped_share": "max_skipped_fraction",
    }
    """Names of fields in version 0.1; files that use them still load."""

    name: Text
    """What the run is called in logs, and the name of its folder."""
    model: Text
    """Starting weights: a model folder, a Hub id, or an embedded model; with ``vision_tower``, a language model."""
    vision_tower: Text | None = None
    """A CLIP or SigLIP to join with ``model``; projector and token synthesis then start fresh. None: ``model`` is
    whole."""
    projector_weights: Text | None = None
    """A file of weights to begin the projector with, such as a released ``mm_projector.bin``; or a folder that holds
    one."""
    token_synthesis_weights: Text | None = None
    """A file of weights to begin token synthesis with, such as a released ``dts.pth``; or a folder that holds one."""
    data: DataConfig
    """What is learnt from, and how it is read."""
    learning_rates: Mapping[str, Above0]
    """Parameter group -> peak learning rate. A group that is not named is frozen."""
    objective: Objective = "language"
    """``language``: the next token; ``synthesis``: token synthesis by reconstruction; ``preference``: DPO."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """The weights of the loss with ``objective="synthesis"``."""
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """The loss of a pair with ``objective="preference"``."""
    prefill: Annotated[Prefill, PlainValidator(_as_prefill)] = field(default_factory=FullPrefill)
    """How a video is read: all of it, under the chunk mask, or in windows whose ratio may be drawn per window."""
    num_train_epochs: Above0 = 1.0
    """Passes over the data. Ignored where ``max_steps`` is given."""
    max_steps: Count | None = None
    """Optimizer steps, however many passes over the data they are."""
    per_device_batch_size: Count = 1
    """Samples that go through the model together, in each process."""
    gradient_accumulation_steps: Count = 1
    """Batches whose gradients are added up for one optimizer step. The loss is the mean over the supervised tokens of
    all of them, on all processes: the same as one large batch."""
    optim: Optimizer = "adamw"
    """AdamW, Muon (for the matrices of layers; AdamW for the rest), 8-bit AdamW (bitsandbytes), Adafactor, or SGD."""
    muon_lr_ratio: Above0 = 0.5
    """With ``optim="muon"``: the rate of matrices inside layers, divided by the rate of their parameter group."""
    betas: Annotated[tuple[Below1, Below1], Must("be a list of 2 numbers, each at least 0 and below 1")] = (0.9, 0.999)
    """Decay rates of AdamW's averages of gradients and of their squares."""
    weight_decay: Number = 0.0
    """Weight decay of matrices; biases and norms have none."""
    lr_scheduler_type: Scheduler = "cosine"
    """How rates fall after the warm-up; ``cosine`` and ``linear`` fall over all steps, ``warmup_stable_decay`` over the
    last ``decay_steps``."""
    min_lr_ratio: Below1 = 0.0
    """Where rates end, as a fraction of the peak (``cosine`` and ``warmup_stable_decay``)."""
    decay_steps: Above0 = 0.1
    """With ``warmup_stable_decay``: the steps in which rates fall: their number, or, below 1, a fraction of all."""
    ema_decay: Below1 | None = None
    """Average the weights over the steps: the share of the average that stays at each. The average is what is validated
    and what the run gives. None: the last weights."""
    warmup_steps: Number = 0.03
    """Steps in which rates rise from 0: their number, or, below 1, a fraction of all steps."""
    max_grad_norm: Above0 | None = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it. None: as they are."""
    precision: Precision = "fp32"
    """Arithmetic. ``bf16``: matrix products in bfloat16, weights and optimizer as ``weight_dtype`` says."""
    weight_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """What weights are held in. ``auto``: fp32; with adapters and ``precision="bf16"``, bf16 around fp32 adapters."""
    quantization: Literal["int8", "nf4"] | None = None
    """Hold the frozen language model in 8 or 4 bits (bitsandbytes); needs ``lora``."""
    lora: Lora | None = None
    """Train adapters on the language model instead of its weights."""
    gradient_checkpointing: Flag = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    sharding: Annotated[Sharding, BeforeValidator(_as_sharding)] = "none"
    """Several processes: ``none`` is DDP; ``fsdp2`` and DeepSpeed's ``zero1`` to ``zero3`` divide states among GPUs."""
    offload: Offload = "none"
    """What each process holds in host memory instead of the GPU's: ``optimizer``, its states and the fp32 copies of
    weights (``zero1`` to ``zero3``; the CPU makes the step); ``all``, the divided weights too (``zero3``,
    ``fsdp2``)."""
    device: Text = "auto"
    """``auto`` or ``cpu``. Which GPU is the launcher's choice (``CUDA_VISIBLE_DEVICES``)."""
    save_steps: Count = 1000
    """Optimizer steps between checkpoints."""
    save_total_limit: Count = 2
    """How many of the newest checkpoints are kept."""
    logging_steps: Count = 1
    """Optimizer steps between entries of the log."""
    report_to: Annotated[tuple[Literal["tensorboard", "trackio", "wandb"], ...], OneOrMore] = ()
    """Where the log goes beside ``log.jsonl`` in the output folder."""
    max_consecutive_skips: Count = 5
    """Steps with a loss or gradient that is not finite are skipped. This many in a row end the run."""
    max_skipped_fraction: Annotated[float, Ge(0), Le(1), NotBool, Must("be a number at least 0 and at most 1")] = 0.01
    """Abort when more than this fraction of all steps was skipped, and more than ``max_consecutive_skips`` were."""
    validation: ValidationConfig | None = None
    """What is measured beside training: the loss on other data, the best model, an early end, a command."""
    seed: CountOrZero = 0
    """Seed for the order of samples, for drawn ratios and for fresh weights."""

    _old_names = accepts_old_names(OLD_NAMES)

    def __post_init__(self) -> None:
        if not self.name or not self.model:
            raise ValueError("a training run needs a name and a model to start from")
        self._check_rates()
        self._check_adapters()
        self._check_windows()
        self._check_template()
        self._check_packing()
        self._check_schedule()
        self._check_device()
        self._check_sharding()

    def _check_rates(self) -> None:
        known = ", ".join(PARAM_GROUPS)
        if unknown := set(self.learning_rates) - set(PARAM_GROUPS):
            raise ValueError(f"learning_rates has no group {', '.join(sorted(unknown))}; parameter groups: {known}")
        if not self.learning_rates:
            raise ValueError(f"learning_rates is empty, so nothing would be trained; parameter groups: {known}")

    def _check_adapters(self) -> None:
        if self.quantization is not None and self.lora is None:
            raise ValueError(f"quantization={self.quantization!r} holds weights that cannot be trained: add lora")
        if self.lora is None:
            return
        if "language_model" not in self.learning_rates:
            raise ValueError("lora adapts the language model: give learning_rates.language_model for the adapters")
        if self.objective == "synthesis":
            raise ValueError("objective='synthesis' trains no language model: leave out lora")
        if self.vision_tower is not None:
            raise ValueError("lora adapts a whole model: leave out vision_tower, or train the projector first")

    def _check_windows(self) -> None:
        one_video = isinstance(self.prefill, BeaconPrefill) and self.prefill.mix in (
            "sequence",
            "adaptive",
            "random-once",
        )
        if one_video and self.per_device_batch_size > 1:
            raise ValueError(
                f"per_device_batch_size must be 1, got {self.per_device_batch_size}: prefill {self.prefill} starts "
                "anew with every video; use gradient_accumulation_steps for a larger step, or mix=random"
            )

    def _check_schedule(self) -> None:
        if self.min_lr_ratio and self.lr_scheduler_type not in ("cosine", "warmup_stable_decay"):
            raise ValueError(
                f"min_lr_ratio={self.min_lr_ratio} is for lr_scheduler_type cosine and warmup_stable_decay, which is "
                f"{self.lr_scheduler_type!r}"
            )
        if self.ema_decay is not None and self.sharding != "none":
            raise ValueError(
                f"ema_decay averages whole weights, and sharding={self.sharding!r} divides them: leave one out"
            )
        if self.validation is not None and self.validation.measures and self.objective == "preference":
            raise ValueError(
                "validation measures the loss of objective='language' or 'synthesis'; for pairs of answers give a "
                "command"
            )

    def _check_template(self) -> None:
        if self.data.template != "plain":
            return
        if isinstance(self.prefill, BeaconPrefill):
            raise ValueError(
                "data.template='plain' begins with the picture, and windows (prefill=beacon) begin behind some text: "
                "use template='released' or 'inference'"
            )
        if self.objective == "preference":
            raise ValueError("data.template='plain' has no questions, which objective='preference' compares answers to")

    def _check_packing(self) -> None:
        if not self.data.packing:
            return
        if isinstance(self.prefill, BeaconPrefill):
            raise ValueError(
                "data.packing cannot be exact where a video is read in windows (prefill=beacon), whose cache is one "
                "sequence's: leave it out"
            )
        if self.objective != "language":
            raise ValueError(
                f"data.packing packs single conversations, which objective={self.objective!r} does not learn from: "
                "leave it out"
            )

    def _check_device(self) -> None:
        if self.device not in ("auto", "cpu"):
            raise ValueError(
                f"device must be auto or cpu, got {self.device!r}; the launcher says which GPUs are used "
                "(CUDA_VISIBLE_DEVICES)"
            )

    @property
    def gathers_whole(self) -> bool:
        """Whether all weights are gathered when a step begins, instead of layer by layer.

        Processes do not call layers equally often where videos have different numbers of windows, nor where a batch
        without a usable sample of an objective calls none.
        """
        return self.sharding in SYNCHRONOUS and (
            isinstance(self.prefill, BeaconPrefill) or self.objective != "language"
        )

    def _check_sharding(self) -> None:
        if self.sharding != "none" and self.device == "cpu":
            raise ValueError(f"sharding={self.sharding!r} needs GPUs, and device is 'cpu': leave one of them out")
        self._check_divided_optimiser()
        if self.sharding == "zero3" and self.gathers_whole:
            raise ValueError(
                "sharding='zero3' gathers the weights of a module whenever it is called, so every process must call "
                "each equally often: that holds for objective='language' without windows (prefill=beacon). Use fsdp2, "
                "which divides the same, or zero2"
            )
        if self.quantization is not None and self.sharding in ("zero3", "fsdp2"):
            raise ValueError(
                f"sharding={self.sharding!r} divides weights, and quantization={self.quantization!r} holds them in a "
                "form that is not divided: use zero1, zero2 or none"
            )
        allowed = OFFLOADS[self.sharding]
        if self.offload not in allowed:
            raise ValueError(
                f"offload={self.offload!r} does not go with sharding={self.sharding!r}, which takes "
                f"{' or '.join(allowed)}"
            )

    def _check_divided_optimiser(self) -> None:
        if self.optim in UNDIVIDED.get(self.sharding, ()):
            raise ValueError(
                f"optim={self.optim!r} needs whole matrices or kernels of its own, which sharding={self.sharding!r} "
                "does not give it: use adamw, or sharding=none"
            )
        if self.offload != "none" and "8bit" in self.optim:
            raise ValueError(
                f"optim={self.optim!r} runs on GPUs, and offload={self.offload!r} makes the step on the CPU: use adamw"
            )
