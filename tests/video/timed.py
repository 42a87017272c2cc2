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


def edited(source: Path, target: Path, edits: Sequence[tuple[float, float | None, int]]) -> Path:
    """Copy an MP4 with another edit list: (seconds, seconds into the recording or None for a pause, speed)."""
    data = bytearray(source.read_bytes())
    start, end = media.find_box(bytes(data), b"elst")
    first = int.from_bytes(data[start + 20 : start + 24], "big")
    scale_at = data.index(b"mdhd") + 16
    scale = int.from_bytes(data[scale_at : scale_at + 4], "big")
    content = [bytes(4), len(edits).to_bytes(4, "big")]
    for seconds, begin, speed in edits:
        time = -1 if begin is None else first + round(begin * scale)
        content += [
            round(seconds * 1000).to_bytes(4, "big"),
            time.to_bytes(4, "big", signed=True),
            speed.to_bytes(2, "big"),
            bytes(2),
        ]
    new = media.box(b"elst", *content)
    for kind in (b"moov", b"trak", b"edts"):
        at, _ = media.find_box(bytes(data), kind)
        size = int.from_bytes(data[at : at + 4], "big") + len(new) - (end - start)
        data[at : at + 4] = size.to_bytes(4, "big")
    data[start:end] = new
    total = round(1000 * sum(seconds for seconds, _, _ in edits)).to_bytes(4, "big")
    for kind, offset in ((b"mvhd", 20), (b"tkhd", 24)):
        at = data.index(kind) + offset
        data[at : at + 4] = total
    target.write_bytes(data)
    return target
