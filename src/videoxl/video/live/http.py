"""Streams over HTTP: a body without an end, or a playlist (HLS) whose segments are fetched one after another."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from videoxl.errors import VideoErrorCode
from videoxl.text import visible
from videoxl.video.live.address import PORTS, StreamAddress
from videoxl.video.live.feeds import CHUNK, Feed, Network, Patience, StreamError, shut

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
PLAYLIST_BYTES = 1 << 22
BEGIN_SEGMENTS = 3
"""A live playlist is joined so many segments before its end, as RFC 8216 (6.3.3) asks."""
TALLEST = 1080
"""Of the sizes that a playlist offers, the largest up to so many lines is read."""


@dataclass
class Answer:
    """What a server sends for a request."""

    url: str
    response: http.client.HTTPResponse
    connection: socket.socket
    kind: str

    def whole(self, most: int) -> bytes:
        """All of a body that is not longer than ``most`` bytes."""
        data = b""
        while len(data) <= most and (chunk := self.response.read1(CHUNK)):
            data += chunk
        self.close()
        if len(data) > most:
            raise StreamError(f"a playlist of more than {most:,} bytes is not read", final=True)
        return data

    def close(self) -> None:
        shut(self.connection)


class Client:
    """Asks for URLs of one stream: at its own host with its password, elsewhere without."""

    def __init__(self, address: StreamAddress, network: Network, patience: Patience) -> None:
        self._address, self._network, self._patience = address, network, patience

    def get(self, url: str) -> Answer:
        """Ask for a URL. Raises :class:`StreamError`."""
        for _ in range(MOST_REDIRECTS + 1):
            answer = self._once(url)
            if answer.response.status not in REDIRECTS:
                return self._accepted(answer)
            answer.close()
            url = urljoin(url, answer.response.getheader("Location") or "")
        raise StreamError(f"{self._address}: was redirected more than {MOST_REDIRECTS} times", final=True)

    def _once(self, url: str) -> Answer:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
        except ValueError:
            raise StreamError(f"{self._address}: names an address that cannot be read", final=True) from None
        if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f\x7f]", url):
            scheme = visible(parts.scheme, lines=False)[:20] or "no scheme"
            raise StreamError(
                f"{self._address}: leads to an address that is not http or https ({scheme}), which is not opened",
                code="permission_denied",
                final=True,
            )
        link = self._network.connect(host, port, self._patience.connect_s, secure=parts.scheme == "https")
        link.settimeout(self._patience.silence_s)
        client = http.client.HTTPConnection(host, port)
        client.sock = link
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        try:
            client.request("GET", path, headers=self._headers(host))
            response = client.getresponse()
        except (OSError, http.client.HTTPException) as error:
            shut(link)
            raise StreamError(f"{self._address}: did not answer ({type(error).__name__})") from None
        kind = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
        return Answer(url, response, link, kind)

    def _headers(self, host: str) -> dict[str, str]:
        headers = {"User-Agent": "videoxl", "Accept-Encoding": "identity"}
        if self._address.user and host == self._address.host:
            secret = f"{self._address.user}:{self._address.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
        return headers

    def _accepted(self, answer: Answer) -> Answer:
        status = answer.response.status
        if status != 200:
            answer.close()
            reason = visible(answer.response.reason, lines=False)[:60]
            code: VideoErrorCode = "permission_denied" if status in (401, 403) else "not_found"
            raise StreamError(
                f"{self._address}: the server answered {status} {reason}", code=code, final=400 <= status < 500
            )
        if answer.kind in ("text/html", "application/xhtml+xml"):
            answer.close()
            raise StreamError(
                f"{self._address}: is a web page, not a stream; give the address of the stream itself",
                code="not_a_video",
                final=True,
            )
        return answer


class BodyFeed(Feed):
    """A body that goes on as long as the server sends."""

    def __init__(self, answer: Answer, begun: bytes) -> None:
        self._answer, self._begun = answer, begun
        self.ends = self.waits = answer.response.length is not None  # it has an end, and is as long as a file

    def read(self, seconds: float) -> bytes:
        if self._begun:
            begun, self._begun = self._begun, b""
            return begun
        try:
            self._answer.connection.settimeout(seconds)
            return self._answer.response.read1(CHUNK)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException, ValueError, AttributeError):  # cut off, or closed here
            return b""

    def close(self) -> None:
        self._answer.close()


def open_http(address: StreamAddress, network: Network, patience: Patience) -> Feed:
    """A stream over HTTP: whether it is a playlist shows in its first bytes. Raises :class:`StreamError`."""
    client = Client(address, network, patience)
    answer = client.get(address.url)
    try:
        begun = answer.response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        answer.close()
        raise StreamError(f"{address}: sent nothing ({type(error).__name__})") from None
    if not begun.lstrip(b"\xef\xbb\xbf").startswith(b"#EXTM3U"):
        return BodyFeed(answer, begun)
    text = begun + answer.whole(PLAYLIST_BYTES)
    return PlaylistFeed(client, address, network, answer.url, text.decode("utf-8", "replace"), patience)


# -------------------------------------------------------------------------------------------------------- playlists


@dataclass(frozen=True)
class Segment:
    """A stretch of a stream, and where it is."""

    number: int
    url: str
    begin: str
    """URL of what must be read before it (``EXT-X-MAP``); empty: nothing."""


@dataclass(frozen=True)
class Playlist:
    """A media playlist."""

    target_s: float
    segments: tuple[Segment, ...]
    ended: bool


def best_variant(text: str, url: str) -> str | None:
    """The URL of the variant to read, of a playlist that lists some; None: it lists none."""
    found: list[tuple[int, int, str]] = []
    attributes = ""
    for line in map(str.strip, text.split("\n")):
        if line.startswith("#EXT-X-STREAM-INF:"):
            attributes = line
        elif attributes and line and not line.startswith("#"):
            lines = re.search(r"RESOLUTION=\d+x(\d{1,5})", attributes)
            rate = re.search(r"[:,]BANDWIDTH=(\d{1,12})", attributes)
            found.append((int(lines[1]) if lines else 0, int(rate[1]) if rate else 0, urljoin(url, line)))
            attributes = ""
    if not found:
        return None
    fitting = [one for one in found if one[0] <= TALLEST]
    return max(fitting)[2] if fitting else min(found)[2]


def parse_playlist(text: str, url: str, name: object) -> Playlist:
    """Read a media playlist. Raises :class:`StreamError` for one that cannot be followed."""
    target, number, begin, ended = 6.0, 0, "", False
    segments = []
    for line in map(str.strip, text.split("\n")):
        key, _, value = line.partition(":")
        if key == "#EXT-X-TARGETDURATION":
            target = _number(value, 6.0)
        elif key == "#EXT-X-MEDIA-SEQUENCE":
            number = int(_number(value, 0.0))
        elif key == "#EXT-X-KEY" and "METHOD=NONE" not in value:
            raise StreamError(f"{name}: is encrypted (EXT-X-KEY), which is not read", code="no_decoder", final=True)
        elif key == "#EXT-X-BYTERANGE":
            raise StreamError(f"{name}: its segments are parts of files (EXT-X-BYTERANGE), not read", final=True)
        elif key == "#EXT-X-MAP":
            found = re.search(r'URI="([^"]*)"', value)
            begin = urljoin(url, found[1]) if found else ""
        elif key == "#EXT-X-ENDLIST":
            ended = True
        elif line and not line.startswith("#"):
            segments.append(Segment(number, urljoin(url, line), begin))
            number += 1
    return Playlist(min(max(target, 0.5), 60.0), tuple(segments), ended)


def _number(text: str, otherwise: float) -> float:
    found = re.match(r"\d{1,18}(\.\d{1,9})?", text.strip())
    return float(found[0]) if found else otherwise


class PlaylistFeed(Feed):
    """The segments of a playlist, one after another. A live one is read again and again."""

    def __init__(
        self, client: Client, address: StreamAddress, network: Network, url: str, text: str, patience: Patience
    ) -> None:
        self._client, self._name, self._network = client, address, network
        self._url = url
        if (variant := best_variant(text, url)) is not None:
            answer = client.get(variant)
            self._url, text = answer.url, answer.whole(PLAYLIST_BYTES).decode("utf-8", "replace")
        if not text.lstrip("\ufeff").startswith("#EXTM3U"):
            raise StreamError(f"{address}: the playlist it names is none", code="not_a_video", final=True)
        self._playlist = parse_playlist(text, self._url, address)
        self.silence_s = patience.silence_s + 3 * self._playlist.target_s
        self.waits = self._playlist.ended
        self._closed = False
        self._open: Answer | None = None
        self._chunks = self._all()

    def read(self, seconds: float) -> bytes:
        self._until = time.monotonic() + seconds
        return next(self._chunks, b"")

    def close(self) -> None:
        self._closed = True
        if self._open is not None:
            self._open.close()

    def _all(self) -> Iterator[bytes]:
        begun = ""
        waiting = deque(self._first())
        while not self._closed:
            while waiting:
                segment = waiting.popleft()
                if segment.begin and segment.begin != begun:
                    yield from self._bytes_of(segment.begin)
                    begun = segment.begin
                yield from self._bytes_of(segment.url)
                self._network.last_segment = segment.number
            if self._playlist.ended:
                self.ends = True
                return
            self._pause(self._playlist.target_s / 2)
            self._reload()
            if self._begins_anew():
                return  # another connection reads it
            waiting.extend(self._new())

    def _first(self) -> tuple[Segment, ...]:
        """The segments to begin with: those that the connection before did not read."""
        if self._network.last_segment is not None and not self._begins_anew():
            return self._new()
        listed = self._playlist
        return listed.segments if listed.ended else listed.segments[-BEGIN_SEGMENTS:]

    def _new(self) -> tuple[Segment, ...]:
        last = self._network.last_segment
        return tuple(one for one in self._playlist.segments if last is None or one.number > last)

    def _begins_anew(self) -> bool:
        """Whether its segments are counted from the start again."""
        last, listed = self._network.last_segment, self._playlist.segments
        return last is not None and bool(listed) and listed[-1].number < last

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closed and time.monotonic() < until:
            if time.monotonic() > self._until:
                raise TimeoutError
            time.sleep(min(0.1, seconds))

    def _reload(self) -> None:
        text = self._client.get(self._url).whole(PLAYLIST_BYTES).decode("utf-8", "replace")
        self._playlist = parse_playlist(text, self._url, self._name)

    def _bytes_of(self, url: str) -> Iterator[bytes]:
        answer = self._open = self._client.get(url)
        try:
            while not self._closed and (chunk := answer.response.read1(CHUNK)):
                yield chunk
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            return  # cut off: the decoder copes with a segment that is not whole
        finally:
            answer.close()
