from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from videoxl.video.live.address import StreamAddress
from videoxl.video.live.feeds import Feed, Network, Patience

FPS, SECONDS, SIDE = 4, 12, 64
QUICK = Patience(connect_s=2.0, silence_s=0.5, wait_s=0.2, first_pause_s=0.02, longest_pause_s=0.05)


def picture(number: int) -> np.ndarray:
    """A picture whose brightness tells its number."""
    return np.full((SIDE, SIDE, 3), 20 + 4 * number, np.uint8)


def number_of(pixels_HWC: np.ndarray) -> int:
    return round((float(pixels_HWC.mean()) - 20) / 4)


def encoded(form: str, *, frames: int = FPS * SECONDS, codec: str = "libx264") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.gop_size = "yuv420p", FPS
        stream.time_base = Fraction(1, FPS)
        stream.options = {"bf": "0", "preset": "ultrafast"} if codec == "libx264" else {}
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.fixture(scope="session")
def transport_stream() -> bytes:
    """Twelve seconds of MPEG-TS, four pictures a second."""
    return encoded("mpegts")


class ListFeed(Feed):
    """Gives what it was given; then it is silent for ever, or ends."""

    def __init__(self, chunks: list[bytes], *, silent: bool = False, ends: bool = False) -> None:
        self._chunks, self._silent, self.ends = chunks, silent, ends
        self._closed = threading.Event()

    def read(self, seconds: float) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._silent and not self._closed.wait(seconds):
            raise TimeoutError
        return b""

    def close(self) -> None:
        self._closed.set()


@pytest.fixture
def feeding() -> Callable[[list[Feed | Exception]], Callable[[StreamAddress, Network, Patience], Feed]]:
    """Makes openers that give one feed after another, or fail."""

    def made(feeds: list[Feed | Exception]) -> Callable[[StreamAddress, Network, Patience], Feed]:
        waiting: Iterator[Feed | Exception] = iter(feeds)

        def opener(address: StreamAddress, network: Network, patience: Patience) -> Feed:
            found = next(waiting, None) or ListFeed([], ends=True)
            if isinstance(found, Exception):
                raise found
            return found

        return opener

    return made
