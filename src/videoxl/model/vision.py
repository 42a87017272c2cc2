"""8-bit pictures -> patch features on the token grid (SPEC 3.1, 3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from videoxl.model.upload import to_device


def normalize_pixels(
    pixels_FHWC: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """8-bit ``[F, H, W, 3]`` -> ``[F, 3, H, W]``: x / 255, minus mean, over std, in fp32, then cast to ``dtype``."""
    if pixels_FHWC.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8, got {pixels_FHWC.dtype}")
    x = pixels_FHWC.permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    shift, scale = to_device(torch.tensor([list(mean), list(std)]), x.device).view(2, *shape)
    normalised: torch.Tensor = (x - shift) / scale
    return normalised.to(dtype)


def patch_features(tower: Any, pixels_FCHW: torch.Tensor, select_layer: int = -1) -> torch.Tensor:
    """Hidden state ``select_layer`` of the tower, class token left out: ``[F, 3, H, W] -> [F, patches, C]``.

    -1 is the output of the last layer there is, before ``post_layernorm``. Layers that are not needed do not run.
    """
    x = tower.embeddings(pixels_FCHW)
    is_clip = hasattr(tower, "pre_layrnorm")  # spelled so in CLIP
    if is_clip:
        x = tower.pre_layrnorm(x)
    for layer in tower.encoder.layers[: len(tower.encoder.layers) + 1 + select_layer]:
        x = layer(x, None)
    patches: torch.Tensor = x[:, 1:] if is_clip else x
    return patches


def resize_grid(features_FPC: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear resampling of a square grid of features to ``side``: ``[F, P, C] -> [F, side^2, C]``.

    In fp32, ``align_corners=False``, no antialiasing, as released (27 -> 24 at true size).
    """
    frames, patches, channels = features_FPC.shape
    source = int(patches**0.5)
    if source == side:
        return features_FPC
    grid = features_FPC.reshape(frames, source, source, channels).permute(0, 3, 1, 2)  # channels_last strides
    out = F.interpolate(grid.float(), size=(side, side), mode="bilinear", align_corners=False)
    return out.to(features_FPC.dtype).permute(0, 2, 3, 1).reshape(frames, side * side, channels)


def merged_tokens(tower: Any, pixels_FCHW: torch.Tensor, frames_per_group: int) -> torch.Tensor:
    """Visual tokens of a tower that merges patches itself: ``[F, 3, H, W] -> [G, P, D * (1 + n)]``.

    Behind the ``D`` numbers of a token stand those that are added to it behind the first ``n`` layers of the language
    model (deepstack). A last group that is not full repeats its last frame. Groups do not see each other.
    """
    if missing := -len(pixels_FCHW) % frames_per_group:
        pixels_FCHW = torch.cat([pixels_FCHW, pixels_FCHW[-1:].expand(missing, -1, -1, -1)])
    groups, (height, width) = len(pixels_FCHW) // frames_per_group, pixels_FCHW.shape[-2:]
    patch, merge = int(tower.config.patch_size), int(tower.config.spatial_merge_size)
    rows, columns = height // patch, width // patch
    split = pixels_FCHW.reshape(
        groups, frames_per_group, 3, rows // merge, merge, patch, columns // merge, merge, patch
    )
    patches = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(groups * rows * columns, -1)
    grid = to_device(torch.tensor([[groups, rows, columns]]), pixels_FCHW.device)
    seen = tower(patches, grid_thw=grid)
    tokens = torch.cat([seen.pooler_output, *seen.deepstack_features], dim=-1)
    return tokens.view(groups, -1, tokens.shape[-1])
