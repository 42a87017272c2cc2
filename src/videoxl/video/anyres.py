"""Still pictures of any shape as square crops (SPEC 2.1), in the ways that ``image_aspect_ratio`` names.

``anyres``: a picture is laid, as large as it fits, onto a black canvas of one of several allowed resolutions, and the
canvas is cut into crops. The base crop comes first: the whole picture, resized to one square. ``square`` and ``pad``
make a single crop.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image

from videoxl.video.frames import Pixels, Resize, describe_array
from videoxl.video.resize import resize_picture, resize_pixels

Size = tuple[int, int]
"""(width, height) in pixels, or (columns, rows) of crops."""
Pinpoints = str | Sequence[Sequence[int]]
"""Allowed resolutions as the released configs write them: ``[[336, 672], ...]`` or ``"(1x1),...,(6x6)"``."""

AspectRatio = Literal["square", "pad", "anyres"]
ASPECT_RATIOS: tuple[AspectRatio, ...] = get_args(AspectRatio)
"""How a still is made square: as a frame of a video is, padded with the mean colour, or cut into crops."""

GRID_SIDES = (224, 336, 384, 448, 512)
"""Sides of a crop for which the released code reads the notation with "x"."""


def parse_pinpoints(pinpoints: Pinpoints | None, side: int) -> list[Size]:
    """Allowed resolutions (width, height) in pixels, in their order, for crops of ``side`` pixels.

    ``"(1x1),...,(6x6)"`` stands for all grids between the first and the last pair, in crops; anything else lists the
    resolutions themselves, in pixels, as a list or as its text. Raises ``ValueError`` for what is neither, or for a
    resolution that is not a whole number of crops.
    """
    if isinstance(pinpoints, str) and "x" in pinpoints:
        if side not in GRID_SIDES:
            raise ValueError(
                f"image_grid_pinpoints with 'x' need a crop side of {GRID_SIDES}, got {side}: list the pixels"
            )
        return grid_range(pinpoints, side)
    try:
        listed = ast.literal_eval(pinpoints) if isinstance(pinpoints, str) else pinpoints
        sizes = [(int(width), int(height)) for width, height in listed]  # type: ignore[union-attr]
    except (ValueError, TypeError, SyntaxError):
        raise ValueError(
            f"image_grid_pinpoints must be pairs of pixels such as [[336, 672], [672, 336]] or a range such as "
            f"'(1x1),...,(6x6)', got {pinpoints!r}"
        ) from None
    if not sizes:
        raise ValueError("image_grid_pinpoints is empty: name at least one resolution")
    if wrong := [size for size in sizes if min(size) < side or size[0] % side or size[1] % side]:
        raise ValueError(f"image_grid_pinpoints must be multiples of the crop side {side}, got {wrong[0]}")
    return sizes


def grid_range(text: str, side: int) -> list[Size]:
    """All grids between the first and the last pair of a text such as ``(1x1)...(6x6)``, in pixels, for any side.

    Raises ``ValueError`` for a text without pairs, or one that does not go up.
    """
    pairs = [(int(columns), int(rows)) for columns, rows in re.findall(r"\((\d+)x(\d+)\)", text)]
    if not pairs:
        raise ValueError(f"image_grid_pinpoints must look like '(1x1),...,(6x6)', got {text!r}")
    (first_column, first_row), (last_column, last_row) = pairs[0], pairs[-1]
    grids = [(i, j) for i in range(first_column, last_column + 1) for j in range(first_row, last_row + 1)]
    if not grids or min(pairs[0]) < 1:
        raise ValueError(f"image_grid_pinpoints must go up from (1x1) or more, got {text!r}")
    return [(columns * side, rows * side) for columns, rows in grids]


def best_resolution(size: Size, candidates: Sequence[Size]) -> Size:
    """The candidate that shows most pixels of a picture of ``size`` (width, height); of equal ones the least empty.

    Enlarging a picture shows no more pixels. When two candidates are still equal, the first is taken.
    """

    def merit(candidate: Size) -> tuple[int, int]:
        scale = min(candidate[0] / size[0], candidate[1] / size[1])
        shown = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return shown, -(candidate[0] * candidate[1] - shown)

    return max(candidates, key=merit)


def grid_shape(size: Size, pinpoints: Pinpoints, side: int) -> Size:
    """(columns, rows) of the crops a picture of ``size`` (width, height) is cut into."""
    width, height = best_resolution(size, parse_pinpoints(pinpoints, side))
    return width // side, height // side


def still_crops(
    picture_HWC: Pixels,
    aspect_ratio: AspectRatio,
    side: int,
    *,
    pinpoints: Pinpoints | None = None,
    fit: Literal["crop", "stretch"] = "stretch",
    mean: Sequence[float] = (0.5, 0.5, 0.5),
) -> Pixels:
    """One picture as its crops: uint8 ``[H, W, 3]`` -> uint8 ``[N, side, side, 3]``.

    ``anyres``: :func:`cut_crops`. ``square``: one crop, made as a frame of a video is (``fit``). ``pad``: one crop, the
    picture in the middle of a square of the colour ``mean`` (0 to 1). Raises ``ValueError`` as :func:`cut_crops`.
    """
    if aspect_ratio == "anyres":
        return cut_crops(picture_HWC, pinpoints, side)
    _require_picture(picture_HWC)
    if aspect_ratio == "square":
        return np.stack([resize_pixels(picture_HWC, Resize(side, side, mode=fit))])
    height, width = picture_HWC.shape[:2]
    longest = max(height, width)
    square = np.full((longest, longest, 3), [int(255 * channel) for channel in mean], dtype=np.uint8)
    top, left = (longest - height) // 2, (longest - width) // 2
    square[top : top + height, left : left + width] = picture_HWC
    return np.stack([resize_pixels(square, Resize(side, side))])


def _require_picture(picture_HWC: Pixels) -> None:
    if picture_HWC.dtype != np.uint8 or picture_HWC.ndim != 3 or picture_HWC.shape[-1] != 3 or 0 in picture_HWC.shape:
        raise ValueError(f"a picture must be uint8 [H, W, 3] and not empty, got {describe_array(picture_HWC)}")


def cut_crops(picture_HWC: Pixels, pinpoints: Pinpoints | None, side: int) -> Pixels:
    """Cut one picture into its base crop and the crops of its grid, row by row.

    uint8 ``[H, W, 3]`` -> uint8 ``[1 + columns x rows, side, side, 3]``. Everything is resized with Pillow's bicubic
    filter. Raises ``ValueError`` for what is not a picture, or for ``pinpoints`` as :func:`parse_pinpoints` does.
    """
    _require_picture(picture_HWC)
    picture = Image.fromarray(picture_HWC)
    canvas = np.asarray(_fit(picture, best_resolution(picture.size, parse_pinpoints(pinpoints, side))))
    base = np.asarray(resize_picture(picture, side, side))
    columns, rows = canvas.shape[1] // side, canvas.shape[0] // side
    cut = canvas.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    return np.concatenate([base[None], cut.reshape(rows * columns, side, side, 3)])


def _fit(picture: Image.Image, target: Size) -> Image.Image:
    """Resize to fit into ``target``, centred on black: one side fills it, the other is rounded up."""
    across, down = target[0] / picture.width, target[1] / picture.height
    if across < down:
        size = (target[0], min(math.ceil(picture.height * across), target[1]))
    else:
        size = (min(math.ceil(picture.width * down), target[0]), target[1])
    canvas = Image.new("RGB", target)
    canvas.paste(resize_picture(picture, *size), ((target[0] - size[0]) // 2, (target[1] - size[1]) // 2))
    return canvas
