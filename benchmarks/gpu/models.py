"""Models of true size with random weights, made on the device: ours, and those of transformers beside them."""

from __future__ import annotations

import torch
from benchmarks.gpu.sizes import Sizes
from benchmarks.simulated_gpu import filled_memory
from tests.simulated_gpu.true_size import StandInTokenizer, build
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory

DEVICE = "cuda:0"
DTYPE = torch.bfloat16
SPREAD = 0.02


def fill(model: nn.Module) -> nn.Module:
    """Draw a model that lies on ``meta`` on the device, in bf16, from N(0, 0.02); weights of norms are 1."""
    torch.manual_seed(0)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is None:
                continue
            if id(old) not in made:
                made[id(old)] = nn.Parameter(_drawn(old.shape, norm=old.ndim == 1 and name == "weight"), False)
            module._parameters[name] = made[id(old)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and not buffer.dtype.is_floating_point:  # positions of patches
                module._buffers[name] = torch.arange(buffer.numel(), device=DEVICE).view(buffer.shape)
    return model.eval().requires_grad_(False)


def _drawn(shape: torch.Size, *, norm: bool) -> torch.Tensor:
    made = torch.empty(shape, dtype=DTYPE, device=DEVICE)
    return made.fill_(1.0) if norm else made.normal_(0, SPREAD)


def engine(family: str, sizes: Sizes, *, layers: int | None = None) -> VideoXL:
    """A released model's size, by the name of its family. ``layers``: of the language model, if fewer."""
    model = fill(build(family, layers=layers or sizes.layers, vision_layers=sizes.vision_layers))
    model.model.language_model.fuse_projections()  # type: ignore[union-attr,operator]
    return VideoXL(model, StandInTokenizer(), name=family)  # type: ignore[arg-type]


def remembered(of: VideoXL, frames: int) -> VideoMemory:
    """A memory as reading ``frames`` frames leaves it, with random keys and values."""
    memory = filled_memory(of, frames)
    for layer in memory.cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
    return memory


def qwen2(layers: int | None) -> Qwen2ForCausalLM:
    """The language model of all this, as transformers runs it, with its own attention."""
    config = Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=layers or 28,
        num_attention_heads=28,
        num_key_value_heads=4,
        rope_theta=1e6,
        max_position_embeddings=1 << 20,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa", dtype=DTYPE)
    fill(model)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(DEVICE)  # its frequencies were on meta
    return model


def siglip(layers: int | None) -> SiglipVisionModel:
    """SigLIP-so400m at 384 pixels, as transformers runs it."""
    config = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=layers or 26,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    with torch.device("meta"):
        model = SiglipVisionModel._from_config(config, attn_implementation="sdpa", dtype=DTYPE)
    return fill(model)
