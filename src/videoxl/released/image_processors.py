"""transformers' image processors, with our resizing: the same pixels under every Pillow version.

They work with Pillow. Torchvision rounds resized pixels differently from those the models were trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import transformers
from PIL import Image
from transformers import BaseImageProcessor

from videoxl.model.checkpoint import read_config
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.foreign import read_json_object, reading
from videoxl.model.released_config import tower_folder
from videoxl.video.resize import resize_picture, shortest_edge_size

PREPROCESSOR, TOWER = "preprocessor_config.json", "vision_tower"


def resized_as_trained(image_CHW: npt.NDArray[Any], size: Any, resample: Any) -> npt.NDArray[Any] | None:
    """One picture [3, H, W], resized width first, then height; None for what is no 8-bit RGB picture or not bicubic."""
    square = size.height if size.height and size.width else None
    if (
        resample != Image.Resampling.BICUBIC
        or image_CHW.dtype != np.uint8
        or len(image_CHW) != 3
        or not (size.shortest_edge or square)
    ):
        return None
    picture = Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0)))
    shortest = size.shortest_edge
    target = shortest_edge_size(picture.size, shortest) if shortest else (size.width, size.height)
    return np.asarray(resize_picture(picture, *target)).transpose(2, 0, 1)


def check_pictures(images: Any, do_rescale: bool | None) -> None:
    """Raise ``ValueError`` for no pictures, and for numbers up to 1, which would be divided by 255 once more."""
    if isinstance(images, (list, tuple)) or hasattr(images, "shape"):
        if not len(images):
            raise ValueError("there are no pictures to prepare: the list of frames is empty")
        first = images[0] if isinstance(images, (list, tuple)) else images
        if do_rescale is not False and hasattr(first, "shape"):
            values = np.asarray(first)
            if values.dtype == bool or (values.dtype.kind == "f" and values.size and 0 < values.max() <= 1):
                raise ValueError(
                    f"pictures of {values.dtype} up to 1 would become almost black: give uint8 from 0 to 255, or "
                    "do_rescale=False"
                )


class CLIPImageProcessorPil(transformers.CLIPImageProcessorPil):
    """Video-XL's: the centre square. Its name is the parent's, since saved configurations name it."""

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, after :func:`check_pictures`."""
        check_pictures(images, kwargs.get("do_rescale"))
        return super().preprocess(images, *args, **kwargs)

    def resize(self, image: npt.NDArray[Any], size: Any, resample: Any = None, **kwargs: Any) -> npt.NDArray[Any]:
        """Resize one picture [3, H, W]; what is no 8-bit RGB picture or not bicubic goes to transformers."""
        ours = resized_as_trained(image, size, resample)
        resized: npt.NDArray[Any] = super().resize(image, size, resample, **kwargs) if ours is None else ours
        return resized


class SiglipImageProcessorPil(transformers.SiglipImageProcessorPil):
    """Video-XL-Pro's and Video-XL-2's: pictures are stretched to a square. Its name is the parent's."""

    time_format: str | None = None
    """The text in front of a group of frames, of the model that this is for."""

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, after :func:`check_pictures`."""
        check_pictures(images, kwargs.get("do_rescale"))
        return super().preprocess(images, *args, **kwargs)

    def resize(self, image: npt.NDArray[Any], size: Any, resample: Any = None, **kwargs: Any) -> npt.NDArray[Any]:
        """Resize one picture [3, H, W]; what is no 8-bit RGB picture or not bicubic goes to transformers."""
        ours = resized_as_trained(image, size, resample)
        resized: npt.NDArray[Any] = super().resize(image, size, resample, **kwargs) if ours is None else ours
        return resized


def image_processor_of(config: VideoXLConfig, folder: Path | None = None) -> BaseImageProcessor:
    """The image processor of a model; for a CLIP tower from the tower's own file, if ``folder`` has one."""
    side, square = config.image_size, {"height": config.image_size, "width": config.image_size}
    colours = {"image_mean": list(config.image_mean), "image_std": list(config.image_std)}
    if config.frame_fit == "stretch":
        siglip = SiglipImageProcessorPil(size=square, crop_size=square, do_center_crop=False, **colours)
        siglip.time_format = config.time_format  # process_video, which makes timestamps, is handed nothing else
        return siglip
    place = None if folder is None else tower_folder(str(read_config(folder).get("mm_vision_tower", TOWER)), folder)
    if place is not None and (place / PREPROCESSOR).is_file():
        said = read_json_object(place / PREPROCESSOR)
        with reading(f"{PREPROCESSOR} of {place.name}"):
            processor: CLIPImageProcessorPil = CLIPImageProcessorPil.from_dict(said)
            return processor
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square, **colours)
