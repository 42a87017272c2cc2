"""Download a video that is given as a URL, for whoever allows it.

Only ``https`` and only addresses that everybody may reach: a URL is no way into the network of this machine. Every
redirect is checked as the first URL is. The name is looked up once, and the connection goes to the address that was
checked. The bytes go to a temporary file, which is then opened as any other: in a sandbox.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, urljoin, urlsplit

from videoxl.errors import VideoError
from videoxl.text import visible
from videoxl.video import web_page

URL = re.compile(r"(?i)https?://")
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK = 1 << 20
TRANSLATED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32")))
"""Addresses behind which a translator of the network reaches others (NAT64, Teredo)."""


@dataclass(frozen=True)
class UrlLimits:
    """How much one download may take."""

    bytes: int = 20 * 10**9
    seconds: float = 3600.0
    stall_seconds: float = 30.0
    """Longest wait for the next bytes."""
    redirects: int = 5


DEFAULT_LIMITS = UrlLimits()
Allows = Callable[[str, int], bool]
"""Whether a host, in lower case, may be asked at a port."""


def is_url(video: object) -> bool:
    """Whether a video is given as ``http://...`` or ``https://...``."""
    return isinstance(video, str) and URL.match(video) is not None


@contextlib.contextmanager
def local_copy(video: str, *, allowed: bool, limits: UrlLimits = DEFAULT_LIMITS) -> Iterator[str]:
    """The path of a video: itself, or of a copy of what a URL names, which is removed after the block.

    Raises ``VideoError``, or ``ValueError`` for a URL that is not ``allowed``.
    """
    if not is_url(video):
        yield video
        return
    if not allowed:
        raise ValueError(f"{_short(video)}: is a URL; --allow-url downloads it, or download it first and give the path")
    with tempfile.TemporaryDirectory(prefix="videoxl-url-") as folder:
        target = Path(folder) / _name(video)
        until = time.monotonic() + limits.seconds
        try:
            with open(target, "wb") as file:
                _fetch(video, file, limits, lambda host, port: True)
        except _WebPageError:
            target.unlink()
            target = _of_page(video, Path(folder), limits, until)
        yield str(target)


def download(url: str, file: IO[bytes], limits: UrlLimits, allows: Allows) -> None:
    """Download a URL into an open file, from hosts that are allowed: that of the URL, and of every redirect.

    Raises ``VideoError``; one with the code ``permission_denied`` for a host that is not allowed.
    """
    try:
        _fetch(url, file, limits, allows)
    except _WebPageError:
        raise _refused(url, "is a web page, not a video file") from None


class _WebPageError(Exception):
    """A URL leads to a web page."""


def _of_page(url: str, folder: Path, limits: UrlLimits, until: float) -> Path:
    most = min(limits.bytes, shutil.disk_usage(folder).free)
    found = web_page.download(url, folder, most, until - time.monotonic())
    if isinstance(found, str):
        raise _refused(url, visible(found, lines=False))
    return found


def _fetch(url: str, file: IO[bytes], limits: UrlLimits, allows: Allows) -> None:
    until, at = time.monotonic() + limits.seconds, url
    for _ in range(limits.redirects + 1):
        connection, path = _connection(at, limits, allows)
        # Waits are limited one by one; a server that sends a byte now and then is cut off here.
        cut = threading.Timer(max(0.0, until - time.monotonic()), connection.cut)
        cut.daemon = True
        cut.start()
        try:
            connection.request("GET", path, headers={"User-Agent": "videoxl", "Accept-Encoding": "identity"})
            if time.monotonic() > until:  # it was connected to too late to be cut off
                raise _refused(url, f"took longer than {limits.seconds:g} s")
            answer = connection.getresponse()
            if answer.status in REDIRECTS and (location := answer.getheader("Location")):
                at = _joined(at, location)
                continue
            if answer.status != 200:
                raise _refused(at, f"the server answered {answer.status} {answer.reason}")
            _copy(answer, file, at, limits, until)
            return
        except (OSError, http.client.HTTPException) as error:
            raise _refused(at, f"could not be downloaded ({type(error).__name__}: {error})") from None
        finally:
            cut.cancel()
            connection.close()
    raise _refused(url, f"was redirected more than {limits.redirects} times")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise _refused(url, f"was redirected to what is no URL ({error})") from None


