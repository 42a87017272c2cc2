"""Streams: watched as they come, for those whom the server's owner allows which."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from videoxl.live.settings import WatchSettings
from videoxl.server.problems import ApiError
from videoxl.server.schemas import Deleted, MemoryProblem, StreamList, StreamObject, StreamRequest
from videoxl.server.services import Owner, Services, Serving
from videoxl.server.streams import Watched
from videoxl.settings import from_plain

router = APIRouter(prefix="/v1/video/streams", tags=["streams"])


@router.post("", status_code=202)
async def make_stream(body: StreamRequest, serving: Serving, owner: Owner) -> StreamObject:
    """Watch a stream. The server must have been told that it may be (``--allow-stream``)."""
    made = serving.streams.add(owner, body.url, body.fps, _settings(body))
    serving.backend.hand_out_streams()
    return stream_object(serving, made)


def _settings(body: StreamRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = body.model_dump(exclude={"url", "fps"}, exclude_none=True)
    try:
        from_plain(WatchSettings, chosen)
    except ValueError as error:
        raise ApiError(str(error), "invalid_value") from None
    return chosen


@router.get("")
def list_streams(serving: Serving, owner: Owner) -> StreamList:
    """Your streams."""
    allowed = bool(serving.settings.allowed_streams)
    return StreamList(data=[stream_object(serving, one) for one in serving.streams.of(owner)], allowed=allowed)


@router.get("/{stream_id}")
def get_stream(stream_id: str, serving: Serving, owner: Owner) -> StreamObject:
    """One of your streams."""
    return stream_object(serving, serving.streams.get(stream_id, owner))


@router.delete("/{stream_id}")
async def delete_stream(stream_id: str, serving: Serving, owner: Owner) -> Deleted:
    """Watch a stream no more, and remove all that was kept of it."""
    serving.streams.remove(serving.streams.get(stream_id, owner))
    return Deleted(id=stream_id, object="video.stream")


@router.get("/{stream_id}/events", response_class=StreamingResponse)
async def get_stream_events(
    stream_id: str, serving: Serving, owner: Owner, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """What happens in a stream, as server-sent events: connections, gaps, alerts, answers, segments."""
    stream = serving.streams.get(stream_id, owner)
    number = last_event_id or ""
    after = int(number) if number.isdecimal() and number.isascii() and len(number) < 16 else 0
    return StreamingResponse(
        _events(serving, stream, after), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(serving: Services, stream: Watched, after: int) -> AsyncIterator[str]:
    async for told in serving.streams.events(stream, after):
        if told is None:
            yield ": waiting\n\n"
        else:
            number, event = told
            yield f"id: {number}\ndata: {json.dumps(event)}\n\n"


def stream_object(serving: Services, stream: Watched) -> StreamObject:
    """A stream as clients see it."""
    record = stream.record
    error = MemoryProblem(code=record.error_code, message=record.error) if record.error_code else None
    return StreamObject(
        id=record.id,
        url=record.shown,
        status=cast(Any, record.status),
        created_at=int(record.created),
        fps=record.fps,
        settings=record.settings,
        seconds=stream.at,
        bytes=serving.streams.bytes_of(stream),
        error=error,
    )
