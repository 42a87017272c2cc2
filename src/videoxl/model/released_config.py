"""Released flat ``config.json`` files <-> the fields of our configuration: dict to dict (SPEC 5.1, 5.2).

What differs between families stands in the family's own file (:class:`ReleasedFormat`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from videoxl.errors import CheckpointError
from videoxl.model.checkpoint import INDEX_FILE, tensors
from videoxl.model.config_values import OF_RELEASED, OF_VISION, check_values
from videoxl.model.families import FAMILIES, get_family, recognise
from videoxl.model.families.family import SIZE_KEYS, Family, JsonObject, ReleasedFormat
from videoxl.model.foreign import is_inside, one_line, read_json_object

# Architectures behind the `mm_vision_tower` names found in released configs. The files often name a folder of the
# authors' machines, so only the last path component is looked at.
KNOWN_VISION_TOWERS: dict[str, JsonObject] = {
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

HUB_CONFIGS: dict[str, JsonObject] = {
    name: config
    for family in FAMILIES.values()
    for form in (family.released, family.own_format)
    if form is not None
    for name, config in form.hub.items()
}
"""Hub id of a released model -> what its ``config.json`` states about sizes."""


def _vision_config(tower: object, folder: str | Path | None) -> JsonObject:
    """Architecture of the vision tower a released config names: a folder inside the checkpoint, or a known name."""
    if not isinstance(tower, str) or not tower or len(tower) > 1000:
        raise CheckpointError(
            f"config.json has mm_vision_tower={one_line(repr(tower), 60)}; it must name a vision tower"
        )
    name = Path(tower).name
    if (own := tower_folder(tower, folder)) is not None:
        found = read_json_object(own / "config.json", f"config.json of {name}")
        vision = found.get("vision_config", found)
        if not isinstance(vision, dict):
            raise CheckpointError(f"config.json of {name} must hold a mapping as vision_config")
        return dict(vision)
    if name in KNOWN_VISION_TOWERS:
        return dict(KNOWN_VISION_TOWERS[name])
    raise CheckpointError(
        f"config.json names the vision tower {one_line(repr(tower))}, which is neither a folder inside the checkpoint "
        f"with a config.json nor one of the known towers ({', '.join(KNOWN_VISION_TOWERS)}); put the tower's "
        f"config.json into <checkpoint>/{one_line(name)}/"
    )


def tower_folder(tower: str, folder: str | Path | None) -> Path | None:
    """The folder inside a checkpoint that holds the files of its vision tower, if there is one.

    Files often name a folder of the authors' machines. Nothing outside of the checkpoint is read on their word.
    """
    if folder is None or "\0" in tower:
        return None
    for place in (Path(folder) / tower, Path(folder) / Path(tower).name):
        file = place / "config.json"
        if file.exists() and is_inside(Path(folder), file):
            return place
    return None


def native_config_dict(released: JsonObject, folder: str | Path | None, revision: str | None = None) -> JsonObject:
    """Translate a released flat ``config.json`` into the fields of :class:`VideoXLConfig`.

    The family shows in the vision tower and, between the two with a SigLIP, in the checkpoint's weights. Raises
    :class:`CheckpointError` when it cannot be told or a setting asks for what no released model does.
    """
    vision = _vision_config(released.get("mm_vision_tower", "siglip-so400m-patch14-384"), folder)
    vision.setdefault("model_type", "siglip_vision_model")
    sizes = {name: value for name, value in vision.items() if name != "model_type"}
    check_values(sizes, OF_VISION, f"vision tower {Path(str(released.get('mm_vision_tower'))).name}: ")
    check_values(released, OF_RELEASED)
    if "family" in released:
        family = get_family(released["family"])
    else:
        family = recognise(vision["model_type"], lambda: _weight_names(folder, revision))
    text = {key: released[key] for key in TEXT_KEYS if key in released}
    native = {
        **family.config_defaults(_patches(vision)),
        "pool_stride": released.get("mm_spatial_pool_stride", 2),
        "pool_mode": released.get("mm_spatial_pool_mode", "average"),
        "patch_merge_type": released.get("mm_patch_merge_type", "unires"),
        "image_grid_pinpoints": released.get("image_grid_pinpoints"),
        "image_aspect_ratio": released.get("image_aspect_ratio"),
        **_released_format(family).read(released, vision, text),
        "text_config": {"model_type": "qwen2", **text},
        **{key: released[key] for key in SIZE_KEYS if key in released},
    }
    dtype = released.get("dtype") or released.get("torch_dtype")
    return {**native, "dtype": dtype} if dtype else native


def _patches(vision: Mapping[str, int]) -> int:
    if missing := [name for name in ("image_size", "patch_size", "num_hidden_layers") if name not in vision]:
        raise CheckpointError(f"the vision tower's config.json gives no {' and no '.join(missing)}")
    return vision["image_size"] // vision["patch_size"]


def _released_format(family: Family) -> ReleasedFormat:
    if family.released is None:
        raise CheckpointError(f"{family.name} has no released layout: use the layout 'videoxl'")
    return family.released


def _weight_names(name: str | Path | None, revision: str | None) -> set[str]:
    """Names of the weights of a checkpoint folder or of a Hub id; empty where they cannot be told."""
    if name is None:
        return set()
    if Path(name).is_dir():
        return set(tensors(Path(name))) if any(Path(name).glob("*.safetensors")) else set()
    # its config.json has just been fetched, so the list of its weights is to be had the same way, or not at all
    try:
        index = huggingface_hub.hf_hub_download(str(name), INDEX_FILE, revision=revision)
    except (OSError, EntryNotFoundError, HFValidationError):
        return set()
    listed = read_json_object(Path(index)).get("weight_map")
    return set(listed) if isinstance(listed, dict) else set()


def released_config_dict(native: JsonObject) -> tuple[JsonObject, JsonObject]:
    """Inverse of :func:`native_config_dict`: the flat ``config.json`` and the one of its ``vision_tower`` folder.

    ``native``: a :meth:`VideoXLConfig.to_dict`.
    """
    text, vision = native["text_config"], dict(native["vision_config"])
    flat = {key: text[key] for key in TEXT_KEYS if text.get(key) is not None}
    rope = flat.pop("rope_parameters", None) or {}
    flat["rope_theta"] = rope.get("rope_theta", flat.get("rope_theta"))
    scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
    if scaling.get("rope_type", "default") != "default":
        flat["rope_scaling"] = scaling
    flat |= {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "torch_dtype": native.get("dtype") or "float32",
        "mm_vision_tower": "vision_tower",
        "mm_hidden_size": vision["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": "spatial_pool",
        "mm_spatial_pool_stride": native["pool_stride"],
        "mm_spatial_pool_mode": native["pool_mode"],
        "mm_patch_merge_type": native["patch_merge_type"],
        "use_mm_proj": True,
        "tokenizer_model_max_length": text.get("max_position_embeddings"),
    }
    flat |= {key: native[key] for key in ("image_grid_pinpoints", "image_aspect_ratio") if native.get(key) is not None}
    _released_format(get_family(native["family"])).write(native, flat, vision)
    return flat, vision
