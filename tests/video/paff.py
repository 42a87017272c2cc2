"""Writes H.264 whose pictures are coded as frames or as pairs of fields, with samples stored as they are (I_PCM).

Encoders at hand do not code single fields. Numbers refer to ITU-T H.264.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, BITS = 96, 32, 6
FPS = 25


def striped(number: int) -> np.ndarray:
    """uint8 [H, W]: the number as vertical stripes, the most significant bit first."""
    row = [235 if number >> (BITS - 1 - x * BITS // WIDTH) & 1 else 16 for x in range(WIDTH)]
    return np.tile(np.array(row, np.uint8), (HEIGHT, 1))


def number_of(pixels: np.ndarray) -> int:
    """The number in a picture. Raises ``AssertionError`` when its fields show two numbers."""
    bits = pixels.mean(2)[:, WIDTH // BITS // 2 :: WIDTH // BITS] > 128
    assert (bits == bits[0]).all(), "the fields of two pictures are mixed"
    return int(sum(int(bit) << (BITS - 1 - place) for place, bit in enumerate(bits[0])))


class _Bits:
    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, count: int) -> _Bits:
        self.text += f"{value:0{count}b}"
        return self

    def golomb(self, *values: int) -> _Bits:
        for value in values:
            self.text += "0" * ((value + 1).bit_length() - 1) + f"{value + 1:b}"
        return self

    def unit(self, header: int, samples: bytes = b"") -> bytes:
        """A NAL unit with its start code."""
        safe = bytearray()
        for byte in samples or _bytes(self.text + "1"):  # keep start codes out of the payload
            if byte <= 3 and safe[-2:] == b"\0\0":
                safe.append(3)
            safe.append(byte)
        return b"\0\0\0\1" + bytes([header]) + bytes(safe)


def _bytes(bits: str) -> bytes:
    """Bits as bytes, filled with zeros."""
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def parameter_sets() -> bytes:
    """Sequence and picture parameter sets: Main profile, fields allowed."""
    sps = _Bits().put(77, 8).put(0, 8).put(30, 8).golomb(0, 0, 0, 4, 2).put(0, 1)
    sps.golomb(WIDTH // 16 - 1, HEIGHT // 32 - 1).put(0, 1).put(0, 1).put(1, 1).put(0, 1)
    sps.put(1, 1).put(0, 4).put(1, 1).put(1, 32).put(2 * FPS, 32).put(1, 1).put(0, 4)  # rate
    pps = _Bits().golomb(0, 0).put(0, 2).golomb(0, 0, 0).put(0, 3).golomb(0, 0, 0).put(0b100, 3)
    return sps.unit(0x67) + pps.unit(0x68)


def coded(luma: np.ndarray, *, order: int, frame_number: int, idr: bool, field: int | None = None) -> bytes:
    """One slice: a frame, or the field that begins with line ``field``. ``order``: picture order count."""
    plane = luma if field is None else luma[field::2]
    head = _Bits().golomb(0, 7, 0).put(frame_number % 16, 4)
    head.put(field is not None, 1)
    if field is not None:
        head.put(field, 1)
    if idr:
        head.golomb(0)
    head.put(order % 256, 8)
    head.put(0, 2 if idr else 1)
    head.golomb(0, 1)  # quantiser, no deblocking
    data, text = bytearray(), head.text
    for y in range(0, plane.shape[0], 16):
        for x in range(0, WIDTH, 16):
            data += _bytes(text + "000011010")  # ue(25): I_PCM
            data += plane[y : y + 16, x : x + 16].tobytes() + bytes([128]) * 128
            text = ""
    return _Bits().unit(0x65 if idr else 0x61, bytes(data) + b"\x80")


def pictures(kinds: Sequence[str], reordered: bool = False) -> list[tuple[int, list[bytes]]]:
    """(number, slices) of each picture in decoding order. ``kinds``: ``frame`` or ``fields`` for each number."""
    numbers = list(range(len(kinds)))
    if reordered:  # 0 2 1 4 3 ...
        numbers = [
            0,
            *(n for a in range(1, len(kinds) - 1, 2) for n in (a + 1, a)),
            *numbers[len(kinds) - 1 + len(kinds) % 2 :],
        ]
    made = []
    for place, number in enumerate(numbers):
        luma, order = striped(number), 2 * number
        if kinds[number] == "frame":
            slices = [coded(luma, order=order, frame_number=place, idr=place == 0)]
        else:
            slices = [
                coded(luma, order=order, frame_number=place, idr=place == 0, field=0),
                coded(luma, order=order + 1, frame_number=place, idr=False, field=1),
            ]
        made.append((number, slices))
    return made


def write_paff(
    path: Path, kinds: Sequence[str], *, reordered: bool = False, packet_per_field: bool = False, times: bool = True
) -> Path:
    """Write a video of numbered pictures.

    Args:
        reordered: decode pictures in another order than they are shown in, as with B-frames.
        packet_per_field: give each field a packet with its own time, where the container has packets.
        times: False leaves second fields without a time.
    """
    made = pictures(kinds, reordered)
    raw = parameter_sets() + b"".join(b"".join(slices) for _, slices in made)
    if path.suffix == ".h264":
        path.write_bytes(raw)
        return path
    delay = 1 if reordered else 0
    with av.open(io.BytesIO(raw), format="h264") as inside, av.open(str(path), "w") as outside:
        stream = outside.add_stream_from_template(inside.streams.video[0])
        for place, (number, slices) in enumerate(made):
            parts = slices if packet_per_field else [b"".join(slices)]
            for half, data in enumerate(parts):
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 2 * FPS)
                packet.pts, packet.dts = 2 * (number + delay) + half, 2 * place + half
                packet.duration = 2 // len(parts)
                packet.is_keyframe = place == 0 and half == 0
                if half and not times:
                    packet.pts = None
                outside.mux(packet)
    return path
