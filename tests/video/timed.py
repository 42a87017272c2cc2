"""Draws videos whose packets have times and durations of the test's choice, beside sound that has its own."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

from tests import media

TICK = Fraction(1, 90_000)


def write_timed(
    path: Path,
    times: Sequence[float],
    *,
    last: float | None = None,
    sound: tuple[float, float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    bf: int = 0,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Numbered frames at ``times``, in seconds.

    Args:
        last: how many seconds the last frame is shown; the muxer decides if None.
        sound: when silence begins and how long it is, in seconds.
        bf: how many B-frames follow one another.
    """
    options = {"g": "12", "bf": str(bf), "preset": "ultrafast"} if codec == "libx264" else {"g": "12"}
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = media.WIDTH, media.HEIGHT, pix_fmt
        stream.codec_context.time_base = TICK
        silence = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        packets = []
        for number, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(media.numbered(number), format="rgb24")
            frame.pts, frame.time_base = round(seconds / TICK), TICK
            packets += stream.encode(frame)
        packets += stream.encode()
        if last is not None:
            packets[-1].duration = round((times[-1] + last) / TICK) - packets[-1].pts
        for packet in packets:
            container.mux(packet)
        if silence and sound:
            media.write_sound(container, silence, sound[1], begin=sound[0])
    return path
