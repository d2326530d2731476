"""What a tick may cost: a time limit, and patience with versions whose lake is slow or fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from monitoring_assets.arrivals.watched import Watched
from resources.errors import ScorewatchError

TICK_S = 20.0
"""What is not begun until then waits for the next tick: Dagster gives one sixty seconds."""
SLOW_TICK_S = 5.0
"""The same of versions with a slow lake, so that all others are looked at again soon."""
SLOW_LOOKS = 4
"""Looks of a version with a slow lake in one tick."""
LEFT = object()
"""Of work that was not begun."""

_log = logging.getLogger(__name__)


class Budget:
    """The time that one tick has, from now on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun = clock, clock()

    @property
    def spent(self) -> bool:
        """Whether nothing more is to be begun."""
        return self._clock() > self._begun + TICK_S

    def work(self, each: Watched, function: Callable[..., Any], *arguments: Any) -> Any:
        """As `guarded`, or `LEFT`; the version is remembered to be slow or to fail, and to be well again."""
        begun = self._clock()
        if begun > self._begun + (SLOW_TICK_S if each.trouble.slow else TICK_S):
            return LEFT
        found = guarded(each, function, *arguments)
        each.trouble.took_s = (each.trouble.took_s + self._clock() - begun) / 2
        each.trouble.failed |= found is None
        return found


def fair(due: Sequence[tuple[Watched, str]]) -> list[tuple[Watched, str]]:
    """Looks in the order to be made in: a few of versions with a slow lake, after those of all others."""
    slow: dict[Watched, list[tuple[Watched, str]]] = {}
    for each, partition in due:
        if each.trouble.slow:
            slow.setdefault(each, []).append((each, partition))
    return [item for item in due if not item[0].trouble.slow] + [
        item for looks in slow.values() for item in looks[:SLOW_LOOKS]
    ]


def note_failures(looked_at: set[Watched], now: datetime) -> None:
    """After the looks of a tick: a lake that fails is left alone, twice as long each time, up to five minutes."""
    for each in looked_at:
        trouble = each.trouble
        trouble.failures = trouble.failures + 1 if trouble.failed else 0
        pause = min(timedelta(seconds=5) * (1 << min(trouble.failures, 10)), timedelta(minutes=5))
        trouble.until = now + pause if trouble.failed else None
        trouble.failed = False


def guarded(each: Watched, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call for one version; None, and a line in the log, when that goes wrong: the others must not pay for it."""
    try:
        return function(*arguments)
    except ScorewatchError as error:
        _log.warning("%s %s: %s", *each.name, error)
    except Exception:
        _log.exception("%s %s", *each.name)
    return None
