"""What every request passes before anything of it is read: host, origin, key, size."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
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
        return owner if hmac.compare_digest(self._sign(path, owner, int(expires)), signature) else None

    def _sign(self, path: str, owner: str, expires: int) -> str:
        return hmac.new(self._secret, f"{path}\n{owner}\n{expires}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """Lets a request through to the app, with ``scope["owner"]``, or refuses it."""

    def __init__(self, app: App, settings: ServerSettings, links: Links) -> None:
        self._app, self._settings, self._links = app, settings, links
        self._keys = Keys(settings.api_keys)
        self._hosts = {"localhost", "127.0.0.1", "[::1]", settings.host.lower(), *settings.allowed_hosts}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} is served here")
        try:
            self._check_host(Headers(raw=scope["headers"]))
            scope["owner"] = self._owner(scope)
            await self._app(scope, _counted(receive, self._most_bytes(scope)), _with_headers(send))
        except ApiError as error:  # raised before the app answers
            response = JSONResponse(error.body, status_code=error.status or 400, headers=error.headers)
            await response(scope, receive, _with_headers(send))
        return None

    def _check_host(self, headers: Headers) -> None:
        """A page of another site that resolves to this address (DNS rebinding) sends its own name."""
        host = headers.get("host", "").lower()
        if host.rsplit(":", 1)[0] not in self._hosts and host not in self._hosts:
            raise ApiError(f"this server is not called {host!r:.100}: see --allowed-host", "host_refused", 403)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host:
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

    def _most_bytes(self, scope: Message) -> int:
        limits, path = self._settings.limits, scope["path"]
        if path == "/v1/files":
            return limits.file_bytes + 2**20
        return (limits.part_bytes + 2**20) if path.endswith("/parts") else limits.json_bytes


def _counted(receive: Receive, most: int) -> Receive:
    """Refuse a body while it comes in, before anything keeps it."""
    came = 0

    async def receive_counted() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            raise ApiError(f"the request is larger than {most:,} bytes", "too_large")
        return message

    return receive_counted


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                *((name.encode(), value.encode()) for name, value in HEADERS.items()),
            ]
        await send(message)

    return send_with_headers
