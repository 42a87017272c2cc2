"""How the server says what went wrong: the shape of OpenAI's errors, with the codes of this package."""

from __future__ import annotations

import errno
import logging
import sqlite3
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STATUS = {
    "cancelled": 499,
    "disk_full": 507,
    "does_not_fit": 422,
    "internal": 500,
    "invalid_api_key": 401,
    "file_missing": 404,
    "memory_corrupt": 422,
    "memory_mismatch": 422,
    "memory_not_found": 404,
    "memory_not_ready": 409,
    "memory_version": 422,
    "model_not_found": 404,
    "no_index": 404,
    "nothing_found": 404,
    "not_a_memory": 422,
    "out_of_memory": 503,
    "path_blocked": 403,
    "quota_exceeded": 413,
    "queue_full": 429,
    "server_busy": 503,
    "live": 409,
    "stream_missing": 404,
    "stream_not_watched": 409,
    "timeout": 504,
    "too_large": 413,
    "too_slow": 408,
    "url_blocked": 403,
    "url_fetch_failed": 422,
    "worker_failed": 500,
    "worker_lost": 503,
    "worker_starting": 503,
}
"""Status of a code. Every other code is that of a request that cannot be served as it is: 400."""
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass
class ApiError(Exception):
    """An error that the client is told. ``param``: the field that is to blame; ``retry_after``: seconds."""

    message: str
    code: str
    status: int | None = None
    param: str | None = None
    retry_after: int | None = None

    def __post_init__(self) -> None:
        super().__init__(self.message)
        self.status = self.status or STATUS.get(self.code, 400)
        if self.status in (429, 503) and self.retry_after is None:
            self.retry_after = 2

    @property
    def body(self) -> dict[str, Any]:
        """``{"error": {...}}``."""
        status = self.status or 400
        kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        found = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else {}
        if self.status in (408, 413):  # what else the client sends is not read
            found["Connection"] = "close"
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error: its own, or that of the disk or the catalogue, or that there was one.

    One that nobody expected is in the log, with where it arose; the client gets no text of it.
    """
    if isinstance(error, ApiError):
        return error
    code = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    kind = None if code is None else code & 0xFF  # without what SQLite adds
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ApiError("the server's catalogue is in use by another program: ask again", "server_busy")
    if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) or (isinstance(error, OSError) and error.errno in FULL):
        return ApiError("the server's disk is full", "disk_full")
    logger.error("a request failed", exc_info=error)
    return ApiError("an error of the server, which its log explains", "internal")


def missing(what: str, name: str, code: str) -> ApiError:
    """Nothing of that name; the same words whether it never was or is another key's."""
    return ApiError(f"there is no {what} {name!r:.100}", code, 404)
