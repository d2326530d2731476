"""Watching many versions: each tick looks at what is due, within a budget, and says which runs are needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

from monitoring_assets.arrivals.agenda import Attempt, Task
from monitoring_assets.arrivals.overdue import report_arrived, report_overdue
from monitoring_assets.arrivals.watched import Landed, Watched
from monitoring_assets.fleet import Member
from monitoring_assets.landing import Landing, landing
from monitoring_assets.quarantine import names_kept_back
from monitoring_assets.version import Clock, DeployedVersion
from resources.errors import ScorewatchError
from resources.settings import Settings

LOOKS = 300
"""Listings of sources in one tick."""
SURVEYS = 75
"""Versions that a tick takes stock of; each costs four listings."""
STRETCHES = 3
"""Stretches of history that a tick looks at; each costs as many listings as it has partitions."""
TASKS = 25
"""Runs that a tick asks for, so that a long absence does not flood the queue."""
THREADS = 8

_MINUTE = timedelta(minutes=1)
_log = logging.getLogger(__name__)

Name = tuple[str, str]


class Attempts(Protocol):
    """What an orchestrator knows of the runs that were asked for."""

    def busy(self) -> Mapping[Name, set[str]]:
        """Versions with runs in the queue or at work, and what triggered these."""

    def of(self, keys: Sequence[str]) -> Mapping[str, Attempt]:
        """What became of tasks; those that nobody asked for yet are left out."""


class Watch:
    """The versions of one shard. Losing it loses nothing: it takes stock of the store again."""

    def __init__(self, members: Sequence[Member], settings: Settings, clock: Clock) -> None:
        self._store, self._clock = settings.open_store(), clock
        newest_first = sorted(members, key=lambda each: each.deployed_at, reverse=True)
        self._watched = [
            Watched(DeployedVersion(each.manifest, each.digest, self._store, settings, clock), each, len(members))
            for each in newest_first
        ]

    def tick(self, attempts: Attempts) -> list[Task]:
        """The runs that are needed now and that nobody has asked for, the most urgent first.

        A version in trouble is logged and left for a later tick; the others go on. Raises InfrastructureError when the
        store as a whole cannot be reached.
        """
        busy = attempts.busy()
        back = names_kept_back(self._store, "onboarding")
        watched = [each for each in self._watched if each.name not in back]
        self._take_stock(watched, busy)
        landed = self._look([each for each in watched if each.onboarded])
        arrivals = [
            (each, group)
            for each, found in landed.items()
            if not busy.get(each.name, set()) & {"arrival", "onboarding"}
            for group in each.groups(found)[:1]
        ]
        urgent = self._arrivals(arrivals, attempts)
        idle = [each for each in watched if each.surveyed and each.name not in busy and each not in landed]
        return [*urgent, *self._unhurried(idle, attempts)][:TASKS]

    def _take_stock(self, watched: Sequence[Watched], busy: Mapping[Name, set[str]]) -> None:
        now = self._clock()
        for each in [each for each in watched if not each.surveyed and each.name not in busy][:SURVEYS]:
            _guarded(each, each.survey, now)
        for each in watched:
            if each.onboarded:
                each.advance(now)

    def _look(self, watched: Sequence[Watched]) -> dict[Watched, list[Landed]]:
        """Look at the sources that are due, the newest partitions first; what lies ready, by version."""
        now = self._clock()
        due = [(each.age(partition, now), each, partition) for each in watched for partition in each.due(now)]
        due = sorted(due, key=lambda item: item[0])[:LOOKS]
        with ThreadPoolExecutor(THREADS) as threads:
            found = list(threads.map(lambda item: _guarded(item[1], landing, item[1].version, item[2]), due))
        ready: dict[Watched, list[Landed]] = {}
        for (_, each, partition), there in zip(due, found, strict=True):
            if there is None:
                each.look_later(partition, now)
            elif _guarded(each, self._see, each, partition, there):
                ready.setdefault(each, []).append(Landed(partition, there.digest))
        return ready

    def _see(self, each: Watched, partition: str, there: Landing) -> bool:
        """Take note of what a look found; whether it is data that nobody has been through."""
        now = self._clock()
        if there.why_none:
            each.look_later(partition, now)
            if now >= each.deadline(partition) and each.waits_for(partition):
                report_overdue(each, partition, there.why_none, now)
            return False
        if not there.settled(now):
            each.look_soon(partition, now)
            return False
        if each.done.get(partition) == there.digest or each.has_been_through(partition, there):
            each.finish(Landed(partition, there.digest), now)
            return False
        report_arrived(each, partition, now)
        if each.was_there_before(there):
            each.finish(Landed(partition, there.digest), now)
            return False
        each.look_soon(partition, now)
        return True

    def _arrivals(self, groups: Sequence[tuple[Watched, list[Landed]]], attempts: Attempts) -> list[Task]:
        now = self._clock()
        tasks = [each.arrival(group) for each, group in groups[:TASKS]]
        known = attempts.of([task.key for task in tasks]) if tasks else {}
        wanted = []
        for (each, group), task in zip(groups, tasks, strict=False):
            found = known.get(task.key)
            if found is not None and found.state == "done":
                # It ended without psi: the data is bad. Other data would have another key.
                for landed in group:
                    each.finish(landed, now)
            elif found is None or found.due(now):
                wanted.append(_again(task, found))
        return wanted

    def _unhurried(self, idle: Sequence[Watched], attempts: Attempts) -> list[Task]:
        """Onboarding, and the history of versions that are onboarded, some of it at a time."""
        now = self._clock()
        awake = [each for each in idle if each.idle_until is None or each.idle_until <= now]
        asked = [(each, each.onboarding()) for each in awake if not each.onboarded][:TASKS]
        for each in [each for each in awake if each.onboarded and each.history][:STRETCHES]:
            ready = _guarded(each, self._ready, each)
            if ready is None:
                each.idle_until = now + _MINUTE
            elif ready:
                asked.append((each, each.catching_up(ready)))
            else:
                each.leave_behind(now)
        known = attempts.of([task.key for _, task in asked]) if asked else {}
        wanted = []
        for each, task in asked:
            found = known.get(task.key)
            if found is None or found.due(now):
                each.surveyed = False
                wanted.append(_again(task, found))
            elif found.state == "done" and each.onboarded:
                # What it left undone has bad data.
                each.leave_behind(now)
            else:
                each.idle_until = now + _MINUTE / 4
        return wanted

    def _ready(self, each: Watched) -> list[str]:
        now = self._clock()
        with ThreadPoolExecutor(THREADS) as threads:
            found = threads.map(lambda partition: landing(each.version, partition).settled(now), each.history)
            return [partition for partition, settled in zip(each.history, found, strict=True) if settled]


def _again(task: Task, found: Attempt | None) -> Task:
    return task if found is None else replace(task, attempt=found.failures + 1)


def _guarded(each: Watched, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call for one version; None, and a line in the log, when that goes wrong: the others must not pay for it."""
    try:
        return function(*arguments)
    except ScorewatchError as error:
        _log.warning("%s %s: %s", *each.name, error)
    except Exception:
        _log.exception("%s %s", *each.name)
    return None
