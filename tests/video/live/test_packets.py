"""What comes in packets of RTSP and RTMP, put together again."""

from __future__ import annotations

import base64
import io
import itertools
import struct

import av
import pytest

from tests.video.live.conftest import FPS, encoded, number_of
from videoxl.video.live.address import parse_stream
from videoxl.video.live.rtmp import decode_values, encode_value, tag
from videoxl.video.live.rtp import H264, Hevc
from videoxl.video.live.rtsp import authorization, parse_description
from videoxl.video.live.transport_stream import TransportWriter, checksum

FRAMES = 10


def units_of(data: bytes) -> list[bytes]:
    """The units of an elementary stream."""
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    return [part for part in parts if part]


def pictures(codec: str) -> list[list[bytes]]:
    """For each picture its units, as an encoder wrote them."""
    with av.open(io.BytesIO(encoded("mpegts", frames=FRAMES, codec=codec))) as container:
        return [units_of(bytes(packet)) for packet in container.demux(video=0) if packet.size]


def decoded(stream: bytes) -> list[tuple[float, int]]:
    with av.open(io.BytesIO(stream), format="mpegts") as container:
        return [(round(f.time, 3), number_of(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]


def rtp(number: int, stamp: int, payload: bytes, *, last: bool, extended: bool = False) -> bytes:
    head = struct.pack(">BBHII", 0x90 if extended else 0x80, (0x80 if last else 0) | 96, number, stamp & 0xFFFFFFFF, 7)
    return head + (struct.pack(">HHI", 0xBEDE, 1, 0) if extended else b"") + payload


@pytest.mark.parametrize("size", [1, 100, 183, 184, 200, 5000])
def test_packets_of_a_transport_stream_have_their_size(size):
    made = TransportWriter("h264").picture(bytes(size), 90_000, key=True)
    assert len(made) % 188 == 0
    assert set(made[::188]) == {0x47}


def test_a_transport_stream_gives_back_pictures_and_times():
    writer = TransportWriter("h264")
    whole = [b"".join(b"\0\0\0\1" + unit for unit in units) for units in pictures("libx264")]
    made = b"".join(writer.picture(one, 2**33 - 90_000 + 22_500 * n, key=n % FPS == 0) for n, one in enumerate(whole))
    found = decoded(made)
    assert [number for _, number in found] == list(range(FRAMES))
    assert [round(b[0] - a[0], 3) for a, b in itertools.pairwise(found)] == [0.25] * (FRAMES - 1)  # over the wrap


def test_the_checksum_of_tables_is_that_of_the_standard():
    assert checksum(b"123456789") == 0x0376E6E7


@pytest.mark.parametrize("extended", [False, True])
def test_h264_comes_back_from_single_packets_fragments_and_packets_of_several(extended):
    sent, number = [], 0
    stamps = range(2**32 - 45_000, 2**32 + 10**6, 22_500)  # the stamp wraps
    for units, stamp in zip(pictures("libx264"), stamps):
        payloads = []
        for is_small, group in itertools.groupby(units, lambda unit: len(unit) <= 60):
            if is_small:
                payloads.append(b"\x78" + b"".join(struct.pack(">H", len(u)) + u for u in group))
                continue
            for unit in group:
                parts = [unit[1 + at : 51 + at] for at in range(0, len(unit) - 1, 50)]
                for place, part in enumerate(parts):
                    flags = (place == 0) << 7 | (place == len(parts) - 1) << 6
                    payloads.append(bytes([unit[0] & 0xE0 | 28, flags | unit[0] & 31]) + part)
        for place, payload in enumerate(payloads):
            sent.append(rtp(number, stamp, payload, last=place == len(payloads) - 1, extended=extended))
            number += 1
    taker = H264(90_000, "")
    found = decoded(b"".join(one for packet in sent for one in taker.packet(packet)))
    assert [n for _, n in found] == list(range(FRAMES))
    assert round(found[-1][0] - found[0][0], 3) == (FRAMES - 1) / FPS


def test_parameter_sets_that_only_the_description_holds_are_put_before_key_pictures():
    streams = pictures("libx264")
    sets = [unit for unit in streams[0] if unit[0] & 31 in (7, 8)]
    told = "packetization-mode=1;sprop-parameter-sets=" + ",".join(base64.b64encode(one).decode() for one in sets)
    taker, made = H264(90_000, told), b""
    for number, units in enumerate(streams):
        kept = [unit for unit in units if unit[0] & 31 not in (7, 8)]
        for place, unit in enumerate(kept):
            made += b"".join(taker.packet(rtp(0, 22_500 * number, unit, last=place == len(kept) - 1)))
    assert len(decoded(made)) == FRAMES


def test_h265_comes_back():
    taker, made = Hevc(90_000, ""), b""
    for number, units in enumerate(pictures("libx265")):
        for place, unit in enumerate(units):
            last = place == len(units) - 1
            if len(unit) > 60:
                kind, half = unit[0] >> 1 & 63, len(unit) // 2
                head = bytes([unit[0] & 0x81 | 49 << 1, unit[1]])
                made += b"".join(
                    taker.packet(rtp(0, 22_500 * number, head + bytes([0x80 | kind]) + unit[2:half], last=False))
                )
                made += b"".join(
                    taker.packet(rtp(0, 22_500 * number, head + bytes([0x40 | kind]) + unit[half:], last=last))
                )
            else:
                made += b"".join(taker.packet(rtp(0, 22_500 * number, unit, last=last)))
    assert [number for _, number in decoded(made)] == list(range(FRAMES))


@pytest.mark.parametrize("packet", [b"", b"\x80" * 5, b"\x00" * 40, b"\x90" + bytes(40), b"\xbf" + b"\xff" * 60])
def test_packets_that_are_none_do_no_harm(packet):
    for kind in (H264, Hevc):
        assert b"".join(kind(90_000, "sprop-parameter-sets=%%%;sprop-sps=A").packet(packet)) == b""


def test_a_description_names_the_first_pictures_that_can_be_read():
    text = (
        "v=0\r\nm=audio 0 RTP/AVP 97\r\na=control:track1\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
        "a=fmtp:96 packetization-mode=1\r\na=control:track2\r\n"
    )
    found = parse_description(text)
    assert (found.encoding, found.clock_rate, found.control) == ("H264", 90_000, "track2")
    assert parse_description("v=0\r\nm=audio 0 RTP/AVP 97\r\n") is None
    with pytest.raises(ValueError, match="THEORA"):
        parse_description("m=video 0 RTP/AVP 98\r\na=rtpmap:98 theora/90000\r\n")


def test_the_password_is_proved_as_the_standard_shows():
    address = parse_stream("rtsp://Mufasa:Circle%20Of%20Life@h/")
    told = authorization(address, 'Digest realm="testrealm@host.com", nonce="dcd98b"', "GET", "/dir/index.html")
    assert "Circle" not in told
    assert authorization(address, "Basic realm=x", "GET", "/").startswith("Basic ")


def test_values_of_rtmp_come_back():
    values = ["connect", 1.0, {"app": "live", "fpad": False, "deep": {"a": None}}, None, "x" * 300]
    assert decode_values(b"".join(map(encode_value, values))) == values
    assert decode_values(b"\x02\x00\xff") == [""] or decode_values(b"\x02\x00\xff") == []
    assert tag(b"abc", 0x01020304)[4:8] == b"\x02\x03\x04\x01"
