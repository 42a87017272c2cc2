"""Search in all files and memories of a key."""

from __future__ import annotations

from fastapi import APIRouter

from videoxl.server.schemas import SearchReply, SearchRequest
from videoxl.server.searching import search
from videoxl.server.services import Owner, Serving

router = APIRouter(prefix="/v1/video", tags=["search"])


@router.post("/search")
async def search_videos(body: SearchRequest, serving: Serving, owner: Owner) -> SearchReply:
    """Find the moments in which something is said, written or shown, the best first."""
    return await search(serving, owner, body)
