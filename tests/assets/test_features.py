from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from resources.errors import InfrastructureError

FEATURES = ("features",)
DAY = "2026-01-02"
Change = Callable[[pl.DataFrame], pl.DataFrame]


def spoilt(data: bytes) -> bytes:
    """Parquet whose footer is right and whose pages are not."""
    return data[:200] + bytes(byte ^ 0x5A for byte in data[200:2_000]) + data[2_000:]


@pytest.fixture
def version(lender: Any) -> Any:
    """Onboarded, with data for the first and the third of January."""
    lender.land("2026-01-01")
    lender.land("2026-01-03")
    return lender.onboard(precomputed=True, segments=["product"])


def test_the_rows_are_stored_as_the_model_sees_them(lender: Any, run: Any, stored: Any, version: Any) -> None:
    lender.land(DAY)
    recorded = run(version, [DAY], FEATURES)["features", DAY]
    assert (recorded.outcome.state, recorded.result.status, recorded.outcome.rows) == ("materialised", "ok", 400)
    wanted = lender.rows(DAY).select(
        "application_id", "income", pl.col("age").cast(pl.Float64), "region", "product", "vendor_score"
    )
    assert_frame_equal(stored(version, "features", DAY), wanted)


def test_the_pointer_says_which_files_and_what_they_hold(lender: Any, run: Any, version: Any) -> None:
    lender.land(DAY)
    run(version, [DAY], FEATURES)
    current = version.current("features", DAY)
    for file in current.files:
        blob = version.store.get(version.path("features", DAY).file(current.input_digest, file.name))
        assert (hashlib.sha256(blob.data).hexdigest(), len(blob.data)) == (file.sha256, file.size)
    assert [(file.name, file.rows) for file in current.files] == [
        ("part-00000.parquet", 400),
        ("row-hashes.parquet", 0),
    ]
    assert [(each.asset, each.partition) for each in current.inputs] == [("source", DAY)]


