"""8-bit pictures -> patch features on the token grid (SPEC 3.1, 3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def normalize_pixels(
    pixels_FHWC: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """8-bit ``[F, H, W, 3]`` -> ``[F, 3, H, W]``: x / 255, minus mean, over std, in fp32, then cast to ``dtype``."""
    if pixels_FHWC.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8, got {pixels_FHWC.dtype}")
    x = pixels_FHWC.permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    x = (x - x.new_tensor(list(mean)).view(shape)) / x.new_tensor(list(std)).view(shape)
    return x.to(dtype)


def patch_features(tower: nn.Module, pixels_FCHW: torch.Tensor) -> torch.Tensor:
    """Output of the last kept encoder layer, before ``post_layernorm``: ``[F, 3, H, W] -> [F, patches, C]``."""
    return tower.encoder(inputs_embeds=tower.embeddings(pixels_FCHW)).last_hidden_state  # type: ignore[operator]


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
