"""A stream that is read as it comes: connected to, lost, found again, on one time axis."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from videoxl.errors import VideoError
from videoxl.video.decoder.live_client import ArrivedFrame, LiveDecoder, chunks_of
from videoxl.video.frames import Pixels
from videoxl.video.info import VideoLimits
from videoxl.video.live.address import StreamAddress, parse_stream
from videoxl.video.live.clock import StreamClock
from videoxl.video.live.feeds import Feed, Network, Patience, StreamError
from videoxl.video.live.opening import open_feed

State = Literal["connecting", "live", "lost", "ended"]
WAITING_BYTES = 256 * 2**20
"""Pictures that wait for the reader, at most; then the oldest are dropped."""
LONGEST_STEP = 3
"""A pause of more than so many steps between frames, and of a second, is a gap."""
HOPELESS = (
    *("not_found", "permission_denied", "not_a_regular_file", "empty_file"),
    *("not_a_video", "unsupported_container", "no_video_stream", "no_decoder", "limits_pixels"),
)
"""Codes of errors that another attempt at once would meet too."""


@dataclass(frozen=True)
class LiveFrame:
    """A picture of a stream."""

    pixels_HWC: Pixels
    seconds: float
    """On the stream's axis, which begins with the first frame."""


@dataclass(frozen=True)
class StateChange:
    """What happened to a connection."""

    state: State
    seconds: float
    """On the stream's axis, as far as it had come."""
    message: str = ""


@dataclass(frozen=True)
class Gap:
    """A stretch of the axis without frames."""

    start: float
    end: float
    reason: Literal["lost", "silent", "dropped", "unwatched"]
    """The connection was lost; the source sent nothing; the reader was too slow; nobody was reading."""


class FrameSource(Protocol):
    """Where a watcher gets frames from."""

    @property
    def name(self) -> str: ...
    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""

    def take(self, most: int, seconds: float) -> list[LiveFrame]:
        """The next frames, at most so many; fewer, or none, when no more came for that long."""

    def changes(self) -> list[StateChange]:
        """What happened since the last call."""

    def gaps(self) -> list[Gap]:
        """Gaps that have ended since the last call."""

    def close(self) -> None: ...


