"""Checkpoints of transformers' own Qwen3-VL class, tiny and random, and what that class makes of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.model.random_tiny import tiny_tokenizer

MARKS = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
HEAD, TAIL = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
PATCH = 4


@dataclass(frozen=True)
class Shape:
    """What differs between configurations."""

    seed: int = 0
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 16
    hidden: int = 32
    tower_layers: int = 3
    deepstack: tuple[int, ...] = (0, 2)
    tied: bool = False
    merge: int = 2
    video_pixels: tuple[int, int] = (64, 40_000)


def write_folder(path: Path, shape: Shape) -> None:
    """A checkpoint as ``save_pretrained`` of model and processor writes it."""
    torch.manual_seed(shape.seed)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    half = shape.head_width // 2
    third = half // 4
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + 8,
            "hidden_size": shape.hidden,
            "intermediate_size": 48,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_width,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [half - 2 * third, third, third],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": shape.tied,
        },
        vision_config={
            "depth": shape.tower_layers,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": shape.merge,
            "out_hidden_size": shape.hidden,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": list(shape.deepstack),
        },
        tie_word_embeddings=shape.tied,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    model = Qwen3VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # lively enough that answers depend on what is seen
            parameter.add_(torch.randn_like(parameter), alpha=0.02 if "norm" in name else 0.12)
    model.save_pretrained(path)
    sizes: dict[str, Any] = {"patch_size": PATCH, "merge_size": shape.merge, "temporal_patch_size": 2}
    sizes |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    fewest, most = shape.video_pixels
    edges = {"shortest_edge": fewest, "longest_edge": most}
    videos = Qwen3VLVideoProcessor(**sizes, size=edges, cap_pixels_per_frame=False)
    images = Qwen2VLImageProcessor(**sizes, size=edges)
    Qwen3VLProcessor(images, tokenizer, videos, chat_template="").save_pretrained(path)


class Theirs:
    """transformers' model and processor of a folder."""

    def __init__(self, path: Path) -> None:
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(path).eval()
        self.processor = Qwen3VLProcessor.from_pretrained(path)

    def inputs(
        self,
        question: str,
        videos: list[np.ndarray],
        rate: Fraction,
        first: int = 0,
        images: Sequence[np.ndarray] = (),
        marks: str = "",
    ) -> Any:
        """``rate``: frames a second; ``first``: the number of the first frame. A video, or a picture, is a turn's
        begin."""
        if not marks:
            marks = "<|video_pad|>" * len(videos)
            marks += "<|vision_start|><|image_pad|><|vision_end|>" * len(images)
        meta = [
            {
                "fps": float(rate),
                "frames_indices": list(range(first, first + len(video))),
                "total_num_frames": first + len(video),
                "duration": float((first + len(video)) / rate),
            }
            for video in videos
        ]
        given: dict[str, Any] = {}
        if videos:
            frames = [torch.from_numpy(video).permute(0, 3, 1, 2) for video in videos]
            given |= {"videos": frames, "video_metadata": meta, "do_sample_frames": False}
        if len(images):
            given["images"] = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        return self.processor(text=[f"{HEAD}{marks}{question}{TAIL}"], **given, return_tensors="pt")

    @torch.inference_mode()
    def answer(self, inputs: Any, count: int) -> tuple[list[int], torch.Tensor]:
        """Greedy tokens, and the logits ``[count, V]`` that each was chosen from."""
        self.model.model.rope_deltas = None
        out = self.model.generate(
            **inputs,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return out.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.cat(out.logits)


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random frames ``[F, H, W, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
