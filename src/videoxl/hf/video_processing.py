"""What ``AutoVideoProcessor`` returns: videos and pictures as the vision tower wants them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from transformers import BaseVideoProcessor, BatchFeature

from videoxl.config import Sampling
from videoxl.errors import DoesNotFitError, VideoError
from videoxl.hf.content import Media, sampling_settings
from videoxl.inference.video_input import choose_sampling, open_for_model, picture_size
from videoxl.model.vision import normalize_pixels
from videoxl.video import VideoSource
from videoxl.video.anyres import still_crops
from videoxl.video.host import free_host_bytes

BYTES_PER_VALUE = 10
"""Of a pixel's colour while frames are read: as uint8 and as fp32, each twice while they are put together."""


class VideoXLVideoProcessor(BaseVideoProcessor):
    """Reads, samples, resizes and normalises videos: ``pixel_values_videos`` ``[sum of frames, 3, H, W]`` fp32.

    Takes what :meth:`VideoXL.encode` takes, with the same sampling settings (``fps``, ``num_frames`` ...). Resizes with
    Pillow's bicubic filter, bit for bit as released, instead of the base class's torch functions.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values_videos", "frames_per_video"]
    size: ClassVar[dict[str, int]] = {"height": 384, "width": 384}
    image_mean: ClassVar[list[float]] = [0.5, 0.5, 0.5]
    image_std: ClassVar[list[float]] = [0.5, 0.5, 0.5]
    frames_per_group = 4
    frame_fit: Literal["crop", "stretch"] = "stretch"

    def __init__(
        self, frames_per_group: int = 4, frame_fit: Literal["crop", "stretch"] = "stretch", **kwargs: Any
    ) -> None:
        """``frame_fit``: whether frames are stretched to the square or cropped to it (Video-XL)."""
        super().__init__(**kwargs)
        self.frames_per_group, self.frame_fit = frames_per_group, frame_fit

    def __call__(self, videos: object, **kwargs: Any) -> BatchFeature:
        """See :meth:`preprocess`."""
        return self.preprocess(videos, **kwargs)

    def preprocess(self, videos: object, *, return_tensors: str | None = None, **settings: Any) -> BatchFeature:
        """Read one video, or a list of them. Also returns ``timestamps``, a list of seconds for each video.

        ``settings``: of sampling. Raises ``ValueError`` for others.
        """
        general = sampling_settings(settings, "the video processor")
        pictures = [self.read(Media("video", video), general) for video in as_list(videos)]
        data = {
            "pixel_values_videos": torch.cat([picture.pixels_NCHW for picture in pictures]),
            "frames_per_video": torch.tensor([len(picture.pixels_NCHW) for picture in pictures]),
        }
        feature = BatchFeature(data=data, tensor_type=return_tensors)
        feature["timestamps"] = [list(picture.times) for picture in pictures]
        return feature

    def read(self, media: Media, general: Mapping[str, Any], *, crops: CropReader | None = None) -> Picture:
        """Read a video or an image. ``crops``: what cuts stills, where the model reads them in crops."""
        settings = media.settings_over(general) if media.kind == "video" else {}
        least = settings.pop("min_frames", None)
        with open_for_model(media.source, fps=settings.get("fps")) as source:
            if media.kind == "image" and not source.is_still:
                raise ValueError(f"{source.name} is a video and was given as an image: give it as a video")
            if source.is_still and crops is not None:
                return crops(source)
            sampling, whole = choose_sampling(source, settings, frames_per_group=self.frames_per_group)
            selection = source.select(sampling, whole_groups_of=whole)
            if least is not None and len(selection.indices_F) < least:
                sampling = Sampling(num_frames=least, start=sampling.start, end=sampling.end)
                selection = source.select(sampling, whole_groups_of=whole)
            self._require_room(source.name, len(selection.indices_F))
            resize = picture_size(source, int(self.size["height"]), self.frame_fit)
            said = len(source.warnings)
            batches = list(source.read(selection, resize=resize))
            for text in [selection.note, *source.warnings[said:]]:
                if text:
                    warnings.warn(f"{source.name}: {text}", stacklevel=2)
        if not batches:
            raise VideoError(f"{source.name}: no frame could be decoded", code="undecodable")
        pixels = torch.from_numpy(np.concatenate([batch.pixels_FHWC for batch in batches]))
        times = [float(seconds) for batch in batches for seconds in batch.timestamps_F]
        return Picture(self.normalized(pixels), tuple(times))

    def _require_room(self, name: str, frames: int) -> None:
        """Raise :class:`DoesNotFitError` where the pixels of all frames would not fit into memory."""
        each = BYTES_PER_VALUE * 3 * int(self.size["height"]) ** 2
        free = free_host_bytes()
        if frames * each > free:
            raise DoesNotFitError(
                f"{name}: {frames:,} frames need {frames * each / 1e9:.2f} GB as pixels, {free / 1e9:.2f} GB are free: "
                f"read at most {free // each:,} frames, or use VideoXL.encode, which holds a few at a time"
            )

    def normalized(self, pixels_NHWC: torch.Tensor) -> torch.Tensor:
        """uint8 ``[N, H, W, 3]`` -> fp32 ``[N, 3, H, W]``."""
        return normalize_pixels(pixels_NHWC, self.image_mean, self.image_std)


@dataclass(frozen=True)
class Picture:
    """A video or an image that was read."""

    pixels_NCHW: torch.Tensor
    """Its frames, or its crops with the whole picture first."""
    times: tuple[float, ...] = ()
    """Seconds of its frames; none for crops."""


CropReader = Callable[[VideoSource], Picture]


def read_image(reader: VideoXLVideoProcessor, stills: Mapping[str, Any] | None, image: Media) -> Picture:
    """The pixels of an image. Raises ``ValueError`` where nobody says how the model reads them."""
    if stills is None:
        raise ValueError("this processor cannot say how the model reads images: make it with from_config")
    return reader.read(image, {}, crops=crop_reader(reader, stills))


def crop_reader(reader: VideoXLVideoProcessor, stills: Mapping[str, Any] | None) -> CropReader | None:
    """What cuts a still into crops, the whole of it first; None where the model reads stills as they are."""
    if not stills or not stills["crops"]:
        return None

    def crops(source: VideoSource) -> Picture:
        ((frame,),) = (b.pixels_FHWC for b in source.read(source.select(Sampling(indices=(0,))), resize=None))
        cut = still_crops(
            frame,
            stills.get("aspect_ratio", "anyres"),  # files of earlier versions do not say
            int(reader.size["height"]),
            pinpoints=stills["pinpoints"],
            fit=reader.frame_fit,
            mean=reader.image_mean,
        )
        return Picture(reader.normalized(torch.from_numpy(cut)))

    return crops


def as_list(videos: object) -> list[object]:
    """A list is several videos; a video given as a list of pictures stands in a list of its own."""
    return list(videos) if isinstance(videos, list) else [videos]
