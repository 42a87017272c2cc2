"""A process beside the front that is kept alive, and speaks lines of JSON."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from videoxl.server.protocol import MAX_LINE, Message, from_line, to_line

logger = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a process that ended is started again; doubled each time it ends without having said anything."""


class Child:
    """A process, started as ``COMMAND DESCRIPTOR ARGUMENTS``. Made and used within one event loop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        restarts: int,
        heard: Callable[[Message], None],
        lost: Callable[[], None],
    ) -> None:
        """``heard``: told each message; ``lost``: that the process ended; ``restarts``: in a row, in vain."""
        self._name, self._command, self._restarts = name, list(command), restarts
        self._heard, self._was_lost = heard, lost
        self.gave_up = False
        """Whether it ended so often that it is not started again."""
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process number."""
        return self._process.pid if self._process else None

    async def start(self, *arguments: str) -> None:
        """Start it, and keep one running."""
        self._keeper = asyncio.create_task(self._keep(arguments), name=f"videoxl-{self._name}")

    async def stop(self) -> None:
        """End it."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        self._end()

    def send(self, message: Message) -> None:
        """Send a message, where there is a process."""
        if self._writer is not None:
            self._writer.write(to_line(message))

    async def _keep(self, arguments: Sequence[str]) -> None:
        pause, failures = FIRST_PAUSE, 0
        while failures <= self._restarts:
            try:
                useful = await self._run_once(arguments)
            except Exception:  # such as a system without processes or descriptors left: tried again
                logger.exception("the %s could not be started", self._name)
                useful = False
            failures, pause = (0, FIRST_PAUSE) if useful else (failures + 1, min(2 * pause, LONGEST_PAUSE))
            logger.warning("the %s ended; it is started again in %.1f s", self._name, pause)
            await asyncio.sleep(pause)
        self.gave_up = True
        self._was_lost()
        logger.error("the %s ended %d times in a row without having done anything", self._name, failures)

    async def _run_once(self, arguments: Sequence[str]) -> bool:
        """Run it until it ends. Returns whether it said anything."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                *arguments,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        useful = False
        try:
            async for line in reader:
                useful = True
                self._heard(from_line(line))
        except (ConnectionError, ValueError) as error:
            logger.warning("the connection to the %s broke: %s", self._name, error)
        finally:
            self._end()
            self._was_lost()
        return useful

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
