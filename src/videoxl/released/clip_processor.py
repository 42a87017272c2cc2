"""transformers' CLIP image processor, with our resizing: the same pixels under every Pillow version."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import transformers
from PIL import Image

from videoxl.video.resize import resize_picture, shortest_edge_size


class CLIPImageProcessorPil(transformers.CLIPImageProcessorPil):
    """Resizes RGB pictures width first, then height. Its name is the parent's, since saved configurations name it."""

    def resize(self, image: npt.NDArray[Any], size: Any, resample: Any = None, **kwargs: Any) -> npt.NDArray[Any]:
        """Resize one picture [3, H, W]; what is no 8-bit RGB picture or not bicubic goes to transformers."""
        if (
            resample != Image.Resampling.BICUBIC
            or image.dtype != np.uint8
            or len(image) != 3
            or not (size.shortest_edge or size.height)
        ):
            resized: npt.NDArray[Any] = super().resize(image, size, resample, **kwargs)
            return resized
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        if size.shortest_edge:
            target = shortest_edge_size(picture.size, size.shortest_edge)
        else:
            target = (size.width, size.height)
        return np.asarray(resize_picture(picture, *target)).transpose(2, 0, 1)
