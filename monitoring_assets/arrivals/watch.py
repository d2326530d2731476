"""Watching many versions: each tick looks at what is due, within a budget, and says which runs are needed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from monitoring_assets.arrivals.agenda import Attempt, Capacity, Task
from monitoring_assets.arrivals.asking import ROUNDS, Queue, again
from monitoring_assets.arrivals.budget import LEFT, Budget, fair, guarded, note_failures
from monitoring_assets.arrivals.dying import (
    dies,
    remember_dying,
    report_dying_history,
    report_onboarded,
    report_onboarding,
    report_recovered,
)
from monitoring_assets.arrivals.evidence import to_be_judged_again
from monitoring_assets.arrivals.overdue import report_arrived, report_overdue
from monitoring_assets.arrivals.watched import Landed, Watched
from monitoring_assets.fleet import Member
from monitoring_assets.fleet_defaults import DefaultsFile
from monitoring_assets.landing import Landing, landing
from monitoring_assets.quarantine import names_kept_back
from monitoring_assets.version import FEATURES, Clock, DeployedVersion
from resources.at_once import at_once
from resources.settings import Settings

LOOKS = 300
"""Listings of sources in one tick."""
SURVEYS = 75
"""Versions that a tick takes stock of; each costs two listings."""
STRETCHES = 3
"""Stretches of history that a tick looks at; each costs as many listings as it has partitions."""
TASKS = 25
"""Runs that a tick asks for, so that a long absence does not flood the queue."""

_MINUTE = timedelta(minutes=1)

Name = tuple[str, str]


class Attempts(Protocol):
    """What an orchestrator knows of the runs that were asked for."""

    def busy(self) -> Mapping[Name, set[str]]:
        """Versions with runs in the queue or at work, and what triggered these."""

    def of(self, keys: Sequence[str]) -> Mapping[str, Attempt]:
        """What became of tasks; those that nobody asked for yet are left out."""

    def capacity(self) -> Capacity:
        """How much of the past it takes, as of the last time that it was asked what is busy."""


class Watch:
    """The versions of one shard. Losing it loses nothing: it takes stock of the store again."""

    def __init__(self, members: Sequence[Member], settings: Settings, clock: Clock) -> None:
        self._store, self._clock = settings.open_store(), clock
        self._defaults = DefaultsFile(self._store)
        self._ticking = threading.Lock()
        self._room = 0
        newest_first = sorted(members, key=lambda each: each.deployed_at, reverse=True)
        self._watched = [
            Watched(DeployedVersion(each.manifest, each.digest, self._store, settings, clock), each, len(members))
            for each in newest_first
        ]

    def tick(self, attempts: Attempts) -> list[Task]:
        """The runs that are needed now and that nobody has asked for, the most urgent first.

        A version in trouble is logged and left for a later tick; the others go on. Raises InfrastructureError when the
        store as a whole cannot be reached. While another thread is at it, because Dagster gave that one up, nothing is
        needed.
        """
        if not self._ticking.acquire(blocking=False):
            return []
        try:
            return self._tick(attempts, Budget())
        finally:
            self._ticking.release()

    def _tick(self, attempts: Attempts, budget: Budget) -> list[Task]:
        busy = attempts.busy()
        length, self._room = attempts.capacity()
        for each in self._watched:
            # Another orchestrator than before takes stretches of another length.
            each.surveyed, each.at_once = each.surveyed and each.at_once == length, length
        back = names_kept_back(self._store, "onboarding")
        grace_hours = self._defaults.read().grace_hours
        for each in self._watched:
            each.grace_hours = grace_hours
        watched = [each for each in self._watched if each.name not in back]
        self._take_stock(watched, busy, budget)
        landed = self._look([each for each in watched if each.onboarded], budget)
        queues = [
            Queue(each, each.groups(found))
            for each, found in landed.items()
            if not busy.get(each.name, set()) & {"arrival", "onboarding"}
        ]
        urgent = self._arrivals(queues, attempts)
        asked = {(each.model, each.version) for each in urgent}
        idle = [each for each in watched if each.surveyed and each.name not in busy and each.name not in asked]
        return [*urgent, *self._unhurried(idle, attempts, budget)][:TASKS]

    @property
    def done(self) -> Mapping[Name, Collection[str]]:
        """Partitions whose data has been through everything, by version, as far as they are looked at."""
        return {each.name: each.done.keys() for each in self._watched}

    def _take_stock(self, watched: Sequence[Watched], busy: Mapping[Name, set[str]], budget: Budget) -> None:
        """Survey versions that are new here, or that a run of theirs has changed."""
        now = self._clock()
        due = [each for each in watched if not each.surveyed and each.awake(now) and _can_be_surveyed(each, busy)]
        done = at_once(lambda each: LEFT if budget.spent else guarded(each, each.survey, now), due[:SURVEYS])
        for each, found in zip(due, done, strict=False):
            if found is not LEFT and not each.surveyed:
                each.idle_until = now + _MINUTE
        for each in watched:
            if each.onboarded:
                guarded(each, report_onboarded, each, now)
                each.advance(now)

    def _look(self, watched: Sequence[Watched], budget: Budget) -> dict[Watched, list[Landed]]:
        """Look at the sources that are due; what lies ready, by version.

        The first to be looked at is what can wait least: the newest, unless an older one has waited for long.
        """
        now = self._clock()
        well = [each for each in watched if not each.trouble.pauses(now)]
        by_patience = sorted(
            ((each, partition) for each in well for partition in each.due(now)),
            key=lambda item: item[0].patience(item[1], now),
        )
        due = fair(by_patience)[:LOOKS]
        found = at_once(lambda item: budget.work(item[0], self._see, *item), due)
        ready: dict[Watched, list[Landed]] = {}
        for (each, partition), seen in zip(due, found, strict=True):
            if seen is None:
                each.look_later(partition, now)
            elif seen is not LEFT:
                for landed in seen:
                    ready.setdefault(each, []).append(landed)
        note_failures({each for (each, _), seen in zip(due, found, strict=True) if seen is not LEFT}, now)
        return ready

    def _see(self, each: Watched, partition: str) -> list[Landed]:
        """Look at a partition's source and take note of it; its data, if nobody has been through it."""
        now, there = self._clock(), landing(each.version, partition)
        if there.why_none:
            self._see_nothing(each, partition, there, now)
            return []
        if not there.settled(now):
            self._see_unsettled(each, partition, there, now)
            return []
        if partition not in each.came:
            report_arrived(each, partition, now)
            remember_dying(each, partition)
            each.came.add(partition)
        landed = Landed(partition, there.digest, there.landed_at)
        through = each.done.get(partition) == there.digest or each.has_been_through(partition, there, now)
        if through or each.was_there_before(partition, there):
            if through:
                report_recovered(each, landed, now)
            each.finish(landed, now)
            return []
        each.await_run(landed, now)
        return [landed]

    def _see_unsettled(self, each: Watched, partition: str, there: Landing, now: datetime) -> None:
        if now < each.deadline(partition) or each.version.current(FEATURES, partition) is not None:
            each.look_soon(partition, now)
            return
        each.look_later(partition, now)
        if each.waits_for(partition):
            report_overdue(each, partition, there.why_unsettled(now), now)
            each.came.discard(partition)

    def _see_nothing(self, each: Watched, partition: str, there: Landing, now: datetime) -> None:
        each.ready.discard(partition)
        if each.version.current(FEATURES, partition) is not None:
            # It was there, and was used. Lakes are tidied up.
            each.look_for_correction(partition, now)
            return
        each.look_later(partition, now)
        if now >= each.deadline(partition) and each.waits_for(partition):
            report_overdue(each, partition, there.why_none, now)
            each.came.discard(partition)

    def _arrivals(self, queues: Sequence[Queue], attempts: Attempts) -> list[Task]:
        """Of each version the run of its most urgent group that is not to wait."""
        now = self._clock()
        for _ in range(ROUNDS):
            open_ones = [each for each in queues if each.groups and each.wanted is None]
            known = _known([(each.watched, each.task) for each in open_ones], attempts)
            for each in open_ones:
                guarded(each.watched, each.decide, known.get(each.task.key), now)
        return [each.wanted for each in queues if each.wanted]

    def _unhurried(self, idle: Sequence[Watched], attempts: Attempts, budget: Budget) -> list[Task]:
        """What can wait: onboarding, what killed runs left undone, and history, some of it at a time."""
        now, marked = self._clock(), to_be_judged_again(self._store)
        awake = [each for each in idle if each.awake(now)]
        left = [each for each in awake if each.onboarded and each.name in marked]
        behind = [(each, guarded(each, each.judging_again, marked[each.name])) for each in left]
        asked = [(each, task) for each, task in behind if task is not None]
        known = _known(asked, attempts)
        # What dies again and again waits by itself, and history does not wait for it.
        asked = [(each, task) for each, task in asked if task.key not in known or known[task.key].due(now)]
        new, known_of_new = self._new([each for each in awake if not each.onboarded], attempts)
        wanted = self._wanted(new + asked, {**known, **known_of_new})
        if len(wanted) == TASKS:
            return wanted
        others = {each for each, _ in new + asked}
        return wanted + self._history([each for each in awake if each not in others], attempts, budget)

    def _new(
        self, watched: Sequence[Watched], attempts: Attempts
    ) -> tuple[list[tuple[Watched, Task]], Mapping[str, Attempt]]:
        """Of versions without a reference the run that is next, and what became of it so far."""
        asked = [(each, each.onboarding()) for each in watched]
        known = _known(asked, attempts)
        dying = {each for each, task in asked if task.partitions and dies(known.get(task.key))}
        asked = [(each, each.onboarding(alone=True) if each in dying else task) for each, task in asked]
        known = {**known, **_known([item for item in asked if item[0] in dying], attempts)}
        for each, task in asked:
            guarded(each, report_onboarding, each, known.get(task.key), self._clock())
        return asked, known

    def _wanted(self, asked: Sequence[tuple[Watched, Task]], known: Mapping[str, Attempt]) -> list[Task]:
        now, wanted = self._clock(), list[Task]()
        for each, task in asked:
            found = known.get(task.key)
            if found is not None and not found.due(now):
                each.idle_until = found.due_at or now + _MINUTE / 4
            elif len(wanted) < TASKS and self._takes(task):
                each.surveyed = False
                wanted.append(again(task, found))
        return wanted

    def _takes(self, task: Task) -> bool:
        """Whether there is room for a task; what is not of the past always has some."""
        if task.trigger != "catch-up":
            return True
        if len(task.partitions) > self._room:
            return False
        self._room -= len(task.partitions)
        return True

    def _history(self, watched: Sequence[Watched], attempts: Attempts, budget: Budget) -> list[Task]:
        """Of some versions the run of their newest stretch that is undone, if it has data."""
        now, asked = self._clock(), list[tuple[Watched, Task]]()
        due = [each for each in watched if each.history and not each.past.rests(now)]
        for each in [each for each in due if len(each.history) <= self._room][:STRETCHES]:
            ready = guarded(each, self._ready, each, budget)
            if ready is LEFT:
                continue
            if ready is None:
                each.idle_until = now + _MINUTE
            elif ready:
                asked.append((each, each.catching_up(ready)))
            else:
                guarded(each, each.leave_behind, now)
        known, wanted = _known(asked, attempts), list[tuple[Watched, Task]]()
        for each, task in asked:
            found = known.get(task.key)
            left = guarded(each, self._left, each, task, found)
            if left is None:
                each.idle_until = now + _MINUTE
            elif left and not each.past.put_off(found, now):
                wanted.append((each, each.catching_up(left)))
        return self._wanted(wanted, known)

    def _left(self, each: Watched, task: Task, found: Attempt | None) -> list[str]:
        """What of a stretch needs a run. One that ended well and left no result of all did not do its work."""
        now = self._clock()
        if found is None or found.state != "done":
            report_dying_history(each, task, found, now)
            return list(task.partitions)
        left = each.without_result(task.partitions)
        if left:
            message = "%s %s: a run left no result of %d partitions, such as %s"
            logging.getLogger(__name__).warning(message, *each.name, len(left), left[-1])
        else:
            each.leave_behind(now)
        return left

    def _ready(self, each: Watched, budget: Budget) -> Any:
        """Those of the newest stretch that have data. `LEFT` when there are looks left for the next tick."""
        now, history = self._clock(), each.history

        def look(partition: str) -> bool:
            found = landing(each.version, partition)
            return found.settled(now) and each.is_past(partition, found)

        unknown = [partition for partition in history if partition not in each.peeked]
        found = at_once(lambda partition: budget.work(each, look, partition), unknown)
        if None in found:
            return None
        each.peeked |= {partition: there for partition, there in zip(unknown, found, strict=True) if there is not LEFT}
        if LEFT in found:
            return LEFT
        return [partition for partition in history if each.peeked.pop(partition)]


def _known(asked: Sequence[tuple[Watched, Task]], attempts: Attempts) -> Mapping[str, Attempt]:
    return attempts.of([task.key for _, task in asked]) if asked else {}


def _can_be_surveyed(each: Watched, busy: Mapping[Name, set[str]]) -> bool:
    """Not while a run changes it; but nobody is kept from looking for arrivals by a run of history."""
    triggers = busy.get(each.name, set())
    return not triggers or not (each.onboarded or "onboarding" in triggers)
