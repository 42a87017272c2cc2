"""A Video-XL checkpoint as the released one is laid out, and a stand-in for decord."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from tests.model.builders import randomised
from tests.model.random_tiny import tiny_tokenizer
from videoxl.model.checkpoint import to_released
from videoxl.model.configuration import LlavaQwenConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.video import open_video

SIDE = 336
PINPOINTS = [[336, 672], [672, 336], [672, 672], [336, 1008], [1008, 336]]

TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "image_size": SIDE,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def released_config() -> dict[str, Any]:
    """``config.json`` with the released keys; 144 visual tokens per frame and a window of 10 frames, as released."""
    tokenizer = tiny_tokenizer()
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "torch_dtype": "float16",
        "vocab_size": len(tokenizer) + 8,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "mm_vision_tower": "vision_tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": "spatial_pool",
        "mm_spatial_pool_mode": "average",
        "mm_spatial_pool_stride": 2,
        "mm_patch_merge_type": "unires",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": PINPOINTS,
        "enable_beacon": True,
        "beacon_window": 1440,
        "beacon_stride": 1440,
        "beacon_attn": "full-coverage",
        "beacon_pos": "interleave",
        "beacon_param": ["q", "k", "v"],
        "beacon_ratio": [2, 4, 8],
        "beacon_ratio_mix": "step-random",
        "beacon_embed_init": "eos",
        "beacon_attend_prev": True,
        "beacon_sink_size": 0,
        "beacon_accum": True,
        "beacon_parallel_window": 1,
    }


def write_checkpoint(folder: Path, seed: int = 5) -> Path:
    """A folder with random weights drawn from ``seed``."""
    (folder / "vision_tower").mkdir(parents=True)
    (folder / "vision_tower" / "config.json").write_text(json.dumps(TOWER))
    (folder / "config.json").write_text(json.dumps(released_config()))
    model = VideoXLForConditionalGeneration(LlavaQwenConfig.from_dict(released_config(), name_or_path=str(folder)))
    weights = {to_released(n): p.detach().clone().half() for n, p in randomised(model, seed).named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_tokenizer().save_pretrained(folder)
    return folder


# A module ``decord`` with what released scripts use of it, reading with this package.
FAKE_DECORD = """
from tests.released.quick_start_v1 import FakeVideoReader as VideoReader


def cpu(number=0):
    return None
"""


class FakeVideoReader:
    """``len(reader)``, ``reader.get_avg_fps()`` and ``reader.get_batch(numbers).asnumpy()``."""

    def __init__(self, path: str, ctx: Any = None) -> None:
        with open_video(path) as source:
            self.path, self.frames, self.fps = path, source.info.frames, source.info.fps

    def __len__(self) -> int:
        return self.frames

    def get_avg_fps(self) -> float:
        return self.fps

    def get_batch(self, numbers: list[int]) -> FakeBatch:
        from videoxl.config import Sampling

        with open_video(self.path) as source:
            batches = source.read(source.select(Sampling(indices=tuple(numbers))), resize=None)
            return FakeBatch(np.concatenate([frames.pixels_FHWC for frames in batches]))


class FakeBatch:
    def __init__(self, pixels_FHWC: np.ndarray) -> None:
        self.pixels_FHWC = pixels_FHWC

    def asnumpy(self) -> np.ndarray:
        return self.pixels_FHWC
