"""Writes MPEG-TS: the form in which pictures that came in packets of other protocols go to the decoder."""

from __future__ import annotations

import struct
from typing import Literal

PACKET = 188
PROGRAM_PID, TABLE_PID, VIDEO_PID = 0x0000, 0x0100, 0x0101
STREAM_TYPES = {"h264": 0x1B, "hevc": 0x24, "mpeg4": 0x10}
Codec = Literal["h264", "hevc", "mpeg4"]
TABLES_EVERY = 30
"""The tables are written again before every so manieth picture."""


class TransportWriter:
    """One stream of pictures as MPEG-TS."""

    def __init__(self, codec: Codec) -> None:
        self._type = STREAM_TYPES[codec]
        self._counters: dict[int, int] = {}
        self._pictures = 0

    def picture(self, data: bytes, pts: int, *, key: bool) -> bytes:
        """The packets of one picture. ``pts``: in 1/90000 s."""
        tables = self._tables() if key or self._pictures % TABLES_EVERY == 0 else b""
        self._pictures += 1
        pts &= 2**33 - 1
        stamp = bytes([0x21 | pts >> 29 & 0x0E]) + struct.pack(">HH", pts >> 14 & 0xFFFE | 1, pts << 1 & 0xFFFE | 1)
        packet = b"\x00\x00\x01\xe0\x00\x00\x80\x80\x05" + stamp + data
        return tables + self._packets(packet, pts, key=key)

    def _packets(self, data: bytes, pts: int, *, key: bool) -> bytes:
        clock = (pts - 45_000) & (2**33 - 1)
        field = struct.pack(">BIBB", 0x50 if key else 0x10, clock >> 1, (clock & 1) << 7 | 0x7E, 0)
        made, at, first = [], 0, True
        while at < len(data):
            extra = bytes([len(field)]) + field if first else b""
            part = data[at : at + PACKET - 4 - len(extra)]
            at += len(part)
            made.append(self._head(VIDEO_PID, start=first, adapted=len(extra) + len(part) < PACKET - 4 or first))
            made.append(_filled(extra, PACKET - 4 - len(part)) + part)
            first = False
        return b"".join(made)

    def _head(self, pid: int, *, start: bool, adapted: bool) -> bytes:
        count = self._counters.get(pid, 0)
        self._counters[pid] = (count + 1) & 15
        return struct.pack(">BHB", 0x47, start << 14 | pid, (0x30 if adapted else 0x10) | count)

    def _tables(self) -> bytes:
        programs = struct.pack(">HBBBHH", 1, 0xC1, 0, 0, 1, 0xE000 | TABLE_PID)
        video = 0xE000 | VIDEO_PID
        streams = struct.pack(">HBBBHHBHH", 1, 0xC1, 0, 0, video, 0xF000, self._type, video, 0xF000)
        return self._table(PROGRAM_PID, 0x00, programs) + self._table(TABLE_PID, 0x02, streams)

    def _table(self, pid: int, number: int, body: bytes) -> bytes:
        section = struct.pack(">BH", number, 0xB000 | len(body) + 4) + body
        section += struct.pack(">I", checksum(section))
        packet = self._head(pid, start=True, adapted=False) + b"\x00" + section
        return packet + b"\xff" * (PACKET - len(packet))


def _filled(field: bytes, size: int) -> bytes:
    """An adaptation field of so many bytes: its length, what it holds, and stuffing."""
    if len(field) == size:
        return field
    if size == 1:
        return b"\x00"
    begin = bytes([size - 1]) + (field[1:] or b"\x00")
    return begin + b"\xff" * (size - len(begin))


def checksum(data: bytes) -> int:
    """The CRC of MPEG-TS tables."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value
