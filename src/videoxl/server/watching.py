"""What happens to a memory, for those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from videoxl.server.protocol import Progressed
from videoxl.server.schemas import MemoryObject
from videoxl.server.services import Services
from videoxl.server.store import WAITING, MemoryJob

KEEP_ALIVE = 15.0
"""Seconds after which a silent stream of events sends a comment, so that nothing between cuts it off."""


async def changes(serving: Services, job: MemoryJob) -> AsyncIterator[MemoryObject | None]:
    """How a memory is now, and whenever it changes, until it changes no more. None: nothing for a while."""
    changed: asyncio.Queue[MemoryObject] = asyncio.Queue()

    def listener(other: MemoryJob, progress: Progressed | None) -> None:
        if other.id == job.id:
            changed.put_nowait(serving.memory_object(other, progress))

    end = serving.backend.listen(listener)
    try:
        now = serving.memory_object(serving.memory(job.id, job.owner))
        yield now
        while now.status in WAITING:
            try:
                now = await asyncio.wait_for(changed.get(), KEEP_ALIVE)
                yield now
            except TimeoutError:
                yield None
    finally:
        end()
