"""The bytes of a stream as they come in: from a socket, a file that grows, standard input.

A feed is read by this program, in Python, and its bytes go to a confined decoder process unlooked-at.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import struct
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from videoxl.errors import VideoError, VideoErrorCode
from videoxl.video.live.address import StreamAddress
from videoxl.video.local_file import open_local, refuse_other_kinds
from videoxl.video.url import global_address

CHUNK = 1 << 16
DATAGRAM = 1 << 16
POLL_SECONDS = 0.1
"""How often a file is looked at for new bytes."""


@dataclass(frozen=True)
class Patience:
    """How long a stream may keep one waiting, in seconds."""

    connect_s: float = 10.0
    silence_s: float = 20.0
    """Without a byte for so long, a connection counts as lost, and a file as finished."""
    wait_s: float = 10.0
    """How long the first connection is tried."""
    first_pause_s: float = 0.5
    """Pause before the second attempt. It doubles with each, and differs at random by up to a quarter."""
    longest_pause_s: float = 30.0
    give_up_s: float | None = None
    """How long a lost stream is tried for; None: for ever."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be seconds above 0, got {value}")


class StreamError(VideoError):
    """A stream cannot be reached, or was lost. ``final``: trying again does not help."""

    def __init__(self, message: str, *, code: VideoErrorCode = "not_found", final: bool = False) -> None:
        super().__init__(message, code=code)
        self.final = final


class Network:
    """Connects to the host that was named, and for playlists and redirects to hosts that everybody may reach.

    ``pinned``: the named host is looked up once, and every later connection goes to the same address.
    """

    def __init__(self, address: StreamAddress, *, pinned: bool = False) -> None:
        self._named, self._pinned = address, pinned
        self._found: str | None = None
        self.last_segment: int | None = None
        """Number of the segment of a playlist that was read last: another connection goes on behind it."""

    def connect(self, host: str, port: int, seconds: float, *, secure: bool = False) -> socket.socket:
        """An open connection. Raises :class:`StreamError`."""
        where = self._named if host == self._named.host else host
        try:
            plain = socket.create_connection((self.address_of(host, port), port), seconds)
            if not secure:
                return plain
            try:
                return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            except BaseException:
                plain.close()
                raise
        except ssl.SSLError as error:
            raise StreamError(f"{where}: the encrypted connection failed ({error.reason or error})") from None
        except TimeoutError:
            raise StreamError(f"{where}: did not answer within {seconds:g} s") from None
        except OSError as error:
            raise StreamError(f"{where}: cannot be reached ({error.strerror or error})") from None

    def address_of(self, host: str, port: int) -> str:
        """The address of a host. Raises :class:`StreamError`."""
        if host != self._named.host:
            return global_address(f"{host}:{port}", host, port)
        if self._found is not None:
            return self._found
        try:
            found = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise StreamError(f"{self._named}: the host is not known ({why})") from None
        if self._pinned:
            self._found = found
        return found


class Feed(ABC):
    """Bytes of a stream. Not for several threads at once, but for :meth:`close`."""

    ends = False
    """Whether its end is the end of the stream; else it is a loss, and another connection may bring more."""
    waits = False
    """Whether nothing is lost while it is not read."""
    silence_s: float | None = None
    """How long it may be silent by its nature, where that is known."""

    @abstractmethod
    def read(self, seconds: float) -> bytes:
        """Wait for the next bytes; none at the end. Raises ``TimeoutError`` and :class:`StreamError`."""

    @abstractmethod
    def close(self) -> None:
        """End it; a read in another thread ends too. May be called more than once."""


class SocketFeed(Feed):
    """What comes in on a connection."""

    def __init__(self, connection: socket.socket, begun: bytes = b"") -> None:
        self._connection, self._begun = connection, begun

    def read(self, seconds: float) -> bytes:
        if self._begun:
            begun, self._begun = self._begun, b""
            return begun
        self._connection.settimeout(seconds)
        try:
            return self._connection.recv(CHUNK)
        except TimeoutError:
            raise
        except OSError:  # reset by the other end, or closed here
            return b""

    def close(self) -> None:
        shut(self._connection)


def shut(connection: socket.socket) -> None:
    """Close a connection, so that a thread that reads from it wakes."""
    with contextlib.suppress(OSError):  # it is not connected any more
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class DatagramFeed(SocketFeed):
    """MPEG-TS in datagrams, with or without RTP headers, sent to this machine or to a group it joins."""

    def __init__(self, address: StreamAddress, network: Network) -> None:
        super().__init__(_bound(address, network))

    def read(self, seconds: float) -> bytes:
        while True:
            data = super().read(seconds)
            if not data or data[0] == 0x47:
                return data
            if len(data) > 12 and data[0] >> 6 == 2:
                if payload := rtp_payload(data):
                    return payload
            else:
                return data  # the decoder says what is wrong with it


def rtp_payload(packet: bytes) -> bytes:
    """What an RTP packet carries."""
    begin = 12 + 4 * (packet[0] & 15)
    if packet[0] & 0x10 and len(packet) >= begin + 4:
        begin += 4 + 4 * struct.unpack_from(">H", packet, begin + 2)[0]
    end = len(packet) - (packet[-1] if packet[0] & 0x20 else 0)
    return packet[begin:end]


def _bound(address: StreamAddress, network: Network) -> socket.socket:
    found = network.address_of(address.host, address.port)
    version = socket.AF_INET6 if ":" in found else socket.AF_INET
    receiver = socket.socket(version, socket.SOCK_DGRAM)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind((found, address.port))
        if version == socket.AF_INET and 224 <= int(found.partition(".")[0]) <= 239:
            joined = socket.inet_aton(found) + socket.inet_aton("0.0.0.0")
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        elif version == socket.AF_INET6 and found.lower().startswith("ff"):
            joined = socket.inet_pton(version, found) + struct.pack("@I", 0)
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
    except OSError as error:
        receiver.close()
        taken = error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
        hint = "; give an address of this machine, such as 0.0.0.0, or a group" if taken else ""
        raise StreamError(f"{address}: cannot be listened on ({error.strerror}){hint}", final=True) from None
    return receiver


class FileFeed(Feed):
    """A file that another program is writing. It is finished when it has not grown for as long as one waits."""

    ends = waits = True

    def __init__(self, address: StreamAddress) -> None:
        self._file = open_local(address.path)
        refuse_other_kinds(self._file)
        self._at = 0
        self._closed = False

    def read(self, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        while not self._closed:
            data = os.pread(self._file.fd, CHUNK, self._at)
            if data or time.monotonic() > until:
                self._at += len(data)
                return data
            time.sleep(POLL_SECONDS)
        return b""

    def close(self) -> None:
        self._closed = True


class PipeFeed(Feed):
    """What another program writes to standard input."""

    ends = waits = True

    def __init__(self, fd: int | None = None) -> None:
        self._fd = sys.stdin.fileno() if fd is None else fd
        self._closed = False

    def read(self, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        while not self._closed:
            if select.select([self._fd], [], [], POLL_SECONDS)[0]:
                return os.read(self._fd, CHUNK)
            if time.monotonic() > until:
                raise TimeoutError
        return b""

    def close(self) -> None:
        self._closed = True
