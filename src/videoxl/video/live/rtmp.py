"""RTMP: broadcasts. What comes in goes to the decoder as FLV."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from videoxl.text import visible
from videoxl.video.live.address import StreamAddress
from videoxl.video.live.feeds import CHUNK, Feed, Network, Patience, StreamError, shut

HANDSHAKE = 1536
MOST_MESSAGE = 1 << 25
"""Bytes of the largest message."""
FLV_HEAD = b"FLV\x01\x01\x00\x00\x00\x09\x00\x00\x00\x00"
CHUNK_SIZE, ACKNOWLEDGE, CONTROL, WINDOW, VIDEO, COMMAND, AGGREGATE = 1, 3, 4, 5, 9, 20, 22
"""Kinds of messages."""
PING, PONG = 6, 7
Value = float | bool | str | None | dict[str, "Value"]


def encode_value(value: Value) -> bytes:
    """A value as AMF0."""
    if value is None:
        return b"\x05"
    if isinstance(value, bool):
        return bytes([1, value])
    if isinstance(value, float | int):
        return b"\x00" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"\x02" + _text(value)
    return b"\x03" + b"".join(_text(name) + encode_value(one) for name, one in value.items()) + b"\x00\x00\x09"


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def decode_values(data: bytes) -> list[Value]:
    """Values of AMF0, as far as they are of kinds that are needed."""
    found: list[Value] = []
    at = 0
    try:
        while at < len(data):
            value, at = _decode(data, at)
            found.append(value)
    except (struct.error, IndexError, ValueError, RecursionError):
        pass  # a kind that is not needed: what came before it counts
    return found


def _decode(data: bytes, at: int) -> tuple[Value, int]:
    kind, at = data[at], at + 1
    if kind == 0:
        return struct.unpack_from(">d", data, at)[0], at + 8
    if kind == 1:
        return bool(data[at]), at + 1
    if kind == 2:
        return _decode_text(data, at)
    if kind in (3, 8):
        return _decode_object(data, at + 4 * (kind == 8))
    if kind in (5, 6):
        return None, at
    raise ValueError(kind)


def _decode_text(data: bytes, at: int) -> tuple[str, int]:
    size = struct.unpack_from(">H", data, at)[0]
    return data[at + 2 : at + 2 + size].decode("utf-8", "replace"), at + 2 + size


def _decode_object(data: bytes, at: int) -> tuple[Value, int]:
    made: dict[str, Value] = {}
    while data[at : at + 3] != b"\x00\x00\x09":
        name, at = _decode_text(data, at)
        made[name], at = _decode(data, at)
    return made, at + 3


@dataclass
class _Stream:
    """What is known of one chunk stream: its last header, and the message that is coming in."""

    stamp: int = 0
    step: int = 0
    size: int = 0
    kind: int = 0
    extended: bool = False
    data: bytearray = field(default_factory=bytearray)


class Session:
    """A conversation with a server."""

    def __init__(self, address: StreamAddress, connection: socket.socket) -> None:
        self.address, self.connection = address, connection
        self._held = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._chunk = 128
        self._window, self._got, self._told = 0, 0, 0

    def shake_hands(self) -> None:
        """Agree on the protocol."""
        self.connection.sendall(b"\x03" + bytes(8) + os.urandom(HANDSHAKE - 8))
        if self._take(1) != b"\x03":
            raise EOFError
        theirs = self._take(HANDSHAKE)
        self._take(HANDSHAKE)
        self.connection.sendall(theirs)

    def command(self, *values: Value, stream: int = 0) -> None:
        """Send a command."""
        self._send(COMMAND, b"".join(map(encode_value, values)), stream)

    def _send(self, kind: int, data: bytes, stream: int = 0) -> None:
        channel = 3 if kind == COMMAND else 2
        head = bytes([channel]) + bytes(3) + len(data).to_bytes(3, "big") + bytes([kind]) + stream.to_bytes(4, "little")
        parts = [data[at : at + 128] for at in range(0, len(data), 128)]
        self.connection.sendall(head + bytes([0xC0 | channel]).join(parts))

    def message(self) -> tuple[int, int, bytes]:
        """The next message: its kind, its time in milliseconds, its content. What is for this end is done."""
        while True:
            kind, stamp, data = self._whole()
            if kind == CHUNK_SIZE and len(data) >= 4:
                self._chunk = min(max(struct.unpack(">I", data[:4])[0] & 0x7FFFFFFF, 1), MOST_MESSAGE)
            elif kind == WINDOW and len(data) >= 4:
                self._window = struct.unpack(">I", data[:4])[0]
            elif kind == CONTROL and data[:2] == struct.pack(">H", PING):
                self._send(CONTROL, struct.pack(">H", PONG) + data[2:6])
            else:
                return kind, stamp, data

    def _whole(self) -> tuple[int, int, bytes]:
        while True:
            form, channel = divmod(self._take(1)[0], 64)
            if channel < 2:
                channel = 64 + int.from_bytes(self._take(channel + 1), "little")
            stream = self._streams.setdefault(channel, _Stream())
            self._read_head(stream, form)
            part = self._take(min(self._chunk, stream.size - len(stream.data)))
            stream.data += part
            if len(stream.data) == stream.size:
                data, stream.data = bytes(stream.data), bytearray()
                return stream.kind, stream.stamp, data

    def _read_head(self, stream: _Stream, form: int) -> None:
        """Read the header of a chunk, of which more is left out the larger ``form`` is."""
        head = self._take((11, 7, 3, 0)[form])
        told = int.from_bytes(head[:3], "big") if head else 0
        if form < 3:
            stream.extended = told == 0xFFFFFF
        if form < 2:
            stream.size, stream.kind = int.from_bytes(head[3:6], "big"), head[6]
        if stream.extended:
            told = int.from_bytes(self._take(4), "big")
        if stream.size > MOST_MESSAGE:
            raise EOFError
        if form == 0:
            stream.stamp, stream.step = told, 0
        elif form < 3:
            stream.step = told
        if form and not stream.data:
            stream.stamp = (stream.stamp + stream.step) & 0xFFFFFFFF

    def _take(self, size: int) -> bytes:
        while len(self._held) < size:
            data = self.connection.recv(CHUNK)
            if not data:
                raise EOFError
            self._held += data
            self._got += len(data)
        found = bytes(self._held[:size])
        del self._held[:size]
        if self._window and self._got - self._told > self._window // 2:
            self._told = self._got
            self._send(ACKNOWLEDGE, struct.pack(">I", self._got & 0xFFFFFFFF))
        return found


class RtmpFeed(Feed):
    """The pictures of a session, as FLV."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made = self._all()

    def read(self, seconds: float) -> bytes:
        self._session.connection.settimeout(seconds)
        return next(self._made, b"")

    def close(self) -> None:
        shut(self._session.connection)

    def _all(self) -> Iterator[bytes]:
        yield FLV_HEAD
        try:
            while True:
                kind, stamp, data = self._session.message()
                if kind == VIDEO and data:
                    yield tag(data, stamp)
                elif kind == AGGREGATE:
                    yield from _separated(data, stamp)
                elif kind == COMMAND:
                    code = _status(decode_values(data))
                    if code in ("NetStream.Play.StreamNotFound", "NetStream.Play.Failed"):
                        raise StreamError(
                            f"{self._session.address}: the server has no such stream ({code})", final=True
                        )
                    if code in ("NetStream.Play.Stop", "NetStream.Play.UnpublishNotify", "NetStream.Play.Complete"):
                        return
        except TimeoutError:
            raise
        except (EOFError, OSError):
            return  # the other end, or this one, closed it