class LiveSource:
    """A stream. A thread of its own receives it; frames wait here, the newest ones, until they are taken."""

    def __init__(
        self,
        stream: str,
        *,
        fps: float = 1.0,
        patience: Patience | None = None,
        limits: VideoLimits | None = None,
        pinned: bool = False,
        begin: float = 0.0,
        opener: Callable[[StreamAddress, Network, Patience], Feed] = open_feed,
    ) -> None:
        """Begin to connect. ``begin``: where the first frame lies on the axis, in seconds. Raises ``ValueError``."""
        if isinstance(fps, bool) or not 0 < fps <= 1000:
            raise ValueError(f"fps must be above 0 and at most 1000 frames a second, got {fps!r}")
        self.address = parse_stream(stream)
        self.name = str(self.address)
        self.fps, self._limits = fps, limits or VideoLimits()
        self._patience, self._opener = patience or Patience(), opener
        self._network = Network(self.address, pinned=pinned)
        self._clock = StreamClock(begin)
        self._changed = threading.Condition()
        self._frames: deque[LiveFrame] = deque()
        self._bytes = 0
        self._changes: list[StateChange] = []
        self._gaps: list[Gap] = []
        self._last = begin
        self._connections = 0
        self._dropped_at: tuple[float, float] | None = None
        self._feed: Feed | None = None
        self._decoder: LiveDecoder | None = None
        self._closed = threading.Event()
        self.state: State = "connecting"
        self.error: Exception | None = None
        """Why it has ended, where that is an error."""
        self.dropped = 0
        """Frames that were not taken in time."""
        self.damaged = 0
        self.codec = ""
        self._thread = threading.Thread(target=self._run, name="videoxl-live", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------------ for a reader

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""
        with self._changed:
            return self.state == "ended" and not self._frames

    @property
    def mended(self) -> int:
        """How often the stream's own clock was not followed."""
        return self._clock.mended

    def wait_until_live(self) -> None:
        """Wait for the first frame. Raises ``VideoError`` where there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self.state == "ended")
            if not self._frames:
                raise self.error or StreamError(f"{self.name}: ended without a picture", code="no_video_stream")

    def take(self, most: int, seconds: float) -> list[LiveFrame]:
        """The next frames, at most so many; fewer, or none, when no more came for that long."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._frames) >= most or self.state == "ended", seconds)
            taken = [self._frames.popleft() for _ in range(min(most, len(self._frames)))]
            self._bytes -= sum(frame.pixels_HWC.nbytes for frame in taken)
            self._changed.notify_all()
            return taken

    def changes(self) -> list[StateChange]:
        """What happened since the last call."""
        with self._changed:
            found, self._changes = self._changes, []
            return found

    def gaps(self) -> list[Gap]:
        """Gaps that have ended since the last call, in order."""
        with self._changed:
            self._close_dropped()
            found, self._gaps = self._gaps, []
            return sorted(found, key=lambda gap: gap.start)

    def close(self) -> None:
        """End it. May be called more than once."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        for part in (self._feed, self._decoder):
            if part is not None:
                part.close()
        self._thread.join(5.0)

    # -------------------------------------------------------------------------------------------- the thread's side

    def _run(self) -> None:
        begun = lost_at = time.monotonic()
        attempts = 0
        told = ""
        while not self._closed.is_set():
            if not told:
                self._change("connecting")
            before = self._connections
            message, final = self._connect_once()
            if self._closed.is_set():
                break
            if message == "" or self._is_hopeless(final, begun, lost_at, self._connections > before):
                self._end(message)
                return
            if self._connections > before:
                attempts, lost_at, told = 0, time.monotonic(), ""
            if message != told:  # what goes on as it was is not told again
                self._change("lost", message)
                told = message
            self._closed.wait(self._pause(attempts))
            attempts += 1
        self._end("")

    def _is_hopeless(self, final: bool, begun: float, lost_at: float, was_live: bool) -> bool:
        """Whether there is no sense in another attempt."""
        if was_live:
            return False
        if self._connections == 0:
            return final or time.monotonic() - begun > self._patience.wait_s
        return self._patience.give_up_s is not None and time.monotonic() - lost_at > self._patience.give_up_s

    def _pause(self, attempts: int) -> float:
        """Seconds before the next attempt: twice as many each time, and never the same for two readers."""
        patience = self._patience
        pause = min(patience.first_pause_s * 2.0 ** min(attempts, 30), patience.longest_pause_s)
        return pause * random.uniform(0.75, 1.25)

    def _connect_once(self) -> tuple[str, bool]:
        """Read one connection to its end. Returns why it ended, empty at the stream's own end; and whether for good."""
        decoder: LiveDecoder | None = None
        feed: Feed | None = None
        silent, failed = [False], list[VideoError]()
        try:
            feed = self._feed = self._opener(self.address, self._network, self._patience)
            decoder = self._decoder = LiveDecoder(self.name, self.fps, self._limits)
            pump = threading.Thread(target=self._pump, args=(feed, decoder, failed, silent), daemon=True)
            pump.start()
            first = True
            for frame in decoder.frames():
                if first:
                    self._begin_connection(decoder)
                    first = False
                self._put(frame)
            if decoder.report is not None:
                self.damaged += decoder.report.damaged
            pump.join(1.0)
            if failed:
                raise failed[0]
            if silent[0]:
                return f"sent nothing for {feed.silence_s or self._patience.silence_s:g} s", False
            if first:
                return f"{self.name}: ended without a picture", False
            return ("", True) if feed.ends else ("the source ended the connection", False)
        except VideoError as error:
            if feed is not None:
                feed.close()
            self.error = cause = failed[0] if failed else error
            return str(cause), getattr(cause, "final", cause.code in HOPELESS)
        except OSError as error:
            self.error = error
            return f"{self.name}: {error.strerror or error}", False
        finally:
            self._feed = self._decoder = None
            if feed is not None:
                feed.close()
            if decoder is not None:
                decoder.close()

    def _pump(self, feed: Feed, decoder: LiveDecoder, failed: list[VideoError], silent: list[bool]) -> None:
        def read() -> bytes:
            try:
                return feed.read(feed.silence_s or self._patience.silence_s)
            except TimeoutError:
                silent[0] = True
                return b""
            except VideoError as error:
                failed.append(error)
                return b""

        with contextlib.suppress(OSError):  # closed meanwhile
            decoder.feed(chunks_of(read))

    def _begin_connection(self, decoder: LiveDecoder) -> None:
        self._connections += 1
        self.error = None
        if decoder.facts is not None:
            self.codec = decoder.facts.codec

    def _put(self, arrived: ArrivedFrame) -> None:
        is_first = self.state != "live"
        seconds = self._clock.place(arrived.pts, arrived.arrived)
        with self._changed:
            if self._feed is not None and self._feed.waits:
                self._changed.wait_for(lambda: self._bytes < WAITING_BYTES or self._closed.is_set())
            if self._connections > 1 or not is_first:
                self._note_gap(seconds, "lost" if is_first else "silent")
            self._last = seconds
            self._frames.append(LiveFrame(arrived.pixels_HWC, seconds))
            self._bytes += arrived.pixels_HWC.nbytes
            while self._bytes > WAITING_BYTES and len(self._frames) > 1:
                self._drop(self._frames.popleft())
            if is_first:
                self._set("live", self.codec)
            self._changed.notify_all()

    def _note_gap(self, seconds: float, reason: Literal["lost", "silent"]) -> None:
        if seconds - self._last > max(LONGEST_STEP / self.fps, 1.0) or reason == "lost":
            self._gaps.append(Gap(self._last, seconds, reason))

    def _drop(self, frame: LiveFrame) -> None:
        """Count a frame that was not taken in time. A row of them is one gap."""
        self._bytes -= frame.pixels_HWC.nbytes
        self.dropped += 1
        begin = self._dropped_at[0] if self._dropped_at else frame.seconds
        self._dropped_at = (begin, self._frames[0].seconds)

    def _close_dropped(self) -> None:
        if self._dropped_at is not None:
            self._gaps.append(Gap(*self._dropped_at, "dropped"))
            self._dropped_at = None

    def _change(self, state: State, message: str = "") -> None:
        with self._changed:
            self._set(state, message)
            self._changed.notify_all()

    def _set(self, state: State, message: str = "") -> None:
        self.state = state
        self._changes.append(StateChange(state, self._last, message))

    def _end(self, message: str) -> None:
        if message and self.error is None:
            self.error = StreamError(message if message.startswith(self.name) else f"{self.name}: {message}")
        if not message:
            self.error = None
        self._change("ended", message)
