"""One configuration for the three families, and the door through which released ``config.json`` files enter.

``VideoXLConfig`` is composed of a transformers vision config and a transformers text config plus the few numbers in
between, so a smaller model or another Qwen2-family backbone is a matter of values. ``LlavaQwenConfig`` answers to the
released ``model_type`` and hands out a ``VideoXLConfig`` (SPEC 5.1, 5.2).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from videoxl._registration import finish, register_configs
from videoxl.errors import CheckpointError

QWEN2_VISION_PAD = 151654
QWEN2_IMAGE_PAD = 151655

# Architectures behind the `mm_vision_tower` names found in released configs. The files often name a folder of the
# authors' machines, so only the last path component is looked at.
KNOWN_VISION_TOWERS: dict[str, dict[str, Any]] = {
    "siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}

TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "attention_dropout",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Keys of a released flat ``config.json`` that describe the language model."""

OWN_KEYS = (
    "frames_per_group",
    "token_grid",
    "synthesis_norm_groups",
    "synthesis_max_distance",
    "video_token_id",
    "image_token_id",
)
"""Numbers that are constants in the released code; a released-layout ``config.json`` may state others."""


class VideoXLConfig(PreTrainedConfig):
    """Sizes of a Video-XL model. Released values are the defaults of everything outside the two sub-configs.

    A group is ``frames_per_group`` frames; it becomes ``tokens_per_group`` visual tokens.
    """

    model_type = "video_xl"
    auto_map: ClassVar[dict[str, str]] = {}
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    family: str = "video-xl-2"
    """Which released system this is: ``video-xl-2``."""
    frames_per_group: int = 4
    """Frames merged by token synthesis; a power of two."""
    token_grid: int = 24
    """Patch features are resized to ``token_grid x token_grid`` before token synthesis."""
    pool_stride: int = 2
    """Kernel and stride of the pooling behind the projector."""
    pool_mode: str = "average"
    """``average`` or ``max``."""
    synthesis_norm_groups: int = 32
    """Groups of the GroupNorms in token synthesis."""
    synthesis_max_distance: int = 64
    """Relative positions in token synthesis are clipped to +- this; its tables have ``2 n + 1`` rows."""
    patch_merge_type: str = "unires"
    """How the crops of a still image are merged: ``unires`` or ``flat``."""
    video_token_id: int = QWEN2_VISION_PAD
    """Id that holds the place of one visual token of a video."""
    image_token_id: int = QWEN2_IMAGE_PAD
    """Id that holds the place of one visual token of a still image; may equal ``video_token_id``."""
    image_mean: tuple[float, ...] | list[float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] | list[float] = (0.5, 0.5, 0.5)
    beacon_param: tuple[str, ...] | list[str] = ()
    """Which of ``q``, ``k``, ``v`` beacons have a projection of their own for; none: there are no beacons."""

    def __post_init__(self, **kwargs: Any) -> None:
        # done here, not by the base class, whose way of doing it differs between the versions we support
        self.vision_config = _sub_config(self.vision_config, "siglip_vision_model")
        self.text_config = _sub_config(self.text_config, "qwen2")
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        if self.frames_per_group < 1 or self.frames_per_group & (self.frames_per_group - 1):
            raise CheckpointError(f"frames_per_group must be a power of two, got {self.frames_per_group}")
        if self.pool_mode not in ("average", "max"):
            raise CheckpointError(f"pool_mode must be 'average' or 'max', got {self.pool_mode!r}")
        channels = self.vision_config.hidden_size  # type: ignore[union-attr]
        for name, divisor in (
            ("frames_per_group", self.frames_per_group),
            ("synthesis_norm_groups", self.synthesis_norm_groups),
        ):
            if channels % divisor:
                raise CheckpointError(f"vision width {channels} is not divisible by {name}={divisor}")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers; a released flat ``config.json`` is translated."""
        found, unused = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
        if "mm_vision_tower" in found and "vision_config" not in found:  # whatever it calls its model_type
            return LlavaQwenConfig.from_dict(found, **{**unused, "name_or_path": pretrained_model_name_or_path})
        return cls.from_dict(found, **unused)

    @property
    def tokens_per_group(self) -> int:
        """Visual tokens per group of frames (144 in the released models)."""
        return (self.token_grid // self.pool_stride) ** 2

    @property
    def synthesis_stages(self) -> int:
        """Halvings of the time axis that take ``frames_per_group`` frames to one."""
        return int(math.log2(self.frames_per_group))

    @property
    def image_size(self) -> int:
        """Side of the square pictures the vision tower takes, in pixels."""
        return int(self.vision_config.image_size)  # type: ignore[union-attr]


def _sub_config(given: dict[str, Any] | PreTrainedConfig | None, default_type: str) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    fields = dict(given or {})
    if default_type == "siglip_vision_model":
        fields.setdefault("vision_use_head", False)
    return AutoConfig.for_model(fields.pop("model_type", default_type), **fields)


def _vision_config(tower: str, folder: str | Path | None) -> dict[str, Any]:
    """Architecture of the vision tower a released config names: a folder beside the checkpoint, or a known name."""
    candidates = [Path(tower)]
    if folder is not None:
        candidates += [Path(folder) / tower, Path(folder) / Path(tower).name]
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            found = json.loads((candidate / "config.json").read_text(encoding="utf-8"))
            return dict(found.get("vision_config", found))
    name = Path(tower).name
    if name in KNOWN_VISION_TOWERS:
        return dict(KNOWN_VISION_TOWERS[name])
    raise CheckpointError(
        f"config.json names the vision tower {tower!r}, which is neither a folder with a config.json nor one of the "
        f"known towers ({', '.join(KNOWN_VISION_TOWERS)}); put the tower's config.json into <checkpoint>/{name}/"
    )


def native_config_dict(released: dict[str, Any], folder: str | Path | None) -> dict[str, Any]:
    """Translate a released flat ``config.json`` (SPEC 5.2) into the fields of :class:`VideoXLConfig`.

    Raises :class:`CheckpointError` when the vision tower is unknown or of another family.
    """
    vision = _vision_config(released.get("mm_vision_tower", "siglip-so400m-patch14-384"), folder)
    vision.setdefault("model_type", "siglip_vision_model")
    if vision["model_type"] != "siglip_vision_model":
        raise CheckpointError(
            f"the vision tower is a {vision['model_type']!r}; this version reads Video-XL-2 checkpoints "
            "(SigLIP tower with token synthesis)"
        )
    # The released loader deletes the last encoder layer and the pooling head (SPEC 3.1).
    vision = {**vision, "num_hidden_layers": vision["num_hidden_layers"] - 1, "vision_use_head": False}
    text = {key: released[key] for key in TEXT_KEYS if key in released}
    vocab = released.get("vocab_size", QWEN2_IMAGE_PAD + 1)
    video_token_id = released.get("video_token_id", QWEN2_VISION_PAD)
    native: dict[str, Any] = {
        "text_config": {"model_type": "qwen2", **text},
        "vision_config": vision,
        "family": "video-xl-2",
        "pool_stride": released.get("mm_spatial_pool_stride", 2),
        "pool_mode": released.get("mm_spatial_pool_mode", "average"),
        "patch_merge_type": released.get("mm_patch_merge_type", "unires"),
        "video_token_id": video_token_id,
        "image_token_id": QWEN2_IMAGE_PAD if vocab > QWEN2_IMAGE_PAD else video_token_id,
    }
    native |= {key: released[key] for key in OWN_KEYS if key in released}
    dtype = released.get("dtype") or released.get("torch_dtype")
    return {**native, "dtype": dtype} if dtype else native


def released_config_dict(config: VideoXLConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inverse of :func:`native_config_dict`: the flat ``config.json`` and the one of its ``vision_tower`` folder."""
    text = config.text_config.to_dict()  # type: ignore[union-attr]
    vision = config.vision_config.to_dict()  # type: ignore[union-attr]
    flat = {key: text[key] for key in TEXT_KEYS if text.get(key) is not None}
    rope = flat.pop("rope_parameters", None) or {}
    flat["rope_theta"] = rope.get("rope_theta", flat.get("rope_theta"))
    scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
    if scaling.get("rope_type", "default") != "default":
        flat["rope_scaling"] = scaling
    flat |= {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "torch_dtype": str(config.dtype or "float32").removeprefix("torch."),
        "mm_vision_tower": "vision_tower",
        "mm_hidden_size": vision["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": "spatial_pool",
        "mm_spatial_pool_stride": config.pool_stride,
        "mm_spatial_pool_mode": config.pool_mode,
        "mm_patch_merge_type": config.patch_merge_type,
        "use_mm_proj": True,
        "tokenizer_model_max_length": text.get("max_position_embeddings"),
    }
    flat |= {key: getattr(config, key) for key in OWN_KEYS}
    vision["num_hidden_layers"] += 1
    vision.pop("vision_use_head", None)
    return flat, vision


class LlavaQwenConfig(PreTrainedConfig):
    """Answers to the released ``model_type``; loading one yields a :class:`VideoXLConfig`."""

    model_type = "llava_qwen"
    auto_map: ClassVar[dict[str, str]] = {}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The :class:`VideoXLConfig` of a released checkpoint."""
        return VideoXLConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        folder = kwargs.get("name_or_path") or config_dict.get("_name_or_path")
        return VideoXLConfig.from_dict(native_config_dict(config_dict, folder), **kwargs)


finish(register_configs)
