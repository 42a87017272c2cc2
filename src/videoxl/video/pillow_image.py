"""Pillow images as RGB pixels: upright, with the right colours, or refused."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from videoxl.errors import VideoError
from videoxl.video.frames import Pixels
from videoxl.video.info import VideoLimits

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> how a stored picture is turned upright."""
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262


def bad_frames(message: str) -> VideoError:
    """The error for pictures or times that cannot be used."""
    return VideoError(message, code="bad_frames")


def check_picture_pixels(width: int, height: int, limits: VideoLimits) -> None:
    """Raise ``VideoError`` ``limits_pixels`` when a picture is too large."""
    if width * height > limits.max_pixels:
        raise VideoError(
            f"picture size {width}x{height} exceeds {limits.max_pixels / 1e6:.1f} Mpx; "
            "raise VideoLimits(max_pixels=...)",
            code="limits_pixels",
        )


def upright(image: Image.Image) -> tuple[Image.Image, str | None]:
    """(the image, turned as its EXIF orientation asks; what is wrong with that, if anything)."""
    image.load()
    orientation = _orientation(image)
    if orientation is None:
        return image, "its EXIF data is damaged, so which way up it stands is not known"
    if orientation in _TURNS:
        return image.transpose(_TURNS[orientation]), None
    if orientation not in (0, 1):  # 0 is written for "not known"
        return image, f"asks for orientation {orientation!r:.20}, which there is not; it is not turned"
    return image, None


def _orientation(image: Image.Image) -> object:
    """EXIF orientation; 1 where there is none, None where that cannot be known since the data is damaged."""
    raw = image.info.get("exif") or b""
    try:
        orientation: object = image.getexif().get(ExifTags.Base.Orientation)
        if orientation is None:
            with warnings.catch_warnings(action="error"):  # Pillow only warns of damage, and only the first time
                Image.Exif().load(raw)
    except Exception:  # noqa: BLE001  (Pillow's EXIF reader raises anything for damaged data)
        return None
    is_whole = raw.removeprefix(b"Exif\0\0")[:4] in (b"", b"II*\0", b"MM\0*")
    return orientation if orientation is not None or not is_whole else 1


def to_rgb(image: Image.Image) -> Pixels:
    """Any picture as uint8 [H, W, 3]. Transparent parts become black.

    Raises ``VideoError`` where Pillow would give wrong colours.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = _from_16_bits(image)
    elif image.mode in ("I", "F", "LAB", "HSV"):
        raise bad_frames(f"has {image.mode} samples, which cannot be read; convert it to RGB or grey with 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return np.asarray(image.convert("RGB"))


def grey_scale_of(image: Image.Image) -> tuple[int, bool]:
    """(bits of a grey sample, whether white is 0): what the mode ``I;16`` leaves out."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16, False
    bits = int(np.ravel(image.tag_v2.get(_BITS_PER_SAMPLE, 16))[0])
    return bits, image.tag_v2.get(_PHOTOMETRIC) == 0


def _from_16_bits(image: Image.Image) -> Image.Image:
    """The upper 8 bits of grey samples of 16 bits (or of 12, which some TIFF files have)."""
    bits, white_is_zero = grey_scale_of(image)
    grey = np.clip(np.asarray(image).astype(np.int64) >> bits - 8, 0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if white_is_zero else grey)
