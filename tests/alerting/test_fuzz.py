"""A thousand histories of live results, corrections, backfills, outages, silences and rivals, against an oracle.

The oracle knows the policy as its description says it, and shares no code with it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from monitoring_assets.alerting.reconcile import Reconciler
from resources.delivery import Delivery, Later
from resources.object_store import ObjectInfo
from resources.object_store.base import Blob
from resources.pagerduty import Event
from tests.alerting.conftest import USUAL, Pager, Scene

HISTORIES, CHUNKS, PARTITIONS = 1_000, 4, 30
ASSETS = ["csi", "psi"]
STATES = ["ok"] * 9 + ["hold", "warn", "warn", "breach", "insufficient_data"]


class MemoryStore:
    """As much of a store as the publisher needs, without a disk."""

    uri = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.writes = 0

    def get(self, key: str) -> Blob | None:
        found = self.objects.get(key)
        return Blob(found[0], str(found[1])) if found else None

    def put(self, key: str, data: bytes) -> str:
        self.writes += 1
        self.objects[key] = (data, self.writes)
        return str(self.writes)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return key not in self.objects and bool(self.put(key, data))

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        found = self.objects.get(key)
        return self.put(key, data) if (str(found[1]) if found else None) == etag else None

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(prefix):
                data, number = self.objects[key]
                yield ObjectInfo(key, len(data), datetime(2026, 1, 1, tzinfo=UTC), str(number))


@dataclass
class Written:
    day: int
    asset: str
    state: str
    live: bool


SEVERITIES = ["warning", "critical"]
GRAVE = {"ok": 0, "hold": 1, "warn": 2, "breach": 3}


class Oracle:
    """The policy as its description says it: what should be open at PagerDuty after each look."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.looked = 0
        self.open: str | None = None

    def look(self) -> bool:
        """Take in what was written since the last look; whether anything of it may page."""
        news, self.looked = self.written[self.looked :], len(self.written)
        fresh = [each for each in news if each.live and self.counted(each.day, each.asset) in ("warn", "breach")]
        wanted = self._should_be_open()
        if self.open is None or wanted is None:
            self.open = wanted if fresh or wanted is None else None
        elif fresh or SEVERITIES.index(wanted) < SEVERITIES.index(self.open):
            self.open = wanted
        return bool(fresh)

    def counted(self, day: int, asset: str) -> str | None:
        """What counts of a day's attempts: the last live one, unless later ones clear or soften it."""
        attempts = [each for each in self.written if (each.day, each.asset) == (day, asset)]
        alive = [number for number, each in enumerate(attempts) if each.live]
        if not alive:
            return "ok" if attempts and attempts[-1].state == "ok" else None
        state = attempts[alive[-1]].state
        for later in attempts[alive[-1] + 1 :]:
            if later.state in GRAVE and GRAVE[later.state] < GRAVE.get(state, -1):
                state = later.state
        return state

    def _should_be_open(self) -> str | None:
        severity, recent, clear, quiet, blamed = None, "", 0, 99, set[str]()
        for day in sorted({each.day for each in self.written}):
            states = {asset: state for asset in ASSETS if (state := self.counted(day, asset)) in GRAVE}
            gravest = max(states.values(), key=lambda each: GRAVE[each], default=None)
            if gravest == "ok" and any(states.get(asset) != "ok" for asset in blamed):
                # Those that the episode is about have not said that it is over.
                gravest = None
            if gravest is None:
                continue
            blamed |= {asset for asset, state in states.items() if GRAVE[state] > 1}
            recent += {"ok": ".", "hold": ".", "warn": "w", "breach": "w"}[gravest]
            clear = clear + 1 if gravest == "ok" else 0
            quiet += 1
            if gravest == "breach":
                severity = "critical"
            elif gravest == "warn" and recent[-3:].count("w") > 1 and (severity or quiet > 3):
                severity = severity or "warning"
            elif severity and clear > 1:
                severity, recent, quiet, blamed = None, "", 0, set()
            elif not severity and "w" not in recent[-3:]:
                blamed = set()
        return severity


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_is_open_is_what_the_results_ask_for_and_nothing_else_ever_paged(chunk: int) -> None:
    paged = 0
    for seed in range(chunk, HISTORIES, CHUNKS):
        paged += len(History(random.Random(seed)).play())  # noqa: S311
    assert paged > HISTORIES // CHUNKS // 2, "histories without pages would prove nothing"


