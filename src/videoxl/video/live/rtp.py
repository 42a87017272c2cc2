"""Puts pictures together again that RTP cut into packets (RFC 6184, RFC 7798, RFC 3016)."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator

from videoxl.video.live.feeds import rtp_payload
from videoxl.video.live.transport_stream import Codec, TransportWriter

START = b"\x00\x00\x00\x01"
MOST_PICTURE = 1 << 25
"""Bytes of the largest picture."""


class Depacketizer(ABC):
    """Packets of one stream in, MPEG-TS out."""

    codec: Codec

    def __init__(self, clock_rate: int, parameters: str) -> None:
        """``parameters``: of the stream's ``a=fmtp`` line."""
        self._writer = TransportWriter(self.codec)
        self._rate = clock_rate
        self._units: list[bytes] = []
        self._part = bytearray()
        self._stamp: int | None = None
        self._pts = 0
        self._last: int | None = None
        self._begin = self.parameter_sets(parameters)

    def parameter_sets(self, parameters: str) -> bytes:
        """What a decoder must know first, as the description gives it."""
        return b""

    @abstractmethod
    def take(self, payload: bytes) -> None:
        """Add what one packet carries to the picture."""

    @abstractmethod
    def is_key(self, unit: bytes) -> bool:
        """Whether decoding can begin with this unit."""

    def packet(self, packet: bytes) -> Iterator[bytes]:
        """Take one packet, and yield the pictures that are complete."""
        if len(packet) < 13 or packet[0] >> 6 != 2:
            return
        stamp = struct.unpack_from(">I", packet, 4)[0]
        if self._stamp is not None and stamp != self._stamp:
            yield from self._finished()
        self._stamp = stamp
        self.take(rtp_payload(packet))
        if packet[1] & 0x80:  # the last one of its picture
            yield from self._finished()

    def _finished(self) -> Iterator[bytes]:
        units, self._units = self._units, []
        if not units or self._stamp is None or sum(map(len, units)) > MOST_PICTURE:
            return
        if self._last is not None:
            self._pts += (self._stamp - self._last + 2**31) % 2**32 - 2**31
        self._last = self._stamp
        key = any(map(self.is_key, units))
        data = (self._begin if key else b"") + b"".join(units)
        yield self._writer.picture(data, round(self._pts * 90_000 / self._rate) + 90_000, key=key)

    def _fragment(self, begin: bool, end: bool, head: bytes, data: bytes) -> None:
        """A part of a unit that is too large for a packet."""
        if begin:
            self._part = bytearray(START + head)
        if self._part and len(self._part) + len(data) <= MOST_PICTURE:
            self._part += data
        if end and self._part:
            self._units.append(bytes(self._part))
            self._part = bytearray()


class H264(Depacketizer):
    """H.264."""

    codec = "h264"

    def parameter_sets(self, parameters: str) -> bytes:
        return _sets(parameters, "sprop-parameter-sets")

    def take(self, payload: bytes) -> None:
        kind = payload[0] & 31 if payload else 0
        if 1 <= kind <= 23:
            self._units.append(START + payload)
        elif kind == 24:
            self._units.extend(START + unit for unit in _aggregated(payload[1:]))
        elif kind == 28 and len(payload) > 2:
            head = bytes([payload[0] & 0xE0 | payload[1] & 31])
            self._fragment(bool(payload[1] & 0x80), bool(payload[1] & 0x40), head, payload[2:])

    def is_key(self, unit: bytes) -> bool:
        return unit[4] & 31 == 5


class Hevc(Depacketizer):
    """H.265."""

    codec = "hevc"

    def parameter_sets(self, parameters: str) -> bytes:
        return b"".join(_sets(parameters, f"sprop-{name}") for name in ("vps", "sps", "pps"))

    def take(self, payload: bytes) -> None:
        kind = payload[0] >> 1 & 63 if len(payload) > 2 else 63
        if kind < 48:
            self._units.append(START + payload)
        elif kind == 48:
            self._units.extend(START + unit for unit in _aggregated(payload[2:]))
        elif kind == 49 and len(payload) > 3:
            head = bytes([payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]])
            self._fragment(bool(payload[2] & 0x80), bool(payload[2] & 0x40), head, payload[3:])

    def is_key(self, unit: bytes) -> bool:
        return 16 <= unit[4] >> 1 & 63 <= 21


class Mpeg4(Depacketizer):
    """MPEG-4 part 2."""

    codec = "mpeg4"

    def parameter_sets(self, parameters: str) -> bytes:
        found = re.search(r"config=([0-9A-Fa-f]+)", parameters)
        return bytes.fromhex(found[1]) if found and len(found[1]) % 2 == 0 else b""

    def take(self, payload: bytes) -> None:
        self._units.append(payload)

    def is_key(self, unit: bytes) -> bool:
        at = unit.find(b"\x00\x00\x01\xb6")
        return 0 <= at < len(unit) - 4 and unit[at + 4] >> 6 == 0


KINDS: dict[str, type[Depacketizer]] = {"H264": H264, "H265": Hevc, "MP4V-ES": Mpeg4}
"""Names of encodings in a description -> what puts their pictures together."""


def _sets(parameters: str, name: str) -> bytes:
    found = re.search(rf"{name}=([A-Za-z0-9+/=,]+)", parameters)
    made = b""
    for part in found[1].split(",") if found else ():
        try:
            made += START + base64.b64decode(part + "=" * (-len(part) % 4))
        except binascii.Error:
            continue  # they come with the pictures, too
    return made


def _aggregated(data: bytes) -> Iterator[bytes]:
    """Yield the units of a packet that holds several."""
    at = 0
    while at + 2 < len(data):
        size = struct.unpack_from(">H", data, at)[0]
        unit = data[at + 2 : at + 2 + size]
        if len(unit) > 1:
            yield unit
        at += 2 + size
