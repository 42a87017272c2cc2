"""The size that frames of any shape are brought to, under a budget of pixels: multiples of a merged patch.

This is the rule of Qwen3-VL's own processor. A video shares one budget, so more frames make each of them smaller.
"""

from __future__ import annotations

import math

from videoxl.errors import VideoError

MOST_STRETCHED = 200
"""Width over height, or the other way round, beyond which a picture is refused, as its processor does."""


def fitted_size(frames: int, height: int, width: int, *, side: int, together: int, budget: tuple[int, int]) -> Size:
    """Height and width of ``frames`` frames that are ``height x width`` pixels in the video.

    Args:
        side: pixels of a visual token's side; both results are multiples of it.
        together: frames that are seen as one; the last ones are repeated up to a multiple of it.
        budget: fewest and most pixels of all frames.

    Raises ``VideoError`` for a picture that is far too long for its height.
    """
    if height < side or width < side:
        scale = max(side / height, side / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) > MOST_STRETCHED * min(height, width):
        raise VideoError(
            f"{width} x {height} pixels: one side is over {MOST_STRETCHED} times the other; cut the picture",
            code="bad_frames",
        )
    fewest, most = budget
    rows, columns = round(height / side) * side, round(width / side) * side
    pixels = round(frames / together) * together * rows * columns
    if pixels > most:
        shrink = math.sqrt(frames * height * width / most)
        rows, columns = (max(side, math.floor(edge / shrink / side) * side) for edge in (height, width))
    elif pixels < fewest:
        grow = math.sqrt(fewest / (frames * height * width))
        rows, columns = (math.ceil(edge * grow / side) * side for edge in (height, width))
    return rows, columns


Size = tuple[int, int]
"""Height and width in pixels."""
