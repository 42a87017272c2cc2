"""Memories: files that were read, or are being read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import FileResponse, StreamingResponse

from videoxl.server.problems import ApiError
from videoxl.server.schemas import Deleted, MemoryList, MemoryObject, MemoryRequest
from videoxl.server.services import Owner, Services, Serving
from videoxl.server.store import WAITING, MemoryJob
from videoxl.server.watching import changes

router = APIRouter(prefix="/v1/video/memories", tags=["memories"])


@router.post("", status_code=202)
async def make_memory(body: MemoryRequest, serving: Serving, owner: Owner) -> MemoryObject:
    """Read a file into a memory. The same file read in the same way is the same memory, and read once."""
    return serving.memory_object(await serving.read(serving.file(body.file_id, owner), body))


@router.get("")
def list_memories(serving: Serving, owner: Owner) -> MemoryList:
    """Your memories."""
    return MemoryList(data=[serving.memory_object(job) for job in serving.store.memories(owner)])


@router.get("/{memory_id}")
def get_memory(memory_id: str, serving: Serving, owner: Owner) -> MemoryObject:
    """One of your memories."""
    return serving.memory_object(serving.known_memory(memory_id, owner))


@router.get("/{memory_id}/events", response_class=StreamingResponse)
async def get_events(memory_id: str, serving: Serving, owner: Owner) -> StreamingResponse:
    """What happens to a memory, as server-sent events, until it is ready, failed or cancelled."""
    job = await asyncio.to_thread(serving.known_memory, memory_id, owner)
    return StreamingResponse(
        _events(serving, job), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(serving: Services, job: MemoryJob) -> AsyncIterator[str]:
    async for changed in changes(serving, job):
        yield ": waiting\n\n" if changed is None else f"data: {changed.model_dump_json()}\n\n"


@router.post("/{memory_id}/cancel")
async def cancel_memory(memory_id: str, serving: Serving, owner: Owner) -> MemoryObject:
    """Stop a reading. One that is in work ends at its next tile."""
    job = serving.memory(memory_id, owner)
    if job.status not in WAITING:
        raise ApiError(f"this memory is {job.status}: nothing is left to cancel", "not_cancellable", 409)
    serving.backend.cancel(job)
    return serving.memory_object(serving.memory(memory_id, owner))


@router.delete("/{memory_id}")
async def delete_memory(memory_id: str, serving: Serving, owner: Owner) -> Deleted:
    """Remove a memory. Its file stays."""
    job = serving.memory(memory_id, owner)
    if job.status == "in_progress":
        raise ApiError("this memory is being read: cancel that first", "memory_busy", 409)
    if serving.shared is not None:
        await asyncio.to_thread(serving.shared.forget, memory_id)
    if serving.store.delete_memory(job):
        serving.backend.forget(job)
    return Deleted(id=memory_id, object="video.memory")


@router.get("/{memory_id}/content", response_class=FileResponse)
def get_memory_file(memory_id: str, serving: Serving, owner: Owner) -> FileResponse:
    """The memory as a ``.vxl`` file, for ``videoxl ask`` and Python."""
    job = serving.known_memory(memory_id, owner)
    if job.status != "ready":
        raise ApiError(f"this memory is {job.status}", "memory_not_ready")
    return FileResponse(
        serving.store.memory_path(job.key), media_type="application/octet-stream", filename=f"{job.id}.vxl"
    )
