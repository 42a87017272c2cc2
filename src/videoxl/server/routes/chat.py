"""Questions about videos, in the shape of OpenAI's chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from videoxl.server.best import best_reply
from videoxl.server.conversation import Conversation, conversation_of
from videoxl.server.problems import ApiError
from videoxl.server.protocol import STREAM
from videoxl.server.replies import Reply
from videoxl.server.schemas import ChatRequest
from videoxl.server.services import Owner, Services, Serving
from videoxl.server.store import MemoryJob
from videoxl.server.stream_replies import StreamReply

router = APIRouter(prefix="/v1", tags=["chat"])
T = TypeVar("T")
LOOK_EVERY = 0.5
"""Seconds between two looks at whether a client is still there."""


@router.post("/chat/completions", response_model=None)
async def chat(request: Request, body: ChatRequest, serving: Serving, owner: Owner) -> Response:
    """Ask about one or several videos.

    A file that was not read yet is read first. Several videos are read each on its own: the reply has an answer for
    each of them, one after the other, and ``answers`` in ``videoxl`` holds them apart. With ``search`` in ``videoxl``
    no video is named: the memories that search finds are asked, and the answer that the model is surest of is the
    reply.
    """
    _check_model(serving, body.model)
    talk = conversation_of(body, serving.settings.limits, serving.fetcher)
    if body.stream and body.n not in (None, 1):
        raise ApiError("n above 1 cannot be streamed", "invalid_value", param="n")
    if len(talk.videos) != 1 and body.n not in (None, 1):
        raise ApiError("n above 1 is for questions about one video", "invalid_value", param="n")
    if any(video.startswith(STREAM) for video in talk.videos):
        return await _about_stream(request, body, serving, owner, talk)
    reply = await _unless_left(request, _reply(serving, body, owner, talk))
    if isinstance(reply, Response):
        return reply
    if not body.stream:
        answer = await _unless_left(request, reply.whole())
        return answer if isinstance(answer, Response) else JSONResponse(answer)
    pieces = await reply.begun()
    return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _about_stream(
    request: Request, body: ChatRequest, serving: Services, owner: str, talk: Conversation
) -> Response:
    """A question about what a stream shows, or has shown."""
    reply = StreamReply(serving, body, talk, owner)
    answer = await _unless_left(request, reply.whole())
    if isinstance(answer, Response):
        return answer
    if not body.stream:
        return JSONResponse(answer)
    pieces = reply.pieces(answer)
    return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T | Response:
    """Wait as long as the client does. What is streamed ends by itself when nobody reads it."""
    task = asyncio.create_task(work)
    while not (await asyncio.wait({task}, timeout=LOOK_EVERY))[0]:
        if await request.is_disconnected():
            task.cancel()
            await asyncio.wait({task})
            return Response(status_code=499)
    return task.result()


def _check_model(serving: Services, name: str) -> None:
    ready = serving.backend.ready
    known = {serving.settings.model, *([ready.model] if ready else [])}
    if name not in known:
        raise ApiError(
            f"this server asks {serving.settings.model}, not {name!r:.100}", "model_not_found", param="model"
        )


async def _reply(serving: Services, body: ChatRequest, owner: str, talk: Conversation) -> Reply:
    if talk.options.search is not None:
        return await best_reply(serving, body, talk, owner)
    return Reply(serving, body, talk, [await _job(serving, video, owner, talk) for video in talk.videos])


async def _job(serving: Services, video: str, owner: str, talk: Conversation) -> MemoryJob:
    if video.startswith("file-"):
        return await serving.read(serving.file(video, owner), talk.options)
    if not video.startswith("mem-"):
        file = await serving.fetcher.fetch(video, owner, serving.room(owner, serving.settings.limits.file_bytes))
        return await serving.read(file, talk.options)
    job = await asyncio.to_thread(serving.known_memory, video, owner)
    if given := [name for name in job.settings if getattr(talk.options, name, None) not in (None, job.settings[name])]:
        raise ApiError(
            f"{video} was read with {given[0]}={job.settings[given[0]]}: name its file instead", "invalid_value"
        )
    return job
