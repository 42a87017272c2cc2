"""Where a stream comes from: its URL, taken apart, and how it may be shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from videoxl.text import visible

PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}
NEEDS_PORT = ("tcp", "udp", "rtp")
SCHEMES = (*NEEDS_PORT, *PORTS)
STDIN = "-"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class StreamAddress:
    """A URL taken apart, or a file (``file``) or standard input (``stdin``)."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    """Path and query of a URL; the path of a file."""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_local(self) -> bool:
        """Whether no network is needed."""
        return self.scheme in ("file", "stdin")

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("https", "rtsps", "rtmps")

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if PORTS.get(self.scheme) == self.port else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL without user and password."""
        return f"{self.scheme}://{self.authority}{self.path}"

    def __str__(self) -> str:
        """For people: without user, password and query, which may hold secrets."""
        if self.scheme == "stdin":
            return "standard input"
        if self.scheme == "file":
            return visible(os.path.basename(self.path), lines=False)
        path, query, _ = self.path.partition("?")
        shown = visible(f"{self.scheme}://{self.authority}{path}{'?...' if query else ''}", lines=False)
        return shown if len(shown) <= 120 else f"{shown[:117]}..."


def parse_stream(text: str) -> StreamAddress:
    """Take the address of a stream apart. Raises ``ValueError``, which never holds the URL's user or password."""
    if text == STDIN:
        return StreamAddress("stdin")
    found = _URL.match(text)
    if found is None:
        return _local(text)
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        raise ValueError(
            f"{scheme}:// is not read as a stream: give {', '.join(SCHEMES)}, a file that grows, or - for standard "
            "input"
        )
    try:
        parts = urlsplit(text.replace("udp://@", "udp://").replace("rtp://@", "rtp://"))
        host, port = parts.hostname or "", parts.port or PORTS.get(scheme, 0)
    except ValueError:
        raise ValueError(f"the {scheme}:// address cannot be read: write {scheme}://HOST:PORT/PATH") from None
    if not host or re.search(r"[\s\\\x00-\x1f\x7f]", text):
        raise ValueError(f"the {scheme}:// address names no host: write {scheme}://HOST:PORT/PATH")
    if not port:
        raise ValueError(f"{scheme}:// needs a port: write {scheme}://{visible(host, lines=False)}:PORT")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return StreamAddress(scheme, host, port, path, unquote(parts.username or ""), unquote(parts.password or ""))


def _local(text: str) -> StreamAddress:
    name, separator, _ = text.partition(":")
    is_protocol = "://" in text or (separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", name))
    if is_protocol and not os.path.lexists(text):
        raise ValueError(
            f"{visible(name, lines=False)[:40]}: is not read as a stream: give {', '.join(SCHEMES)} with ://, a file "
            "that grows, or - for standard input"
        )
    if text.startswith("/dev/video"):
        raise ValueError(
            f"{visible(text, lines=False)}: a camera is read through another program: ffmpeg -f v4l2 "
            f"-i {visible(text, lines=False)} -c:v libx264 -tune zerolatency -f mpegts - | videoxl watch -"
        )
    return StreamAddress("file", path=os.path.expanduser(text))
