"""One model version as arrivals see it: what is done of it, and when to look at which partition's source again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

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
from monitoring_assets.arrivals.evidence import arrived_at, ended, has_been_through, was_read
from monitoring_assets.arrivals.history import History
from monitoring_assets.arrivals.trouble import Trouble
from monitoring_assets.datasets import content_digest
from monitoring_assets.fleet import Member
from monitoring_assets.fleet_defaults import GraceHours
from monitoring_assets.landing import Landing
from monitoring_assets.results import LIVE_PARTITIONS
from monitoring_assets.version import PSI, DeployedVersion


@dataclass(frozen=True)
class Landed:
    """Data that lies ready since ``at`` and that nobody has been through yet."""

    partition: str
    digest: str
    at: datetime | None = None


@dataclass(eq=False)
class Watched:
    """One of some ``versions`` and what is known of its partitions: nothing that the store does not say as well."""

    version: DeployedVersion
    member: Member
    versions: int = 1
    grace_hours: GraceHours = field(default_factory=GraceHours)
    at_once: int = CHUNK
    surveyed: bool = False
    onboarded: bool = False
    looks: dict[str, datetime] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    came: set[str] = field(default_factory=set)
    ready: set[str] = field(default_factory=set)
    dying: dict[str, str] = field(default_factory=dict)
    idle_until: datetime | None = None
    past: History = field(default_factory=History)
    peeked: dict[str, bool] = field(default_factory=dict)
    trouble: Trouble = field(default_factory=Trouble)
    _newest: str | None = None
    _held: dict[Landed, datetime] = field(default_factory=dict)

    @property
    def name(self) -> tuple[str, str]:
        """Model and version."""
        return self.member.manifest.model, self.member.manifest.version

    @property
    def chunk(self) -> int:
        """Partitions of one run at most: a model's own container scores one, before the run begins."""
        return 1 if self.member.manifest.score.image else self.at_once

    def survey(self, now: datetime) -> None:
        """Take stock of the store; no look at the source yet. Changes nothing if that fails.

        Three requests for a version that has its history; the others' results are listed, which can take several.
        """
        calendar, store = self.version.calendar, self.version.store
        onboarded = any(True for _ in store.list(layout.references(*self.name)))
        newest = calendar.latest_complete(now)
        if onboarded and newest is not None:
            horizon = calendar.previous(newest, HORIZON[calendar.every])
            marker = store.get(layout.history_done(*self.name))
            past = self._unwatched(horizon[0], marker.data.decode() if marker else None)
            if past or marker is None:
                through, errors = ended(self.version)
                self.past.take_stock(past, self.chunk, through, errors)
                self._note_history(newest)
            else:
                through = set(self.version.materialised(PSI))
            waiting = self.past.waiting
            self.looks = {
                each: self.looks.get(each) or self._first_look(each, now, judged=each in through)
                for each in horizon
                if each not in waiting
            }
        self.surveyed, self.onboarded, self.idle_until, self._newest = True, onboarded, None, newest
        self.peeked.clear()

    def advance(self, now: datetime) -> None:
        """Look for partitions that have ended since, and no longer for those that are too old."""
        calendar = self.version.calendar
        self._held = {each: until for each, until in self._held.items() if until > now}
        newest = calendar.latest_complete(now)
        if newest is None or newest == self._newest:
            return
        horizon = calendar.previous(newest, HORIZON[calendar.every])
        ended = {each: now for each in horizon if self._newest is None or each > self._newest}
        self.looks = ended | {each: when for each, when in self.looks.items() if each >= horizon[0]}
        self.done = {each: digest for each, digest in self.done.items() if each >= horizon[0]}
        self.ready = {each for each in self.ready if each >= horizon[0]}
        self._newest = newest

    def awake(self, now: datetime) -> bool:
        """Whether it is time for what can wait."""
        return self.idle_until is None or self.idle_until <= now

    def due(self, now: datetime) -> list[str]:
        """Partitions to look at, the newest first."""
        return sorted((each for each, when in self.looks.items() if when <= now), reverse=True)

    def patience(self, partition: str, now: datetime) -> datetime:
        """Until when a look that is due can wait without being missed."""
        return self.looks[partition] + wait_for_data(self.age(partition, now))

    def age(self, partition: str, now: datetime) -> timedelta:
        """Time since the partition's end."""
        return now - self.version.calendar.window(partition)[1]

    def deadline(self, partition: str) -> datetime:
        """When the partition's data is overdue."""
        return self.version.deadline(partition)

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

    def await_run(self, landed: Landed, now: datetime) -> None:
        """The data is there, and nobody has been through it."""
        self.ready.add(landed.partition)
        self.look_soon(landed.partition, now)

    def look_soon(self, partition: str, now: datetime) -> None:
        """It is about to be there, or a run is at it."""
        self.looks[partition] = now + timedelta(seconds=5)

    def look_again(self, group: list[Landed], now: datetime) -> None:
        """It lies there, and is to wait for longer; other data in its place would not."""
        for each in group:
            self.looks[each.partition] = now + timedelta(minutes=1)

    def finish(self, landed: Landed, now: datetime) -> None:
        """This data has been through everything."""
        self.done[landed.partition] = landed.digest
        self.ready.discard(landed.partition)
        self.look_for_correction(landed.partition, now)

    def look_for_correction(self, partition: str, now: datetime) -> None:
        """Nothing is awaited."""
        self.looks[partition] = now + wait_for_correction(self.age(partition, now))

    def was_there_before(self, partition: str, found: Landing) -> bool:
        """Whether data and partition are older than the version: history then, no arrival and nobody's emergency."""
        _, ended = self.version.calendar.window(partition)
        return found.landed_at is not None and max(found.landed_at, ended) <= self.member.deployed_at

    def is_past(self, partition: str, found: Landing) -> bool:
        """Whether history takes the data: what landed since the deployment is an arrival, where one is looked for."""
        return self.was_there_before(partition, found) or partition not in self._horizon()

    def has_been_through(self, partition: str, found: Landing, now: datetime) -> bool:
        """Whether this data has been through everything.

        What arrived needs live results as long as there can be any, also when a backfill or onboarding came first.
        """
        live = partition in self._recent() or now <= self.deadline(partition) + self._grace
        if live:
            _, end = self.version.calendar.window(partition)
            live = self.is_live(partition, max(end, arrived_at(self.version, partition) or end), now)
        return has_been_through(self.version, partition, found, live=live)

    def was_read(self, landed: Landed) -> bool:
        """Whether the newest run that read the partition's source read this data, whatever it found."""
        return was_read(self.version, landed.partition, landed.digest)

    def is_live(self, partition: str, due: datetime, now: datetime) -> bool:
        """Whether what an arrival finds now may page, of a partition that was due then."""
        return self.version.is_live(partition, due=due, now=now, grace=self._grace)

    def groups(self, landed: list[Landed]) -> list[list[Landed]]:
        """What to do in one run each: the newest partition by itself, so that it waits for no other; then the rest.

        Last what killed every run so far, each by itself.
        """
        newest_first = sorted(landed, key=lambda each: each.partition, reverse=True)
        newest_first = [each for each in newest_first if each not in self._held]
        well = [each for each in newest_first if self.dying.get(each.partition) != each.digest]
        alone = well[:1] if well and well[0].partition in self._recent() else []
        rest = well[len(alone) :][: self.chunk]
        return [group for group in (alone, rest) if group] + [[each] for each in newest_first if each not in well]

    def hold(self, group: list[Landed], until: datetime) -> None:
        """Somebody stopped the run of this data, and it is not asked for again until then."""
        self._held |= dict.fromkeys(group, until)

    def arrival(self, group: list[Landed]) -> Task:
        """The task of a group."""
        partitions = sorted((each.partition, each.digest) for each in group)
        key = f"arrival/{'/'.join(self.name)}/{partitions[-1][0]}/{content_digest(partitions)[:16]}"
        return self._task("arrival", [each for each, _ in partitions], key)

    def onboarding(self, *, alone: bool = False) -> Task:
        """The task that freezes the reference, and judges the newest partition with data, over its longest window.

        With ``alone`` the reference only: a partition that kills every run is not to keep the version from it.
        """
        calendar = self.version.calendar
        newest = calendar.previous(self._newest, HORIZON[calendar.every]) if self._newest and not alone else []
        key = f"onboarding/{'/'.join(self.name)}/{self.member.files[:16]}{'/alone' if alone else ''}"
        return self._task("onboarding", newest, key)

    def judging_again(self, encoded: list[str]) -> Task | None:
        """The task that finishes what a run left undone behind some partitions: psi and csi of others.

        None if these partitions are to be gone through again anyway.
        """
        waiting = self.ready | self.past.waiting
        partitions = sorted(set(map(self.version.calendar.decode, encoded)) - waiting)[-self.chunk :]
        if not partitions:
            return None
        return self._task("catch-up", partitions, f"behind/{'/'.join(self.name)}/{content_digest(partitions)[:16]}")

    @property
    def history(self) -> list[str]:
        """What is not done of the newest stretch of what was there before the version; empty when all of it is."""
        return self.past.stretches[0].undone if self.past.stretches else []

    def catching_up(self, partitions: list[str]) -> Task:
        """The task of those of the stretch that have data. Its key is that of the stretch: it is done once."""
        return self._task("catch-up", partitions, f"catch-up/{'/'.join(self.name)}/{self.past.stretches[0].name}")

    def without_result(self, partitions: Collection[str]) -> list[str]:
        """Those that nobody came to the end of: a run that is over, and well, may have done nothing all the same."""
        through, errors = ended(self.version)
        return [each for each in partitions if each not in through | errors]

    def leave_behind(self, now: datetime) -> None:
        """The stretch is done, as far as it can be; data that arrives for it after all is looked for."""
        left = set(self.past.stretches.pop(0).undone)
        self.past.given_up |= left
        for each in left.intersection(self._horizon()) - set(self.looks):
            self.look_later(each, now)
        self._note_history(self._newest)

    def _note_history(self, newest: str | None) -> None:
        """Up to where all is done or watched: whoever is next need not look through all results of the version."""
        if not self.past.stretches:
            self.version.store.put(layout.history_done(*self.name), (newest or "").encode())

    @property
    def _grace(self) -> timedelta:
        return self.grace_hours.of(self.version.calendar.every)

    def _horizon(self) -> list[str]:
        """The partitions that are looked for by themselves."""
        calendar = self.version.calendar
        return calendar.previous(self._newest, HORIZON[calendar.every]) if self._newest else []

    def _recent(self) -> list[str]:
        """The newest partitions: those that can be live whenever their data comes."""
        return self.version.calendar.previous(self._newest, LIVE_PARTITIONS + 1) if self._newest else []

    def _unwatched(self, watched: str, done: str | None) -> list[str]:
        """The past: what had ended when the version was deployed, and what nobody watched since then.

        ``watched`` is the first partition that is looked for by itself, ``done`` up to where somebody took care.
        """
        calendar = self.version.calendar
        deployed = calendar.latest_complete(self.member.deployed_at) or ""
        since = "" if done is None else done or deployed
        last = max([*calendar.previous(watched, 2)[:-1], deployed if done is None else ""])
        return (
            [each for each in calendar.previous(last, HISTORY[calendar.every]) if each > since] if last > since else []
        )

    def _task(self, trigger: str, partitions: list[str], key: str) -> Task:
        return Task(*self.name, self.member.digest, trigger, tuple(partitions), key)  # type: ignore[arg-type]

    def _first_look(self, partition: str, now: datetime, *, judged: bool) -> datetime:
        if not judged:
            return now
        # Somewhere in the interval: whoever starts does not look at everything at once. Each has its own place there.
        place = int(content_digest([*self.name, partition])[:8], 16) / (1 << 32)
        return now + wait_for_correction(self.age(partition, now)) * place
