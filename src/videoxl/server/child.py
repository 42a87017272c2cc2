"""A process beside the front that is kept alive, and speaks lines of JSON."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from videoxl.server.protocol import MAX_LINE, Message, from_line, to_line

logger = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a process that ended is started again; doubled each time it ends without having been of use."""


class Child:
    """A process, started as ``COMMAND DESCRIPTOR ARGUMENTS``. Made and used within one event loop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        most_restarts: int,
        heard: Callable[[Message], None],
        useful: Callable[[], bool],
        lost: Callable[[], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            command: of the process, without its arguments.
            most_restarts: how often in a row it is started again though it was of no use.
            heard: is told each message.
            useful: says, when it ended, whether it was of use.
            lost: is told that it ended, and once more when it is given up.
            environment: of the process; None: that of the front.
        """
        self._name, self._command, self._most_restarts = name, list(command), most_restarts
        self._heard, self._useful, self._was_lost = heard, useful, lost
        self._environment = environment
        self.restarts = 0
        self.gave_up = False
        """Whether it is not started again."""
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
        self.end()

    def give_up(self) -> None:
        """End it, for good."""
        self.gave_up = True
        self.end()

    def send(self, message: Message) -> None:
        """Send a message, where there is a process."""
        if self._writer is not None:
            self._writer.write(to_line(message))

    async def _keep(self, arguments: Sequence[str]) -> None:
        pause, failures = FIRST_PAUSE, 0
        while failures <= self._most_restarts and not self.gave_up:
            try:
                worked = await self._run_once(arguments)
            except Exception:  # such as a system without processes or descriptors left: tried again
                logger.exception("the %s could not be started", self._name)
                worked = False
            failures, pause = (0, FIRST_PAUSE) if worked else (failures + 1, min(2 * pause, LONGEST_PAUSE))
            self.restarts += 1
            logger.warning("the %s ended; it is started again in %.1f s", self._name, pause)
            await asyncio.sleep(pause)
        self.gave_up = True
        self._was_lost()
        logger.error("the %s is started no more: it ended without having been of use", self._name)

    async def _run_once(self, arguments: Sequence[str]) -> bool:
        """Run it until it ends. Returns whether it was of use."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                *arguments,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        try:
            async for line in reader:
                self._heard(from_line(line))
        except (ConnectionError, ValueError) as error:
            logger.warning("the connection to the %s broke: %s", self._name, error)
        finally:
            worked = self._useful()
            self.end()
            self._was_lost()
        return worked

    def end(self) -> None:
        """End the process that runs now."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
