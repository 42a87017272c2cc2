"""Inside the decoder process: H.264 pictures whose two fields come in packets of their own.

Interlaced video may be coded field by field, for each picture or for some. Most containers then hold a packet for each
field. Slice headers tell which packets are second fields; nothing is decoded. Numbers refer to ITU-T H.264.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

SLICE, PARTITION_A, IDR_SLICE, SEQUENCE, PICTURE = 1, 2, 5, 7, 8
"""Types of NAL units (table 7-1)."""
SLICE_HEADER_BYTES = 24
PARAMETER_SET_BYTES = 4096
"""What is read of a slice and of a parameter set, at most."""
HIGH_PROFILES = frozenset([100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135])
"""Profiles whose sequence parameter set names the chroma format (7.3.2.1.1)."""


@dataclass(frozen=True)
class _Sequence:
    may_have_fields: bool
    frame_number_bits: int
    separate_planes: bool


@dataclass(frozen=True)
class _Field:
    frame_number: int
    is_bottom: bool


class FieldPairs:
    """Looks at the packets of an H.264 stream in decoding order, and tells which of them are second fields."""

    def __init__(self, extradata: bytes | None) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}  # picture parameter set -> sequence parameter set
        self._length_bytes = 0  # 0: units are separated by start codes
        self._first: _Field | None = None
        data = extradata or b""
        if data[:1] == b"\x01" and len(data) > 6:
            self._length_bytes = (data[4] & 3) + 1
            self._read_parameter_sets(_units_of_configuration(data))
        else:
            self._read_parameter_sets(_units_by_start_code(data))

    def is_second_field(self, packet: Packet[VideoStream]) -> bool:
        """Whether the packet completes the picture of the packet before it."""
        if not packet.is_keyframe and not any(s.may_have_fields for s in self._sequences.values()):
            return False
        units = list(self._units(bytes(packet)))
        self._read_parameter_sets(iter(units))
        field = next((self._field(unit) for unit in units if unit[0] & 31 in (SLICE, PARTITION_A, IDR_SLICE)), None)
        first, self._first = self._first, field
        if first is None or field is None or first == field or first.frame_number != field.frame_number:
            return False
        self._first = None
        return True

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The NAL units up to the first slice, of which only the header is taken."""
        all_units = _units_by_length(data, self._length_bytes) if self._length_bytes else _units_by_start_code(data)
        for unit in all_units:
            yield unit
            if unit[0] & 31 in (SLICE, PARTITION_A, IDR_SLICE):
                return

    def _read_parameter_sets(self, units: Iterator[bytes]) -> None:
        for unit in units:
            try:
                if unit[0] & 31 == SEQUENCE:
                    number, sequence = _read_sequence(unit)
                    self._sequences[number] = sequence
                elif unit[0] & 31 == PICTURE:
                    bits = _Bits(unit[1:PARAMETER_SET_BYTES])
                    number = bits.golomb()
                    self._sequence_of[number] = bits.golomb()
            except EOFError:  # a damaged set: the decoder will complain
                continue

    def _field(self, unit: bytes) -> _Field | None:
        """Which field a slice belongs to; None for a slice of a frame (7.3.3)."""
        try:
            bits = _Bits(unit[1:SLICE_HEADER_BYTES])
            bits.golomb()  # first macroblock
            bits.golomb()  # slice type
            sequence = self._sequences.get(self._sequence_of.get(bits.golomb(), -1))
            if sequence is None or not sequence.may_have_fields:
                return None
            if sequence.separate_planes:
                bits.take(2)
            frame_number = bits.take(sequence.frame_number_bits)
            return _Field(frame_number, bool(bits.take(1))) if bits.take(1) else None
        except EOFError:
            return None


class _Bits:
    """Reads bits from the payload of a NAL unit."""

    def __init__(self, data: bytes) -> None:
        payload = data.replace(b"\0\0\3", b"\0\0")  # bytes that keep start codes out of the payload
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def take(self, count: int) -> int:
        """The next ``count`` bits as a number. Raises ``EOFError``."""
        if count > self._left:
            raise EOFError
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """The next Exp-Golomb code, ue(v). Raises ``EOFError``."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 31:
                raise EOFError
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_golomb(self) -> int:
        """The next signed Exp-Golomb code, se(v)."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _read_sequence(unit: bytes) -> tuple[int, _Sequence]:
    """(number, what matters here) of a sequence parameter set (7.3.2.1.1)."""
    bits = _Bits(unit[1:PARAMETER_SET_BYTES])
    profile = bits.take(8)
    bits.take(16)  # constraints and level
    number = bits.golomb()
    separate_planes = False
    if profile in HIGH_PROFILES:
        separate_planes = _read_high_profile(bits)
    frame_number_bits = bits.golomb() + 4
    order_type = bits.golomb()
    if order_type == 0:
        bits.golomb()
    elif order_type == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # reference frames
    bits.take(1)  # gaps in frame numbers
    bits.golomb()  # width
    bits.golomb()  # height
    return number, _Sequence(not bits.take(1), frame_number_bits, separate_planes)


def _read_high_profile(bits: _Bits) -> bool:
    """Read the chroma format, bit depths and scaling lists; whether colour planes are coded separately."""
    chroma = bits.golomb()
    separate_planes = bool(bits.take(1)) if chroma == 3 else False
    bits.golomb()
    bits.golomb()
    bits.take(1)
    if bits.take(1):
        for number in range(8 if chroma != 3 else 12):
            if bits.take(1):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    return separate_planes


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    """Read over a scaling list (7.3.2.1.1.1)."""
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last


def _units_by_length(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """NAL units behind their sizes, as in MP4."""
    at = 0
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if size and at < len(data):
            yield data[at : at + size]
        at += size


def _units_by_start_code(data: bytes) -> Iterator[bytes]:
    """NAL units behind start codes, as in MPEG-TS. A unit that is a slice goes on to the end of ``data``."""
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        begin = at + 3
        is_slice = data[begin] & 31 in (SLICE, PARTITION_A, IDR_SLICE)
        at = -1 if is_slice else data.find(b"\0\0\1", begin)
        unit = data[begin:] if at < 0 else data[begin:at]
        if unit:
            yield unit


def _units_of_configuration(data: bytes) -> Iterator[bytes]:
    """The parameter sets of an ``avcC`` box."""
    at = 5
    for mask in (31, 255):  # sequence sets, then picture sets
        if at >= len(data):
            return
        count, at = data[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2], "big")
            if unit := data[at + 2 : at + 2 + size]:
                yield unit
            at += 2 + size
