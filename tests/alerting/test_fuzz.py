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
    state: str
    live: bool


def counted(written: list[Written]) -> list[str]:
    """Per day, in order, what counts of its attempts: the last live one, unless a later one clears or softens it."""
    grave = {"ok": 0, "hold": 1, "warn": 2, "breach": 3}
    days: dict[int, str] = {}
    for day in {each.day for each in written}:
        attempts = [each for each in written if each.day == day]
        alive = [number for number, each in enumerate(attempts) if each.live]
        state = attempts[alive[-1]].state if alive else None
        last = attempts[-1]
        if not last.live and last.state in grave:
            if state is None:
                state = "ok" if last.state == "ok" else None
            elif grave[last.state] < grave.get(state, -1):
                state = last.state
        if state in grave:
            days[day] = state
    return [days[day] for day in sorted(days)]


def should_be_open(states: list[str]) -> str | None:
    """The severity of the episode that is open after these states; None for none."""
    severity, recent, clear, quiet = None, "", 0, 99
    for state in states:
        recent += {"ok": ".", "hold": ".", "warn": "w", "breach": "w"}[state]
        clear = clear + 1 if state == "ok" else 0
        quiet += 1
        if state == "breach":
            severity = "critical"
        elif state == "warn" and recent[-3:].count("w") > 1 and (severity or quiet > 3):
            severity = severity or "warning"
        elif severity and clear > 1:
            severity, recent, quiet = None, "", 0
    return severity


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_is_open_is_what_the_results_ask_for_and_nothing_else_ever_paged(chunk: int) -> None:
    paged = 0
    for seed in range(chunk, HISTORIES, CHUNKS):
        paged += len(_history(random.Random(seed)))  # noqa: S311
    assert paged > HISTORIES // CHUNKS // 2, "histories without pages would prove nothing"


def _history(draw: random.Random) -> list[Event]:
    store, pager, written = MemoryStore(), Pager(), list[Written]()
    scene = Scene(store, pager)  # type: ignore[arg-type]
    publisher = Reconciler(store, pager, lambda: scene.now, "test", "http://dagit")  # type: ignore[arg-type]
    rival = Reconciler(store, pager, lambda: scene.now, "test", "http://dagit")  # type: ignore[arg-type]
    calm = draw.random() < 0.3
    day = 0
    while day < PARTITIONS:
        for _ in range(draw.randint(1, 8)):
            day += 1
            if day > PARTITIONS:
                break
            _write(scene, written, day, "ok" if calm else draw.choice(STATES), live=draw.random() < 0.85)
            if draw.random() < 0.2:
                _write(scene, written, draw.randint(1, day), draw.choice(STATES), live=False)
        pager.answer = _down if draw.random() < 0.25 else _up
        silenced = draw.random() < 0.15
        before = set(pager.open)
        done = publisher.reconcile(USUAL, silenced=silenced)
        if draw.random() < 0.3:
            rival.reconcile(USUAL, silenced=silenced)
        if not done.waiting:
            _check(pager, written, before if silenced else None)
    pager.answer = _up
    publisher.reconcile(USUAL)
    _check(pager, written, None)
    keys = [each.dedup_key for each in pager.pages]
    assert len(set(keys)) == len(keys), "an episode paged twice"
    raised = {each.day for each in written if each.live and each.state in ("warn", "breach")}
    assert {int(key[-2:]) for key in keys} <= raised, "a page from what was never live"
    return pager.pages


def _check(pager: Pager, written: list[Written], before_silence: set[str] | None) -> None:
    wanted = should_be_open(counted(written))
    if before_silence is not None:
        assert set(pager.open) <= before_silence, "a silence triggers nothing"
        assert wanted or not pager.open, "and resolves all the same"
        return
    told = [event.severity for event in pager.open.values()]
    # What was critical is not made less grave by a correction that leaves a warning.
    assert told == ([wanted] if wanted else []) or (wanted, told) == ("warning", ["critical"])


def _write(scene: Scene, written: list[Written], day: int, state: str, *, live: bool) -> None:
    scene.now += timedelta(hours=3)
    held = scene.store.writes  # type: ignore[attr-defined]
    scene.day(day, state, live=live, trigger="arrival" if live else "catch-up")
    if scene.store.writes != held:  # type: ignore[attr-defined]
        written.append(Written(day, state, live))


def _up(_: Event) -> Delivery | None:
    return None


def _down(_: Event) -> Delivery | None:
    return Later("down")
