"""When which location is told to load again: all at once, those that are in trouble last, and nobody all the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from resources.at_once import at_once

EVERY_S = 10.0
"""Between two loads of one location, if changes come all the time; if longer, twice what the last one took."""
ROW = 2
"""Loads one soon after the other before that: what changes now and then is loaded at once, also after a start."""
LONGEST_S = 60.0
"""The longest of these waits, and what is between two loads that are not in a row."""
RETRY_S = 5.0
"""Before one that failed is told once more; then twice as long, up to ten minutes. Other definitions need not wait."""
LEAST_S = 5.0
"""What is left of a tick that is worth beginning with."""

Reload = Callable[[str, float], str]
"""Reloads a location within some seconds, and says what is wrong, if anything is."""


@dataclass
class _Last:
    """The last time that a location was told."""

    version: str
    ended: float
    took: float
    problem: str
    failures: int
    row: int

    def due(self, version: str) -> float:
        """When it may be told a version."""
        if self.problem and version == self.version:
            return self.ended + min(RETRY_S * (1 << min(self.failures - 1, 10)), 600)
        return self.ended + (min(max(EVERY_S, 2 * self.took), LONGEST_S) if self.row >= ROW else 0)


class Reloader:
    """Tells locations. What it remembers saves work only: the sensor's cursor says who was told what."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, _Last] = {}

    def tell(
        self, latest: Mapping[str, str], told: Mapping[str, str], reload: Reload, limit_s: float
    ) -> dict[str, str]:
        """Have the locations whose definitions are others load them; all that have, with which."""
        done = {name: version for name, version in told.items() if latest.get(name) == version}
        now = self._clock()
        behind = [name for name in latest if name not in done and self._due(name, latest[name]) <= now]
        behind.sort(key=lambda name: name in self._last and bool(self._last[name].problem))
        limit = now + limit_s
        found = at_once(lambda name: self._told(name, latest[name], reload, limit), behind)
        done |= {name: latest[name] for name, loaded in zip(behind, found, strict=True) if loaded}
        return done

    def problems(self, names: Sequence[str]) -> dict[str, str]:
        """What is wrong with these locations, if it was so twice: a server may just be starting."""
        last = {name: self._last[name] for name in names if name in self._last}
        return {name: each.problem for name, each in last.items() if each.failures > 1}

    def _due(self, name: str, version: str) -> float:
        return self._last[name].due(version) if name in self._last else float("-inf")

    def _told(self, name: str, version: str, reload: Reload, limit: float) -> bool:
        begun = self._clock()
        if limit - begun < LEAST_S:
            return False
        problem = reload(name, limit - begun)
        now, before = self._clock(), self._last.get(name)
        failures = (before.failures if before else 0) + 1 if problem else 0
        row = before.row + 1 if before and begun < before.ended + LONGEST_S else 1
        self._last[name] = _Last(version, now, now - begun, problem, failures, row)
        return not problem
