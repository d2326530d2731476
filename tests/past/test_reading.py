from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets import layout
from monitoring_assets.past.compaction import compact
from monitoring_assets.past.markers import PARTS
from monitoring_assets.past.reading import past, past_in_parts
from monitoring_assets.past.rows import schema, to_frame, to_line, to_parquet
from resources.errors import InfrastructureError
from resources.object_store import LocalStore, ObjectStore

EVER = {"since": date(2000, 1, 1), "until": date(2100, 1, 1)}


def found(archive: Any, store: Any, **period: Any) -> list[dict[str, Any]]:
    return archive.in_order(past(store, **(period or EVER)).to_dicts())


def compacted(archive: Any, store: ObjectStore, *results: Any) -> None:
    archive.publish(store, *results)
    compact(store, archive.clock)


def test_before_anything_was_found_out_the_past_is_empty(store: ObjectStore) -> None:
    assert past(store, **EVER).is_empty()
    assert past(store, **EVER).schema == schema()
    assert past(store, **EVER, columns=["model", "live"]).columns == ["model", "live"]


def test_results_are_read_whether_compacted_published_or_neither(archive: Any, store: ObjectStore) -> None:
    first, second, third = (archive.result(attempt=number) for number in (1, 2, 3))
    compacted(archive, store, first)
    archive.publish(store, second)
    archive.write(store, third)

    assert found(archive, store) == archive.rows([first, second, third])


def test_a_result_that_is_compacted_and_still_has_its_markers_is_one_row(archive: Any, store: ObjectStore) -> None:
    result = archive.result()
    compacted(archive, store, result)
    archive.publish(store, result)
    archive.write(store, result)

    assert found(archive, store) == archive.rows([result])


def test_a_marker_without_its_result_and_a_damaged_result_keep_no_other_from_being_read(
    archive: Any, local_store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    good, coming, bad = (archive.result(attempt=number) for number in (1, 2, 3))
    archive.write(local_store, good, coming, bad)
    local_store.delete(layout.result(*archive.path(coming)))
    local_store.put(layout.result(*archive.path(bad)), b"{}")

    assert found(archive, local_store) == archive.rows([good])
    assert layout.result(*archive.path(bad)) in caplog.text
    assert layout.result(*archive.path(coming)) not in caplog.text


DATED = {
    "2025-12-31": "2025-12-31",
    "2026-01-01": "2026-01-01",
    "2025-12-29": "2025-12-29",
    "2025-12-31-23:00": "2025-12-31",
    "2026-01-01-00:00": "2026-01-01",
    "registry": "2026-01-01",
}


@pytest.mark.parametrize("compacting", [True, False])
@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2025-12-31", "2026-01-01"),
        ("2026-01-01", "2026-01-02"),
        ("2025-12-01", "2026-01-01"),
        ("2025-12-30", "2026-02-01"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-02", "2025-12-01"),
    ],
)
def test_a_period_holds_its_first_date_and_not_its_last(
    archive: Any, local_store: LocalStore, since: str, until: str, compacting: bool
) -> None:
    recorded_at = datetime(2026, 1, 1, 23, 59, tzinfo=UTC)
    results = {partition: archive.result(partition, recorded_at=recorded_at) for partition in DATED}
    archive.publish(local_store, *results.values())
    if compacting:
        compact(local_store, archive.clock)

    expected = [result for partition, result in results.items() if since <= DATED[partition] < until]
    period = {"since": date.fromisoformat(since), "until": date.fromisoformat(until)}
    assert found(archive, local_store, **period) == archive.rows(expected)


def test_only_the_months_of_the_period_are_opened(archive: Any, local_store: LocalStore) -> None:
    january, march = archive.result("2026-01-31"), archive.result("2026-03-01")
    compacted(archive, local_store, january, march)
    for key in archive.keys(local_store, layout.HISTORY):
        if "2026-03" in key:
            local_store.put(key, b"damaged")

    assert found(archive, local_store, since=date(2026, 1, 1), until=date(2026, 3, 1)) == archive.rows([january])


@pytest.mark.parametrize("compacting", [True, False])
def test_only_the_models_and_columns_that_are_asked_for_are_given(
    archive: Any, local_store: LocalStore, compacting: bool
) -> None:
    for number in range(40):
        archive.publish(local_store, archive.result(model=f"model-{number}", version="2.0.0", live=number % 2 == 0))
    if compacting:
        compact(local_store, archive.clock)

    rows = past(local_store, **EVER, models={"model-3", "model-4", "none"}, columns=["live", "model"])

    assert rows.columns == ["live", "model"]
    assert sorted(rows.rows(), key=lambda row: row[1]) == [(False, "model-3"), (True, "model-4")]
    assert past(local_store, **EVER, models=[]).is_empty()


def test_a_column_that_there_is_not_is_refused_with_those_that_there_are(local_store: LocalStore) -> None:
    with pytest.raises(ValueError, match="no column runs, only model, version"):
        past(local_store, **EVER, columns=["model", "runs"])


