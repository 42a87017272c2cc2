"""What waits in a worker: questions before readings, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import IO

from videoxl.server.protocol import Ask, Cancel, Forget, Read, Unwatch, Watch, from_line


class Inbox:
    """Requests of the front, read in a thread. It ends when the front closes the connection."""

    def __init__(self, lines: IO[bytes], on_cancelled: Callable[[str], None]) -> None:
        """``on_cancelled``: told the id of a waiting request that was cancelled."""
        self._lines, self._on_cancelled = lines, on_cancelled
        self._changed = threading.Condition()
        self._asks: deque[Ask] = deque()
        self._reads: deque[Read] = deque()
        self._forgets: deque[Forget] = deque()
        self._streams: deque[Watch | Unwatch] = deque()
        self._stopped: set[str] = set()
        self._closed = False
        threading.Thread(target=self._receive, name="videoxl-inbox", daemon=True).start()

    def _receive(self) -> None:
        for line in self._lines:
            message = from_line(line)
            with self._changed:
                if isinstance(message, Ask):
                    self._asks.append(message)
                elif isinstance(message, Read):
                    self._reads.append(message)
                elif isinstance(message, Forget):
                    self._forgets.append(message)
                elif isinstance(message, Watch | Unwatch):
                    self._streams.append(message)
                elif isinstance(message, Cancel):
                    self._cancel(message.id)
                self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _cancel(self, wanted: str) -> None:
        for waiting in (self._asks, self._reads):
            for request in [one for one in waiting if one.id == wanted]:
                waiting.remove(request)  # type: ignore[arg-type]
                self._on_cancelled(wanted)
                return
        self._stopped.add(wanted)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until there is something to do, for so long at most. Returns False when the front has gone."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._asks or self._reads or self._forgets or self._streams, seconds
            )
            return not self._closed

    def is_stopped(self, request_id: str) -> bool:
        """Whether a request in work was cancelled, or nobody is there any more."""
        with self._changed:
            return self._closed or request_id in self._stopped

    def done(self, request_id: str) -> None:
        """Forget that a request was cancelled."""
        with self._changed:
            self._stopped.discard(request_id)

    def next_forget(self) -> Forget | None:
        """A memory to let go of."""
        with self._changed:
            return self._forgets.popleft() if self._forgets else None

    def next_stream(self) -> Watch | Unwatch | None:
        """A stream to watch, or to watch no more."""
        with self._changed:
            return self._streams.popleft() if self._streams else None

    def next_read(self) -> Read | None:
        """The reading that waits longest."""
        with self._changed:
            return self._reads.popleft() if self._reads else None

    def waiting_asks(self) -> frozenset[str]:
        """Ids of the questions that wait now."""
        with self._changed:
            return frozenset(ask.id for ask in self._asks)

    def next_asks(self, most: int, among: Collection[str] | None = None) -> list[Ask]:
        """The question that waits longest, with up to ``most - 1`` others that can be answered in the same steps.

        These are about the same memory, read in the same way, and not streamed. A streamed question comes alone.
        ``among``: ids of which the first one is.
        """
        with self._changed:
            first = next((ask for ask in self._asks if among is None or ask.id in among), None)
            if first is None:
                return []
            self._asks.remove(first)
            together = [first]
            if not first.stream:
                for other in [*self._asks]:
                    if len(together) < most and _go_together(first, other):
                        self._asks.remove(other)
                        together.append(other)
            return together


def _go_together(one: Ask, other: Ask) -> bool:
    same = one.memory == other.memory and one.decode == other.decode and not other.stream
    return same and not one.history and not other.history