def test_rows_are_cut_into_files_of_bounded_size_wherever_they_came_from(
    lender: Any, run: Any, stored: Any, version: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monitoring_assets.assets import source

    monkeypatch.setattr(source, "BATCH_CELLS", 1)  # then a file has the smallest number of rows, 10,000
    rows = lender.rows(DAY, 24_000)
    for number, (first, length) in enumerate([(0, 3), (3, 14_997), (15_000, 9_000)]):
        lender.land(DAY, rows.slice(first, length), name=f"{number}.parquet")
    run(version, [DAY], FEATURES)
    in_three = version.current("features", DAY)
    assert [file.rows for file in in_three.files] == [10_000, 10_000, 4_000, 0]
    assert stored(version, "features", DAY)["application_id"].to_list() == rows["application_id"].to_list()
    lender.land("2026-01-04", rows)
    run(version, ["2026-01-04"], FEATURES)
    assert version.current("features", "2026-01-04").digest == in_three.digest


@pytest.mark.parametrize(
    ("change", "check", "column", "words"),
    [
        pytest.param(
            lambda rows: rows.drop("income"),
            "missing_columns",
            "income",
            "0.parquet has no column 'income'",
            id="feature",
        ),
        pytest.param(
            lambda rows: rows.drop("application_id"),
            "missing_columns",
            "application_id",
            "no column 'application_id'",
            id="key",
        ),
        pytest.param(
            lambda rows: rows.drop("vendor_score"),
            "missing_columns",
            "vendor_score",
            "no column 'vendor_score'",
            id="score",
        ),
        pytest.param(
            lambda rows: rows.drop("product"), "missing_columns", "product", "no column 'product'", id="segment"
        ),
        pytest.param(
            lambda rows: rows.with_columns(pl.col("age").cast(pl.String)),
            "changed_types",
            "age",
            "'age' is stored as text (String), in the reference it was integer",
            id="integer to text",
        ),
        pytest.param(
            lambda rows: rows.with_columns(region=pl.lit(1)),
            "changed_types",
            "region",
            "'region' is stored as integer (Int32), in the reference it was text",
            id="text to integer",
        ),
        pytest.param(
            lambda rows: rows.with_columns(income=pl.concat_list("income")),
            "changed_types",
            "income",
            "'income' is stored as other (List(Float64)), in the reference it was number",
            id="number to list",
        ),
        pytest.param(
            lambda rows: rows.with_columns(vendor_score=pl.lit("low")),
            "changed_types",
            "vendor_score",
            "the score 'vendor_score' is stored as String, and must be a number",
            id="score to text",
        ),
        pytest.param(
            lambda rows: pl.concat([rows, rows.head(3)]),
            "duplicate_keys",
            "application_id",
            "3 of 403 rows repeat an earlier 'application_id'",
            id="duplicate keys",
        ),
        pytest.param(
            lambda rows: rows.with_row_index().with_columns(application_id=pl.when(pl.col("index") > 4).then("index")),
            "null_keys",
            "application_id",
            "5 of 400 rows have no 'application_id'",
            id="null keys",
        ),
    ],
)
def test_a_bad_column_blocks_its_partition_and_no_other(
    lender: Any, go_on: Any, version: Any, change: Change, check: str, column: str, words: str
) -> None:
    place = lender.land(DAY, change(lender.rows(DAY)))
    result = go_on(lender, version, "features")
    assert result.status == "breach"
    assert [(metric.metric, metric.column, metric.status) for metric in result.metrics] == [(check, column, "breach")]
    assert words in result.reason
    assert (
        f"Correct the files of file://{place.rpartition('/')[0]}/*.parquet and run the partition again" in result.reason
    )


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: b"", id="no bytes"),
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: data[:-1], id="one byte short"),
        pytest.param(lambda _: b"application_id,income\n1,2\n" * 50, id="another format"),
        pytest.param(lambda _: b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1", id="absurd footer length"),
        pytest.param(spoilt, id="spoilt pages"),
    ],
)
def test_an_unreadable_file_blocks_its_partition_and_is_named(
    lender: Any, go_on: Any, version: Any, parquet: Any, spoil: Callable[[bytes], bytes]
) -> None:
    lender.land(DAY, name="0-good.parquet")
    lender.land(DAY, spoil(parquet(lender.rows("more"))), name="1-bad.parquet")
    result = go_on(lender, version, "features")
    [metric] = result.metrics
    assert (metric.metric, metric.status) == ("unreadable_files", "breach")
    assert result.reason.startswith("1-bad.parquet: ")
    assert "0-good" not in result.reason


def test_of_several_files_each_bad_one_is_named(lender: Any, go_on: Any, version: Any) -> None:
    lender.land(DAY, name="good.parquet")
    lender.land(DAY, lender.rows("a").drop("income"), name="a.parquet")
    lender.land(DAY, b"", name="b.parquet")
    result = go_on(lender, version, "features")
    assert {metric.metric for metric in result.metrics} == {"missing_columns", "unreadable_files"}
    assert "a.parquet has no column 'income'; b.parquet: " in result.reason
    assert "good.parquet" not in result.reason


def test_files_that_store_the_key_in_two_types_block(lender: Any, go_on: Any, version: Any) -> None:
    lender.land(DAY, name="a.parquet")
    lender.land(DAY, lender.rows("b").with_columns(application_id=pl.int_range(pl.len())), name="b.parquet")
    result = go_on(lender, version, "features")
    assert "'application_id' is stored as String in a.parquet and as Int64 in b.parquet" in result.reason


def test_a_long_list_of_problems_is_cut(lender: Any, run: Any, version: Any) -> None:
    for number in range(8):
        lender.land(DAY, b"x", name=f"{number}.parquet")
    result = run(version, [DAY], FEATURES)["features", DAY].result
    assert len(result.metrics) == 8
    assert "; and 3 more. Correct" in result.reason


@pytest.mark.parametrize(
    ("income", "age"), [(pl.Int32, pl.Float64), (pl.Float32, pl.Int8), (pl.Decimal(20, 4), pl.UInt64)]
)
def test_a_number_is_a_number_in_whatever_type(
    lender: Any, run: Any, stored: Any, version: Any, income: Any, age: Any
) -> None:
    rows = lender.rows(DAY).with_columns(pl.col("income").round().cast(income), pl.col("age").cast(age))
    lender.land(DAY, rows)
    assert run(version, [DAY])["csi", DAY].outcome.state == "materialised"
    found = stored(version, "features", DAY)
    assert found["income"].to_list() == rows["income"].cast(float).to_list()
    assert found["age"].to_list() == rows["age"].cast(float).to_list()


