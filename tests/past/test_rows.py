from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets.past.rows import LEFT_OUT, dtype_of, from_parquet, schema, to_frame, to_line, to_parquet
from monitoring_assets.results import Metric, Result, Status

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    Status: st.sampled_from(get_args(Status)),
    tuple[str, ...]: st.lists(TEXT, max_size=3).map(tuple),
    tuple[int, ...] | None: st.none() | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple),
    str | None: st.none() | TEXT,
    bool | None: st.none() | st.booleans(),
    int | None: st.none() | st.integers(-(2**63), 2**63 - 1),
    float | None: st.none() | st.floats(allow_nan=False, allow_infinity=False),
}
METRIC = st.builds(Metric, **{name: VALUES[field.annotation] for name, field in Metric.model_fields.items()})
MOMENT = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@settings(max_examples=200, deadline=None)
@given(metrics=st.lists(METRIC, max_size=3), reason=TEXT, recorded_at=MOMENT)
def test_a_row_says_of_a_result_exactly_what_the_result_says_also_after_it_was_in_a_file(
    archive: Any, metrics: list[Metric], reason: str, recorded_at: datetime
) -> None:
    result = archive.result(metrics=metrics, reason=reason, recorded_at=recorded_at)
    rows = to_frame([to_line(result)])

    assert rows.to_dicts() == archive.rows([result])
    assert from_parquet(to_parquet(rows), newer=False).collect().equals(rows, null_equal=True)


def test_the_columns_are_those_of_a_result_without_its_inputs() -> None:
    assert set(schema()) == {
        "model",
        "version",
        "partition",
        "kind",
        "asset",
        "attempt",
        "status",
        "reason",
        "recorded_at",
        "trigger",
        "live",
        "metrics",
    }
    assert set(schema()) | LEFT_OUT == set(Result.model_fields)


def test_every_field_of_a_metric_has_its_place_in_a_row() -> None:
    metrics = schema()["metrics"]

    assert isinstance(metrics, pl.List)
    assert isinstance(metrics.inner, pl.Struct)
    assert [field.name for field in metrics.inner.fields] == list(Metric.model_fields)


def test_a_field_that_a_metric_gains_is_in_the_rows_without_being_named_a_second_time() -> None:
    class Gained(Metric):
        certain: bool | None = None
        colour: Literal["red", "green"] | None = None

    found = dtype_of(tuple[Gained, ...])

    assert isinstance(found, pl.List)
    assert isinstance(found.inner, pl.Struct)
    assert found.inner.fields[-2:] == [pl.Field("certain", pl.Boolean), pl.Field("colour", pl.String)]


@pytest.mark.parametrize("annotation", [date, dict[str, float], int | str, tuple[int, str], Literal["a", 1]])
def test_a_field_of_a_type_that_no_column_holds_is_refused_by_name(annotation: Any) -> None:
    with pytest.raises(TypeError, match="no column can hold"):
        dtype_of(annotation)


def test_rows_of_an_older_release_are_read_with_nulls_for_what_it_did_not_know(archive: Any) -> None:
    rows = to_frame([to_line(archive.result(reason="drift"))])
    older = rows.drop("live").with_columns(
        pl.col("metrics").list.eval(pl.struct(pl.element().struct.field("value"), pl.element().struct.field("metric")))
    )

    [found] = from_parquet(to_parquet(older), newer=False).collect().to_dicts()

    assert found["live"] is None
    assert found["reason"] == "drift"
    assert [(each["metric"], each["value"], each["note"]) for each in found["metrics"]] == [
        ("psi", 0.1 + 0.2, None),
        ("rows", 150.0, None),
    ]


def test_a_file_from_before_counts_and_bands_is_merged_with_results_that_have_them(archive: Any) -> None:
    gained = ["band", "null_share", "reference_null_share", "counts", "reference_counts"]
    metric = Metric(
        metric="psi", band=0.02, null_share=0.5, reference_null_share=0.0, counts=(3, 0), reference_counts=(2, 1)
    )
    old, new = archive.result(attempt=1), archive.result(attempt=2, metrics=(metric,))
    fields = [name for name in Metric.model_fields if name not in gained]
    older = to_frame([to_line(old)]).with_columns(
        pl.col("metrics").list.eval(pl.struct(pl.element().struct.field(name) for name in fields))
    )

    merged = pl.concat([from_parquet(to_parquet(older), newer=False).collect(), to_frame([to_line(new)])])

    assert merged.to_dicts() == archive.rows([old, new])
    assert [[metric["counts"] for metric in row["metrics"]] for row in merged.to_dicts()] == [[None, None], [[3, 0]]]


@pytest.mark.parametrize("where", ["row", "metric"])
def test_what_a_newer_release_wrote_is_left_out_when_reading_and_refused_when_it_would_be_lost(
    archive: Any, where: str
) -> None:
    rows = to_frame([to_line(archive.result())])
    more = {
        "row": pl.lit(1).alias("unheard_of"),
        "metric": pl.col("metrics").list.eval(pl.element().struct.with_fields(unheard_of=pl.lit(1))),
    }
    written = to_parquet(rows.with_columns(more[where]))

    assert from_parquet(written, newer=True).collect().equals(rows, null_equal=True)
    with pytest.raises(pl.exceptions.PolarsError, match="unheard_of"):
        from_parquet(written, newer=False).collect()
