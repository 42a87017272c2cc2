"""Assembles the model that a first stage begins with: a language model and a vision tower not yet trained together.

Projector and token synthesis between them start fresh, drawn from the run's seed. Beacons come with the first stage
that trains them (SPEC 2.8).
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import CLIPVisionModel, PreTrainedConfig, Qwen2ForCausalLM, SiglipVisionModel

from videoxl.errors import CheckpointError
from videoxl.inference.loading import load_tokenizer, resolve, set_end_tokens
from videoxl.inference.parts import config_of_part, load_part
from videoxl.model.beacon import initialise_beacons
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families import recognise
from videoxl.model.families.video_xl import BEACON_PARAM
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.protocols import Tokenizer

_TOWERS = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}


def assemble(language: str, vision: str, *, dtype: torch.dtype) -> tuple[VideoXLForConditionalGeneration, Tokenizer]:
    """A model and its tokenizer: Video-XL around a CLIP, Video-XL-2 around a SigLIP.

    ``language`` and ``vision``: folders or Hub ids of a Qwen2 and of a vision tower, by itself or as part of a CLIP or
    SigLIP. Raises :class:`CheckpointError` for anything else.
    """
    text, tower = parts_of(language, vision)
    language_folder, vision_folder = resolve(language), resolve(vision)
    tokenizer = load_tokenizer(language_folder)
    config = assembled_config(text, tower)
    if config.traits.token_synthesis:
        name_placeholders(config, tokenizer)
    model = VideoXLForConditionalGeneration(config).to(dtype)
    speaking = load_part(Qwen2ForCausalLM, language_folder, dtype=dtype)
    model.model.language_model.load_state_dict(speaking.model.state_dict())
    model.lm_head.load_state_dict(speaking.lm_head.state_dict())
    seeing = load_part(_TOWERS[tower.model_type], vision_folder, dtype=dtype)
    _take_tower(model.model.vision_tower, seeing.state_dict())
    set_end_tokens(model, tokenizer)
    return model, tokenizer


def parts_of(language: str, vision: str) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """The configurations of the two. Raises :class:`CheckpointError` for anything else."""
    tower, text = _vision_config(resolve(vision)), config_of_part(resolve(language))
    if text.model_type != "qwen2":
        raise CheckpointError(f"{language} is a {text.model_type!r}; the language model must be a Qwen2 or Qwen2.5")
    return text, tower


def assembled_config(text: PreTrainedConfig, tower: PreTrainedConfig) -> VideoXLConfig:
    """The configuration of a language model and a tower, with the released values of everything between them."""
    vocabulary = int(text.vocab_size)
    family = recognise(tower.model_type, lambda: ())
    fields = {"text_config": text, "vision_config": tower}
    if family.token_synthesis:
        # the released loader leaves out the tower's last layer and its pooling head (SPEC 3.1)
        tower.num_hidden_layers -= family.vision.unused_layers
        tower.vision_use_head = False
    else:
        fields |= {"video_token_id": vocabulary - 1, "image_token_id": vocabulary - 1}
    return VideoXLConfig.for_family(family, tower_patches=tower.image_size // tower.patch_size, **fields)


def name_placeholders(config: VideoXLConfig, tokenizer: Tokenizer) -> None:
    """Let the tokenizer's own markers hold the places of visual tokens, where Qwen2's ids lie beyond its vocabulary.

    Without markers the ids stay beyond it: no text has them, and they are never embedded.
    """
    for field, marker in (("video_token_id", "<|vision_pad|>"), ("image_token_id", "<|image_pad|>")):
        known = tokenizer.get_vocab().get(marker)
        if getattr(config, field) >= config.vocab_size and known is not None and known < config.vocab_size:
            setattr(config, field, known)


def _vision_config(folder: Path) -> PreTrainedConfig:
    found = config_of_part(folder)
    found = getattr(found, "vision_config", found)
    if found.model_type not in _TOWERS:
        raise CheckpointError(f"{folder} is a {found.model_type!r}; the vision tower must be a CLIP or a SigLIP")
    return found


def _take_tower(tower: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """All weights the tower has; a checkpoint may have more. Raises :class:`CheckpointError` if one is missing."""
    wanted = tower.state_dict()
    if missing := [name for name in wanted if name not in weights]:
        raise CheckpointError(f"the vision tower's file lacks {', '.join(missing[:3])} and {len(missing)} in all")
    tower.load_state_dict({name: weights[name] for name in wanted})


def with_beacons(model: VideoXLForConditionalGeneration) -> VideoXLForConditionalGeneration:
    """A Video-XL with beacons, begun by the released rule, from one that has none."""
    config = copy.deepcopy(model.config)  # with the kind of attention that was chosen
    config.beacon_param = BEACON_PARAM
    grown = VideoXLForConditionalGeneration(config)
    grown.to(model.dtype)
    fresh = {name: value for name, value in grown.state_dict().items() if ".beacon_" in name}
    grown.load_state_dict({**model.state_dict(), **fresh})
    initialise_beacons(grown)
    grown.generation_config = model.generation_config
    grown.eval()
    return grown
