"""Leases: one process at a partition, the next one when it is done or gone."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets import layout, leases
from monitoring_assets.leases import LASTS, Lease, Leases
from resources.errors import InfrastructureError
from resources.object_store import LocalStore

DAY = "2026-01-01"
KEY = layout.lease("features", "ke-loan", "1", DAY)


class Clock:
    now = datetime(2026, 1, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def of(store: LocalStore, clock: Clock) -> Leases:
    return Leases(store, "ke-loan", "1", clock)


def kept(store: LocalStore) -> Lease | None:
    blob = store.get(KEY)
    return Lease.model_validate_json(blob.data) if blob else None


def test_a_lease_is_there_while_it_is_held(store: LocalStore, clock: Clock) -> None:
    with of(store, clock).hold("features", DAY):
        found = kept(store)
        assert found is not None
        assert found.until == clock.now + LASTS
    assert kept(store) is None


def test_a_lease_of_another_process_is_waited_for_and_who_loses_patience_says_whose_it_is(
    store: LocalStore, clock: Clock
) -> None:
    with of(store, clock).hold("features", DAY):
        with pytest.raises(InfrastructureError) as raised, of(store, clock).hold("features", DAY, patience_s=0):
            pytest.fail("two at once")
        assert "ke-loan 1, features of 2026-01-01: process" in str(raised.value)
        assert raised.value.exit_code == 75
        with of(store, clock).hold("scores", DAY, patience_s=0), of(store, clock).hold("features", "2026-01-02"):
            pass


def test_whoever_waits_goes_on_when_the_lease_is_given_back(
    store: LocalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.01)
    order: list[str] = []
    held, waits = threading.Event(), threading.Event()

    def first() -> None:
        with of(store, clock).hold("features", DAY):
            held.set()
            assert waits.wait(30)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(30)
    waits.set()
    with of(store, clock).hold("features", DAY):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("ahead", [-timedelta(seconds=1), timedelta(days=365)])
def test_a_lease_that_ran_out_or_is_of_a_wrong_clock_holds_nobody_up(
    store: LocalStore, clock: Clock, ahead: timedelta
) -> None:
    gone = Lease(host="gone", process=1, since=clock.now, until=clock.now + ahead, token="x")
    store.put(KEY, gone.model_dump_json().encode())
    with of(store, clock).hold("features", DAY, patience_s=0):
        found = kept(store)
        assert found is not None
        assert found.token != "x"


def test_a_lease_of_a_process_of_this_machine_that_was_killed_holds_nobody_up(store: LocalStore, clock: Clock) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    for host, waits in ((socket.gethostname(), False), ("another", True)):
        left = Lease(host=host, process=ended.pid, since=clock.now, until=clock.now + LASTS, token="x")
        store.put(KEY, left.model_dump_json().encode())
        expected = pytest.raises(InfrastructureError) if waits else nullcontext()
        with expected, of(store, clock).hold("features", DAY, patience_s=0):
            pass


def test_a_damaged_lease_holds_nobody_up(store: LocalStore, clock: Clock) -> None:
    store.put(KEY, b"{")
    with of(store, clock).hold("features", DAY, patience_s=0):
        pass
    assert kept(store) is None


def test_a_lease_is_renewed_while_the_work_lasts(
    store: LocalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEWED_S", 0.01)
    renewed, swap = threading.Event(), LocalStore.compare_and_swap

    def swapped(own: LocalStore, key: str, data: bytes, etag: str | None) -> str | None:
        found = swap(own, key, data, etag)
        if etag is not None and found is not None:
            renewed.set()
        return found

    monkeypatch.setattr(LocalStore, "compare_and_swap", swapped)
    with of(store, clock).hold("features", DAY):
        clock.now += timedelta(minutes=5)
        assert renewed.wait(30)
        assert kept(store) is not None


def test_a_lease_that_another_took_over_is_not_taken_from_it(store: LocalStore, clock: Clock) -> None:
    with of(store, clock).hold("features", DAY):
        clock.now += 2 * LASTS
        other = Lease(host="another", process=2, since=clock.now, until=clock.now + LASTS, token="other")
        store.put(KEY, other.model_dump_json().encode())
    assert kept(store) == other


def test_a_lease_that_did_not_last_is_given_back_without_a_look_and_says_whether_it_was_waited_for(
    store: LocalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.01)
    looks, get = list[str](), LocalStore.get

    def looked(own: LocalStore, key: str) -> Any:
        looks.append(key)
        return get(own, key)

    monkeypatch.setattr(LocalStore, "get", looked)
    with of(store, clock).hold("features", DAY) as waited:
        assert not waited
    assert looks == []
    with of(store, clock).hold("features", DAY):
        clock.now += LASTS / 2
    assert looks == [KEY], "another one may have it by now"
    other = Lease(host="another", process=2, since=clock.now, until=clock.now + LASTS, token="other")
    store.put(KEY, other.stored())
    giving_back = threading.Timer(0.1, store.delete, [KEY])
    giving_back.start()
    with of(store, clock).hold("features", DAY) as waited:
        assert waited
    giving_back.join()
