"""Videos that are named by an address or a path: only what the settings allow, kept as if it had been uploaded."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
import threading
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from videoxl.errors import VideoError
from videoxl.server.incoming import Room
from videoxl.server.problems import ApiError
from videoxl.server.settings import ServerSettings
from videoxl.server.store import Store, StoredFile

AT_ONCE = 4
"""Videos that are fetched at one time."""
CHUNK = 1 << 20
PLAIN_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")


class Fetcher:
    """Fetches videos for a server. Without settings that allow it, everything is refused."""

    def __init__(self, settings: ServerSettings, store: Store) -> None:
        self._store, self._limits = store, settings.limits
        self._hosts = [_host_and_port(entry) for entry in settings.allowed_media_domains]
        self._roots = [os.path.realpath(path) for path in settings.allowed_media_paths]
        self._running = 0

    def require_allowed(self, url: str) -> None:
        """Raise :class:`ApiError` for an address that is not allowed. Nothing is looked up."""
        scheme, _, rest = url.partition("://")
        scheme = scheme.lower()
        allowed = {"https": bool(self._hosts), "file": bool(self._roots)}.get(scheme, False)
        if not allowed or not rest:
            raise ApiError(
                f"{url!r:.100} is no video of this server, and it fetches none of these: upload it (POST /v1/files), "
                "and name its id, or memory://ID",
                "video_url_refused",
                param="messages",
            )
        if scheme == "https":
            try:
                parts = urlsplit(url)
                known = self._allows((parts.hostname or "").lower(), parts.port or 443)
            except ValueError:
                known = False
            if not known:
                raise ApiError(f"the host of {url!r:.100} is none that this server fetches from", "url_blocked")

    async def fetch(self, url: str, owner: str, room: Room) -> StoredFile:
        """A file with what an address or a path names. Raises :class:`ApiError`; leaving early stops it."""
        if self._running >= AT_ONCE:
            raise ApiError(f"{AT_ONCE} videos are being fetched: ask again later", "queue_full", retry_after=10)
        self._running += 1
        stopped = threading.Event()
        try:
            return await asyncio.to_thread(self._fetch, url, owner, room, stopped)
        finally:
            stopped.set()
            self._running -= 1

    def _fetch(self, url: str, owner: str, room: Room, stopped: threading.Event) -> StoredFile:
        target = self._store.incoming()
        try:
            with open(target, "xb") as out:
                written = _Counted(out, room, stopped)
                if url[:4].lower() == "file":
                    _copy(self._open(url), written)
                else:
                    self._download(url, written)
                out.flush()
                os.fsync(out.fileno())
            if written.size == 0:
                raise ApiError("the video that was fetched is empty", "empty_file")
            name = Path(unquote(urlsplit(url).path)).name[:500] or "video"
            return self._store.add_file(target, owner, name, written.hash.hexdigest(), "user_data")
        finally:
            target.unlink(missing_ok=True)

    def _download(self, url: str, out: _Counted) -> None:
        from videoxl.video.url import UrlLimits, download  # with it come libraries that a server without URLs lacks

        limits = UrlLimits(bytes=out.room.most, seconds=self._limits.fetch_seconds, stall_seconds=20)
        try:
            download(url, out, limits, self._allows)  # type: ignore[arg-type]  # it writes, and asks for the name
        except VideoError as error:
            code = "url_blocked" if error.code == "permission_denied" else "url_fetch_failed"
            raise ApiError(str(error), code) from None

    def _allows(self, host: str, port: int) -> bool:
        if not PLAIN_HOST.fullmatch(host):  # what a resolver would cut or unescape
            return False
        for known, its_port in self._hosts:
            below = known.startswith("*.") and host.endswith(known[1:])
            if port == its_port and (host == known or below):
                return True
        return False

    def _open(self, url: str) -> IO[bytes]:
        """The file of a ``file://`` address: what was opened lies in an allowed folder, whatever links there are."""
        blocked = ApiError(f"{url!r:.100} is no file in a folder that this server reads from", "path_blocked")
        parts = urlsplit(url)
        path = unquote(parts.path)
        if parts.netloc not in ("", "localhost") or "\0" in path or not self._lies_within(path):
            raise blocked
        try:
            found = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise blocked from None
        # A link may have been changed since it was looked at: what counts is what is open.
        now = f"/proc/self/fd/{found}" if os.path.exists("/proc/self/fd") else path
        if not stat.S_ISREG(os.fstat(found).st_mode) or not self._lies_within(now):
            os.close(found)
            raise blocked
        return os.fdopen(found, "rb")

    def _lies_within(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(os.path.commonpath([real, root]) == root for root in self._roots)


class _Counted:
    """A file that is written: hashed and counted, and given up where nobody waits any more."""

    def __init__(self, file: IO[bytes], room: Room, stopped: threading.Event) -> None:
        self._file, self._stopped = file, stopped
        self.room, self.name = room, file.name
        self.size, self.hash = 0, hashlib.sha256()

    def write(self, chunk: bytes) -> int:
        """Raises :class:`ApiError` where it is too large."""
        if self._stopped.is_set():
            raise ApiError("the client has left", "cancelled")
        self.size += len(chunk)
        self.room.require(self.size)
        self.hash.update(chunk)
        return self._file.write(chunk)


def _copy(source: IO[bytes], out: _Counted) -> None:
    with source:
        while chunk := source.read(CHUNK):
            out.write(chunk)


def _host_and_port(entry: str) -> tuple[str, int]:
    host, _, port = entry.lower().rpartition(":") if ":" in entry else (entry.lower(), "", "443")
    return host, int(port)
