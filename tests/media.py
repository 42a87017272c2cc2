"""Draws test videos. Every frame shows its number, so that a wrong frame is noticed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, BITS = 160, 120, 16
SMALL_GOP = {"g": "12", "bf": "2", "preset": "veryfast"}


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 [H, W, 3]: the top half is ``number`` as a bar code, the bottom half moves."""
    picture = np.empty((height, width, 3), np.uint8)
    bits = np.array([number >> b & 1 for b in range(BITS)], np.uint8)
    picture[: height // 2] = np.repeat(bits * 200 + 28, -(-width // BITS))[:width, None]
    ramp = (np.arange(width) * 2 + number * 3) % 256
    picture[height // 2 :] = ramp.astype(np.uint8)[:, None]
    return picture


def number_of(pixels: np.ndarray) -> int:
    """The number in a picture drawn by :func:`numbered`, also after lossy coding and resizing."""
    height, width = pixels.shape[:2]
    row = pixels[height // 8 : height // 4].astype(np.float64).mean((0, 2))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return int(sum(1 << b for b, x in enumerate(centres) if row[x - 1 : x + 2].mean() > 128))


def write_video(
    path: Path,
    *,
    pictures: Iterable[np.ndarray] | None = None,
    frames: int = 100,
    fps: float | Fraction = 25,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: Sequence[float] | None = None,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
    title: str | None = None,
    audio_seconds: float = 0.0,
) -> Path:
    """Encode ``pictures`` (default: ``frames`` numbered ones), at ``fps`` or at explicit ``times`` in seconds."""
    if options is None:
        options = SMALL_GOP if codec == "libx264" else {"g": "12"}
    pictures = (numbered(i, *size) for i in range(frames)) if pictures is None else pictures
    with (
        restored_priority(),
        av.open(str(path), "w", format=container_format, options=container_options or {}) as container,
    ):
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(10_000_000), options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio_seconds else None
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            write_sound(container, sound, audio_seconds)
    return path


@contextmanager
def restored_priority() -> Iterator[None]:
    """Restore this process's scheduling at the end.

    SVT-AV1, run as root, gives it real-time priority for good, so that nothing else runs on that core.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def write_sound(container, stream, seconds: float, begin: float = 0.0) -> None:
    """Encode and mux silence from ``begin`` on."""
    rate = stream.codec_context.sample_rate
    for start in range(0, int(seconds * rate), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start + round(begin * rate), Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def remux(source: Path, target: Path, *, shift: float = 0.0, drop_before: int = 0, **options) -> Path:
    """Copy packets into another container: later by ``shift`` seconds, without the first ``drop_before`` packets."""
    with av.open(str(source)) as inside, av.open(str(target), "w", **options) as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        for i, packet in enumerate(inside.demux(stream)):
            if packet.size and i >= drop_before:
                packet.pts += round(shift / packet.time_base)
                packet.dts += round(shift / packet.time_base)
                packet.stream = copy
                outside.mux(packet)
    return target


def patched(source: Path, target: Path, kind: bytes, offset: int, value: bytes, count: int = 1) -> Path:
    """Copy a file, overwriting bytes ``offset`` after the first ``count`` occurrences of a box type."""
    data = bytearray(source.read_bytes())
    at = -1
    for _ in range(count):
        at = data.index(kind, at + 1)
        data[at + offset : at + offset + len(value)] = value
    target.write_bytes(data)
    return target


def box(kind: bytes, *content: bytes) -> bytes:
    """One MP4 box."""
    body = b"".join(content)
    return (8 + len(body)).to_bytes(4, "big") + kind + body


def find_box(data: bytes, kind: bytes) -> tuple[int, int]:
    """(start, end) of the first box of a kind, header included."""
    at = data.index(kind) - 4
    return at, at + int.from_bytes(data[at : at + 4], "big")


def numbers_of(batches: Iterable) -> list[int]:
    """The burnt-in numbers of all frames read."""
    return [number_of(pixels) for frames in batches for pixels in frames.pixels_FHWC]
