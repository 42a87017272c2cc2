"""The front's part of streams: which there are, whose, who watches them, and what they told. They outlive a restart."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from videoxl.server.problems import ApiError, missing
from videoxl.server.protocol import Reply, StreamEnded, StreamTold, Unwatch, Watch
from videoxl.server.settings import ServerSettings
from videoxl.server.worker_process import WorkerProcess
from videoxl.settings import from_json
from videoxl.video.live.address import StreamAddress, parse_stream

Json = dict[str, Any]
Status = Literal["waiting", "connecting", "live", "lost", "ended", "failed"]
RECORD = "stream.json"
MOST_EVENTS = 1000
"""Events of a stream that the front keeps, for those who come later; all of them lie in its folder."""
KEEP_ALIVE = 15.0


@dataclass(frozen=True)
class StreamRecord:
    """A stream that somebody wants watched, as it lies in its folder."""

    id: str
    owner: str
    url: str = field(repr=False)
    fps: float
    settings: Json
    created: float
    status: Status = "waiting"
    error_code: str = ""
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nobody watches it any more."""
        return self.status in ("ended", "failed")

    @property
    def shown(self) -> str:
        """Its address without user, password and query."""
        return str(parse_stream(self.url))


@dataclass
class Watched:
    """What is known of a stream while the front runs."""

    record: StreamRecord
    worker: WorkerProcess | None = None
    at: float = 0.0
    told: int = 0
    """How many events there have been since the front began."""
    events: deque[tuple[int, Json]] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    listeners: set[asyncio.Event] = field(default_factory=set)

    def tell(self, event: Json) -> None:
        """Keep an event, and wake those who wait for one."""
        self.told += 1
        self.events.append((self.told, event))
        for listener in self.listeners:
            listener.set()


