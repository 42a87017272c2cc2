"""Relevance by comparing the question with pictures: SigLIP's text tower against its picture tower.

The released Video-XL-2 has the picture tower without its last layer and its pooling head, which is where text and
pictures meet. So this needs a whole SigLIP model, and looks at the frames of a memory once more. What it saw of a video
is kept in the :class:`Watched` it returns: every question after that costs one pass of the text tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from videoxl.config import BiLevelDecode, DecodeStrategy, Sampling
from videoxl.errors import MissingDependencyError
from videoxl.inference.reading import open_for_model
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.vision import normalize_pixels
from videoxl.video import Resize

SIGLIP = "google/siglip-so400m-patch14-384"
"""The model that Video-XL-2's vision tower was taken from."""


class SiglipRelevance:
    """A SigLIP model that can watch the video of a memory.

    ``relevance = SiglipRelevance().watch(memory, "film.mp4")``, then ``BiLevelDecode(relevance=relevance)``.
    """

    def __init__(
        self, model: Any = SIGLIP, tokenizer: Any = None, *, device: str | torch.device = "auto", batch: int = 32
    ) -> None:
        """``model``: a Hub id or folder, or a loaded ``SiglipModel`` with its ``tokenizer``; ``batch``: frames at once.

        Raises :class:`MissingDependencyError` where the tokenizer's own packages are not installed.
        """
        from transformers import AutoTokenizer, SiglipModel

        if isinstance(model, str):
            try:
                tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
            except ImportError as error:
                raise MissingDependencyError(
                    f"SigLIP's tokenizer needs more packages: pip install sentencepiece protobuf ({error})"
                ) from None
            model = SiglipModel.from_pretrained(model)
        if tokenizer is None:
            raise ValueError("a loaded SigLIP model needs its tokenizer: SiglipRelevance(model, tokenizer)")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer, self.batch = model.to(device).eval(), tokenizer, batch
        self.device = torch.device(device)

    @torch.inference_mode()
    def watch(self, memory: VideoMemory, video: Any, *, fps: float | None = None, timestamps: Any = None) -> Watched:
        """Look at the frames that are in ``memory``, which were read from ``video``.

        ``video``, ``fps``, ``timestamps``: as ``encode`` was given them. Raises ``ValueError`` for another video.
        """
        side = self.model.config.vision_config.image_size
        features: list[torch.Tensor] = []
        with open_for_model(video, fps=fps, timestamps=timestamps) as source:
            made_from = memory.usage.get("digest")
            if made_from is not None and source.digest not in (None, made_from):
                raise ValueError(f"{source.name} is not the video this memory was made from")
            selection = source.select(Sampling(times=memory.timestamps))
            for frames in source.read(selection, resize=Resize(side, side)):
                features += [self._see(part) for part in torch.from_numpy(frames.pixels_FHWC).split(self.batch)]
        return Watched(self, memory.timestamps, torch.cat(features))

    def _see(self, pixels_FHWC: torch.Tensor) -> torch.Tensor:
        """Unit vectors ``[F, D]`` of pictures."""
        half = (0.5, 0.5, 0.5)
        pixels = normalize_pixels(pixels_FHWC.to(self.device), half, half, self.model.dtype)
        return _unit(self.model.vision_model(pixel_values=pixels).pooler_output)

    @torch.inference_mode()
    def read(self, text: str) -> torch.Tensor:
        """Unit vector ``[D]`` of a text; what is longer than the model reads is cut off."""
        length = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return _unit(self.model.text_model(input_ids=ids["input_ids"].to(self.device)).pooler_output)[0]


@dataclass(frozen=True, eq=False)
class Watched:
    """What a SigLIP model saw of one memory's video: a ``relevance``."""

    model: SiglipRelevance
    timestamps: tuple[float, ...]
    features_FD: torch.Tensor

    @property
    def __name__(self) -> str:
        return "siglip"

    def __call__(self, memory: VideoMemory, question: str) -> np.ndarray:
        """Per group of frames, how alike its most similar frame and the question are: cosines, ``[G]``.

        Raises ``ValueError`` for a memory with other frames, such as one that was extended since.
        """
        if memory.timestamps != self.timestamps:
            raise ValueError(
                f"SigLIP saw {len(self.timestamps)} frames, this memory has {len(memory.timestamps)}, or at other "
                "times: call watch() with this memory and its video"
            )
        alike_F = (self.features_FD @ self.model.read(question)).float().cpu().numpy()
        begins = [group.start_s for group in memory.groups]
        group_F = np.searchsorted(begins, np.asarray(memory.timestamps), side="right") - 1
        scores = np.full(len(begins), -1.0)
        np.maximum.at(scores, group_F, alike_F)
        return scores


def watching(decode: DecodeStrategy, memory: VideoMemory, video: Any, given: Mapping[str, Any]) -> DecodeStrategy:
    """``relevance="siglip"`` with what SigLIP sees in a video that is still at hand; other strategies as they are.

    ``given``: what ``encode`` was given, for the times of pictures.
    """
    if not isinstance(decode, BiLevelDecode) or decode.relevance != "siglip":
        return decode
    watched = SiglipRelevance().watch(memory, video, fps=given.get("fps"), timestamps=given.get("timestamps"))
    return replace(decode, relevance=watched)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