def tag(data: bytes, stamp: int) -> bytes:
    """A picture as FLV keeps it."""
    stamps = struct.pack(">I", stamp)
    head = bytes([VIDEO]) + len(data).to_bytes(3, "big") + stamps[1:] + stamps[:1] + bytes(3)
    return head + data + struct.pack(">I", len(data) + 11)


def _separated(data: bytes, stamp: int) -> Iterator[bytes]:
    """Yield the pictures of a message that holds several."""
    at, first = 0, None
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        own = int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24
        first = own if first is None else first
        if data[at] == VIDEO and at + 11 + size <= len(data):
            yield tag(data[at + 11 : at + 11 + size], (stamp + own - first) & 0xFFFFFFFF)
        at += 11 + size + 4


def _status(values: list[Value]) -> str:
    found = next((value for value in values if isinstance(value, dict) and "code" in value), {})
    code = found.get("code") if isinstance(found, dict) else None
    return code if isinstance(code, str) else ""


def open_rtmp(address: StreamAddress, network: Network, patience: Patience) -> Feed:
    """Ask a server for a stream. Raises :class:`StreamError`."""
    if address.user:
        raise StreamError(f"{address}: rtmp takes no user and password here; leave them out", final=True)
    connection = network.connect(address.host, address.port, patience.connect_s, secure=address.secure)
    connection.settimeout(patience.connect_s)
    try:
        return _begin(Session(address, connection))
    except (OSError, EOFError) as error:
        shut(connection)
        raise StreamError(f"{address}: did not answer as an RTMP server does ({type(error).__name__})") from None
    except BaseException:
        shut(connection)
        raise


def _begin(session: Session) -> Feed:
    address = session.address
    path, _, query = address.path.lstrip("/").partition("?")
    application, _, name = path.rpartition("/")
    session.shake_hands()
    about: Value = {
        "app": application,
        "flashVer": "LNX 9,0,124,2",
        "tcUrl": f"{address.scheme}://{address.authority}/{application}",
        "fpad": False,
        "capabilities": 15.0,
        "audioCodecs": 4071.0,
        "videoCodecs": 252.0,
        "videoFunction": 1.0,
    }
    session.command("connect", 1.0, about)
    _result(session, 1.0)
    session.command("createStream", 2.0, None)
    values = _result(session, 2.0)
    number = next((int(value) for value in values[2:] if isinstance(value, float)), 1)
    session.command("play", 3.0, None, f"{name}?{query}" if query else name, -2000.0, stream=number)
    return RtmpFeed(session)


def _result(session: Session, number: float) -> list[Value]:
    """Wait for the answer to a command."""
    while True:
        kind, _, data = session.message()
        values = decode_values(data) if kind == COMMAND else []
        if values[:2] == ["_result", number]:
            return values
        if values[:1] == ["_error"] or values[:1] == ["close"]:
            code = visible(_status(values) or "no reason given", lines=False)[:80]
            raise StreamError(f"{session.address}: the server refused it ({code})", final=True)
