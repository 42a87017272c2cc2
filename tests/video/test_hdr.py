"""HDR: what was SDR comes out as it was, what is brighter stays in order, and files are named as HDR."""

from __future__ import annotations

import av
import numpy as np
import pytest

from videoxl.config import Sampling
from videoxl.video import open_video
from videoxl.video.decoder.hdr import NAMES, PEAK, WHITE, ToneMapper, compressed

PQ, HLG = 16, 18
BT709_TO_BT2020 = np.array(
    [[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]]
)
BT2020_TO_YCBCR = (0.2627, 0.6780, 0.0593)


def pq_signal(light: np.ndarray) -> np.ndarray:
    """cd/m2 to the signal 0..1: SMPTE ST 2084, forwards."""
    y = (np.maximum(light, 0) / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def hlg_signal(light: np.ndarray) -> np.ndarray:
    """cd/m2 of a display of 1000 cd/m2 to the signal 0..1: BT.2100, backwards through the display's gamma of 1.2."""
    share = np.maximum(light, 0) / PEAK
    luminance = np.maximum(share @ np.array(BT2020_TO_YCBCR), 1e-9) ** (1 / 1.2)
    scene = share * (luminance ** (1 - 1.2))[..., None]
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


SIGNALS = {PQ: pq_signal, HLG: hlg_signal}


def hdr_of(sdr: np.ndarray, transfer: int) -> np.ndarray:
    """An SDR picture put into HDR, its white at 203 cd/m2: uint16."""
    light = (sdr / 255) ** 2.4 * WHITE
    return np.rint(65535 * SIGNALS[transfer](light @ BT709_TO_BT2020.T)).astype(np.uint16)


@pytest.mark.parametrize("transfer", NAMES)
def test_sdr_inside_hdr_comes_out_as_it_was(transfer):
    sdr = np.random.default_rng(0).integers(0, 220, (80, 90, 3)).astype(np.uint8)  # 220: three quarters of the light
    out = ToneMapper(transfer).apply(hdr_of(sdr, transfer))
    assert np.abs(out.astype(int) - sdr)[sdr > 8].max() <= 1
    assert np.abs(out.astype(int) - sdr).max() <= 4  # measured; light near black has few steps


@pytest.mark.parametrize("transfer", NAMES)
def test_brighter_stays_brighter_up_to_the_peak_and_grey_stays_grey(transfer):
    light = np.array([0, 1, 20, 100, 203, 400, 700, 1000])
    grey = np.rint(65535 * SIGNALS[transfer](np.repeat(light[None, :, None], 3, 2))).astype(np.uint16)
    out = ToneMapper(transfer).apply(grey)[0].astype(int)
    assert np.ptp(out, axis=1).max() <= 1
    assert (np.diff(out[:, 1]) > 0).all()
    assert out[0, 1] == 0
    assert 225 < out[4, 1] < 250  # white paper
    assert out[-1, 1] >= 254


def test_light_is_compressed_without_a_step():
    light = np.linspace(0, PEAK / WHITE, 2000, dtype=np.float32)[None, :, None].repeat(3, 2)
    out = compressed(light)[0, :, 0]
    assert (out[light[0, :, 0] <= 0.75] == light[0, light[0, :, 0] <= 0.75, 0]).all()
    assert np.diff(out).min() > 0
    assert np.diff(out).max() <= np.diff(light[0, :, 0]).max() * 1.001
    assert out[-1] == pytest.approx(1, abs=1e-4)


def write(path, transfer: int, primaries: int, matrix: int, rgb: np.ndarray):
    """A video of one colour, uint16 rgb48, in 10 bits."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "lossless=1:log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, primaries, matrix
        context.color_range = 1
        kr, _, kb = BT2020_TO_YCBCR
        r, g, b = rgb / 65535
        y = kr * r + (1 - kr - kb) * g + kb * b
        planes = (64 + 876 * y, 512 + 896 * (b - y) / (2 - 2 * kb), 512 + 896 * (r - y) / (2 - 2 * kr))
        for _ in range(4):
            frame = av.VideoFrame(64, 48, "yuv420p10le")
            for plane, value in zip(frame.planes, planes):
                plane.update(np.full(plane.buffer_size // 2, round(value), "<u2").tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


COLOURS = [(200, 120, 41), (30, 160, 60), (128, 128, 128)]


@pytest.mark.parametrize("transfer", NAMES)
@pytest.mark.parametrize("colour", COLOURS)
def test_an_hdr_file_shows_the_colours_of_its_sdr_original_and_says_so(tmp_path, transfer, colour):
    path = write(tmp_path / "a.mp4", transfer, 9, 9, hdr_of(np.array([[colour]], np.uint8), transfer)[0, 0])
    with open_video(path) as source:
        (frames,) = source.read(source.select(Sampling(indices=(0,))), resize=None)
        assert np.abs(frames.pixels_FHWC[0, 20, 30].astype(int) - colour).max() <= 4  # measured: FFmpeg rounds down
        assert source.warnings == [
            f"is HDR ({NAMES[transfer]}): its brightness and colours are brought to those of SDR"
        ]


def test_wide_gamut_that_is_not_hdr_stays_as_it_was(tmp_path):
    path = write(tmp_path / "a.mp4", 14, 9, 9, np.array([200, 120, 41]) * 257)
    with open_video(path) as source:
        (frames,) = source.read(source.select(Sampling(indices=(0,))), resize=None)
        assert np.abs(frames.pixels_FHWC[0, 20, 30].astype(int) - (200, 120, 41)).max() <= 2
        assert source.warnings == []
