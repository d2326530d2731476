"""Which of the runs that landed data needs are asked for now, by what became of those that were asked for before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from monitoring_assets.arrivals.agenda import TOGETHER, TRIES, Attempt, Task
from monitoring_assets.arrivals.dying import report_dying
from monitoring_assets.arrivals.watched import Landed, Watched

ROUNDS = 10
"""Times that an orchestrator is asked what became of runs: halves of halves of the partitions of one run."""


@dataclass
class Queue:
    """The groups of one version that nobody has decided about, the most urgent first."""

    watched: Watched
    groups: list[list[Landed]]
    wanted: Task | None = None

    @property
    def task(self) -> Task:
        """That of the most urgent group."""
        return self.watched.arrival(self.groups[0])

    def decide(self, found: Attempt | None, now: datetime) -> None:
        """About the most urgent group: it is wanted, or others may go before it."""
        group = self.groups.pop(0)
        if found is None:
            self.wanted = self.watched.arrival(group)
            return
        if found.state == "running":
            self.groups.clear()
            return
        if found.state == "done":
            group = self._unread(group, now)
            if not group:
                return
        if found.state == "failed" and len(group) > 1 and found.runs >= TOGETHER:
            half = len(group) // 2
            self.groups[:0] = [group[:half], group[half:]]
            return
        if found.state == "failed" and len(group) == 1 and found.runs >= TRIES:
            report_dying(self.watched, group[0], found, now)
            self.watched.look_again(group, now)
        if found.state == "canceled" and not found.due(now) and found.due_at:
            self.watched.hold(group, found.due_at)
            self.watched.look_again(group, now)
        if found.due(now):
            self.wanted = again(self.watched.arrival(group), found)

    def _unread(self, group: list[Landed], now: datetime) -> list[Landed]:
        """It ended without psi: the data is bad. Unless other data was there meanwhile, and this is it again."""
        read = [landed for landed in group if self.watched.was_read(landed)]
        for landed in read:
            self.watched.finish(landed, now)
        return group if len(read) < len(group) else []


def again(task: Task, found: Attempt | None) -> Task:
    """The next attempt at a task."""
    return task if found is None else replace(task, attempt=found.runs + 1)
