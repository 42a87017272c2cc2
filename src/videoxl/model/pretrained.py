"""Loading, saving and initialisation, shared by all models of this package."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from videoxl.model.beacon import initialise_beacons
from videoxl.model.checkpoint import OWN_RENAMES, RENAMES, check_weights, write_manifest
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.folder import ModelFolder, built_without_memory
from videoxl.model.token_synthesis import RelativePosition, TokenSynthesis

# How transformers finds our weights in a released file
register_checkpoint_conversion_mapping(
    VideoXLConfig.model_type,
    [WeightRenaming("^" + re.escape(released), native) for released, native in (*RENAMES, *OWN_RENAMES)],
    overwrite=True,
)


class VideoXLPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by the base model and the one that generates."""

    config: VideoXLConfig
    config_class = VideoXLConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = (
        "DecoderLayer",
        "SiglipEncoderLayer",
        "CLIPEncoderLayer",
        "Qwen3VLVisionBlock",
        "TokenSynthesis",
    )
    _supports_sdpa = True
    _supports_flash_attn = True
    # Parts of released files that the model does not compute with (SPEC 3.3, 5.2).
    _keys_to_ignore_on_load_unexpected: tuple[str, ...] = (
        r"text_mlp\.",
        r"vision_tower\.(.*\.)?head\.",
        r"position_ids$",
        r"rotary_emb\.inv_freq$",
    )

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv1d):  # the projections of temporal attention start as the identity block
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, RelativePosition):
            init.xavier_uniform_(module.embeddings_table)
        elif isinstance(module, TokenSynthesis):
            init.normal_(module.temporal_encoding, std=0.02)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As in transformers, but incomplete, superfluous, misshapen or non-finite weights are errors.

        Raises :class:`CheckpointError` listing the names. ``strict=False`` gives transformers' tolerance back.
        """
        kwargs["trust_remote_code"] = False  # scripts for the released code say True; none of that code is needed
        strict = kwargs.pop("strict", True)
        want_info = kwargs.pop("output_loading_info", False)
        if strict:
            kwargs.setdefault("use_safetensors", True)
            cls._check_folder(pretrained_model_name_or_path, kwargs.get("config"))
            kwargs["ignore_mismatched_sizes"] = True  # so that every misshapen tensor is named, not just the first
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        missing = [name for name in info["missing_keys"] if ".beacon_" in name]
        if missing and len(missing) == sum(".beacon_" in name for name, _ in model.named_parameters()):
            initialise_beacons(model)
            info["missing_keys"] = type(info["missing_keys"])(set(info["missing_keys"]) - set(missing))
            warnings.warn(
                f"{pretrained_model_name_or_path} has no beacon weights: they start as copies of the ordinary "
                "projections (SPEC 2.8), as before training",
                stacklevel=2,
            )
        if strict:
            check_weights(model, info, str(pretrained_model_name_or_path))
        return (model, info) if want_info else model

    @classmethod
    def _check_folder(cls, name_or_path: Any, config: VideoXLConfig | None) -> None:
        """Compare a folder's weights with its configuration, or with ``config``, before anything is allocated.

        Hub ids pass: transformers fetches them.
        """
        if name_or_path is None or not os.path.isdir(name_or_path):
            return
        folder = ModelFolder.open(name_or_path)
        planned = built_without_memory(cls, config or folder.config, f"config.json of {folder.path.name}")
        folder.check_structure(planned, whole=cls.base_model_prefix in dict(planned.named_children()))

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write our own layout (``save_original_format=True`` keeps that of the file loaded) and a sha256 manifest."""
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, **kwargs)
        write_manifest(save_directory)
