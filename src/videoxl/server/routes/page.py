"""The page: one HTML, one CSS and one JavaScript file, which use the API as every other client does."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from videoxl.server.problems import missing

FOLDER = Path(__file__).parents[1] / "page"
TYPES = {"page.css": "text/css", **dict.fromkeys(("page.js", "search.js", "streams.js"), "text/javascript")}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}

router = APIRouter(include_in_schema=False)


@router.get("/")
def get_page() -> FileResponse:
    """The page."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers=HEADERS)


@router.get("/assets/{name}")
def get_asset(name: str) -> FileResponse:
    """What the page is made of."""
    if name not in TYPES:
        raise missing("file", name, "not_found")
    return FileResponse(FOLDER / name, media_type=TYPES[name], headers=HEADERS)
