"""How the server says what went wrong: the shape of OpenAI's errors, with the codes of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STATUS = {
    "cancelled": 499,
    "disk_full": 507,
    "does_not_fit": 422,
    "invalid_api_key": 401,
    "file_missing": 404,
    "memory_not_found": 404,
    "memory_not_ready": 409,
    "model_not_found": 404,
    "queue_full": 429,
    "server_busy": 503,
    "too_large": 413,
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
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def missing(what: str, name: str, code: str) -> ApiError:
    """Nothing of that name; the same words whether it never was or is another key's."""
    return ApiError(f"there is no {what} {name!r:.100}", code, 404)
