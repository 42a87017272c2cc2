"""``model.get_vision_tower()`` of the released package: the vision tower with its image processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import BaseImageProcessor

from videoxl.model.vision import patch_features
from videoxl.released.image_processors import image_processor_of

if TYPE_CHECKING:
    from videoxl.model.videoxl import VideoXLForConditionalGeneration


class ReleasedVisionTower:
    """A view of a model's vision tower. It is loaded with the model, and lives where the model does."""

    is_loaded = True

    def __init__(self, model: VideoXLForConditionalGeneration) -> None:
        self.base = model.model
        self.config = model.config.vision_config
        self.image_processor: BaseImageProcessor = image_processor_of(model.config)

    def load_model(self, device_map: object = None) -> None:
        """Do nothing: the tower is loaded."""

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> ReleasedVisionTower:
        """Check that the tower is where and what a script wants. Raises ``ValueError`` if it is not.

        A tower apart from its model would compute with other numbers than the model.
        """
        here, wanted = self.device, torch.device(self.device if device is None else device)
        if wanted.type != here.type or (wanted.index is not None and wanted.index != (here.index or 0)):
            raise ValueError(f"the vision tower is on {here} with its model: load the model with device_map={device!r}")
        if dtype not in (None, self.dtype):
            raise ValueError(
                f"the vision tower is {self.dtype} as its model is: load the model with torch_dtype={dtype}"
            )
        return self

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Patch features ``[F, patches, C]`` of pixels ``[F, 3, S, S]``."""
        pixels = images.to(self.device, self.dtype)
        return patch_features(self.base.vision_tower, pixels, self.base.config.vision_select_layer)

    @property
    def device(self) -> torch.device:
        return self.base.vision_device

    @property
    def dtype(self) -> torch.dtype:
        return self.base.vision_dtype

    @property
    def hidden_size(self) -> int:
        """Channels of a patch feature."""
        return self.base.config.vision.hidden_size

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.base.config.image_size

    @property
    def num_patches_per_side(self) -> int:
        return self.image_size // self.base.config.vision.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of a picture."""
        return self.num_patches_per_side**2
