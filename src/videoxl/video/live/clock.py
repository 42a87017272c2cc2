"""One time axis for a stream, whatever its own clock does: missing, wrapping, jumping, beginning anew."""

from __future__ import annotations

SLACK_S = 10.0
"""So much further than the time that has passed may a stream's own clock go ahead: broadcasts come in bursts."""
LEAST_STEP_S = 0.001
WRAP_S = 2**33 / 90_000
"""After so many seconds, 26.5 hours, the clock of MPEG-TS begins at 0 again."""


class StreamClock:
    """Puts frames on an axis of seconds. One serves all connections to the same stream.

    The stream's own times count as long as they go on as time itself does. Where they do not, and where there are none,
    the time at which a frame arrived counts. So pauses have their length on the axis, whatever made them.
    """

    def __init__(self, begin: float = 0.0) -> None:
        """``begin``: where the first frame is put."""
        self.at: float | None = None
        """Where the newest frame was put."""
        self.mended = 0
        """How often the stream's own clock was not followed, though there was one."""
        self._begin = begin
        self._pts: float | None = None
        self._arrived = 0.0
        self._ahead = 0.0
        """How far the axis is ahead of the time that has passed since the first frame: what came in a burst."""

    def place(self, pts: float | None, arrived: float) -> float:
        """Where a frame lies on the axis: later than the one before it.

        Args:
            pts: seconds of the stream's own clock; None: it has none.
            arrived: seconds of a clock of this machine, at which it came in.
        """
        passed = max(arrived - self._arrived, 0.0)
        at = self._begin if self.at is None else round(self.at + max(self._step(pts, passed), LEAST_STEP_S), 6)
        if pts is not None:
            self._pts = pts
        self.at, self._arrived = at, arrived
        return at

    def _step(self, pts: float | None, passed: float) -> float:
        if pts is None or self._pts is None:
            return self._by_arrival(passed)
        for step in (pts - self._pts, pts - self._pts + WRAP_S):
            if 0 < step <= passed + SLACK_S + max(-self._ahead, 0.0):
                self._ahead += step - passed
                return step
        self.mended += 1
        return self._by_arrival(passed)

    def _by_arrival(self, passed: float) -> float:
        """A step to where time is, or the least one where the axis is there already."""
        step = max(passed - max(self._ahead, 0.0), LEAST_STEP_S)
        self._ahead += step - passed
        return step
