"""RTSP (RFC 2326): cameras. Pictures come over the same connection, so no port is opened for them."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urljoin

from videoxl.errors import VideoErrorCode
from videoxl.text import visible
from videoxl.video.live.address import StreamAddress
from videoxl.video.live.feeds import CHUNK, Feed, Network, Patience, StreamError, rtp_payload, shut
from videoxl.video.live.rtp import KINDS, Depacketizer

HEAD_BYTES = 1 << 16
BODY_BYTES = 1 << 18
KEEP_ALIVE = 20.0
"""Seconds after which the server is told that somebody is still there; their usual limit is 60."""


@dataclass
class Reply:
    """What a server answers."""

    status: int
    reason: str
    headers: dict[str, str]
    """Names in small letters."""
    body: bytes = b""


@dataclass(frozen=True)
class Media:
    """The pictures of a description (SDP, RFC 4566)."""

    encoding: str
    clock_rate: int
    parameters: str
    control: str


def parse_description(text: str) -> Media | None:
    """The first stream of pictures that can be read; None: there are no pictures.

    Raises ``ValueError``, which names what is there instead.
    """
    others = []
    for section in re.split(r"(?m)^(?=m=)", text)[1:]:
        found = re.match(r"m=(\w+) \d+\S* \S+ (\d+)", section)
        if found is None or found[1] != "video":
            continue
        mapped = re.search(rf"(?m)^a=rtpmap:{found[2]} ([\w-]+)/(\d{{1,9}})", section)
        encoding, rate = (mapped[1].upper(), int(mapped[2]) or 90_000) if mapped else ("", 90_000)
        if not mapped and found[2] == "33":
            encoding = "MP2T"
        if encoding in KINDS or encoding == "MP2T":
            format_line = re.search(rf"(?m)^a=fmtp:{found[2]} (.*)$", section)
            control = re.search(r"(?m)^a=control:(\S+)", section)
            return Media(encoding, rate, format_line[1] if format_line else "", control[1] if control else "")
        others.append(encoding or f"payload {found[2]}")
    if others:
        raise ValueError(", ".join(others))
    return None


@dataclass
class Session:
    """A conversation with a server."""

    address: StreamAddress
    connection: socket.socket
    seconds: float
    held: bytearray = field(default_factory=bytearray)
    number: int = 0
    token: str = ""
    """The server's name of the session."""
    challenge: str = ""
    """How it wants to be told the password."""

    def ask(self, method: str, url: str, headers: dict[str, str] | None = None) -> Reply:
        """Send a request and wait for its reply. Raises :class:`StreamError`."""
        reply = self._once(method, url, headers or {})
        if reply.status == 401 and self.address.user and not self.challenge:
            self.challenge = reply.headers.get("www-authenticate", "")
            reply = self._once(method, url, headers or {})
        if reply.status != 200:
            code: VideoErrorCode = "permission_denied" if reply.status in (401, 403) else "not_found"
            raise StreamError(
                f"{self.address}: the server answered {reply.status} {visible(reply.reason, lines=False)[:60]}",
                code=code,
                final=300 <= reply.status < 500,
            )
        return reply

    def _once(self, method: str, url: str, headers: dict[str, str]) -> Reply:
        self.send(method, url, headers)
        self.connection.settimeout(self.seconds)
        try:
            while True:
                if self.held[:1] == b"$":
                    self.packet()  # pictures that are already on their way
                elif (reply := self.reply()) is not None:
                    return reply
        except (OSError, EOFError) as error:
            raise StreamError(f"{self.address}: did not answer {method} ({type(error).__name__})") from None

    def send(self, method: str, url: str, headers: dict[str, str] | None = None) -> None:
        """Send a request."""
        self.number += 1
        told = {"CSeq": str(self.number), "User-Agent": "videoxl", **(headers or {})}
        if self.token:
            told["Session"] = self.token
        if self.challenge:
            told["Authorization"] = authorization(self.address, self.challenge, method, url)
        lines = [f"{method} {url} RTSP/1.0", *(f"{name}: {value}" for name, value in told.items()), "", ""]
        self.connection.sendall("\r\n".join(lines).encode())

    def reply(self) -> Reply | None:
        """Read one reply; None for a request of the server, which is passed over. Raises ``EOFError``, ``OSError``."""
        while (end := self.held.find(b"\r\n\r\n")) < 0:
            if len(self.held) > HEAD_BYTES:
                raise EOFError
            self._more()
        lines = self.held[:end].decode("utf-8", "replace").split("\r\n")
        del self.held[: end + 4]
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        size = int(headers["content-length"]) if headers.get("content-length", "").isdecimal() else 0
        if size > BODY_BYTES:
            raise EOFError
        body = self.take(size)
        found = re.match(r"RTSP/\d\.\d (\d{3}) ?(.*)", lines[0])
        return Reply(int(found[1]), found[2], headers, body) if found else None

    def packet(self) -> tuple[int, bytes]:
        """Read one packet: its channel, and what it holds."""
        _, channel, size = struct.unpack(">BBH", self.take(4))
        return channel, self.take(size)

    def take(self, size: int) -> bytes:
        """The next bytes, exactly so many."""
        while len(self.held) < size:
            self._more()
        data = bytes(self.held[:size])
        del self.held[:size]
        return data

    def _more(self) -> None:
        data = self.connection.recv(CHUNK)
        if not data:
            raise EOFError
        self.held += data


