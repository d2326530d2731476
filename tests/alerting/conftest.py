"""A version whose results are written by hand, and a PagerDuty in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.policy import Policy
from monitoring_assets.alerting.reconcile import Reconciled, Reconciler
from monitoring_assets.results import Metric, Result, write_result
from resources.delivery import Accepted, Delivery
from resources.object_store import LocalStore, ObjectStore
from resources.pagerduty import Event

MODEL, VERSION = "ke-nano-loan", "3.2.0"
NETS = {"ok": 0.01, "hold": 0.09, "warn": 0.15, "breach": 1.82}
"""Net PSI of the worst column."""


class Killed(BaseException):
    """What a SIGKILL looks like from inside: nothing after it happens."""


@dataclass
class Steps:
    """Counts everything that changes the world, and kills before the step of a number."""

    kill_at: int | None = None
    taken: int = 0

    def step(self) -> None:
        if self.taken == self.kill_at:
            raise Killed
        self.taken += 1


class MortalStore:
    """A store whose writes are steps."""

    def __init__(self, store: ObjectStore, steps: Steps) -> None:
        self._store, self._steps = store, steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("put", "put_if_absent", "compare_and_swap", "delete"):
            return found

        def mortal(*arguments: Any, **named: Any) -> Any:
            self._steps.step()
            return found(*arguments, **named)

        return mortal


@dataclass
class Pager:
    """PagerDuty's semantics, answers that a test may replace, and a step before and after each."""

    steps: Steps = field(default_factory=Steps)
    answer: Callable[[Event], Delivery | None] = lambda _: None
    """A delivery that is not Accepted: the event did not arrive."""
    pages: list[Event] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    open: dict[str, Event] = field(default_factory=dict)

    def send(self, message: Event) -> Delivery:
        self.steps.step()
        refused = self.answer(message)
        if refused is not None:
            return refused
        self.events.append(message)
        if message.action == "resolve":
            self.open.pop(message.dedup_key, None)
        else:
            if message.dedup_key not in self.open:
                self.pages.append(message)
            self.open[message.dedup_key] = message
        self.steps.step()
        return Accepted()


USUAL = About(MODEL, VERSION, Policy(tier=2), "credit-risk@lender.example", {"runbook": "https://wiki/x"})


@dataclass
class Scene:
    """One version: ``day`` writes a csi result of a day of January 2026, ``look`` reconciles."""

    store: ObjectStore
    pager: Pager = field(default_factory=Pager)
    about: About = USUAL
    now: datetime = datetime(2026, 1, 1, 6, tzinfo=UTC)

    def day(self, day: int, state: str, **more: Any) -> Result:
        partition = f"2026-01-{day:02d}"
        self.now = max(self.now, datetime(2026, 1, 1, 6, tzinfo=UTC) + timedelta(days=day))
        net = NETS.get(state, 0.0)
        status = {"hold": "ok"}.get(state, state)
        metric = more.get("kind", "csi")
        columns = {"car_value": net, "salary_range": net / 2} if state in NETS else {}
        metrics = [shift(column, value, metric=metric) for column, value in columns.items()]
        usual = {"kind": "csi", "asset": "csi", "trigger": "arrival", "live": True, "reason": "", "metrics": metrics}
        return self.write(partition, status, **usual | more)

    def write(self, partition: str, status: str, **more: Any) -> Result:
        named = {"model": MODEL, "version": VERSION, "partition": partition, "status": status, "recorded_at": self.now}
        return write_result(self.store, Result(**named | more), partition)

    def look(self, *, silenced: bool = False) -> Reconciled:
        publisher = Reconciler(self.store, self.pager, lambda: self.now, "test", "http://dagit")
        return publisher.reconcile(self.about, silenced=silenced)


def shift(column: str, net: float, **more: Any) -> Metric:
    status = "breach" if net >= 0.25 else "warn" if net >= 0.1 else "ok"
    usual = {"metric": "csi", "window": 1, "value": net, "n": 900, "threshold": 0.1, "significant": True}
    return Metric(**{"column": column, "net_value": net, "status": status} | usual | more)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def scene(store: LocalStore) -> Scene:
    return Scene(store)
