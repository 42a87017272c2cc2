"""Relevance by comparing the question with pictures: SigLIP's text tower against its picture tower.

The released Video-XL-2 has the picture tower without its last layer and its pooling head, which is where text and
pictures meet. So this needs a whole SigLIP model. It looks at frames while a video is read (``encode(...,
siglip=True)``), and what it saw stays with the memory, also in a file; or it looks at the video of a memory once more
(:meth:`SiglipRelevance.watch`). Every question after that costs one pass of the text tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from videoxl.config import BiLevelDecode, DecodeStrategy, Sampling
from videoxl.errors import CheckpointError, MissingDependencyError
from videoxl.inference.decode.fusion import Fused
from videoxl.inference.loading import model_fingerprint, progress_where_it_takes_long, resolve, tokenizer_of
from videoxl.inference.named import cached_model, fingerprint_of_files
from videoxl.inference.parts import config_of_part, load_part
from videoxl.inference.video_input import open_for_model
from videoxl.memory.types import FrameEmbeddings
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.families.video_xl_2 import SIGLIP
from videoxl.model.folder import built_without_memory
from videoxl.model.foreign import one_line
from videoxl.model.released_config import KNOWN_VISION_TOWERS
from videoxl.model.vision import normalize_pixels
from videoxl.video import Resize


class SiglipRelevance:
    """A SigLIP model that can look at the frames of a memory.

    ``relevance = SiglipRelevance().watch(memory, "film.mp4")``, then ``BiLevelDecode(relevance=relevance)``.
    """

    def __init__(
        self, model: Any = SIGLIP, tokenizer: Any = None, *, device: str | torch.device = "auto", batch: int = 32
    ) -> None:
        """``model``: a Hub id or folder, or a loaded ``SiglipModel`` with its ``tokenizer``; ``batch``: frames at once.

        Raises :class:`CheckpointError` where it cannot be loaded, :class:`MissingDependencyError` where the
        tokenizer's own packages are not installed.
        """
        self.name = str(model) if isinstance(model, (str, Path)) else ""
        if self.name:
            model, tokenizer = _load(self.name, tokenizer)
        if tokenizer is None:
            raise ValueError("a loaded SigLIP model needs its tokenizer: SiglipRelevance(model, tokenizer)")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer, self.batch = model.to(device).eval(), tokenizer, batch
        self.device = torch.device(device)
        self.fingerprint = model_fingerprint(model)

    def watch(self, memory: VideoMemory, video: Any, *, fps: float | None = None, timestamps: Any = None) -> Watched:
        """Look at the frames that are in ``memory``, which were read from ``video``.

        ``video``, ``fps``, ``timestamps``: as ``encode`` was given them. Raises ``ValueError`` for another video.
        """
        side = self.model.config.vision_config.image_size
        features: list[torch.Tensor] = []
        with open_for_model(video, fps=fps, timestamps=timestamps) as source:
            made_from = memory.usage.digest
            if made_from is not None and source.digest not in (None, made_from):
                raise ValueError(f"{source.name} is not the video this memory was made from")
            selection = source.select(Sampling(times=memory.timestamps))
            for frames in source.read(selection, resize=Resize(side, side)):
                features.append(self.encode_frames(frames.pixels_FHWC))
        return Watched(self, memory.timestamps, torch.cat(features))

    @torch.inference_mode()
    def encode_frames(self, pixels_FHWC: np.ndarray) -> torch.Tensor:
        """Unit vectors ``[F, D]`` of 8-bit pictures, on the host."""
        side, half = self.model.config.vision_config.image_size, (0.5, 0.5, 0.5)
        found = []
        for part in torch.from_numpy(pixels_FHWC).split(self.batch):
            pixels = normalize_pixels(part.to(self.device), half, half, self.model.dtype)
            if pixels.shape[-1] != side:
                pixels = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
            found.append(_unit(self.model.vision_model(pixel_values=pixels).pooler_output).float().cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def encode_text(self, text: str) -> torch.Tensor:
        """Unit vector ``[D]`` of a text; what is longer than the model reads is cut off."""
        length = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return _unit(self.model.text_model(input_ids=ids["input_ids"].to(self.device)).pooler_output)[0].float().cpu()


def _load(name: str, tokenizer: Any, *, local_files_only: bool = False) -> tuple[Any, Any]:
    from transformers import SiglipModel

    try:
        folder = resolve(name, local_files_only=local_files_only)
        with progress_where_it_takes_long(folder):
            return load_part(SiglipModel, folder), tokenizer or tokenizer_of(folder)
    except CheckpointError as error:
        if isinstance(error.__cause__, ImportError):
            raise MissingDependencyError(
                f"SigLIP's tokenizer needs more packages: pip install sentencepiece protobuf ({error.__cause__})"
            ) from None
        raise CheckpointError(
            f"no SigLIP model could be loaded from {name}: {error}; give a folder or Hub id"
        ) from None


@dataclass(frozen=True, eq=False)
class Watched:
    """What a SigLIP model saw of one memory's video: a ``relevance``."""

    model: SiglipRelevance
    timestamps: tuple[float, ...]
    features_FD: torch.Tensor

    @property
    def label(self) -> str:
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
        alike_F = (self.features_FD @ self.model.encode_text(question)).numpy()
        begins = [group.start_s for group in memory.groups]
        group_F = np.searchsorted(begins, np.asarray(memory.timestamps), side="right") - 1
        scores = np.full(len(begins), -1.0)
        np.maximum.at(scores, group_F, alike_F)
        return scores

    @property
    def embeddings(self) -> FrameEmbeddings:
        """As a memory keeps it."""
        return FrameEmbeddings(self.features_FD, self.model.name, self.model.fingerprint)