def test_a_version_is_whole_in_one_part_and_in_order(archive: Any, local_store: LocalStore) -> None:
    partitions = ("2026-03-01", "2026-01-31", "2026-02-01")
    for number in range(40):
        for partition in partitions:
            results = [archive.result(partition, attempt, version=f"{number}.0") for attempt in (2, 1)]
            compacted(archive, local_store, results[0])
            archive.publish(local_store, results[1])

    parts = [part.rows() for part in past_in_parts(local_store, **EVER, columns=["version", "partition", "attempt"])]

    assert len(parts) == PARTS
    assert [part == sorted(part) for part in parts] == [True] * PARTS
    assert sorted(row for part in parts for row in part) == sorted(
        (f"{number}.0", partition, attempt) for number in range(40) for partition in partitions for attempt in (1, 2)
    )
    assert sum(len({version for version, *_ in part}) for part in parts) == 40


def test_a_damaged_file_is_named(archive: Any, store: ObjectStore) -> None:
    compacted(archive, store, archive.result("2026-01-01"), archive.result("2026-02-01"))
    key = next(key for key in archive.keys(store, layout.HISTORY) if "2026-02" in key)
    store.put(key, b"PAR1 no more")

    with pytest.raises(InfrastructureError, match=key):
        past(store, **EVER)


def test_a_file_of_a_newer_release_is_read_without_what_is_new(archive: Any, store: ObjectStore) -> None:
    result = archive.result()
    compacted(archive, store, result)
    [key] = archive.keys(store, layout.HISTORY)
    store.put(key, to_parquet(to_frame([to_line(result)]).with_columns(unheard_of=pl.lit(1))))

    assert found(archive, store) == archive.rows([result])


MOMENTS: dict[str, Callable[[str, str], bool]] = {
    "the unpublished are listed": lambda method, key: method == "list" and key == layout.PENDING,
    "the published are listed": lambda method, key: method == "list" and key == layout.UNCOMPACTED,
    "a result is read": lambda method, key: method == "get" and key.startswith("results/"),
    "the files are listed": lambda method, key: method == "list" and key == layout.HISTORY,
    "a file is opened": lambda method, _: method == "location",
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("compacting", [False, True], ids=["published", "published and compacted"])
def test_nothing_is_missed_or_doubled_by_what_happens_to_it_while_it_is_read(
    archive: Any,
    store: ObjectStore,
    intercepted: Any,
    moment: Callable[[str, str], bool],
    when: str,
    compacting: bool,
) -> None:
    old, published, written = (archive.result(attempt=number) for number in (1, 2, 3))
    compacted(archive, store, old)
    archive.publish(store, published)
    archive.write(store, written)
    times = []

    def meanwhile(method: str, key: str) -> None:
        if moment(method, key) and not times:
            times.append(method)
            archive.publish(store, written)
            if compacting:
                compact(store, archive.clock)

    assert found(archive, intercepted(store, **{when: meanwhile})) == archive.rows([old, published, written])
    assert len(times) == 1
    assert len(archive.keys(store, layout.UNCOMPACTED)) == (0 if compacting else 2)


def test_files_that_never_stand_still_are_an_error_and_no_guess(
    archive: Any, local_store: LocalStore, intercepted: Any
) -> None:
    compacted(archive, local_store, archive.result())
    numbers = iter(range(2, 100))

    def again(method: str, key: str) -> None:
        if method == "location":
            compacted(archive, local_store, archive.result(attempt=next(numbers)))

    with pytest.raises(InfrastructureError, match="replaced again and again"):
        past(intercepted(local_store, before=again), **EVER)


STATES = ("written", "published", "compacted", "compacted with its marker")
PARTITIONS = st.sampled_from(
    ["2025-12-29", "2025-12-31", "2026-01-01", "2026-02-28", "2025-12-31-23:00", "2026-01-01-00:00", "registry"]
)
DATES = st.dates(date(2025, 12, 28), date(2026, 3, 2))


@settings(max_examples=60, deadline=None)
@given(
    written=st.dictionaries(
        st.tuples(st.sampled_from(["a", "b"]), PARTITIONS, st.sampled_from(["psi", "csi"]), st.integers(1, 3)),
        st.tuples(st.sampled_from(STATES), st.datetimes(datetime(2025, 12, 1), datetime(2026, 3, 31))),  # noqa: DTZ001
        max_size=12,
    ),
    since=DATES,
    until=DATES,
)
def test_the_past_is_what_was_written_whatever_part_of_it_has_been_compacted(
    archive: Any, written: dict[Any, tuple[str, datetime]], since: date, until: date
) -> None:
    results = {state: [] for state in STATES}
    expected = []
    for (model, partition, kind, attempt), (state, moment) in written.items():
        result = archive.result(partition, attempt, model=model, kind=kind, recorded_at=moment.replace(tzinfo=UTC))
        results[state].append(result)
        dated = f"{moment:%Y-%m-%d}" if partition == "registry" else partition[:10]
        if since.isoformat() <= dated < until.isoformat():
            expected.append(result)
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        compacted(archive, store, *results["compacted"], *results["compacted with its marker"])
        archive.publish(store, *results["compacted with its marker"], *results["published"])
        archive.write(store, *results["written"])

        assert found(archive, store, since=since, until=until) == archive.rows(expected)
