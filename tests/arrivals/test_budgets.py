"""Many versions: what a tick may cost, and that everyone gets a turn whatever happens to the others."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monitoring_assets.arrivals import watch
from monitoring_assets.arrivals.budget import Budget
from resources import at_once
from resources.errors import InfrastructureError

HOUR, TICK = timedelta(hours=1), timedelta(seconds=6)
YESTERDAY = "2026-01-19"
MIDNIGHT = datetime(2026, 1, 20, tzinfo=UTC)


@pytest.fixture
def fleet(story: Any) -> Any:
    """A version that was deployed before its first day; tests make a fleet of copies of it. It is 1 o'clock."""
    story.deploy(at=MIDNIGHT - 20 * 24 * HOUR)
    story.lender.now = MIDNIGHT + HOUR
    return story


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Version and partition of every look at a source."""
    found, real = [], watch.landing

    def landing(version: Any, partition: str) -> Any:
        found.append((version.manifest.version, partition))
        return real(version, partition)

    monkeypatch.setattr(watch, "landing", landing)
    return found


def test_the_runs_of_a_tick_are_few_and_every_version_gets_one(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TASKS", 3)
    fleet.copy(8)
    fleet.land(YESTERDAY)
    asked = []
    for _ in range(4):
        tasks = fleet.tick()
        asked.append(len(tasks))
        fleet.lender.now += TICK
    assert asked == [3, 3, 2, 0]
    assert len({each.task.version for each in fleet.runs.all}) == 8


@pytest.mark.parametrize("onboarded", [True, False])
def test_versions_whose_runs_fail_do_not_keep_the_others_waiting(
    fleet: Any, monkeypatch: pytest.MonkeyPatch, onboarded: bool
) -> None:
    monkeypatch.setattr(watch, "TASKS", 3)
    fleet.copy(8, onboarded=onboarded)
    fleet.land(YESTERDAY)
    for _ in range(3):
        fleet.tick()
        fleet.runs.fail()
        fleet.lender.now += TICK
    assert len({each.task.version for each in fleet.runs.all}) == 8


def test_the_surveys_of_a_tick_are_few_and_one_that_fails_takes_no_other_s_turn(
    fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monitoring_assets.arrivals.watched import Watched

    surveyed, real = Counter[str](), Watched.survey

    def survey(self: Watched, now: datetime) -> None:
        surveyed[self.name[1]] += 1
        if self.name[1] in ("1.0.0", "1.0.1"):
            raise InfrastructureError("Slow down.")
        real(self, now)

    monkeypatch.setattr(Watched, "survey", survey)
    monkeypatch.setattr(watch, "SURVEYS", 2)
    fleet.copy(7)
    for tick in range(1, 5):
        before = surveyed.total()
        fleet.tick()
        assert surveyed.total() - before <= 2, tick
        fleet.lender.now += TICK
    assert len(surveyed) == 7
    for _ in range(20):
        fleet.tick()
        fleet.lender.now += TICK
    assert surveyed["1.0.0"] == 3, "once a minute"
    assert surveyed["1.0.6"] == 1


def test_the_looks_of_a_tick_are_few_and_every_partition_gets_one_beside_what_is_urgent(
    fleet: Any, looks: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOKS", 4)
    fleet.copy(3)
    wanted = {(f"1.0.{number}", f"2026-01-{day:02d}") for number in range(3) for day in range(1, 20)}
    begun = fleet.lender.now
    while not wanted.issubset(looks):
        before = len(looks)
        assert fleet.tick() == []
        assert len(looks) - before <= 4
        fleet.lender.now += TICK
        assert fleet.lender.now - begun < HOUR, wanted.difference(looks)
    seen = Counter(partition for _, partition in looks)
    assert seen[YESTERDAY] > 10 * seen["2026-01-01"], "the newest is looked for much more often"


def test_a_feed_that_is_dead_costs_little(fleet: Any, looks: list[tuple[str, str]]) -> None:
    fleet.copy(1)
    fleet.lender.now = MIDNIGHT + 24 * 20 * HOUR
    fleet.tick()
    looks.clear()
    for _ in range(240):
        fleet.lender.now += timedelta(seconds=15)
        fleet.tick()
    old = Counter(partition for _, partition in looks if partition < "2026-02-05")
    assert len(old) == 35
    assert set(old.values()) == {4}, "four times an hour"


def test_a_look_that_fails_is_not_repeated_at_every_tick(
    fleet: Any, looks: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_been_through(*_: Any, **__: Any) -> bool:
        raise KeyError("a bug")

    monkeypatch.setattr("monitoring_assets.arrivals.watched.has_been_through", has_been_through)
    fleet.copy(1)
    fleet.land("2026-01-10", "2026-01-11")
    for _ in range(100):
        assert fleet.tick() == []
        fleet.lender.now += TICK
    assert looks.count(("1.0.0", "2026-01-10")) == 1


class Lake:
    """Looks take time on a clock of the test's, by version; some fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.seconds, self.failing = 1000.0, dict[str, float](), set[str]()
        self.looks = Counter[str]()
        self._lock, self._real = threading.Lock(), watch.landing
        monkeypatch.setattr(watch, "landing", self.landing)
        monkeypatch.setattr(watch, "Budget", lambda: Budget(lambda: self.now))
        monkeypatch.setattr(at_once, "THREADS", 1)

    def landing(self, version: Any, partition: str) -> Any:
        with self._lock:
            name = version.manifest.version
            self.looks[name] += 1
            self.now += self.seconds.get(name, 0)
            if name in self.failing:
                raise InfrastructureError("It timed out.")
        return self._real(version, partition)


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Lake:
    return Lake(monkeypatch)