def authorization(address: StreamAddress, challenge: str, method: str, url: str) -> str:
    """The header that proves that one knows the password (RFC 2617)."""
    if not challenge.lower().startswith("digest"):
        secret = f"{address.user}:{address.password}".encode()
        return f"Basic {base64.b64encode(secret).decode()}"
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm, nonce = asked.get("realm", ""), asked.get("nonce", "")

    def digest(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    proof = digest(f"{digest(f'{address.user}:{realm}:{address.password}')}:{nonce}:{digest(f'{method}:{url}')}")
    given = {"username": address.user, "realm": realm, "nonce": nonce, "uri": url, "response": proof}
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in given.items())


class RtspFeed(Feed):
    """The pictures of a session, as MPEG-TS."""

    def __init__(self, session: Session, url: str, depacketizer: Depacketizer | None) -> None:
        self._session, self._url, self._depacketizer = session, url, depacketizer
        self._told = time.monotonic()
        self._made = self._all()

    def read(self, seconds: float) -> bytes:
        self._session.connection.settimeout(seconds)
        self._until = time.monotonic() + seconds
        return next(self._made, b"")

    def close(self) -> None:
        shut(self._session.connection)

    def _all(self) -> Iterator[bytes]:
        session = self._session
        try:
            while True:
                if time.monotonic() - self._told > KEEP_ALIVE:
                    self._told = time.monotonic()
                    session.send("OPTIONS", self._url)
                if time.monotonic() > self._until:
                    raise TimeoutError
                if session.take(1) != b"$":
                    session.held[:0] = b"R"
                    session.reply()
                    continue
                session.held[:0] = b"$"
                channel, packet = session.packet()
                if channel == 0 and len(packet) > 12:
                    yield from self._depacketizer.packet(packet) if self._depacketizer else (rtp_payload(packet),)
        except TimeoutError:
            raise
        except (EOFError, OSError):
            return  # the other end, or this one, closed it


def open_rtsp(address: StreamAddress, network: Network, patience: Patience) -> Feed:
    """Ask a camera for its pictures. Raises :class:`StreamError`."""
    connection = network.connect(address.host, address.port, patience.connect_s, secure=address.secure)
    try:
        return _begin(Session(address, connection, patience.connect_s))
    except BaseException:
        shut(connection)
        raise


def _begin(session: Session) -> Feed:
    address = session.address
    described = session.ask("DESCRIBE", address.url, {"Accept": "application/sdp"})
    try:
        media = parse_description(described.body.decode("utf-8", "replace"))
    except ValueError as error:
        raise StreamError(
            f"{address}: its pictures are {visible(str(error), lines=False)[:80]}, which is not read over RTSP; "
            f"allowed: {', '.join(KINDS)}",
            code="no_decoder",
            final=True,
        ) from None
    if media is None:
        raise StreamError(f"{address}: has no pictures", code="no_video_stream", final=True)
    base = described.headers.get("content-base") or address.url
    url = base if media.control in ("", "*") else urljoin(base if base.endswith("/") else f"{base}/", media.control)
    if re.search(r"[\s\x00-\x1f]", url) or re.search(r"[\s\x00-\x1f]", base):
        raise StreamError(f"{address}: its description cannot be read", final=True)
    set_up = session.ask("SETUP", url, {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"})
    session.token = set_up.headers.get("session", "").partition(";")[0].strip()
    session.ask("PLAY", base, {"Range": "npt=0.000-"})
    if media.encoding == "MP2T":
        return RtspFeed(session, base, None)
    return RtspFeed(session, base, KINDS[media.encoding](media.clock_rate, media.parameters))
