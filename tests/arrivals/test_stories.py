"""Random stories: data lands, late, bad and corrected, runs are killed and lost, servers reloaded; all ends well."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

START = date(2026, 1, 1)
DEPLOYED = datetime(2026, 1, 7, 12, tzinfo=UTC)


class Teller:
    """Makes up a story of a version that has six days of history when it is deployed."""

    def __init__(self, story: Any, seed: int) -> None:
        self.story, self.random = story, random.Random(seed)  # noqa: S311
        self.data: dict[str, bool] = {}
        self.past: set[str] = set()
        self.landings = 0
        story.lender.now = DEPLOYED

    def ended(self) -> list[str]:
        count = (self.story.lender.now.date() - START).days
        return [str(START + timedelta(days=each)) for each in range(count)]

    def land(self, day: str, *, good: bool, at: datetime | None = None) -> None:
        """New data for a day: rows that nothing had before, or some that every stage of features refuses."""
        self.landings += 1
        self.past = self.past | {day} if at else self.past - {day}
        rows = self.story.lender.rows(f"landing {self.landings}", 20)
        data = rows if good else self.random.choice([b"no Parquet", pl.concat([rows, rows])])
        self.story.land(day, rows=data, at=at)
        self.data[day] = good

    def begin(self) -> None:
        for day in self.ended():
            if self.random.random() < 0.8:
                self.land(day, good=self.random.random() < 0.9, at=DEPLOYED - timedelta(hours=1))
        self.story.deploy(at=DEPLOYED)

    def step(self) -> None:
        chance, lender = self.random.random, self.story.lender
        lender.now += timedelta(seconds=self.random.choice([6, 40, 600, 7200, 30_000]))
        missing = [day for day in self.ended() if day not in self.data]
        if missing and chance() < 0.5:
            self.land(self.random.choice(missing), good=chance() < 0.8)
        if self.data and chance() < 0.2:
            self.land(self.random.choice(sorted(self.data)), good=chance() < 0.7)
        if chance() < 0.2:
            self.story.reload()
        tasks = self.story.watch.tick(self.story.runs)
        self.story.runs.start([task for task in tasks if chance() < 0.85])
        fate = chance()
        if fate < 0.4:
            self.story.runs.finish()
        elif fate < 0.8:
            self.story.runs.finish(writes=self.random.choice([0, 3, 10, 20, 30, 50, 80, 120]))
        elif fate < 0.9:
            self.story.runs.fail()

    def end(self) -> list[str]:
        """From now on nothing goes wrong, and what is bad is put right; the days that it is about."""
        self.story.runs.finish()
        every_day = self.ended()
        for day in every_day:
            if not self.data.get(day):
                self.land(day, good=True)
        self.story.go_on(hours=24)
        return every_day


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_everything_is_made_from_the_data_that_lies_there_and_nothing_is_done_twice(
    story: Any, seed: int
) -> None:
    teller = Teller(story, seed)
    teller.begin()
    for _ in range(30):
        teller.step()
    every_day = teller.end()
    assert story.stale(every_day) == []
    version = story.version()
    for day in every_day:
        for kind in ("psi", "csi"):
            newest, counted = story.results(day, kind)[-1], version.current("distribution", day)
            assert (day, counted.digest) in {(each.partition, each.digest) for each in newest.inputs}, "the last word"
    assert not any(live for day in teller.past for live in story.live(day)), "the past pages nobody"
    assert story.lender.listed("rejudge/") == []
    tasks = [each.task for each in story.runs.all if each.state == "done" and not each.task.key.startswith("behind/")]
    done = Counter((each.key, partition) for each in tasks for partition in each.partitions)
    assert {work for work, count in done.items() if count > 1} == set()
    story.reload()
    assert story.go_on(hours=24) == []
