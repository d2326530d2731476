from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import polars as pl
import pytest

from monitoring_assets import layout
from monitoring_assets.past.compaction import Compacted, compact
from monitoring_assets.past.markers import PARTS
from monitoring_assets.past.reading import past
from monitoring_assets.past.rows import to_frame, to_line, to_parquet
from resources.errors import InfrastructureError
from resources.object_store import LocalStore, ObjectStore

EVER = {"since": date(2000, 1, 1), "until": date(2100, 1, 1)}
WRITES = {"put", "put_if_absent", "compare_and_swap", "delete"}


def compacted_rows(archive: Any, store: ObjectStore) -> list[dict[str, Any]]:
    """What lies in the files, read without the code that is tested."""
    files = [store.get(key) for key in archive.keys(store, layout.HISTORY)]
    return archive.in_order(row for file in files for row in pl.read_parquet(io.BytesIO(file.data)).to_dicts())


def several(archive: Any) -> list[Any]:
    """Results of two versions, three kinds, two months and two attempts."""
    return [
        archive.result(partition, attempt, version=version, kind=kind)
        for partition in ("2026-01-31", "2026-02-01")
        for version in ("1.0.0", "1.1.0")
        for kind, attempt in (("psi", 1), ("psi", 2), ("quality", 1))
    ]


def test_published_results_end_up_in_the_files_of_their_months_and_their_markers_are_gone(
    archive: Any, store: ObjectStore
) -> None:
    results = several(archive)
    archive.publish(store, *results)

    done = compact(store, archive.clock)

    assert compacted_rows(archive, store) == archive.rows(results)
    assert archive.keys(store, layout.UNCOMPACTED) == []
    assert done == Compacted(results=12, files=len(archive.keys(store, layout.HISTORY)))
    assert {key.split("/")[1] for key in archive.keys(store, layout.HISTORY)} == {"2026-01", "2026-02"}
    assert len(archive.keys(store, "results/")) == 12


def test_a_second_compaction_writes_nothing(archive: Any, store: ObjectStore) -> None:
    archive.publish(store, *several(archive))
    compact(store, archive.clock)
    before = {info.key: info.fingerprint for info in store.list(layout.HISTORY)}

    assert compact(store, archive.clock) == Compacted()
    assert {info.key: info.fingerprint for info in store.list(layout.HISTORY)} == before


def test_a_later_attempt_joins_the_earlier_ones_in_their_file(archive: Any, store: ObjectStore) -> None:
    attempts = [archive.result(attempt=number, reason=str(number)) for number in (1, 2, 10_000)]
    for attempt in attempts:
        archive.publish(store, attempt)
        assert compact(store, archive.clock) == Compacted(results=1, files=1)

    assert compacted_rows(archive, store) == archive.rows(attempts)
    assert len(archive.keys(store, layout.HISTORY)) == 1


def test_results_that_are_not_published_are_not_compacted(archive: Any, store: ObjectStore) -> None:
    archive.write(store, archive.result())

    assert compact(store, archive.clock) == Compacted()
    assert archive.keys(store, layout.HISTORY) == []


@pytest.mark.parametrize(
    ("partition", "month"),
    [
        pytest.param("2025-12-31", "2025-12", id="the last day of a year"),
        pytest.param("2026-01-01", "2026-01", id="the first day of a year"),
        pytest.param("2025-12-31-23:00", "2025-12", id="an hour"),
        pytest.param("2025-12-29", "2025-12", id="a week that ends in the next year"),
        pytest.param("registry", "2026-03", id="a version as a whole, by when it was recorded"),
    ],
)
def test_the_month_of_a_result_is_that_of_its_key(
    archive: Any, local_store: LocalStore, partition: str, month: str
) -> None:
    result = archive.result(partition, kind="pipeline")
    archive.publish(local_store, result)

    compact(local_store, archive.clock)

    [key] = archive.keys(local_store, layout.HISTORY)
    assert key.startswith(f"history/{month}/")
    assert compacted_rows(archive, local_store) == archive.rows([result])


def test_results_about_a_version_as_a_whole_are_spread_over_the_months_in_which_they_were_recorded(
    archive: Any, local_store: LocalStore
) -> None:
    results = [
        archive.result("registry", month, kind="pipeline", recorded_at=datetime(2026, month, 1, tzinfo=UTC))
        for month in (1, 2, 3)
    ]
    archive.publish(local_store, *results)

    assert compact(local_store, archive.clock) == Compacted(results=3, files=3)
    assert compacted_rows(archive, local_store) == archive.rows(results)


def test_a_version_has_the_same_number_in_every_month_and_versions_share_the_files(
    archive: Any, local_store: LocalStore
) -> None:
    for number in range(40):
        for partition in ("2026-01-01", "2026-02-01"):
            archive.publish(local_store, archive.result(partition, version=f"{number}.0.0"))

    compact(local_store, archive.clock)

    found: dict[str, set[str]] = {}
    for key in archive.keys(local_store, layout.HISTORY):
        for version in pl.read_parquet(local_store.location(key), glob=False)["version"]:
            found.setdefault(version, set()).add(key.rsplit("/", 1)[-1])
    assert [len(names) for names in found.values()] == [1] * 40
    names = set().union(*found.values())
    assert 1 < len(names) <= PARTS
    assert names <= {f"{number:02d}.parquet" for number in range(PARTS)}


