"""The counting pass against a counter that looks at one value at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resources.engines import cells, tally
from resources.engines.counting import (
    WHOLE,
    CategoricalColumn,
    Column,
    CountPlan,
    Counts,
    NumericColumn,
    SegmentColumn,
)
from resources.engines.polars_counting import count_parquet
from resources.errors import BadInput, InfrastructureError

INF, NAN = math.inf, math.nan
AMOUNT = NumericColumn("amount", (0.0, 5.0), (1.0, 2.5, 4.0), (-999.0,), False, (-3.0, -1.0, 6.0, 8.0))
TERM = NumericColumn("term", (1.0, 2.0, 3.0), (), (-1.0,), True, (1.0, 1.0, 3.0, 3.0))
REGION = CategoricalColumn("region", ("north", "south", ""), ("n/a",))
RATING = CategoricalColumn("rating", ("1", "2"), ())
OWNER = CategoricalColumn("owner", ("true", "false"), ())
SCORE = NumericColumn("score", (), (0.1, 0.25, 0.5), (), False, (0.0, 0.01, 0.9, 1.0))
PLAN = CountPlan(
    columns=(AMOUNT, TERM, REGION, RATING, OWNER, SCORE),
    score="score",
    score_range=(0.0, 1.0),
    segments=(SegmentColumn("channel", ("app", "branch")), SegmentColumn("region", ("south", "other"))),
)
SCHEMA = {
    "amount": pl.Float64,
    "term": pl.Float64,
    "region": pl.String,
    "rating": pl.Int64,
    "owner": pl.Boolean,
    "channel": pl.String,
    "score": pl.Float64,
}


def bin_of(column: Column, value: Any) -> int:
    """The bin of one value, by the definition."""
    if value is None or value != value:
        return column.bins - 1
    if isinstance(column, CategoricalColumn):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return column.known.index(text) if text in column.known else len(column.known)
    ranges = [] if column.unseen else [-INF, *column.edges, INF]
    start = len(column.points) + max(len(ranges) - 1, 0)
    if value in column.specials:
        return start + column.specials.index(value)
    if value in column.points:
        return column.points.index(value)
    if column.unseen:
        return column.bins - 2
    if value == -INF:
        return len(column.points)
    [place] = [n for n, (low, high) in enumerate(zip(ranges, ranges[1:], strict=False)) if low < value <= high]
    return len(column.points) + place


def tails_of(column: Column, value: Any) -> list[int]:
    """Which tails one value lies outside of, by the definition."""
    if not isinstance(column, NumericColumn) or column.tails is None or value is None or value != value:
        return [0] * 4
    lowest, low, high, highest = column.tails
    valid = value not in column.specials
    return [int(valid and outside) for outside in (value < lowest, value < low, value > high, value > highest)]


def non_finite_of(column: Column, value: Any) -> list[int]:
    numeric = isinstance(column, NumericColumn) and value is not None
    return [int(numeric and abs(value) == INF), int(numeric and value != value)]


def micros_of(plan: CountPlan, score: float | None) -> int | None:
    """The score in micro-units, None when it is invalid."""
    if score is None or not math.isfinite(score):
        return None
    low, high = plan.score_range
    return round(min(max(score, low), high) * 1e6)


def part_of(segment: SegmentColumn, value: str | None) -> tuple[str, str]:
    if value is None:
        return segment.name, "null"
    return segment.name, value if value in segment.values else "other"


def one_by_one(frame: pl.DataFrame, plan: CountPlan) -> Counts:
    """Count a frame value by value, with nothing in common with the engine."""
    counts = Counts.zero(plan)
    invalid = 0
    for row in frame.iter_rows(named=True):
        micros = micros_of(plan, row[plan.score]) if plan.score else None
        if plan.score and micros is None:
            invalid += 1
        if micros is not None:
            low, high = (Fraction(round(end * 1e6)) for end in plan.score_range)
            cell = math.floor((micros - low) / (high - low) * 10_000)
            counts.score_cells[min(cell, 9_999)] += 1
        for part in {WHOLE, *(part_of(segment, row[segment.name]) for segment in plan.segments)}:
            for column in plan.columns:
                value = row[column.name]
                counts.bins[part][column.name][bin_of(column, value)] += 1
                counts.score_sums[part][column.name][bin_of(column, value)] += micros or 0
                counts.tails[part][column.name][:] += tails_of(column, value)
                counts.non_finite[part][column.name][:] += non_finite_of(column, value)
    return replace(counts, rows=frame.height, invalid_scores=invalid)


def assert_equal(found: Counts, expected: Counts) -> None:
    assert (found.rows, found.invalid_scores) == (expected.rows, expected.invalid_scores)
    np.testing.assert_array_equal(found.score_cells, expected.score_cells)
    assert found.bins.keys() == expected.bins.keys()
    for kind in ("bins", "score_sums", "tails", "non_finite"):
        for part, columns in getattr(expected, kind).items():
            for name, vector in columns.items():
                got = getattr(found, kind)[part][name]
                assert got.dtype == np.int64
                np.testing.assert_array_equal(got, vector, err_msg=f"{kind} {part} {name}")


def write(folder: Path, frames: list[pl.DataFrame], name: str = "rows") -> list[str]:
    paths = [str(folder / f"{name}-{number}.parquet") for number in range(len(frames))]
    for frame, path in zip(frames, paths, strict=True):
        frame.write_parquet(path, row_group_size=7)
    return paths


def around(*values: float) -> st.SearchStrategy[float]:
    """Values at, right below and right above the given ones: where bins are decided."""
    near = [f(value) for value in values for f in (float, lambda v: np.nextafter(v, -INF), lambda v: np.nextafter(v, INF))]
    return st.sampled_from([float(value) for value in near])


numbers = st.none() | st.floats() | around(0, 5, 1, 2.5, 4, -999, -3, -1, 6, 8, 2, 3) | st.sampled_from([INF, -INF, NAN, -0.0])
scores = st.none() | st.floats(0, 1) | around(0, 0.1, 0.25, 0.5, 0.01, 0.9, 1) | st.sampled_from([NAN, INF, -INF, -2.0, 7.0])
rows = st.fixed_dictionaries(
    {
        "amount": numbers,
        "term": numbers,
        "region": st.none() | st.sampled_from(["north", "south", "", "n/a", "<script>", "null", "other"]) | st.text(max_size=20),
        "rating": st.none() | st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1),
        "owner": st.none() | st.booleans(),
        "channel": st.none() | st.sampled_from(["app", "branch", "agent"]),
        "score": scores,
    }
)
frames = st.lists(st.lists(rows, max_size=25).map(lambda some: pl.DataFrame(some, schema=SCHEMA)), min_size=1, max_size=3)


@given(frames)
@settings(max_examples=150, deadline=None)
def test_counts_are_those_of_counting_one_by_one(tmp_path_factory: pytest.TempPathFactory, some: list[pl.DataFrame]) -> None:
    folder = tmp_path_factory.mktemp("counting")
    found = count_parquet(write(folder, some), PLAN, score_paths=None)
    assert_equal(found, one_by_one(pl.concat(some), PLAN))


@given(frames)
@settings(max_examples=50, deadline=None)
def test_the_sum_of_days_is_the_count_of_all_their_rows(
    tmp_path_factory: pytest.TempPathFactory, some: list[pl.DataFrame]
) -> None:
    paths = write(tmp_path_factory.mktemp("counting"), some)
    days = [count_parquet([path], PLAN, score_paths=None) for path in paths]
    assert_equal(sum(days[1:], start=days[0]), count_parquet(paths, PLAN, score_paths=None))
    assert_equal(days[0] + Counts.zero(PLAN), days[0])
