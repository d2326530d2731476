"""When to look at a partition's source, and how long to wait before a failed run is tried again. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from monitoring_assets.partitions import Frequency
from monitoring_assets.results import Trigger

HORIZON: dict[Frequency, int] = {"hour": 336, "day": 62, "week": 13, "month": 6}
"""Newest partitions whose source is looked at again, for data that is late or corrected."""

HISTORY: dict[Frequency, int] = {"hour": 672, "day": 365, "week": 104, "month": 36}
"""Partitions before its deployment that a version is given; further back is for `scorewatch backfill`."""

CHUNK = 90
"""Partitions of history in one run."""

TRIES = 5
"""Runs of one partition that died, after which it is an error that somebody has to look at."""

TOGETHER = 3
"""Runs of several partitions that died, after which each half of them gets runs of its own: one may be to blame."""


class Capacity(NamedTuple):
    """How much of the past an orchestrator takes: partitions of one task, and of all tasks together now."""

    task: int = CHUNK
    now: int = sys.maxsize


_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
_PATIENT = 12
"""Runs that died, after which hours are too short a wait."""


@dataclass(frozen=True)
class Task:
    """Work for one run: ``partitions`` of one version, oldest first; none means the reference alone.

    ``key`` is the same for the same work on the same data, so that nobody does it twice; ``attempt`` counts from 1.
    """

    model: str
    version: str
    digest: str
    trigger: Trigger
    partitions: tuple[str, ...]
    key: str
    attempt: int = 1

    @property
    def priority(self) -> int:
        """The larger, the sooner: what is on time before what is new, and history last."""
        return {"arrival": 10, "onboarding": 5}.get(self.trigger, -10)


@dataclass(frozen=True)
class Attempt:
    """What became of the runs of a task so far: there were ``runs`` of them, and the last one ended at ``ended_at``.

    ``failed``: all of them died of infrastructure. ``done`` includes a run that found bad data: trying again finds the
    same. ``canceled``: the last one was stopped by somebody, who will have had a reason.
    """

    state: Literal["running", "done", "failed", "canceled"]
    runs: int = 0
    ended_at: datetime | None = None

    @property
    def due_at(self) -> datetime | None:
        """When it may be tried again; None while it runs.

        After half a minute, then twice as long, up to an hour; what died a dozen times waits up to half a day, and what
        somebody stopped a whole one.
        """
        if self.state == "running" or self.ended_at is None:
            return None
        if self.state == "canceled":
            return self.ended_at + _HOUR * 24
        wait = min(_MINUTE / 2 * (1 << min(max(self.runs, 1) - 1, 10)), _HOUR)
        return self.ended_at + min(wait * (1 << min(max(self.runs - _PATIENT, 0), 10)), _HOUR * 12)

    def due(self, now: datetime) -> bool:
        """Whether it may be tried again."""
        return self.due_at is not None and self.due_at <= now


def wait_for_data(age: timedelta) -> timedelta:
    """How long until the next look for data that has not landed, ``age`` after its partition's end.

    A hundredth of the age: what came late is noticed late by no more than that, and a feed that is dead costs nothing.
    """
    return min(age / 100, _MINUTE * 15)


def wait_for_newest(versions: int) -> timedelta:
    """How long until the next look for one of the newest partitions, which somebody may be waiting for.

    A shard of ``versions`` lists ten of their sources a second, if none of them has landed.
    """
    return max(timedelta(seconds=5), timedelta(seconds=0.1) * versions)


def wait_for_correction(age: timedelta) -> timedelta:
    """How long until the next look whether the data of a partition that is done was corrected."""
    return min(max(age / 24, _MINUTE * 5), _HOUR * 12)
