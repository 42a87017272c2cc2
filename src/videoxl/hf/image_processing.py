"""What ``AutoImageProcessor`` returns: pictures as the vision tower wants them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from transformers import BaseImageProcessor, BatchFeature

from videoxl.hf.content import Media, local_source
from videoxl.hf.video_processing import VideoXLVideoProcessor, read_image


class VideoXLImageProcessor(BaseImageProcessor):
    """Reads, resizes and normalises pictures: ``pixel_values`` fp32 ``[sum of crops, 3, H, W]``, ``crops_per_image``.

    The pixels are those that :class:`~videoxl.hf.processing.VideoXLProcessor` makes of an image: one picture, or the
    whole and its crops (Video-XL). That class also makes the ids, which a model needs.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "crops_per_image"]

    def __init__(
        self,
        frame_fit: Literal["crop", "stretch"] = "stretch",
        size: dict[str, int] | None = None,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        stills: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """``stills``: how images are read, see :func:`~videoxl.hf.processing.how_stills_are_read`."""
        super().__init__(**kwargs)
        usual = VideoXLVideoProcessor
        self.frame_fit, self.size, self.stills = frame_fit, size or dict(usual.size), stills
        self.image_mean, self.image_std = image_mean or list(usual.image_mean), image_std or list(usual.image_std)

    @classmethod
    def of(cls, reader: VideoXLVideoProcessor, stills: dict[str, Any] | None) -> VideoXLImageProcessor:
        """With the sizes and values of a video processor."""
        return cls(
            frame_fit=reader.frame_fit,
            size=dict(reader.size),
            image_mean=list(reader.image_mean),
            image_std=list(reader.image_std),
            stills=stills,
        )

    def __call__(self, images: object, **kwargs: Any) -> BatchFeature:
        """See :meth:`preprocess`."""
        return self.preprocess(images, **kwargs)

    def preprocess(self, images: object, *, return_tensors: str | None = None, **settings: Any) -> BatchFeature:
        """Read one image, or a list of them: files, Pillow images or arrays. Raises ``ValueError`` for settings."""
        if settings:
            raise ValueError(f"the image processor does not read {next(iter(settings))!r}: the model sets sizes")
        reader = VideoXLVideoProcessor(
            frame_fit=self.frame_fit, size=self.size, image_mean=self.image_mean, image_std=self.image_std
        )
        given = list(images) if isinstance(images, list | tuple) else [images]
        read = [
            read_image(reader, self.stills, Media("image", local_source(one, "image"))).pixels_NCHW for one in given
        ]
        data = {"pixel_values": torch.cat(read), "crops_per_image": torch.tensor([len(crops) for crops in read])}
        return BatchFeature(data=data, tensor_type=return_tensors)
