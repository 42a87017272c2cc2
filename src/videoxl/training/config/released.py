"""The settings of the published training scripts, and ours beside them.

Scripts: ``Video-XL/scripts`` and ``Video-XL-2/train/scripts`` of github.com/VectorSpaceLab/Video-XL at commit 6e3dc89.
A setting that a script leaves out has the default of its code. :func:`table` makes docs/notes/released-settings.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from videoxl.config import BeaconPrefill, Sampling
from videoxl.training.config.stages import CROPS_OF_VIDEO_XL, STAGES
from videoxl.training.config.training import TrainingConfig

Value = str | int | float | bool | None | tuple[object, ...]

_ALL: dict[str, Value] = {
    "optim": "adamw_torch",
    "weight_decay": 0.0,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    "bf16": True,
    "tf32": True,
    "gradient_checkpointing": True,
    "logging_steps": 1,
    "video_fps": 1,
    "fps_upbound": None,
    "mm_spatial_pool_stride": 2,
    "mm_projector_type": "mlp2x_gelu",
}
_FULL: dict[str, Value] = {
    "version": "qwen_1_5",
    "image_aspect_ratio": "anyres",
    "mm_patch_merge_type": "unires",
    "trained": "all",
    "learning_rate": 1e-5,
    "num_train_epochs": 1.0,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "group_by_modality_length": True,
    "save_steps": 1000,
    "save_total_limit": 1,
}
_VIDEO_XL: dict[str, Value] = {
    "vision_tower": "clip-vit-large-patch14-336",
    "model_max_length": 32768,
    "dataloader_num_workers": 4,
}
_BEACONS: dict[str, Value] = {
    "beacon_window": 1440,
    "beacon_ratio_mix": "step-random",
    "beacon_param": ("q", "k", "v"),
    "image_grid_pinpoints": CROPS_OF_VIDEO_XL,
}
_VIDEO_XL_2: dict[str, Value] = {"vision_tower": "siglip-so400m-patch14-384", "image_grid_pinpoints": "(1x1)...(6x6)"}

RELEASED: dict[str, Mapping[str, Value]] = {
    "video_xl_pretrain": {
        **_ALL,
        **_VIDEO_XL,
        "deepspeed": "zero3",
        "model_name_or_path": "Qwen2-7B-Instruct",
        "version": "plain",
        "image_aspect_ratio": "square",
        "image_grid_pinpoints": None,
        "mm_patch_merge_type": "flat",
        "trained": "projector",
        "frames_upbound": 4,
        "learning_rate": 5e-4,
        "num_train_epochs": 1.0,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "group_by_modality_length": False,
        "save_steps": 1000,
        "save_total_limit": None,
    },
    "video_xl_finetune_image": {
        **_ALL,
        **_FULL,
        **_VIDEO_XL,
        **_BEACONS,
        "deepspeed": "zero2",
        "model_name_or_path": "Qwen2-7B-Instruct",
        "frames_upbound": 0,
        "beacon_ratio": (2, 4, 8, 12, 16),
    },
    "video_xl_finetune_video": {
        **_ALL,
        **_FULL,
        **_VIDEO_XL,
        **_BEACONS,
        "deepspeed": "zero2_offload",
        "model_name_or_path": "Qwen2-7B-Instruct",
        "num_train_epochs": 3.0,
        "frames_upbound": 128,
        "beacon_ratio": (2, 4, 8),
    },
    "video_xl_2_stage3": {
        **_ALL,
        **_FULL,
        **_VIDEO_XL_2,
        "deepspeed": "zero1",
        "model_name_or_path": "Qwen2.5-7B-Instruct",
        "frames_upbound": 16,
        "model_max_length": 8192,
        "dataloader_num_workers": 8,
    },
    "video_xl_2_stage4": {
        **_ALL,
        **_FULL,
        **_VIDEO_XL_2,
        "deepspeed": "zero1",
        "model_name_or_path": "Video-XL-2-Stage3",
        "frames_upbound": 150,
        "fps_upbound": 4,
        "model_max_length": 6000,
        "dataloader_num_workers": 6,
        "save_steps": 200,
    },
}
"""Stage -> setting of its script -> value. ``trained`` stands for ``mm_tunable_parts`` and
``unfreeze_mm_vision_tower``; ``deepspeed`` for the name of its file."""

_ANY = "*"
REASONS: dict[tuple[str, str], str] = {
    (_ANY, "deepspeed"): "a stage runs on one process, too; [the recipes](../../recipes) set what the script has",
    (_ANY, "save_total_limit"): "one more, so that a damaged checkpoint can be passed over",
    (_ANY, "tf32"): "torch's own default is kept; products are in bf16 anyway",
    ("video_xl_finetune_image", "model_name_or_path"): "the stage before, whose language model is still Qwen2's",
    ("video_xl_finetune_video", "model_name_or_path"): "the image stage, in the order that the paper tells",
    ("video_xl_2_stage3", "model_name_or_path"): "the stage before, whose language model is still Qwen2.5's",
    ("video_xl_2_stage4", "model_name_or_path"): "the stage before; the published folder is one for `--set model`",
    ("video_xl_finetune_image", "frames_upbound"): "its data holds no videos; the package's own limit stays",
    ("video_xl_finetune_image", "vision_tower"): "within the model of the stage before",
    ("video_xl_finetune_video", "vision_tower"): "within the model of the stage before",
    ("video_xl_2_stage3", "vision_tower"): "within the model of the stage before",
    ("video_xl_2_stage4", "vision_tower"): "within the model of the stage before",
}
"""Where ours is another value, and why. The first is a stage, or all."""


def _frames(config: TrainingConfig) -> Value:
    return config.data.sampling.max_frames


def _version(config: TrainingConfig) -> Value:
    """The template's name in the scripts."""
    return (
        "qwen_1_5" if config.data.template == "released" and config.data.labels == "released" else config.data.template
    )