def test_no_more_results_than_the_limit_are_compacted_at_once_and_repeating_it_does_them_all(
    archive: Any, local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring_assets.past.compaction.BATCH", 3)
    results = several(archive)
    archive.publish(local_store, *results)

    assert [compact(local_store, archive.clock, limit=5).results for _ in range(4)] == [5, 5, 2, 0]
    assert compacted_rows(archive, local_store) == archive.rows(results)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the compaction does comes after it."""


def mortal(store: ObjectStore, writes: int, intercepted: Any, *, takes_effect: bool) -> Any:
    """The store of a process that is killed at its ``writes``-th write, before or after that took effect."""
    left, lock = itertools.count(writes - 1, -1), Lock()
    dead: list[str] = []

    def before(method: str, key: str) -> None:
        with lock:
            if dead:
                raise Killed
            if method in WRITES and next(left) == 0:
                dead.append(key)
                if not takes_effect:
                    raise Killed

    def after(method: str, key: str) -> None:
        if key in dead and method in WRITES:
            raise Killed

    return intercepted(store, before, after)


@pytest.mark.parametrize("takes_effect", [False, True])
def test_killed_at_any_write_nothing_is_lost_or_doubled_and_the_next_compaction_completes_it(
    archive: Any, intercepted: Any, tmp_path: Path, takes_effect: bool
) -> None:
    results = several(archive)
    kills = 0
    for writes in itertools.count(1):
        store = LocalStore(tmp_path / str(writes))
        archive.publish(store, *results)
        try:
            compact(mortal(store, writes, intercepted, takes_effect=takes_effect), archive.clock)
        except Killed:
            kills += 1
        else:
            break
        assert archive.in_order(past(store, **EVER).to_dicts()) == archive.rows(results)
        compact(store, archive.clock)
        assert compacted_rows(archive, store) == archive.rows(results)
        assert archive.keys(store, layout.UNCOMPACTED) == []

    # A deletion for each result, and a swap for each file.
    assert kills == 12 + len(archive.keys(store, layout.HISTORY))


def test_two_compactions_at_once_lose_and_double_nothing(archive: Any, intercepted: Any, store: ObjectStore) -> None:
    old, new = several(archive)[:6], several(archive)[6:]
    archive.publish(store, *old)
    compact(store, archive.clock)
    more = [archive.result(attempt=number, version="1.0.0", partition="2026-01-31") for number in (3, 4, 5)]
    archive.publish(store, *new, *more)

    def colliding() -> Any:
        """Both have read a file before either swaps it."""
        seen: set[str] = set()

        def after(method: str, key: str) -> None:
            if method == "get" and key.startswith(layout.HISTORY) and key not in seen:
                seen.add(key)
                meeting.wait(timeout=60)

        return intercepted(store, after=after)

    meeting = Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(compact, colliding(), archive.clock) for _ in range(2)]

    assert sum(each.result().files for each in done) >= 2
    assert compacted_rows(archive, store) == archive.rows([*old, *new, *more])
    assert archive.keys(store, layout.UNCOMPACTED) == []


def test_two_compactions_of_different_results_of_one_file_keep_both(
    archive: Any, intercepted: Any, store: ObjectStore
) -> None:
    first, second = archive.result(attempt=1), archive.result(attempt=2)
    archive.publish(store, first)

    def meanwhile(method: str, key: str) -> None:
        if method == "compare_and_swap" and not archive.keys(store, layout.HISTORY):
            archive.publish(store, second)
            compact(store, archive.clock)

    # The other one finds both and deletes both markers; the swap of this one is lost.
    assert compact(intercepted(store, before=meanwhile), archive.clock) == Compacted(results=1, files=0)
    assert compacted_rows(archive, store) == archive.rows([first, second])


UNREADABLE: dict[str, Callable[[Any], bytes]] = {
    "cut off": lambda result: result.to_json()[:-40],
    "empty": lambda _: b"",
    "no JSON": lambda _: b"PAR1",
    "of another release": lambda result: result.to_json()[:-1] + b',"unheard_of":1}',
    "of another model": lambda result: result.model_copy(update={"model": "ug-loan"}).to_json(),
    "of another partition": lambda result: result.model_copy(update={"partition": "2026-03-02"}).to_json(),
    "of another attempt": lambda result: result.model_copy(update={"attempt": 7}).to_json(),
    "with a number too large": lambda result: result.to_json().replace(b'"n":150', b'"n":150000000000000000000'),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_result_that_cannot_be_read_is_named_in_the_log_and_keeps_no_other_from_being_compacted(
    archive: Any, local_store: LocalStore, caplog: pytest.LogCaptureFixture, content: Callable[[Any], bytes]
) -> None:
    good, bad = archive.result(attempt=1), archive.result(attempt=2)
    archive.publish(local_store, good, bad)
    key = layout.result(*archive.path(bad))
    local_store.put(key, content(bad))

    assert compact(local_store, archive.clock) == Compacted(results=1, files=1, waiting=1)

    assert compacted_rows(archive, local_store) == archive.rows([good])
    assert archive.keys(local_store, layout.UNCOMPACTED) == [layout.uncompacted(*archive.path(bad))]
    [record] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert key in record.getMessage()

    local_store.put(key, bad.to_json())
    assert compact(local_store, archive.clock) == Compacted(results=1, files=1)
    assert compacted_rows(archive, local_store) == archive.rows([good, bad])


def test_results_that_cannot_be_read_do_not_use_up_the_limit(
    archive: Any, local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring_assets.past.compaction.BATCH", 2)
    results = [archive.result(attempt=number) for number in range(1, 8)]
    archive.publish(local_store, *results)
    for bad in results[:5]:
        local_store.put(layout.result(*archive.path(bad)), b"{}")

    done = compact(local_store, archive.clock, limit=2)

    assert (done.results, done.waiting) == (2, 5)
    assert compacted_rows(archive, local_store) == archive.rows(results[5:])


@pytest.mark.parametrize("damaged", [False, True])
def test_a_marker_waits_seven_days_for_its_result(
    archive: Any, store: ObjectStore, caplog: pytest.LogCaptureFixture, damaged: bool
) -> None:
    result = archive.result()
    key = layout.uncompacted(*archive.path(result))
    store.put(key, b"")
    if damaged:
        store.put(layout.result(*archive.path(result)), b"{")

    archive.age(store, key, timedelta(days=7))
    assert compact(store, archive.clock) == Compacted(waiting=1)
    assert archive.keys(store, layout.UNCOMPACTED) == [key]

    archive.age(store, key, timedelta(days=7, seconds=1))
    assert compact(store, archive.clock) == Compacted(dropped=1)
    assert archive.keys(store, layout.UNCOMPACTED) == []
    assert key in caplog.text


def test_a_result_is_compacted_however_old_its_marker_is(archive: Any, store: ObjectStore) -> None:
    archive.publish(store, archive.result())
    archive.age(store, layout.uncompacted(*archive.path(archive.result())), timedelta(days=70))

    assert compact(store, archive.clock) == Compacted(results=1, files=1)


@pytest.mark.parametrize(
    "key",
    [
        "uncompacted/README",
        "uncompacted/ke-nano-loan/3.2.0/2026-03-01/psi/first",
        "uncompacted/ke-nano-loan/3.2.0/somewhen/psi/0001",
        "uncompacted/ke-nano-loan/3.2.0/2026-03-01/psi/0001/more",
    ],
)
def test_what_is_no_marker_is_left_alone(archive: Any, local_store: LocalStore, key: str) -> None:
    local_store.put(key, b"")
    archive.age(local_store, key, timedelta(days=70))

    assert compact(local_store, archive.clock) == Compacted()
    assert archive.keys(local_store, layout.UNCOMPACTED) == [key]


NEWER = to_parquet(pl.DataFrame({"unheard_of": [1]}))


@pytest.mark.parametrize("content", [b"", b"PAR1 no more", NEWER], ids=["empty", "damaged", "of a newer release"])
def test_a_file_that_cannot_be_read_is_left_as_it_is_named_and_keeps_no_other_from_being_written(
    archive: Any, local_store: LocalStore, content: bytes
) -> None:
    january, february, march = (archive.result(f"2026-0{month}-01") for month in (1, 2, 3))
    archive.publish(local_store, february)
    compact(local_store, archive.clock)
    [key] = archive.keys(local_store, layout.HISTORY)
    local_store.put(key, content)
    again = archive.result("2026-02-01", 2)
    archive.publish(local_store, january, again, march)

    with pytest.raises(InfrastructureError, match=f"{key}: cannot be read.*Compacted besides: 2 results"):
        compact(local_store, archive.clock)

    found = local_store.get(key)
    assert found is not None
    assert found.data == content
    assert archive.keys(local_store, layout.UNCOMPACTED) == [layout.uncompacted(*archive.path(again))]
    assert len(archive.keys(local_store, layout.HISTORY)) == 3


def test_a_file_of_an_older_release_is_extended_and_keeps_its_rows(archive: Any, local_store: LocalStore) -> None:
    old, new = archive.result(attempt=1, reason="moved"), archive.result(attempt=2)
    archive.publish(local_store, old)
    compact(local_store, archive.clock)
    [key] = archive.keys(local_store, layout.HISTORY)
    fields = pl.struct(pl.element().struct.field("metric"), pl.element().struct.field("status"))
    older = to_frame([to_line(old)]).drop("trigger").with_columns(pl.col("metrics").list.eval(fields))
    local_store.put(key, to_parquet(older))
    archive.publish(local_store, new)

    compact(local_store, archive.clock)

    first, second = compacted_rows(archive, local_store)
    assert [second] == archive.rows([new])
    assert (first["reason"], first["trigger"]) == ("moved", None)
    assert [(each["metric"], each["status"], each["n"]) for each in first["metrics"]] == [
        ("psi", "ok", None),
        ("rows", "breach", None),
    ]