class History:
    """One history of `PARTITIONS` days, drawn by chance."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.oracle = draw, Oracle()
        self.pager, self.store = Pager(), MemoryStore()
        self.scene = Scene(self.store, self.pager)  # type: ignore[arg-type]
        self.calm = draw.random() < 0.3
        self.assets = ASSETS if draw.random() < 0.5 else ASSETS[:1]

    def play(self) -> list[Event]:
        """Write and look in turn; the pages, after everything was checked."""
        publisher, rival = self._reconciler(), self._reconciler()
        day, owed = 0, False
        while day < PARTITIONS:
            for _ in range(self.draw.randint(1, 8)):
                day += 1
                if day <= PARTITIONS:
                    self._day(day)
            self.pager.answer = _down if self.draw.random() < 0.25 else _up
            silenced = self.draw.random() < 0.15
            open_before, pages_before = set(self.pager.open), len(self.pager.pages)
            done = publisher.reconcile(USUAL, silenced=silenced)
            if self.draw.random() < 0.3:
                rival.reconcile(USUAL, silenced=silenced)
            may_page = self.oracle.look()
            assert may_page or owed or len(self.pager.pages) == pages_before, "a page though nothing live was news"
            owed = (owed or may_page) and bool(done.waiting or silenced)
            if not done.waiting:
                self._check(open_before if silenced else None)
        self.pager.answer = _up
        publisher.reconcile(USUAL)
        self.oracle.look()
        self._check(None)
        keys = [each.dedup_key for each in self.pager.pages]
        raised = {each.day for each in self.oracle.written if each.live and GRAVE.get(each.state, 0) > 1}
        assert {int(key[-2:]) for key in keys} <= raised, "a page from what was never live"
        again = {key for key in keys if keys.count(key) > 1}
        assert all(self._live_twice(int(key[-2:])) for key in again), "an episode paged twice"
        return self.pager.pages

    def _reconciler(self) -> Reconciler:
        return Reconciler(self.store, self.pager, lambda: self.scene.now, "test", "http://dagit")  # type: ignore[arg-type]

    def _day(self, day: int) -> None:
        """A day's results, in part perhaps and live as a rule; and sometimes one of an earlier day."""
        draw = self.draw
        for asset in self.assets:
            if draw.random() < 0.9:
                self._write(day, asset, live=draw.random() < 0.85)
        if draw.random() < 0.2:
            self._write(draw.randint(1, day), draw.choice(self.assets), live=False)
        if draw.random() < 0.1:
            self._write(draw.randint(max(1, day - 3), day), draw.choice(self.assets), live=True)

    def _write(self, day: int, asset: str, *, live: bool) -> None:
        state = "ok" if self.calm else self.draw.choice(STATES)
        self.scene.now += timedelta(hours=3)
        held = self.store.writes
        trigger = "arrival" if live else "catch-up"
        self.scene.day(day, state, live=live, trigger=trigger, kind=asset, asset=asset)
        if self.store.writes != held:
            self.oracle.written.append(Written(day, asset, state, live))

    def _live_twice(self, day: int) -> bool:
        """Whether a day was live more than once: what was cleared of it may then be raised again."""
        lives = [each.asset for each in self.oracle.written if each.day == day and each.live]
        return len(lives) > len(set(lives))

    def _check(self, before_silence: set[str] | None) -> None:
        wanted = self.oracle.open
        if before_silence is not None:
            assert set(self.pager.open) <= before_silence, "a silence triggers nothing"
            assert wanted or not self.pager.open, "and resolves all the same"
            return
        told = [event.severity for event in self.pager.open.values()]
        # What was critical is not made less grave by a correction that leaves a warning.
        assert told == ([wanted] if wanted else []) or (wanted, told) == ("warning", ["critical"])


def _up(_: Event) -> Delivery | None:
    return None


def _down(_: Event) -> Delivery | None:
    return Later("down")