@pytest.mark.parametrize("fails", [False, True])
def test_one_slow_lake_costs_a_tick_seconds_and_the_others_nothing(fleet: Any, lake: Lake, fails: bool) -> None:
    fleet.copy(5)
    lake.seconds["1.0.0"] = 2
    lake.failing |= {"1.0.0"} if fails else set()
    fleet.tick()
    fleet.land(YESTERDAY)
    durations, tasks = [], []
    for _ in range(10):
        fleet.lender.now += TICK
        begun = lake.now
        tasks += fleet.tick()
        durations.append(lake.now - begun)
    assert {each.version for each in tasks} >= {f"1.0.{number}" for number in range(1, 5)}
    assert max(durations) <= 8
    assert lake.looks["1.0.0"] > 1, "it gets its turn"


def test_a_tick_ends_in_time_and_what_is_left_comes_in_the_next_ones(fleet: Any, lake: Lake) -> None:
    fleet.copy(3)
    lake.seconds |= {f"1.0.{number}": 0.4 for number in range(3)}
    durations = []
    for _ in range(3):
        begun = lake.now
        fleet.tick()
        durations.append(lake.now - begun)
        fleet.lender.now += TICK
    assert max(durations) <= 21
    assert lake.looks.total() >= 3 * 19, "every partition was looked at"


def test_a_lake_that_fails_is_left_alone_longer_and_longer_and_looked_at_again(fleet: Any, lake: Lake) -> None:
    fleet.copy(1)
    lake.failing.add("1.0.0")
    ticks = []
    for number in range(200):
        before = lake.looks.total()
        fleet.tick()
        if lake.looks.total() > before:
            ticks.append(number)
        fleet.lender.now += TICK
    assert len(ticks) < 15
    lake.failing.clear()
    fleet.land(YESTERDAY)
    tasks = []
    for _ in range(60):
        tasks += fleet.tick()
        fleet.lender.now += TICK
    assert tasks[0].partitions == (YESTERDAY,)


def test_the_history_of_a_slow_lake_is_looked_through_in_several_ticks(story: Any, lake: Lake) -> None:
    story.lender.now = MIDNIGHT + HOUR
    story.land(*[f"2026-01-{day:02d}" for day in range(1, 20)], at=MIDNIGHT)
    story.deploy()
    story.tick()
    story.runs.finish()
    lake.seconds["1.0.0"] = 2
    durations, tasks = [], []
    while not tasks:
        begun = lake.now
        tasks = story.tick()
        durations.append(lake.now - begun)
        story.lender.now += TICK
        assert len(durations) < 50
    assert tasks[0].trigger == "catch-up"
    assert len(tasks[0].partitions) == 18
    assert max(durations) <= 12


def test_while_a_tick_is_at_it_another_one_asks_for_nothing(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.copy(1)
    fleet.land(YESTERDAY)
    begun, go_on, real = threading.Event(), threading.Event(), watch.landing

    def landing(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return real(*arguments)

    monkeypatch.setattr(watch, "landing", landing)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(fleet.watch.tick, fleet.runs)
        assert begun.wait(60)
        assert fleet.watch.tick(fleet.runs) == []
        go_on.set()
        assert [task.partitions for task in first.result(60)] == [(YESTERDAY,)]