def test_a_missing_partition_is_said_to_be_missing(lender: Any, go_on: Any, version: Any) -> None:
    result = go_on(lender, version, "features", "missing")
    assert result.status == "insufficient_data"
    assert result.reason == f"no file matches {lender.lake_uri}/{DAY}/*.parquet"


def test_data_without_its_marker_has_not_arrived(lender: Any, run: Any) -> None:
    source = {"uri": f"{lender.lake_uri}/{{partition}}/*.parquet", "key": "application_id", "ready": "_SUCCESS"}
    version = lender.onboard(precomputed=True, source=source)
    lender.land(DAY)
    outcome = run(version, [DAY], FEATURES)["features", DAY].outcome
    assert outcome.state == "missing"
    assert outcome.reason == f"the marker _SUCCESS is not there yet beside {lender.lake_uri}/{DAY}/*.parquet"
    lender.land(DAY, b"", name="_SUCCESS")
    assert run(version, [DAY], FEATURES)["features", DAY].outcome.state == "materialised"


def test_a_partition_without_rows_says_so_and_its_neighbours_go_on(lender: Any, run: Any, version: Any) -> None:
    lender.land(DAY, lender.rows(DAY).head(0))
    recorded = run(version, ["2026-01-01", DAY, "2026-01-03"])
    result = recorded["features", DAY].result
    assert (result.status, result.reason) == ("insufficient_data", "the files hold no rows")
    assert {each.outcome.state for each in recorded.values()} == {"materialised"}
    assert recorded["csi", "2026-01-03"].result.status == "ok"


def test_rows_that_occur_twice_are_a_share_of_the_partition(lender: Any, run: Any, version: Any) -> None:
    rows = lender.rows(DAY)
    again = rows.head(40).with_columns(application_id=pl.concat_str(pl.lit("again-"), "application_id"))
    lender.land(DAY, pl.concat([rows, again]))
    result = run(version, [DAY], FEATURES)["features", DAY].result
    [metric] = [metric for metric in result.metrics if metric.status != "ok"]
    assert (metric.metric, metric.status) == ("duplicate_row_excess", "warn")
    assert metric.value == pytest.approx(40 / 440)
    assert result.reason == "9.1% of the rows, beyond what the reference has, equal an earlier row of the partition"


def test_a_repeated_partition_is_a_breach_although_its_keys_are_new(lender: Any, run: Any, version: Any) -> None:
    rows = lender.rows("2026-01-01").with_columns(application_id=pl.concat_str(pl.lit("new-"), "application_id"))
    lender.land(DAY, rows)
    recorded = run(version, ["2026-01-01", DAY, "2026-01-03"], FEATURES)
    result = recorded["features", DAY].result
    [metric] = [metric for metric in result.metrics if metric.status != "ok"]
    assert (metric.metric, metric.value, metric.status) == ("repeated_row_excess", 1.0, "breach")
    assert result.reason.endswith("are in the partition before as well")
    assert recorded["features", DAY].outcome.usable, "a repeat is a verdict, it does not block"
    assert recorded["features", "2026-01-03"].result.status == "ok"


def test_rows_that_repeat_in_the_reference_too_are_natural(lender: Any, run: Any) -> None:
    few = pl.DataFrame({"income": [10.0, 20.0, 20.0] * 700, "region": ["north"] * 2_100, "score": [0.5] * 2_100})
    version = lender.onboard(
        rows=few,
        features=[{"name": "income", "kind": "numeric"}, {"name": "region", "kind": "categorical"}],
        score={"kind": "precomputed"},
    )
    for day in ("2026-01-01", DAY):
        lender.land(day, few.head(100).with_columns(application_id=pl.int_range(100)))
    result = run(version, ["2026-01-01", DAY], FEATURES)["features", DAY].result
    assert result.status == "ok"
    assert [metric.value for metric in result.metrics if "excess" in metric.metric] == [pytest.approx(0, abs=0.01)] * 2


