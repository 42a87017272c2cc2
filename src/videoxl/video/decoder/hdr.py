"""Inside the decoder process: HDR pictures (PQ and HLG) to the SDR that models were trained on.

The steps are those of a display. The signal becomes light in cd/m2 (SMPTE ST 2084; ITU-R BT.2100 for HLG on a display
of 1000 cd/m2); BT.2020 primaries become BT.709; light is divided by that of white paper, 203 cd/m2 (ITU-R BT.2408);
what is brighter than :data:`KNEE` is compressed, so that 1000 cd/m2 become white; light becomes a signal again by the
inverse of ITU-R BT.1886 (an exponent of 2.4). Below the knee an SDR picture that was put into HDR comes out as it was.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from videoxl.video.frames import Pixels

NAMES = {16: "PQ", 18: "HLG"}
"""FFmpeg's number of a transfer (ITU-T H.273) -> its name, for those that are HDR."""
WHITE, PEAK = 203.0, 1000.0
"""Light, in cd/m2, of white paper and of the brightest parts; what is brighter than the latter is clipped."""
KNEE = 0.75
"""Share of the light of white paper up to which nothing is changed."""
DISPLAY_GAMMA = 2.4
BLOCK_ROWS = 64
"""So many rows are worked on at once, which stay in a processor's cache."""
BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)

Light = npt.NDArray[np.float32]
"""Linear light; 1 is white paper."""


def transfer_of(frame: VideoFrame, declared: int | None) -> int | None:
    """Number of a picture's transfer if it is HDR. ``declared``: what the stream's header says."""
    transfer = getattr(frame, "color_trc", None)  # PyAV 15 does not give it
    transfer = declared if transfer in (None, 2) else int(transfer)
    return transfer if transfer in NAMES else None


class ToneMapper:
    """Brings pictures of one transfer to SDR."""

    def __init__(self, transfer: int) -> None:
        signal = np.arange(2**16, dtype=np.float64) / (2**16 - 1)
        self._is_hlg = NAMES[transfer] == "HLG"
        light = _hlg_scene_light(signal) if self._is_hlg else _pq_light(signal) / WHITE
        self._light = light.astype(np.float32)
        roots = np.arange(2**12, dtype=np.float64) / (2**12 - 1)
        self._signal = np.rint(255 * roots ** (2 / DISPLAY_GAMMA)).astype(np.uint8)

    def apply(self, rgb_HWC: npt.NDArray[np.uint16]) -> Pixels:
        """uint16 [H, W, 3], of the HDR signal, to uint8 [H, W, 3]."""
        pixels_HWC = np.empty(rgb_HWC.shape, np.uint8)
        for top in range(0, len(rgb_HWC), BLOCK_ROWS):
            light = self._light[rgb_HWC[top : top + BLOCK_ROWS]]
            if self._is_hlg:  # a display makes bright scenes brighter still: BT.2100, system gamma 1.2
                light *= (PEAK / WHITE) * (light @ BT2020_LUMINANCE)[..., None] ** 0.2
            roots = np.sqrt(compressed(np.maximum(light @ BT2020_TO_BT709.T, 0)))
            pixels_HWC[top : top + BLOCK_ROWS] = self._signal[np.rint(roots * (len(self._signal) - 1)).astype(np.int16)]
        return pixels_HWC


def compressed(light_HWC: Light) -> Light:
    """Light in 0..1, of the same hue: each pixel is dimmed by what its brightest component needs."""
    brightest = np.maximum(light_HWC.max(-1), 1e-6)
    room = np.float32(1 - KNEE)
    excess = np.maximum(brightest - KNEE, 0) / room
    most = np.float32((PEAK / WHITE - KNEE) / room)
    dimmed = np.minimum(brightest, KNEE) + room * excess * (1 + excess / most**2) / (1 + excess)
    light: Light = np.minimum(light_HWC * (dimmed / brightest)[..., None], 1)
    return light


def _pq_light(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Signal 0..1 to light in cd/m2: SMPTE ST 2084."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    return 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def _hlg_scene_light(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Signal 0..1 to the light of the scene, 0..1: ITU-R BT.2100."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
