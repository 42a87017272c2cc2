"""The front: an ASGI app without torch. ``make_app(settings)`` is all that is needed to serve it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from videoxl._version import __version__
from videoxl.server.backend import Backend
from videoxl.server.fetching import Fetcher
from videoxl.server.guard import App, Guard, Links
from videoxl.server.library import Library
from videoxl.server.metrics import Metrics
from videoxl.server.problems import TYPES, ApiError, as_api_error
from videoxl.server.routes import about, chat, files, memories, page, search, streams
from videoxl.server.schemas import ErrorBody
from videoxl.server.services import Services
from videoxl.server.settings import ServerSettings
from videoxl.server.shared import SharedMemories
from videoxl.server.store import Store

DESCRIPTION = "Questions about hours of video: each video is read once, and kept."
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody},
    "5XX": {"model": ErrorBody},
    422: {"model": ErrorBody},
}


def make_app(settings: ServerSettings, *, command: list[str] | None = None) -> App:
    """The server as an ASGI app. ``command``: of the worker, for tests.

    Raises :class:`~videoxl.server.store.StoreError` where the folder cannot be used.
    """
    shared = SharedMemories(settings.shared) if settings.shared else None
    if shared is not None:
        shared.check()
    store = Store(settings.data)
    links = Links(store.secret, settings.link_seconds)
    library = Library(settings, store)
    backend, fetcher = Backend(settings, store, command), Fetcher(settings, store)
    services = Services(settings, store, backend, links, fetcher, library, shared)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await services.backend.start()
        await library.start()
        try:
            yield
        finally:
            await library.stop()
            await services.backend.stop()
            store.close()

    api = FastAPI(
        title="videoxl",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=ERRORS,
        docs_url=None,
        redoc_url=None,
    )
    api.state.services = services
    for part in (files, memories, chat, search, streams, about, page):
        api.include_router(part.router)
    for kind in (ApiError, sqlite3.Error, OSError, Exception):
        api.add_exception_handler(kind, _any_error)
    api.add_exception_handler(RequestValidationError, cast(Any, _invalid))
    api.add_exception_handler(HTTPException, cast(Any, _http_error))
    metrics = Metrics(api, services)
    api.add_route("/metrics", lambda request: metrics.page(), include_in_schema=False)
    return Guard(metrics, settings, links)


def _any_error(request: Request, error: Exception) -> Response:
    told = as_api_error(error)
    return JSONResponse(told.body, status_code=told.status or 400, headers=told.headers)


def _invalid(request: Request, error: RequestValidationError) -> Response:
    """Names the value that is wrong. Where it may be of several kinds, the one that it fits furthest is judged."""
    found = [(_place(one, error.body), one) for one in error.errors()]
    place, problem = max(found, key=lambda each: (len(each[0]), not each[1]["type"].endswith("_type")))
    where = ".".join(map(str, place))
    if problem["type"] == "json_invalid":
        said = ApiError("the body is no JSON that can be read", "invalid_json", 400)
    else:
        text = f"{where or 'the body'}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
        said = ApiError(text, "invalid_value", 422 if problem["loc"][:1] == ("path",) else 400, where or None)
    return _any_error(request, said)


def _place(error: Mapping[str, Any], body: object) -> list[str | int]:
    """The keys that lead to a value, without the names of the kinds that pydantic tried."""
    location: list[str | int] = list(error["loc"][1:])
    if error["loc"][0] != "body":
        return location
    place: list[str | int] = []
    for part in location:
        keys = body if isinstance(body, Mapping) else range(len(body)) if isinstance(body, list) else ()
        if part in keys:
            body = cast(Any, body)[part]
            place.append(part)
    return [*place, *location[-1:]] if error["type"] == "missing" else place


def _http_error(request: Request, error: HTTPException) -> Response:
    if isinstance(error.__cause__, ApiError):  # raised while FastAPI read the body
        return _any_error(request, error.__cause__)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    kind = TYPES.get(error.status_code, "invalid_request_error")
    body = {"error": {"message": str(error.detail), "type": kind, "param": None, "code": code}}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)
