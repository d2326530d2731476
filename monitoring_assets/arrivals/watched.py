"""One model version as arrivals see it: what is done of it, and when to look at which partition's source again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from monitoring_assets import layout
from monitoring_assets.arrivals.agenda import (
    CHUNK,
    HISTORY,
    HORIZON,
    Task,
    wait_for_correction,
    wait_for_data,
    wait_for_newest,
)
from monitoring_assets.datasets import content_digest
from monitoring_assets.fleet import Member
from monitoring_assets.landing import Landing
from monitoring_assets.results import LIVE_PARTITIONS
from monitoring_assets.version import CSI, DISTRIBUTION, FEATURES, PSI, DeployedVersion

SLA = timedelta(hours=24)
SLA_HOURLY = timedelta(hours=2)
"""When the manifest says none."""


@dataclass(frozen=True)
class Landed:
    """Data that lies ready and that nobody has been through yet."""

    partition: str
    digest: str


class Stretch(NamedTuple):
    """A stretch of history by its first and last partition, whatever is done of it, and what is not, oldest first."""

    name: str
    undone: list[str]


@dataclass(eq=False)
class Watched:
    """One of some ``versions`` and what is known of its partitions: nothing that the store does not say as well."""

    version: DeployedVersion
    member: Member
    versions: int = 1
    surveyed: bool = False
    onboarded: bool = False
    looks: dict[str, datetime] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    idle_until: datetime | None = None
    _newest: str | None = None
    _history: list[Stretch] = field(default_factory=list)
    _given_up: set[str] = field(default_factory=set)

    @property
    def name(self) -> tuple[str, str]:
        """Model and version."""
        return self.member.manifest.model, self.member.manifest.version

    def survey(self, now: datetime) -> None:
        """Take stock from four listings of the store; no look at the source yet."""
        model, name = self.name
        version, every = self.version, self.member.manifest.partitions.every
        self.surveyed, self.idle_until = True, None
        self.onboarded = any(True for _ in version.store.list(layout.references(model, name)))
        self._newest = newest = version.calendar.latest_complete(now)
        self._history = []
        if newest is None or not self.onboarded:
            return
        judged, counted = set(version.materialised(PSI)), set(version.materialised(DISTRIBUTION))
        seen = set(version.store.list_folders(layout.results_of(model, name)))

        def undone(partition: str) -> bool:
            if partition in judged or partition in self._given_up:
                return False
            return partition in counted or version.calendar.encode(partition) not in seen

        past = self._past()
        chunks = (past[max(0, end - CHUNK) : end] for end in range(len(past), 0, -CHUNK))
        stretches = (Stretch(f"{chunk[0]}/{chunk[-1]}", [each for each in chunk if undone(each)]) for chunk in chunks)
        self._history = [stretch for stretch in stretches if stretch.undone]
        waiting = {partition for stretch in self._history for partition in stretch.undone}
        self.looks = {
            each: self.looks.get(each, self._first_look(each, now, judged=each in judged))
            for each in version.calendar.previous(newest, HORIZON[every])
            if each not in waiting
        }

    def advance(self, now: datetime) -> None:
        """Look for partitions that have ended since."""
        calendar = self.version.calendar
        newest = calendar.latest_complete(now)
        if newest is None or newest == self._newest:
            return
        first = self._newest or calendar.first_key
        for each in calendar.keys(first, newest)[-HORIZON[calendar.every] :]:
            self.looks.setdefault(each, now)
        self._newest = newest

    def due(self, now: datetime) -> list[str]:
        """Partitions to look at, the newest first."""
        return sorted((each for each, when in self.looks.items() if when <= now), reverse=True)

    def age(self, partition: str, now: datetime) -> timedelta:
        """Time since the partition's end."""
        return now - self.version.calendar.window(partition)[1]

    def deadline(self, partition: str) -> datetime:
        """When the partition's data is overdue."""
        manifest = self.member.manifest
        default = SLA_HOURLY if manifest.partitions.every == "hour" else SLA
        sla = manifest.source.sla_hours
        return self.version.calendar.window(partition)[1] + (timedelta(hours=sla) if sla is not None else default)

    def waits_for(self, partition: str) -> bool:
        """Whether anybody would miss the partition: it is one of the newest, or ended under our eyes."""
        ended = self.version.calendar.window(partition)[1]
        return partition in self._recent() or ended > self.member.deployed_at

    def look_later(self, partition: str, now: datetime) -> None:
        """The data is not there."""
        wait = wait_for_data(self.age(partition, now))
        if partition in self._recent():
            wait = min(wait, wait_for_newest(self.versions))
        due, later = self.deadline(partition), now + wait
        self.looks[partition] = min(later, due) if due > now else later

    def look_soon(self, partition: str, now: datetime) -> None:
        """It is about to be there, or a run is at it."""
        self.looks[partition] = now + timedelta(seconds=5)

    def finish(self, landed: Landed, now: datetime) -> None:
        """This data has been through everything."""
        self.done[landed.partition] = landed.digest
        self.looks[landed.partition] = now + wait_for_correction(self.age(landed.partition, now))

    def was_there_before(self, found: Landing) -> bool:
        """Whether the data is older than the version: it is history then, no arrival and nobody's emergency."""
        return found.landed_at is not None and found.landed_at <= self.member.deployed_at

    def has_been_through(self, partition: str, found: Landing) -> bool:
        """Whether the stored partition is made from this data, down to psi and csi."""
        rows = self.version.current(FEATURES, partition)
        if rows is None or all(each.digest != found.digest for each in rows.inputs if each.asset == "source"):
            return False
        return all(self.version.current(asset, partition) is not None for asset in (PSI, CSI))

    def groups(self, landed: list[Landed]) -> list[list[Landed]]:
        """What to do in one run each: the newest partition by itself, so that it waits for no other; then the rest."""
        newest_first = sorted(landed, key=lambda each: each.partition, reverse=True)
        alone = newest_first[:1] if newest_first and newest_first[0].partition in self._recent() else []
        rest = newest_first[len(alone) :][:CHUNK]
        return [group for group in (alone, rest) if group]

    def arrival(self, group: list[Landed]) -> Task:
        """The task of a group."""
        partitions = sorted((each.partition, each.digest) for each in group)
        key = f"arrival/{'/'.join(self.name)}/{partitions[-1][0]}/{content_digest(partitions)[:16]}"
        return self._task("arrival", [each for each, _ in partitions], key)

    def onboarding(self) -> Task:
        """The task that freezes the reference, and judges the newest partition with data, over its longest window."""
        calendar = self.version.calendar
        newest = calendar.previous(self._newest, HORIZON[calendar.every]) if self._newest else []
        return self._task("onboarding", newest, f"onboarding/{'/'.join(self.name)}/{self.member.files[:16]}")

    @property
    def history(self) -> list[str]:
        """What is not done of the newest stretch of what was there before the version; empty when all of it is."""
        return self._history[0].undone if self._history else []

    def catching_up(self, partitions: list[str]) -> Task:
        """The task of those of the stretch that have data. Its key is that of the stretch: it is done once."""
        return self._task("catch-up", partitions, f"catch-up/{'/'.join(self.name)}/{self._history[0].name}")

    def leave_behind(self, now: datetime) -> None:
        """The stretch is done, as far as it can be; data that arrives for it after all is looked for."""
        left = set(self._history.pop(0).undone)
        self._given_up |= left
        calendar = self.version.calendar
        horizon = calendar.previous(self._newest, HORIZON[calendar.every]) if self._newest else []
        for each in left.intersection(horizon):
            self.looks.setdefault(each, now + wait_for_data(self.age(each, now)))

    def _recent(self) -> list[str]:
        """The newest partitions: those that can still be live."""
        return self.version.calendar.previous(self._newest, LIVE_PARTITIONS) if self._newest else []

    def _past(self) -> list[str]:
        """The partitions that had ended when the version was deployed: the same ones whenever it is asked."""
        calendar = self.version.calendar
        last = calendar.latest_complete(self.member.deployed_at)
        return calendar.previous(last, HISTORY[calendar.every]) if last else []

    def _task(self, trigger: str, partitions: list[str], key: str) -> Task:
        return Task(*self.name, self.member.digest, trigger, tuple(partitions), key)  # type: ignore[arg-type]

    def _first_look(self, partition: str, now: datetime, *, judged: bool) -> datetime:
        if not judged:
            return now
        # Somewhere in the interval: whoever starts does not look at everything at once.
        return now + wait_for_correction(self.age(partition, now)) * random.random()  # noqa: S311
