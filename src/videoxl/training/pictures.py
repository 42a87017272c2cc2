"""How a run reads still images: what its data settings say becomes the model's own, and is saved with it."""

from __future__ import annotations

from videoxl.model.configuration import VideoXLConfig
from videoxl.training.config.data import DataConfig, Pinpoints
from videoxl.video.anyres import grid_range, parse_pinpoints


def set_pictures(data: DataConfig, model_config: VideoXLConfig) -> None:
    """Write ``data``'s settings of still images into a model's configuration, as the released training does.

    What ``data`` leaves open stays as it is. A range of crops is written out in pixels, for any side. Raises
    ``ValueError`` for resolutions that are missing, or that the vision tower's pictures do not divide.
    """
    if data.patch_merge_type is not None:
        model_config.patch_merge_type = data.patch_merge_type
    if data.image_aspect_ratio is not None:
        model_config.image_aspect_ratio = data.image_aspect_ratio
        pinpoints = data.image_grid_pinpoints
        if pinpoints is not None or data.image_aspect_ratio != "anyres":
            model_config.image_grid_pinpoints = _listed(pinpoints, model_config.image_size)
        if data.image_aspect_ratio == "anyres" and model_config.image_grid_pinpoints is None:
            raise ValueError(
                "data.image_aspect_ratio='anyres' cuts pictures into crops, and neither data.image_grid_pinpoints nor "
                "the model says at which resolutions: give them, or set data.image_aspect_ratio=square"
            )
    if model_config.stills == "anyres":
        try:
            parse_pinpoints(model_config.image_grid_pinpoints, model_config.image_size)
        except ValueError as error:
            raise ValueError(f"this model's pictures have {model_config.image_size} pixels a side: {error}") from None


def _listed(pinpoints: Pinpoints | None, side: int) -> str | list[list[int]] | None:
    if isinstance(pinpoints, str) and "x" in pinpoints:
        return [list(pair) for pair in grid_range(pinpoints, side)]
    return pinpoints if pinpoints is None or isinstance(pinpoints, str) else [list(pair) for pair in pinpoints]
