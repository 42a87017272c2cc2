"""Alerts: yes or no for each new stretch, and only told when enough of them agree."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from videoxl.live.settings import Alert

YES_FROM = 0.5


@dataclass
class AlertState:
    """How the stretches so far have answered one alert."""

    alert: Alert
    fired: bool = False
    _said: deque[tuple[bool, float]] = field(default_factory=deque)

    def take(self, probability: float, start: float) -> tuple[str, float] | None:
        """Take what a stretch that begins at ``start`` says.

        Returns what changed (``fired`` or ``cleared``), and since when; None: nothing.
        """
        wanted = not self.fired
        self._said.append((probability >= YES_FROM, start))
        while len(self._said) > self.alert.of:
            self._said.popleft()
        agreeing = [begin for yes, begin in self._said if yes is wanted]
        if len(agreeing) < (self.alert.fire if wanted else self.alert.clear):
            return None
        self.fired = wanted
        self._said.clear()
        return ("fired" if wanted else "cleared"), agreeing[0]
