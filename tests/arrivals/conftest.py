"""Stories: a lender whose versions are watched, and an orchestrator in memory that does what the watch asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
import yaml

from monitoring_assets import deployment, layout, onboarding
from monitoring_assets.arrivals.agenda import Attempt, Capacity, Task
from monitoring_assets.arrivals.watch import Watch
from monitoring_assets.assets.freshness import Freshness
from monitoring_assets.assets.passes import passes
from monitoring_assets.assets.pipeline import ORDER, run
from monitoring_assets.fleet import Fleet, Member, scan
from monitoring_assets.results import Result
from monitoring_assets.version import ModelVersion
from resources.errors import InfrastructureError
from resources.object_store import LocalStore, ObjectStore, parse_uri

WRITES = ("put", "put_if_absent", "compare_and_swap", "put_file", "delete")


class Killed(BaseException):
    """The process of a run is gone, in the middle of its work."""


class Mortal:
    """A store whose user is killed when it is about to write for the n-th time."""

    def __init__(self, store: ObjectStore, writes: int) -> None:
        self._store, self.left = store, writes

    def __getattr__(self, name: str) -> Any:
        if name in WRITES:
            if not self.left:
                raise Killed
            self.left -= 1
        return getattr(self._store, name)


@dataclass
class Run:
    """One run of a task."""

    task: Task
    state: str = "running"
    ended_at: datetime | None = None


class Runs:
    """An orchestrator: it keeps what was asked for, and works on it when it is told to.

    A run of ``deadly`` partitions dies, whatever else it is of.
    """

    def __init__(self, lender: Any) -> None:
        self._lender = lender
        self.all: list[Run] = []
        self.deadly = set[str]()
        self.takes = Capacity()

    def capacity(self) -> Capacity:
        return self.takes

    def busy(self) -> Mapping[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for each in self.running:
            found.setdefault((each.task.model, each.task.version), set()).add(each.task.trigger)
        return found

    def of(self, keys: Sequence[str]) -> Mapping[str, Attempt]:
        found = {}
        for key in keys:
            runs = [each for each in self.all if each.task.key == key]
            states = {each.state for each in runs}
            state = next((each for each in ("running", "done") if each in states), runs[-1].state if runs else None)
            if state is not None:
                found[key] = Attempt(state, len(runs), runs[-1].ended_at)  # type: ignore[arg-type]
        return found

    @property
    def running(self) -> list[Run]:
        return [each for each in self.all if each.state == "running"]

    def start(self, tasks: Sequence[Task]) -> None:
        """Take tasks in. Nobody may ask for work that is going on, and every attempt has its own number."""
        for task in tasks:
            before = [each for each in self.all if each.task.key == task.key]
            assert "running" not in {each.state for each in before}, f"{task} is running"
            assert task.attempt == len(before) + 1
            self.all.append(Run(task))

    def finish(self, writes: int | None = None) -> None:
        """Do the work of every run in the order of their priorities; with ``writes``, each is killed after so many."""
        for each in sorted(self.running, key=lambda each: -each.task.priority):
            try:
                self._work(each.task, writes)
                each.state = "done"
            except (InfrastructureError, Killed):
                each.state = "failed"
                # Those of a process that is gone hold up nobody on its machine, but this one lives on.
                for lease in list(self._lender.store.list(layout.LEASES)):
                    self._lender.store.delete(lease.key)
            each.ended_at = self._lender.now

    def fail(self) -> None:
        """Let every run die before it did anything."""
        for each in self.running:
            each.state, each.ended_at = "failed", self._lender.now

    def cancel(self) -> None:
        """Somebody stops every run."""
        for each in self.running:
            each.state, each.ended_at = "canceled", self._lender.now

    def do_nothing(self) -> None:
        """Let every run end well, or of what it calls bad input, before it did anything."""
        for each in self.running:
            each.state, each.ended_at = "done", self._lender.now

    def _work(self, task: Task, writes: int | None) -> None:
        if self.deadly.intersection(task.partitions):
            raise InfrastructureError("Out of memory.")
        lender = self._lender
        version = onboarding.pinned(lender.settings, task.digest, lender.clock)
        if writes is not None:
            version = replace(version, store=Mortal(version.store, writes))  # type: ignore[arg-type]
        for assets, partitions, trigger in passes(version, set(ORDER), sorted(task.partitions), task.trigger):
            for _ in run(version, assets, partitions, trigger=trigger):
                pass


class Story:
    """A lender, its watch, and the runs that it asks for. The clock moves when the story says so."""

    def __init__(self, lender: Any) -> None:
        self.lender, self.runs = lender, Runs(lender)
        self.watch = Watch([], lender.settings, lender.clock)

    def deploy(self, at: datetime | None = None, **manifest: Any) -> None:
        """Put a small version into the registry ``at`` some time (by default: now); the server is reloaded."""
        lender, document = self.lender, self._document(manifest)
        deployment.register(lender.model_folder(document, rows=lender.rows("reference", 500)), lender.settings)
        _set_modified(lender.registry, f"{document['model']}/{document['version']}/model.yaml", at or lender.now)
        self.reload()

    def with_history(self, first: str) -> list[str]:
        """Deploy a version whose days from ``first`` to yesterday have landed, and let it do them all; these days."""
        begin, now = date.fromisoformat(first), self.lender.now
        every_day = [str(begin + timedelta(days=each)) for each in range((now.date() - begin).days)]
        self.land(*every_day, at=now - timedelta(hours=1))
        self.deploy(partitions={"every": "day", "timezone": "UTC", "start": begin})
        self.go_on(minutes=6)
        return every_day

    def update(self, **manifest: Any) -> None:
        """Another manifest for a version that is deployed, as of the same time; the server is reloaded."""
        [deployed_at] = {each.deployed_at for each in self.members}
        document = self._document(manifest)
        self.lender.deploy_manifest(yaml.safe_dump(document).encode(), document["model"], document["version"])
        _set_modified(self.lender.registry, f"{document['model']}/{document['version']}/model.yaml", deployed_at)
        self.reload()

    def _document(self, changes: dict[str, Any]) -> dict[str, Any]:
        small = {"precomputed": True, "features": [{"name": "income", "kind": "numeric"}]}
        document: dict[str, Any] = self.lender.manifest(**small | changes)
        return document

    @property
    def members(self) -> list[Member]:
        return list(scan(self.lender.settings, Fleet(), clock=self.lender.clock).fleet.members)

    def reload(self) -> None:
        """A new server: it knows what the store says, and no more."""
        self.watch = Watch(self.members, self.lender.settings, self.lender.clock)

    def copy(self, count: int, *, onboarded: bool = True) -> None:
        """Watch so many versions that are as the deployed one, on the same lake; there is nothing to run of them."""
        [first] = self.members
        versions = [first.manifest.model_copy(update={"version": f"1.0.{number}"}) for number in range(count)]
        for each in versions if onboarded else ():
            self.lender.store.put(layout.reference(each.model, each.version, "0" * 64), b"")
        members = [first.model_copy(update={"manifest": each}) for each in versions]
        self.watch = Watch(members, self.lender.settings, self.lender.clock)

    def land(self, *folders: str, rows: pl.DataFrame | bytes | None = None, at: datetime | None = None) -> None:
        """Data lands: by default some rows of its own in each folder, a minute ago."""
        for folder in folders:
            data = self.lender.rows(folder, 40) if rows is None else rows
            self.lender.land(folder, data, at=at or self.lender.now - timedelta(minutes=1))

    def tick(self) -> list[Task]:
        """One tick; what is asked for is in the queue afterwards."""
        tasks = self.watch.tick(self.runs)
        self.runs.start(tasks)
        return tasks

    def go_on(self, **duration: float) -> list[Task]:
        """Tick and work for some time (as `timedelta` has it), and then until nothing is asked for any more.

        Ticks are 6 seconds apart, or a twentieth of the time that is left, but for an hour at most.
        """
        end = self.lender.now + timedelta(**duration)
        tasks: list[Task] = []
        quiet = 0
        while self.lender.now < end or quiet < 3:
            found = self.tick()
            self.runs.finish()
            tasks += found
            quiet = 0 if found else quiet + 1
            self.lender.now += min(max(timedelta(seconds=6), (end - self.lender.now) / 20), timedelta(hours=1))
            assert len(tasks) < 1000, "it asks for ever"
        return tasks

    def version(self, model: str = "ke-nano-loan", version: str = "1.0.0") -> ModelVersion:
        return onboarding.onboard(self.lender.settings, model, version, self.lender.clock)

    def stale(self, partitions: Sequence[str]) -> list[str]:
        """Those that are not made from what lies in the lake now."""
        return Freshness(self.version()).stale(partitions)

    def results(self, partition: str, kind: str = "csi", model: str = "ke-nano-loan") -> list[Result]:
        """Every attempt, oldest first."""
        store, folder = self.lender.store, f"results/{model}/1.0.0/{partition.replace(':', '-')}/{kind}/"
        return [Result.model_validate_json(store.get(info.key).data) for info in store.list(folder)]

    def live(self, partition: str, kind: str = "csi") -> list[bool]:
        """Of every attempt, oldest first, whether it may page."""
        return [each.live for each in self.results(partition, kind)]


def _set_modified(store: ObjectStore, key: str, at: datetime) -> None:
    if isinstance(store, LocalStore):
        os.utime(store.location(key), (at.timestamp(), at.timestamp()))
        return
    from moto.s3.models import s3_backends

    place = parse_uri(store.location(key))
    stored = s3_backends["123456789012"]["aws"].get_object(place.bucket, place.key)
    stored.last_modified = at.replace(tzinfo=None)


@pytest.fixture
def story(lender: Any) -> Story:
    return Story(lender)


@pytest.fixture
def watched(story: Story) -> Story:
    """A version that was onboarded at noon of the 19th, before there was any data."""
    story.lender.now -= timedelta(hours=12)
    story.deploy()
    story.go_on()
    return story


@pytest.fixture
def s3_story(s3_lender: Any) -> Story:
    return Story(s3_lender)


@pytest.fixture
def asked() -> Callable[[Sequence[Task]], list[tuple[str, tuple[str, ...]]]]:
    """Trigger and partitions of tasks."""
    return lambda tasks: [(task.trigger, task.partitions) for task in tasks]