def _copy(answer: http.client.HTTPResponse, file: IO[bytes], url: str, limits: UrlLimits, until: float) -> None:
    kind = (answer.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise _WebPageError
    encoding = (answer.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding != "identity":
        raise _refused(url, f"is sent as {_short(encoding)}, and was asked for as it is")
    length = answer.getheader("Content-Length") or "0"
    said = int(length) if re.fullmatch("[0-9]{1,20}", length) else 0
    free = shutil.disk_usage(os.path.dirname(file.name)).free
    most = min(limits.bytes, free)
    if said > most:
        raise _refused(url, f"has {said / 1e6:,.1f} MB, and at most {most / 1e6:,.1f} MB are taken")
    got = 0
    while chunk := answer.read1(CHUNK):
        got += len(chunk)
        if got > most:
            raise _refused(url, f"is longer than {most / 1e6:,.1f} MB, which are taken at most")
        if time.monotonic() > until:
            raise _refused(url, f"took longer than {limits.seconds:g} s")
        file.write(chunk)
    if time.monotonic() > until:  # it may have been cut off
        raise _refused(url, f"took longer than {limits.seconds:g} s")
    if said and got < said:
        raise _refused(url, f"ended after {got} of {said} bytes; try again")


def _connection(url: str, limits: UrlLimits, allows: Allows) -> tuple[_Checked, str]:
    """A connection to the checked address of a URL's host, and what to ask it for."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise _refused(url, f"is no URL ({error})") from None
    if parts.scheme.lower() != "https":
        raise _refused(url, "only https is downloaded")
    if parts.username is not None or parts.password is not None or not parts.hostname:
        raise _refused(url, "holds a user name, or no host")
    if not allows(parts.hostname.lower(), port):
        raise VideoError(f"{_short(url)}: its host is none that videos are fetched from", code="permission_denied")
    connection = _Checked(parts.hostname, port, timeout=limits.stall_seconds, context=ssl.create_default_context())
    connection.address = global_address(url, parts.hostname, port)
    return connection, _path(parts)


class _Checked(http.client.HTTPSConnection):
    """Connects to the address that was checked, and expects the certificate of the host."""

    address: str

    def connect(self) -> None:
        plain = socket.create_connection((self.address, self.port), self.timeout)
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)

    def cut(self) -> None:
        """End it from another thread: whoever waits for it gets an error."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


def global_address(url: str, host: str, port: int) -> str:
    """An address of a host. Raises ``VideoError`` unless all of them are ones that everybody may reach."""
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise _refused(url, f"the host {_short(host)} is not known ({error})") from None
    for address in found:
        if not _is_for_everybody(ipaddress.ip_address(address.partition("%")[0])):
            raise _refused(url, f"its host has the address {address}, which is not one that everybody may reach")
    return found[0]


def _is_for_everybody(number: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is global, and the one inside it too where it stands for another."""
    if isinstance(number, ipaddress.IPv6Address):
        if any(number in network for network in TRANSLATED):
            return False
        inner = number.ipv4_mapped or number.sixtofour
        if inner is not None and not inner.is_global:
            return False
    return number.is_global and not number.is_multicast


def _path(parts: SplitResult) -> str:
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return "".join(c if "!" <= c <= "~" else "".join(f"%{byte:02X}" for byte in c.encode()) for c in path)


def _name(url: str) -> str:
    """A name for the copy: that of the URL's file, as far as it is plain."""
    last = urlsplit(url).path.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last)[-80:].lstrip(".") or "video"


def _short(text: str) -> str:
    shown = visible(text, lines=False)
    return shown if len(shown) <= 120 else f"{shown[:120]} ..."


def _refused(url: str, why: str) -> VideoError:
    return VideoError(f"{_short(url)}: {why}", code="not_found")
