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
