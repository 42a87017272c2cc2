"""One configuration for the three families, and the door through which released ``config.json`` files enter.

``VideoXLConfig`` is composed of a transformers vision config and a transformers text config plus the few numbers in
between, so a smaller model or another Qwen2-family backbone is a matter of values. ``LlavaQwenConfig`` answers to the
released ``model_type`` and hands out a ``VideoXLConfig`` (SPEC 5.1, 5.2).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

from transformers import AutoConfig, PreTrainedConfig

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
    "clip-vit-large-patch14-336": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 768,
    },
}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

VIDEO_XL, VIDEO_XL_PRO, VIDEO_XL_2 = "video-xl", "video-xl-pro", "video-xl-2"
FAMILIES = (VIDEO_XL, VIDEO_XL_PRO, VIDEO_XL_2)

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

BEACON_KEYS = (
    "beacon_param",
    "beacon_window",
    "beacon_ratio",
    "beacon_ratio_mix",
    "beacon_embed_init",
    "beacon_accum",
)
"""Released keys of Video-XL's compression that have a meaning here (SPEC 2.9)."""

UNUSED_BEACON_VALUES: dict[str, Any] = {
    "beacon_attn": "full-coverage",
    "beacon_pos": "interleave",
    "beacon_sink_size": 0,
    "beacon_attend_prev": True,
    "beacon_parallel_window": 1,
}
"""Released keys of which every published script uses this one value; another one is refused (SPEC 2.9)."""