# -------------------------------------------------------------------------------------------------- with an engine


class SiglipHolder(Protocol):
    """What a SigLIP model is kept with: an engine."""

    siglip: SiglipRelevance | None
    name: str
    model: Any


def siglip_for(engine: SiglipHolder, wanted: bool | str | SiglipRelevance = True) -> SiglipRelevance:
    """The SigLIP model asked for, which the engine then holds; ``True``: the one it holds, or its own."""
    held = engine.siglip
    if isinstance(wanted, SiglipRelevance):
        held = wanted
    elif isinstance(wanted, str):
        held = held if held is not None and held.name == wanted else SiglipRelevance(wanted)
    elif held is None:
        held = SiglipRelevance(own_siglip(engine))
        held.name = ""  # wherever the model is, there it is too
    engine.siglip = held
    return held


def own_siglip(engine: SiglipHolder) -> str:
    """Where the SigLIP model is that a model's vision tower was taken from: its folder's ``siglip``, or the Hub.

    Raises ``ValueError`` where none is known.
    """
    folder = Path(engine.model.config.name_or_path or ".") / "siglip"
    if (folder / "config.json").is_file():
        return str(folder)
    config = engine.model.config
    hub_id = config.traits.vision.siglip
    if hub_id and config.vision_config.hidden_size == KNOWN_VISION_TOWERS[Path(hub_id).name]["hidden_size"]:
        name: str = hub_id
        return name
    raise ValueError(
        f"{engine.name} comes without a SigLIP model that reads text: name one, siglip='folder' or a Hub id (--siglip "
        "on the command line)"
    )


def from_memory(engine: SiglipHolder, memory: VideoMemory, decode: DecodeStrategy) -> DecodeStrategy:
    """``siglip`` in a relevance with what the memory keeps; a model is looked for when a block must be judged."""
    seen = memory.embeddings
    if not isinstance(decode, BiLevelDecode) or "siglip" not in decode.judges or seen is None:
        return decode

    def siglip(memory: VideoMemory, question: str) -> np.ndarray:
        return Watched(who_saw(engine, seen), memory.timestamps, seen.features_FD)(memory, question)

    parts = tuple(siglip if name == "siglip" else name for name in decode.judges)
    return replace(decode, relevance=siglip if len(parts) == 1 else Fused(parts))


def who_saw(engine: SiglipHolder, seen: FrameEmbeddings) -> SiglipRelevance:
    """The SigLIP model that looked at a memory's frames: the engine's, its model's own, or one of the Hub's cache.

    A memory may come from a stranger. What it names is loaded only if it is in the cache already, and the same weights.
    Raises ``ValueError`` where it is not at hand.
    """
    if engine.siglip is None or engine.siglip.fingerprint != seen.fingerprint:
        engine.siglip = _trusted(engine, seen)
    return engine.siglip


def _trusted(engine: SiglipHolder, seen: FrameEmbeddings) -> SiglipRelevance:
    advice = "give the one that did: model.siglip = SiglipRelevance(...), or --siglip"
    if not seen.model:
        found = SiglipRelevance(own_siglip(engine))
        if found.fingerprint == seen.fingerprint:
            return found
        raise ValueError(
            f"the SigLIP model of {engine.name} is not the one that looked at this memory's frames: {advice}"
        )
    named = cached_model(seen.model, None, seen.fingerprint, siglip_fingerprint)
    if named is None:
        raise ValueError(
            f"this memory's frames were looked at by the SigLIP model {one_line(seen.model, 80)}, which is not loaded "
            f"on a file's word: {advice}"
        )
    found = SiglipRelevance(str(named))
    found.name = seen.model
    return found


def siglip_fingerprint(folder: Path) -> str:
    """The fingerprint that a SigLIP model in a folder would have once it is loaded."""
    from transformers import SiglipModel

    planned = built_without_memory(SiglipModel, config_of_part(folder), f"config.json of {folder.name}")
    return fingerprint_of_files(planned, folder, None)


def watching(decode: DecodeStrategy, memory: VideoMemory, video: Any, given: Mapping[str, Any]) -> DecodeStrategy:
    """``decode``; where its relevance names ``siglip`` and SigLIP has not seen the memory's frames, it looks now.

    ``given``: what ``encode`` was given, for the times of pictures.
    """
    if isinstance(decode, BiLevelDecode) and "siglip" in decode.judges and memory.embeddings is None:
        siglip = siglip_for(memory.require_owner("siglip"))  # type: ignore[arg-type]
        watched = siglip.watch(memory.fork(), video, fps=given.get("fps"), timestamps=given.get("timestamps"))
        memory.keep_embeddings(watched.embeddings)
    return decode


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    units: torch.Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return units