class StreamDesk:
    """All streams of a server."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._folder = settings.data / "streams"
        self._streams: dict[str, Watched] = {}
        for path in sorted(self._folder.glob(f"*/{RECORD}")):
            try:
                record = from_json(StreamRecord, path.read_bytes(), RECORD)
            except (OSError, ValueError):
                continue  # what it kept stays where it is
            status: Status = record.status if record.is_over else "waiting"
            self._streams[record.id] = Watched(replace(record, status=status))

    # -------------------------------------------------------------------------------------------------- requests

    def add(self, owner: str, url: str, fps: float, settings: Json) -> Watched:
        """Have a stream watched. Raises :class:`ApiError` for what is not allowed, or too much."""
        allowed_stream(url, self._settings.allowed_streams)
        running = [one for one in self._streams.values() if not one.record.is_over]
        if len(running) >= self._settings.limits.streams:
            raise ApiError(f"at most {self._settings.limits.streams} streams are watched: delete one", "queue_full")
        record = StreamRecord(f"stream-{secrets.token_hex(12)}", owner, url, fps, settings, time.time())
        self._keep(record)
        made = self._streams[record.id] = Watched(record)
        return made

    def of(self, owner: str) -> list[Watched]:
        """The streams of an owner, the newest first."""
        mine = [one for one in self._streams.values() if one.record.owner == owner]
        return sorted(mine, key=lambda one: -one.record.created)

    def get(self, name: str, owner: str) -> Watched:
        """A stream of this owner. Raises :class:`ApiError` (404)."""
        found = self._streams.get(name)
        if found is None or found.record.owner != owner:
            raise missing("stream", name, "stream_missing")
        return found

    def remove(self, stream: Watched) -> None:
        """Watch a stream no more, and remove all that was kept of it."""
        self._streams.pop(stream.record.id, None)
        if stream.worker is not None:
            stream.worker.send(Unwatch(stream.record.id))
        stream.record = replace(stream.record, status="ended")
        stream.tell({"kind": "state", "state": "ended", "message": "deleted"})
        folder = self.folder_of(stream.record)
        (folder / RECORD).unlink(missing_ok=True)
        if stream.worker is None:
            shutil.rmtree(folder, ignore_errors=True)

    def folder_of(self, record: StreamRecord) -> Path:
        """Where a stream is kept."""
        return self._folder / record.id

    def bytes_of(self, stream: Watched) -> int:
        """Bytes of all that is kept of a stream."""
        found = 0
        for root, _, names in os.walk(self.folder_of(stream.record)):
            for name in names:
                try:
                    found += os.stat(os.path.join(root, name)).st_size
                except OSError:
                    continue  # it was replaced meanwhile
        return found

    async def events(self, stream: Watched, after: int) -> AsyncIterator[tuple[int, Json] | None]:
        """What a stream told, from the event after this number on, until it is over. None: nothing for a while."""
        waked = asyncio.Event()
        stream.listeners.add(waked)
        try:
            while True:
                waked.clear()
                for number, event in [*stream.events]:
                    if number > after:
                        after = number
                        yield number, event
                if stream.record.is_over:
                    return
                try:
                    await asyncio.wait_for(waked.wait(), KEEP_ALIVE)
                except TimeoutError:
                    yield None
        finally:
            stream.listeners.discard(waked)

    # --------------------------------------------------------------------------------------------------- workers

    def hand_out(self, workers: list[WorkerProcess]) -> None:
        """Give streams that nobody watches to workers, the one with the fewest first."""
        ready = [worker for worker in workers if worker.ready is not None]
        for stream in self._streams.values():
            if stream.record.is_over or stream.worker in ready or not ready:
                continue
            counts = {one.number: sum(other.worker is one for other in self._streams.values()) for one in ready}
            stream.worker = min(ready, key=lambda one: counts[one.number])
            record = stream.record
            folder = str(self.folder_of(record) / "kept")
            stream.worker.send(Watch(record.id, record.url, folder, record.fps, record.settings))
            self._change(stream, "connecting")

    def on_ended(self, worker: WorkerProcess) -> None:
        """A worker has ended: its streams wait for another, or for the next one."""
        for stream in self._streams.values():
            if stream.worker is worker:
                stream.worker = None
                stream.tell({"kind": "state", "state": "waiting", "message": "the worker ended; it is begun again"})
                self._change(stream, "waiting")

    def on_reply(self, reply: Reply) -> bool:
        """Take what a worker tells of a stream. Returns whether it was about one."""
        if not isinstance(reply, StreamTold | StreamEnded):
            return False
        stream = self._streams.get(reply.id)
        if stream is None:  # deleted: what was saved at the end goes too
            if isinstance(reply, StreamEnded) and reply.id.startswith("stream-"):
                shutil.rmtree(self._folder / reply.id, ignore_errors=True)
            return True
        if isinstance(reply, StreamTold):
            stream.at = reply.at
            for event in reply.events:
                stream.tell(event)
                if event["kind"] == "state" and event["state"] != "ended":
                    self._change(stream, event["state"])
            return True
        stream.worker = None
        record = replace(stream.record, error_code=reply.code, error=reply.message)
        stream.record = record
        self._change(stream, "failed" if reply.code else "ended")
        self._keep(stream.record)
        stream.tell({"kind": "state", "state": stream.record.status, "message": reply.message})
        return True

    def home_of(self, name: str) -> WorkerProcess | None:
        """The worker that watches a stream."""
        found = self._streams.get(name)
        return None if found is None else found.worker

    def _change(self, stream: Watched, status: Status) -> None:
        stream.record = replace(stream.record, status=status)

    def _keep(self, record: StreamRecord) -> None:
        folder = self.folder_of(record)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = folder / f".{RECORD}.part"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it may hold a password
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(record), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / RECORD)


def allowed_stream(url: str, allowed: tuple[str, ...]) -> StreamAddress:
    """The address of a stream that may be watched. Raises :class:`ApiError` (403) for any other.

    ``allowed``: hosts (``cam.local``, ``cam.local:8554``), or beginnings of addresses (``rtsp://cam.local/live``).
    """
    try:
        address = parse_stream(url)
    except ValueError as error:
        raise ApiError(str(error), "invalid_value", param="url") from None
    if not address.is_local and any(_allows(one, address) for one in allowed):
        return address
    raise ApiError(
        f"{address} is not allowed: the server watches what --allow-stream names", "url_blocked", param="url"
    )


def _allows(rule: str, address: StreamAddress) -> bool:
    if "://" not in rule:
        host, _, port = rule.rpartition(":") if rule.rpartition(":")[2].isdecimal() else (rule, "", "")
        return host.strip("[]").lower() == address.host and port in ("", str(address.port))
    begin = parse_stream(rule)
    path, _, _ = address.path.partition("?")
    inside = address.path == begin.path or address.path.startswith((begin.path.rstrip("/") + "/", begin.path + "?"))
    same = (begin.scheme, begin.host, begin.port) == (address.scheme, address.host, address.port)
    return same and ".." not in path.split("/") and "%" not in path and (not begin.path or inside)
