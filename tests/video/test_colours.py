"""RGB is what the standards say, whatever the matrix, the range, the codec, and the version of PyAV."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video.colours import RED_AND_BLUE, to_rgb, to_yuv
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video import open_video
from videoxl.video.decoder.rgb import RgbConverter

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (255, 255, 255), (0, 0, 0), (90, 90, 90)])
UNIT = 16
WIDTH, HEIGHT = UNIT * len(COLOURS), 48
LIMITED, FULL = 1, 2
UNSPECIFIED_MATRIX = 2
RANGES = {"unspecified": 0, "limited": LIMITED, "full": FULL}
LOSSLESS = {"libx264": {"qp": "0"}, "libvpx-vp9": {"lossless": "1", "cpu-used": "8"}, "ffv1": {}}


def planar(yuv_HWC: np.ndarray, pix_fmt: str) -> av.VideoFrame:
    """A frame with these numbers; of the colour differences it keeps as many as the format has."""
    height, width = yuv_HWC.shape[:2]
    frame = av.VideoFrame(width, height, pix_fmt)
    dtype = np.dtype("<u2") if "10le" in pix_fmt else np.dtype(np.uint8)
    for channel, plane in enumerate(frame.planes):
        rows, columns = height // plane.height, width // plane.width
        padded = np.zeros((plane.height, plane.line_size // dtype.itemsize), dtype)
        padded[:, : plane.width] = yuv_HWC[::rows, ::columns, channel]
        plane.update(padded.tobytes())
    return frame


def write_colours(path, matrix: str | None, color_range: int, *, codec="libx264", pix_fmt="yuv420p", bits=8):
    """One frame of upright stripes. Without a matrix in the file, it is written with BT.601's."""
    stripes = np.broadcast_to(np.repeat(COLOURS, UNIT, 0), (HEIGHT, WIDTH, 3))
    yuv = to_yuv(stripes, matrix or "smpte170m", color_range == FULL, bits)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=LOSSLESS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.codec_context.colorspace = RED_AND_BLUE[matrix][0] if matrix else UNSPECIFIED_MATRIX
        stream.codec_context.color_range = color_range
        for number in range(2):
            frame = planar(yuv, pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            frame.colorspace, frame.color_range = stream.codec_context.colorspace, color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def stripes_of(path) -> np.ndarray:
    """The RGB in the middle of every stripe."""
    with open_video(path) as source:
        (frames,) = source.read(source.select(Sampling(indices=(0,))), resize=None)
    return frames.pixels_FHWC[0, HEIGHT // 2, UNIT // 2 :: UNIT].astype(int)


@pytest.mark.parametrize("color_range", list(RANGES))
@pytest.mark.parametrize("matrix", [None, *RED_AND_BLUE])
def test_every_matrix_and_range_gives_the_colours_back(tmp_path, matrix, color_range):
    path = write_colours(tmp_path / "a.mp4", matrix, RANGES[color_range])
    assert np.abs(stripes_of(path) - COLOURS).max() <= 2


@pytest.mark.parametrize("color_range", ["limited", "full"])
@pytest.mark.parametrize("matrix", ["bt709", "bt2020nc"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {"pix_fmt": "yuv420p10le", "bits": 10}),
        ("a.mp4", {"pix_fmt": "yuv444p"}),
        ("a.mp4", {"pix_fmt": "yuv422p10le", "bits": 10}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "yuv422p"}),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_so_do_other_formats_and_codecs(tmp_path, name, settings, matrix, color_range):
    path = write_colours(tmp_path / name, matrix, RANGES[color_range], **settings)
    assert np.abs(stripes_of(path) - COLOURS).max() <= (3 if "bits" in settings else 2)


def test_motion_jpeg_is_full_range(tmp_path):
    path = write_colours(tmp_path / "a.mkv", None, FULL, codec="mjpeg", pix_fmt="yuvj420p")
    assert np.abs(stripes_of(path) - COLOURS).max() <= 4


def test_a_large_picture_without_a_matrix_is_bt601_too():
    yuv = to_yuv(np.broadcast_to(np.array([200, 120, 40]), (1080, 1920, 3)), "smpte170m", False)
    frame = planar(yuv, "yuv420p")
    frame.colorspace = UNSPECIFIED_MATRIX
    assert np.abs(RgbConverter().convert(frame).astype(int) - (200, 120, 40)).max() <= 2


def blended(chroma_HW: np.ndarray) -> np.ndarray:
    """Every second line twice as many: a quarter of the next line mixed in."""
    rows = chroma_HW[::2].astype(np.float64)
    up = np.vstack([rows[:1], rows[:-1]])
    down = np.vstack([rows[1:], rows[-1:]])
    return np.stack([0.75 * rows + 0.25 * up, 0.75 * rows + 0.25 * down], 1).reshape(-1, rows.shape[1])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", RED_AND_BLUE)
@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv420p10le", 10), ("yuv422p", 8), ("yuv444p", 8)])
def test_noise_is_converted_pixel_by_pixel(pix_fmt, bits, matrix, full):
    """Where fewer lines hold colour, they are repeated with 8 bits, blended with more."""
    random = np.random.default_rng(1)
    yuv = random.integers(0, 1 << bits, (36, 64, 3)).astype(np.uint16)
    yuv[..., 1:] = (yuv[..., 1:] // 4) + (3 << bits - 3)  # no colour far outside RGB
    frame = planar(yuv, pix_fmt)
    frame.colorspace, frame.color_range = RED_AND_BLUE[matrix][0], FULL if full else LIMITED
    seen = yuv.astype(np.float64)
    if pix_fmt != "yuv444p":
        seen[:, 1::2, 1:] = seen[:, ::2, 1:]
    if pix_fmt == "yuv420p":
        seen[1::2, :, 1:] = seen[::2, :, 1:]
    if pix_fmt == "yuv420p10le":
        seen[..., 1:] = np.stack([blended(seen[..., channel]) for channel in (1, 2)], -1)
    difference = np.abs(RgbConverter().convert(frame) - to_rgb(seen, matrix, full, bits))
    assert difference.max() <= 5
    assert difference.mean() <= 1.6


def test_constant_luminance_is_read_as_the_nearest_matrix():
    frame = planar(np.full((16, 16, 3), 100, np.uint16), "yuv420p")
    pictures = []
    for number in (9, 10):
        frame.colorspace = number
        pictures.append(RgbConverter().convert(frame))
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize(("number", "name"), [(8, "YCgCo"), (14, "ICtCp")])
def test_a_matrix_that_cannot_be_read_is_named(number, name):
    frame = planar(np.full((16, 16, 3), 100, np.uint16), "yuv444p")
    frame.colorspace = number
    with pytest.raises(VideoError, match=f"stores colours as {name}, which cannot be read; convert it to BT.709"):
        RgbConverter().convert(frame)


@pytest.mark.parametrize("pix_fmt", ["gray", "rgb24", "gbrp", "bgra"])
def test_grey_and_rgb_pass_through(pix_fmt):
    frame = av.VideoFrame(16, 16, pix_fmt)
    for plane in frame.planes:
        plane.update(bytes([77]) * plane.buffer_size)
    frame.color_range = LIMITED
    assert (RgbConverter().convert(frame) == 77).all()