def test_the_first_arrival_stands_after_a_correction(lender: Any, run: Any, version: Any) -> None:
    first, later = datetime(2026, 1, 3, 1, tzinfo=UTC), datetime(2026, 1, 9, 1, tzinfo=UTC)
    lender.land(DAY, at=first)
    run(version, [DAY], FEATURES)
    lender.land(DAY, lender.rows("corrected"), at=later)
    assert run(version, [DAY], FEATURES)["features", DAY].outcome.state == "materialised"
    assert version.current("features", DAY).measured["arrived_at"] == first.isoformat()


def test_data_that_arrived_after_its_time_is_late(lender: Any, run: Any) -> None:
    source = {"uri": f"{lender.lake_uri}/{{partition}}/*.parquet", "key": "application_id", "sla_hours": 6}
    version = lender.onboard(precomputed=True, source=source)
    end = datetime(2026, 1, 3, tzinfo=UTC)
    lender.land(DAY, at=end + timedelta(hours=7.5))
    lender.land("2026-01-01", at=end - timedelta(hours=20))
    recorded = run(version, ["2026-01-01", DAY], FEATURES, trigger="arrival")
    punctual, late = (recorded["features", day].result for day in ("2026-01-01", DAY))
    assert (punctual.status, punctual.metrics[-1].value, punctual.metrics[-1].threshold) == ("ok", 4.0, 6.0)
    assert (late.status, late.metrics[-1].metric, late.metrics[-1].value) == ("warn", "arrival_hours", 7.5)
    assert late.reason == "the data arrived 7.5 h after the partition's end, source.sla_hours is 6"
    assert run(version, [DAY], FEATURES, trigger="backfill")["features", DAY].result == late


def test_lost_row_hashes_of_the_day_before_are_trouble_of_the_store(lender: Any, run: Any, version: Any) -> None:
    lender.land(DAY)
    run(version, ["2026-01-01"], FEATURES)
    [key] = [key for key in lender.listed("data/features") if key.endswith("row-hashes.parquet")]
    lender.store.delete(key)
    with pytest.raises(
        InfrastructureError, match=r"ke-nano-loan 1\.0\.0: the stored features of 2026-01-01 cannot be read"
    ):
        run(version, [DAY], FEATURES)
    run(version, ["2026-01-01"], FEATURES, force=True)
    assert run(version, [DAY], FEATURES)["features", DAY].outcome.state == "materialised"


@pytest.mark.parametrize("step", ["landing", "scan"])
def test_trouble_on_the_way_to_a_file_is_no_verdict_on_it(
    s3_lender: Any, s3_server: Any, fault: Any, run: Any, attempts: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from monitoring_assets.assets import features, source

    version = s3_lender.onboard(precomputed=True)
    place = s3_lender.land(DAY)
    module = features if step == "landing" else source
    working = getattr(module, step)

    def denied(*arguments: Any, **options: Any) -> Any:
        for _ in range(20):
            fault("GET", "403 Forbidden", "AccessDenied")
        return working(*arguments, **options)

    monkeypatch.setattr(module, step, denied)
    with pytest.raises(InfrastructureError) as trouble:
        run(version, [DAY], FEATURES)
    assert place.rpartition("/")[0] in str(trouble.value)
    assert "AccessDenied" in str(trouble.value)
    s3_server.faults.clear()
    monkeypatch.undo()
    for info in version.store.list("leases/"):
        # It could not be given back either; the clock, by which it runs out, stands still.
        version.store.delete(info.key)
    assert attempts(version, DAY, "quality") == []
    assert run(version, [DAY], FEATURES)["features", DAY].result.status == "ok"


def test_a_file_that_vanishes_while_it_is_read_is_no_verdict_on_it(
    lender: Any, run: Any, attempts: Any, version: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monitoring_assets import landing

    place = lender.land(DAY)
    listed = landing.list_files

    def list_and_lose(*arguments: Any, **options: Any) -> Any:
        files = listed(*arguments, **options)
        lender.lake.delete(f"{DAY}/0.parquet")
        return files

    monkeypatch.setattr(landing, "list_files", list_and_lose)
    with pytest.raises(InfrastructureError, match=f"{place} could not be read: No such file"):
        run(version, [DAY], FEATURES)
    assert attempts(version, DAY, "quality") == []
