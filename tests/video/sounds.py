"""Videos with sound of the test's choice: tones that tell where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests import media


@dataclass(frozen=True)
class Recording:
    """A track of sound: samples of one channel, from ``begin`` seconds on; packets in ``lost`` are not written."""

    samples_N: np.ndarray
    begin: float = 0.0
    codec: str = "aac"
    rate: int = 48_000
    language: str = "eng"
    disposition: int = 0
    lost: Sequence[int] = ()
    broken: Sequence[int] = ()


def clicks(seconds: Sequence[float], length: float, rate: int = 48_000) -> np.ndarray:
    """Silence of ``length`` seconds with a tone of 0.1 s at each of ``seconds``."""
    samples_N = np.zeros(round(length * rate), np.float32)
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(0.1 * rate)) / rate).astype(np.float32)
    for second in seconds:
        at = round(second * rate)
        samples_N[at : at + len(tone)] = tone
    return samples_N


def with_sound(
    path: Path,
    recordings: Sequence[Recording],
    *,
    video_seconds: float = 3.0,
    video_begin: float = 0.0,
    container_format: str | None = None,
) -> Path:
    """A video at 5 frames a second beside ``recordings``."""
    with av.open(str(path), "w", format=container_format) as container:
        video = container.add_stream("libx264", rate=5, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        packets = []
        for number in range(round(5 * video_seconds)):
            frame = av.VideoFrame.from_ndarray(media.numbered(number, 64, 48), format="rgb24")
            frame.pts, frame.time_base = number + round(5 * video_begin), Fraction(1, 5)
            packets += video.encode(frame)
        packets += video.encode()
        streams = []
        for recording in recordings:
            stream = container.add_stream(recording.codec, rate=recording.rate, layout="mono")
            stream.metadata["language"] = recording.language
            stream.disposition = recording.disposition
            streams.append(stream)
        for recording, stream in zip(recordings, streams):
            packets += _sound_packets(recording, stream)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _sound_packets(recording: Recording, stream) -> list[av.Packet]:
    packets, size = [], 1024
    form = stream.codec_context.format
    for start in range(0, len(recording.samples_N), size):
        part_N = recording.samples_N[start : start + size]
        if form.name.startswith("s16"):
            part_N = (part_N * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(part_N[None], format=form.name, layout="mono")
        frame.sample_rate, frame.time_base = recording.rate, Fraction(1, recording.rate)
        frame.pts = start + round(recording.begin * recording.rate)
        packets += stream.encode(frame)
    packets += stream.encode()
    kept = []
    for number, packet in enumerate(packets):
        if number in recording.lost:
            continue
        if number in recording.broken:
            damaged = av.Packet(b"\xff" * packet.size)
            damaged.pts, damaged.dts, damaged.duration = packet.pts, packet.dts, packet.duration
            damaged.time_base, damaged.stream = packet.time_base, packet.stream
            packet = damaged
        kept.append(packet)
    return kept
