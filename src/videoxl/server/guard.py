"""What every request passes before anything of it is read: host, origin, key, size."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from videoxl.server.problems import ApiError
from videoxl.server.settings import ServerSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/health", "/assets/", "/favicon.ico")
"""What may be had without a key: the page itself, which asks for one, and whether the server lives."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
MAX_HEADERS = 32_000
"""Bytes of all headers of a request."""
SLOWEST = 10_000
"""Bytes a second below which a long upload is too slow."""
DRAINED, DRAIN_SECONDS = 16 * 2**20, 3.0
"""How much of a body that is refused is read on, and how long, before the client is told."""
LOCAL = "local"
"""The owner of everything where no keys were given."""


class Keys:
    """API keys. Comparing takes the same time whichever they are; only hashes are kept."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def owner(self, given: str) -> str | None:
        """Who gave this key: the begin of its hash. None for an unknown one."""
        hashed = hashlib.sha256(given.encode()).digest()
        known = [hmac.compare_digest(hashed, one) for one in self._hashes]  # all of them, always
        return hashed.hex()[:16] if any(known) else None


class Links:
    """Signed links to files: a ``<video>`` element cannot send a header."""

    def __init__(self, secret: bytes, seconds: float) -> None:
        self._secret, self._seconds = secret, seconds

    def query(self, path: str, owner: str, now: float | None = None) -> str:
        """What makes ``path`` a link that is good for a while."""
        expires = int((time.time() if now is None else now) + self._seconds)
        return f"expires={expires}&owner={owner}&signature={self._sign(path, owner, expires)}"

    def owner(self, path: str, expires: str, owner: str, signature: str) -> str | None:
        """Whose link this is; None where it is none, or has expired."""
        if not expires.isdecimal() or len(expires) > 12 or int(expires) < time.time():
            return None
        known = self._sign(path, owner, int(expires)).encode()
        return owner if hmac.compare_digest(known, signature.encode()) else None

    def _sign(self, path: str, owner: str, expires: int) -> str:
        return hmac.new(self._secret, f"{path}\n{owner}\n{expires}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """Lets a request through to the app, with ``scope["owner"]``, or refuses it."""

    def __init__(self, app: App, settings: ServerSettings, links: Links) -> None:
        self._app, self._settings, self._links = app, settings, links
        self._keys = Keys(settings.api_keys)
        self._uploading: Counter[str] = Counter()
        self._hosts = {"localhost", "127.0.0.1", "[::1]", settings.host.lower(), *settings.allowed_hosts}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} is served here")
        body = Body(receive, self._most_bytes(scope), self._settings.limits.body_seconds)
        send = _after_the_body(_with_headers(send), body, Headers(raw=scope["headers"]))
        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
                raise ApiError(f"headers have at most {MAX_HEADERS:,} bytes", "headers_too_large", 431)
            self._check_host(Headers(raw=scope["headers"]))
            scope["owner"] = self._owner(scope)
            with self._one_of_few(scope):
                await self._app(scope, body, send)
        except ApiError as error:  # raised before the app answers
            response = JSONResponse(error.body, status_code=error.status or 400, headers=error.headers)
            await response(scope, receive, send)
        return None

    def _check_host(self, headers: Headers) -> None:
        """A page of another site that resolves to this address (DNS rebinding) sends its own name."""
        host = headers.get("host", "").lower()
        if host.rsplit(":", 1)[0] not in self._hosts and host not in self._hosts:
            raise ApiError(f"this server is not called {host!r:.100}: see --allowed-host", "host_refused", 403)
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host:
            raise ApiError("requests of pages of other sites are refused", "origin_refused", 403)

    def _owner(self, scope: Message) -> str:
        path = scope["path"]
        if not self._keys:
            return LOCAL
        if path in OPEN_PATHS or path.startswith("/assets/"):
            return ""
        query = dict(part.split("=", 1) for part in scope["query_string"].decode("latin-1").split("&") if "=" in part)
        if scope["method"] in ("GET", "HEAD") and {"expires", "owner", "signature"} <= query.keys():
            owner = self._links.owner(path, query["expires"], query["owner"], query["signature"])
            if owner is None:
                raise ApiError("this link has expired or is not one of this server's", "link_refused", 403)
            return owner
        scheme, _, given = Headers(raw=scope["headers"]).get("authorization", "").partition(" ")
        owner = self._keys.owner(given.strip()) if scheme.lower() == "bearer" else None
        if owner is None:
            raise ApiError("give an API key of this server: Authorization: Bearer KEY", "invalid_api_key")
        return owner

    @contextmanager
    def _one_of_few(self, scope: Message) -> Iterator[None]:
        """Count the bodies that come in at once for one key, which fill the disk before they can be counted."""
        owner, most = scope["owner"], self._settings.limits.uploads
        if scope["method"] != "POST" or not scope["path"].endswith(("/files", "/parts")):
            yield
            return
        if self._uploading[owner] >= most:
            raise ApiError(f"{most} uploads of this key are coming in: send one after the other", "queue_full")
        self._uploading[owner] += 1
        try:
            yield
        finally:
            self._uploading[owner] -= 1
            self._uploading += Counter()  # without those that have none

    def _most_bytes(self, scope: Message) -> int:
        limits, path = self._settings.limits, scope["path"]
        if path == "/v1/files":
            return limits.file_bytes + 2**20
        return (limits.part_bytes + 2**20) if path.endswith("/parts") else limits.json_bytes


class Body:
    """A body as it comes in: refused when it is too large or too slow, before anything keeps it."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        """``seconds``: in which the first bytes come; each :data:`SLOWEST` bytes give one more."""
        self._receive, self._most, self._seconds = receive, most, seconds
        self._began, self._came, self.whole = time.monotonic(), 0, False

    async def __call__(self) -> Message:
        if self.whole:  # what comes now is that the client has left
            return await self._receive()
        left = self._began + self._seconds + self._came / SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(left, self._seconds))):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(f"the request comes too slowly: {self._came:,} bytes so far", "too_slow") from None
        self.whole = not message.get("more_body", False)
        self._came += len(message.get("body", b""))
        if self._came > self._most:
            raise ApiError(f"the request is larger than {self._most:,} bytes", "too_large")
        return message

    async def drain(self) -> None:
        """Read on and let it go: a connection that is closed with bytes unread loses the reply that was sent."""
        end = self._came + DRAINED
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.whole and self._came < end:
                    message = await self._receive()
                    self._came += len(message.get("body", b""))
                    self.whole = not message.get("more_body", False)


def _after_the_body(send: Send, body: Body, headers: Headers) -> Send:
    """Send an error when the client has sent what it sends, or a good part of it."""

    async def send_after_the_body(message: Message) -> None:
        refused = message["type"] == "http.response.start" and message["status"] >= 400 and message["status"] != 408
        if refused and not body.whole and "expect" not in headers:  # a client that asks first is told at once
            await body.drain()
        await send(message)

    return send_after_the_body


def _place(origin: str) -> str:
    """Host and port of an origin; nothing for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                *((name.encode(), value.encode()) for name, value in HEADERS.items()),
            ]
        await send(message)

    return send_with_headers