def _trained(config: TrainingConfig) -> Value:
    return "projector" if set(config.learning_rates) == {"projector"} else "all"


def _rate(config: TrainingConfig) -> Value:
    rates = set(config.learning_rates.values())
    return rates.pop() if len(rates) == 1 else tuple(sorted(rates))


def _beacons(read: Callable[[BeaconPrefill], Value]) -> Callable[[TrainingConfig], Value]:
    return lambda config: read(config.prefill) if isinstance(config.prefill, BeaconPrefill) else None


OURS: dict[str, Callable[[TrainingConfig], Value]] = {
    "model_name_or_path": lambda c: c.model.rsplit("/", 1)[-1] if "/model" not in c.model else c.model,
    "vision_tower": lambda c: None if c.vision_tower is None else c.vision_tower.rsplit("/", 1)[-1],
    "version": _version,
    "trained": _trained,
    "learning_rate": _rate,
    "image_aspect_ratio": lambda c: c.data.image_aspect_ratio,
    "image_grid_pinpoints": lambda c: c.data.image_grid_pinpoints,
    "mm_patch_merge_type": lambda c: c.data.patch_merge_type,
    "video_fps": lambda c: c.data.sampling.fps or Sampling.DEFAULT_FPS,
    "fps_upbound": lambda c: c.data.sampling.max_fps,
    "frames_upbound": _frames,
    "model_max_length": lambda c: c.data.max_length,
    "num_train_epochs": lambda c: c.num_train_epochs,
    "per_device_train_batch_size": lambda c: c.per_device_batch_size,
    "gradient_accumulation_steps": lambda c: c.gradient_accumulation_steps,
    "group_by_modality_length": lambda c: c.data.group_by_length,
    "optim": lambda c: f"{c.optim}_torch",
    "weight_decay": lambda c: c.weight_decay,
    "warmup_ratio": lambda c: c.warmup_steps,
    "lr_scheduler_type": lambda c: c.lr_scheduler_type,
    "bf16": lambda c: c.precision == "bf16",
    "tf32": lambda c: None,
    "gradient_checkpointing": lambda c: c.gradient_checkpointing,
    "deepspeed": lambda c: c.sharding,
    "dataloader_num_workers": lambda c: c.data.num_workers,
    "save_steps": lambda c: c.save_steps,
    "save_total_limit": lambda c: c.save_total_limit,
    "logging_steps": lambda c: c.logging_steps,
    "mm_spatial_pool_stride": lambda c: 2,
    "mm_projector_type": lambda c: "mlp2x_gelu",
    "beacon_window": _beacons(lambda p: p.window),
    "beacon_ratio": _beacons(lambda p: p.ratios),
    "beacon_ratio_mix": _beacons(lambda p: "step-random" if p.mix == "random" else p.mix),
    "beacon_param": _beacons(lambda p: ("q", "k", "v")),
}
"""Setting of a script -> ours, in its terms, of a stage's config. The family gives pooling, projector and what beacons
project."""


@dataclass(frozen=True)
class Row:
    """One setting of one stage."""

    stage: str
    setting: str
    released: Value
    ours: Value

    @property
    def reason(self) -> str | None:
        """Why ours is another value."""
        return REASONS.get((self.stage, self.setting)) or REASONS.get((_ANY, self.setting))


def rows() -> Iterator[Row]:
    """Every setting of every published script, ours read from the stages."""
    for stage, released in RELEASED.items():
        config = STAGES[stage]()
        for setting, read in OURS.items():
            if setting in released:
                yield Row(stage, setting, released[setting], read(config))


def table() -> str:
    """All rows as a page of Markdown."""
    lines = [
        "# Settings of the released scripts, and ours",
        "",
        "`python script/released_settings.py` writes this page from the stages and from",
        "[training/config/released.py](../../src/videoxl/training/config/released.py). A test compares. The scripts of",
        "stages 1 and 2 of Video-XL-2 were never published.",
    ]
    stage = None
    for row in rows():
        if row.stage != stage:
            stage = row.stage
            lines += ["", f"## {stage}", "", "| setting of the script | script | ours | why |", "|---|---|---|---|"]
        why = "" if row.ours == row.released else row.reason
        lines.append(f"| `{row.setting}` | {_shown(row.released)} | {_shown(row.ours)} | {why} |")
    return "\n".join([*lines, ""])


def _shown(value: Value) -> str:
    if value == CROPS_OF_VIDEO_XL:
        return "all grids of 2 to 49 crops of 336 pixels"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)
