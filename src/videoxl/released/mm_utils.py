"""Helper functions of the released package, under its names, for scripts written for it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedTokenizerBase, StoppingCriteria

from videoxl.released.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from videoxl.video.anyres import Pinpoints, cut_crops

ASPECT_MODES = ("anyres", "anyres_max_<n>", "pad", "square")


def tokenizer_image_token(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_index: int = IMAGE_TOKEN_INDEX,
    return_tensors: str | None = None,
) -> list[int] | torch.Tensor:
    """Ids of a prompt, with ``image_token_index`` wherever it says ``<image>``; the pieces between are tokenised alone.

    Returns a list, or an int64 tensor ``[L]`` with ``return_tensors="pt"``. A beginning-of-text token that the
    tokenizer puts before every piece is kept once.
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"return_tensors must be None or 'pt', got {return_tensors!r}")
    pieces = [list(tokenizer(piece).input_ids) for piece in prompt.split(DEFAULT_IMAGE_TOKEN)]
    begin = tokenizer.bos_token_id
    if begin is not None and pieces[0][:1] == [begin]:
        pieces = [pieces[0], *(piece[1:] for piece in pieces[1:])]
    ids = [*pieces[0], *chain.from_iterable([image_token_index, *piece] for piece in pieces[1:])]
    return torch.tensor(ids, dtype=torch.long) if return_tensors else ids


def transform_input_id(input_ids: torch.Tensor, num_tokens: int, token_id: int) -> torch.Tensor:
    """``[1, L]`` with one -200 -> ``[1, L - 1 + num_tokens]`` with ``token_id`` in its place ``num_tokens`` times.

    That is the prompt at the head of what ``generate`` returns.
    """
    if input_ids.ndim != 2 or len(input_ids) != 1:
        raise ValueError(f"input_ids must be one prompt, [1, L], got shape {list(input_ids.shape)}")
    places = (input_ids[0] == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
    if len(places) != 1:
        raise ValueError(f"input_ids must hold {IMAGE_TOKEN_INDEX} exactly once, found {len(places)}")
    span = input_ids.new_full((1, num_tokens), token_id)
    return torch.cat([input_ids[:, : places[0]], span, input_ids[:, places[0] + 1 :]], dim=1)


def process_images(
    images: Sequence[Image.Image], image_processor: BaseImageProcessor, model_cfg: object
) -> torch.Tensor | list[torch.Tensor]:
    """Pillow images as pixels for the model, the way ``model_cfg.image_aspect_ratio`` says.

    ``anyres`` and ``anyres_max_<n>``: crops ``[1 + n, 3, S, S]`` per image, cut by ``model_cfg.image_grid_pinpoints``.
    ``pad``: ``[3, S, S]`` per image, padded to a square with the mean colour. ``square`` or none: the centre square.
    Returns one tensor when all images give the same shape, else a list.
    """
    mode = getattr(model_cfg, "image_aspect_ratio", None) or "square"
    if not images:
        raise ValueError("no images given")
    if mode == "square":
        return _pixels(images, image_processor)
    if mode == "pad":
        colour = tuple(int(255 * mean) for mean in image_processor.image_mean)
        made = [_pixels([expand2square(_rgb(image), colour)], image_processor)[0] for image in images]
    elif mode == "anyres" or "anyres_max" in mode:
        pinpoints = getattr(model_cfg, "image_grid_pinpoints", None)
        made = [process_anyres_image(image, image_processor, pinpoints) for image in images]
    else:
        raise ValueError(f"model_cfg.image_aspect_ratio={mode!r} is not supported; allowed: {', '.join(ASPECT_MODES)}")
    return torch.stack(made) if len({m.shape for m in made}) == 1 else made


def process_anyres_image(
    image: Image.Image, processor: BaseImageProcessor, grid_pinpoints: Pinpoints | None
) -> torch.Tensor:
    """One image as normalised crops ``[1 + n, 3, S, S]``, the whole picture first (SPEC 2.1)."""
    crops = cut_crops(np.asarray(_rgb(image)), grid_pinpoints, processor.crop_size["height"])
    return _pixels([Image.fromarray(crop) for crop in crops], processor)


def expand2square(pil_img: Image.Image, background_color: int | tuple[int, ...]) -> Image.Image:
    """The picture in the middle of a square of the colour, the offset rounded down; a square one as it is."""
    side = max(pil_img.size)
    if pil_img.width == pil_img.height:
        return pil_img
    square = Image.new(pil_img.mode, (side, side), background_color)
    square.paste(pil_img, ((side - pil_img.width) // 2, (side - pil_img.height) // 2))
    return square


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """The picture in a base64 text."""
    return Image.open(io.BytesIO(base64.b64decode(image)))


def get_model_name_from_path(model_path: str) -> str:
    """The last part of a path, with the one before it when it is a training checkpoint: ``run_checkpoint-500``."""
    parts = [part for part in model_path.split("/") if part] or [""]
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stops when one of ``keywords`` has been written after the prompt."""

    def __init__(self, keywords: Sequence[str], tokenizer: PreTrainedTokenizerBase, input_ids: torch.Tensor) -> None:
        self.keywords = list(keywords)
        self.tokenizer = tokenizer
        self.start = input_ids.shape[1]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=False)
        found = [any(keyword in text for keyword in self.keywords) for text in texts]
        return torch.tensor(found, device=input_ids.device)  # type: ignore[return-value]


def _rgb(image: object) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise ValueError(f"images must be Pillow images, got {type(image).__name__}")
    return image.convert("RGB")


def _pixels(images: Sequence[Image.Image], processor: BaseImageProcessor) -> torch.Tensor:
    pixels: torch.Tensor = processor.preprocess([_rgb(image) for image in images], return_tensors="pt")["pixel_values"]
    return pixels