class VideoXLConfig(PreTrainedConfig):
    """Sizes of a Video-XL model. Released values are the defaults of everything outside the two sub-configs.

    A group is ``frames_per_group`` frames; it becomes ``tokens_per_group`` visual tokens.
    """

    model_type = "video_xl"
    auto_map: ClassVar[dict[str, str]] = {}
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    family: str = VIDEO_XL_2
    """Which released system this is: ``video-xl``, ``video-xl-pro`` or ``video-xl-2``."""
    frames_per_group: int = 4
    """Frames merged by token synthesis, a power of two; 1 where there is none (Video-XL)."""
    token_grid: int = 24
    """Side of the grid of patch features of a frame; where there is token synthesis they are resized to it."""
    vision_select_layer: int = -1
    """Index of the vision tower's hidden state that is used: -1 the output of the last layer, -2 the one before."""
    time_format: str = "Time {:.1f}s:"
    """The text in front of a group, of its time in seconds; empty for none (Video-XL)."""
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
    beacon_window: int = 1440
    """Visual tokens that are compressed together."""
    beacon_ratio: tuple[int, ...] | list[int] = (8,)
    """Compression ratios used when a request names none."""
    beacon_ratio_mix: str = "step-random"
    """How several ratios are mixed, in released terms: step-random, instance-random, sequence or adapt-<tokens>."""
    beacon_embed_init: str = "eos"
    """Token (``eos`` or ``bos``) whose embedding the beacon starts from when a checkpoint has none."""
    beacon_accum: bool = True
    """Whether beacons of a window join those before; if not they replace them."""
    image_grid_pinpoints: str | list[Any] | None = None
    """Resolutions a still image may be cut into crops at (SPEC 2.1)."""
    image_aspect_ratio: str | None = None
    """How still images are prepared: ``anyres``, ``pad`` or None (released key)."""

    def __post_init__(self, **kwargs: Any) -> None:
        # done here, not by the base class, whose way of doing it differs between the versions we support
        default_tower = "clip_vision_model" if self.family == VIDEO_XL else "siglip_vision_model"
        self.vision_config = _sub_config(self.vision_config, default_tower)
        self.text_config = _sub_config(self.text_config, "qwen2")
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        if self.family not in FAMILIES:
            raise CheckpointError(f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}")
        self._check_sizes()
        self._check_beacons()

    def _check_sizes(self) -> None:
        if self.frames_per_group < 1 or self.frames_per_group & (self.frames_per_group - 1):
            raise CheckpointError(f"frames_per_group must be a power of two, got {self.frames_per_group}")
        if self.pool_mode not in ("average", "max"):
            raise CheckpointError(f"pool_mode must be 'average' or 'max', got {self.pool_mode!r}")
        if not self.has_synthesis:
            if self.token_grid != (side := self.image_size // int(self.vision_config.patch_size)):  # type: ignore[union-attr]
                raise CheckpointError(f"token_grid must be the {side} patches of a side, got {self.token_grid}")
            return
        channels = self.vision_config.hidden_size  # type: ignore[union-attr]
        for name, divisor in (
            ("frames_per_group", self.frames_per_group),
            ("synthesis_norm_groups", self.synthesis_norm_groups),
        ):
            if channels % divisor:
                raise CheckpointError(f"vision width {channels} is not divisible by {name}={divisor}")

    def _check_beacons(self) -> None:
        if unknown := set(self.beacon_param) - {"q", "k", "v"}:
            raise CheckpointError(f"beacon_param may hold q, k and v, got {', '.join(sorted(unknown))}")
        if self.beacon_embed_init not in ("eos", "bos"):
            raise CheckpointError(f"beacon_embed_init must be 'eos' or 'bos', got {self.beacon_embed_init!r}")

    @property
    def has_synthesis(self) -> bool:
        """Whether groups of frames are merged by token synthesis."""
        return self.family != VIDEO_XL

    def image_tokens(self, crops: int) -> int:
        """Visual tokens of a still image cut into ``crops``, the whole of it among them (SPEC 2.1)."""
        if self.patch_merge_type == "unires" and crops > 1:
            return (crops - 1) * (self.token_grid // 2) ** 2
        return int(crops * self.token_grid**2)

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
    def vocab_size(self) -> int:
        """Rows of the embedding table; released scripts take the last one as the placeholder of visual tokens."""
        return int(self.text_config.vocab_size)  # type: ignore[union-attr]

    @property
    def frame_fit(self) -> Literal["crop", "stretch"]:
        """How a frame becomes a square: its centre is cut out (CLIP, SPEC 2.1) or it is stretched (SigLIP)."""
        return "crop" if self.family == VIDEO_XL else "stretch"

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
    """Translate a released flat ``config.json`` (SPEC 5.1, 5.2) into the fields of :class:`VideoXLConfig`.

    The family shows in the vision tower and, between the two with a SigLIP, in the checkpoint's weights. Raises
    :class:`CheckpointError` when it cannot be told or a setting asks for what no released model does.
    """
    vision = _vision_config(released.get("mm_vision_tower", "siglip-so400m-patch14-384"), folder)
    vision.setdefault("model_type", "siglip_vision_model")
    family = released.get("family") or _family(vision["model_type"], folder)
    text = {key: released[key] for key in TEXT_KEYS if key in released}
    native: dict[str, Any] = {
        "family": family,
        "pool_stride": released.get("mm_spatial_pool_stride", 2),
        "pool_mode": released.get("mm_spatial_pool_mode", "average"),
        "patch_merge_type": released.get("mm_patch_merge_type", "unires"),
        "image_grid_pinpoints": released.get("image_grid_pinpoints"),
        "image_aspect_ratio": released.get("image_aspect_ratio"),
    }
    if family == VIDEO_XL:
        native |= _beacon_family(released, vision, text)
    else:
        native |= _synthesis_family(released, vision, family)
    native["text_config"] = {"model_type": "qwen2", **text}
    native |= {key: released[key] for key in OWN_KEYS if key in released}
    dtype = released.get("dtype") or released.get("torch_dtype")
    return {**native, "dtype": dtype} if dtype else native


def _family(tower_type: str, folder: str | Path | None) -> str:
    if tower_type == "clip_vision_model":
        return VIDEO_XL
    if tower_type != "siglip_vision_model":
        raise CheckpointError(
            f"the vision tower is a {tower_type!r}; known are CLIP (Video-XL) and SigLIP (Video-XL-2, Video-XL-Pro)"
        )
    from videoxl.model.checkpoint import has_pro_weights

    return VIDEO_XL_PRO if folder is not None and has_pro_weights(_weight_names(folder)) else VIDEO_XL_2


def _weight_names(name: str | Path) -> set[str]:
    """Names of the weights of a checkpoint folder or of a Hub id; empty where they cannot be told."""
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

    from videoxl.model.checkpoint import tensors

    if Path(name).is_dir():
        return set(tensors(Path(name))) if any(Path(name).glob("*.safetensors")) else set()
    # its config.json has just been fetched, so the list of its weights is to be had the same way, or not at all
    try:
        index = cached_file(str(name), SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return set()
    return set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]) if index else set()


def _synthesis_family(released: dict[str, Any], vision: dict[str, Any], family: str) -> dict[str, Any]:
    """Video-XL-2 and Pro. The released loader deletes the tower's last layer and pooling head (SPEC 3.1)."""
    vocab = released.get("vocab_size", QWEN2_IMAGE_PAD + 1)
    video_token_id = released.get("video_token_id", QWEN2_VISION_PAD)
    return {
        "vision_config": {**vision, "num_hidden_layers": vision["num_hidden_layers"] - 1, "vision_use_head": False},
        "video_token_id": video_token_id,
        "image_token_id": QWEN2_IMAGE_PAD if vocab > QWEN2_IMAGE_PAD else video_token_id,
        "time_format": "Time {:06.1f}s:" if family == VIDEO_XL_PRO else "Time {:.1f}s:",
    }


def _beacon_family(released: dict[str, Any], vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Video-XL. Its loader ignores RoPE scaling (SPEC 2.9); one id, the last of the vocabulary, stands for every
    visual token (SPEC 2.2)."""
    text.pop("rope_scaling", None)
    for key, value in UNUSED_BEACON_VALUES.items():
        if released.get(key, value) != value:
            raise CheckpointError(f"config.json has {key}={released[key]!r}; only {value!r} is supported (SPEC 2.9)")
    window = released.get("beacon_window", 1024)
    if released.get("beacon_stride", window) != window:
        raise CheckpointError(f"beacon_stride={released['beacon_stride']} must equal beacon_window={window} (SPEC 2.9)")
    if released.get("mm_vision_select_feature", "patch") != "patch":
        raise CheckpointError(f"mm_vision_select_feature={released['mm_vision_select_feature']!r}; known is 'patch'")
    ratio = released.get("beacon_ratio", [2, 4, 8, 16, 32])
    placeholder = released.get("vocab_size", 152064) - 1
    return {
        "vision_config": vision,
        "frames_per_group": 1,
        "token_grid": vision["image_size"] // vision["patch_size"],
        "vision_select_layer": released.get("mm_vision_select_layer", -2),
        "time_format": "",
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "video_token_id": placeholder,
        "image_token_id": placeholder,
        **{key: released[key] for key in BEACON_KEYS if key in released},
        "beacon_param": released.get("beacon_param") or ("q", "k", "v"),
        "beacon_window": window,
        "beacon_ratio": [ratio] if isinstance(ratio, int) else ratio,
    }


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
    if config.image_grid_pinpoints is not None:
        flat["image_grid_pinpoints"] = config.image_grid_pinpoints
    if config.image_aspect_ratio is not None:
        flat["image_aspect_ratio"] = config.image_aspect_ratio
    if config.family == VIDEO_XL:
        flat |= {key: getattr(config, key) for key in BEACON_KEYS} | UNUSED_BEACON_VALUES
        flat |= {"beacon_stride": config.beacon_window, "enable_beacon": True}
        flat |= {"mm_vision_select_layer": config.vision_select_layer, "mm_vision_select_feature": "patch"}
        return flat, vision
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
