"""The counting pass, against a counter that looks at one value at a time and shares nothing with it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.engines import cells, polars_counting, tally
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
BARE = NumericColumn("bare", (), (), (), False, None)
REGION = CategoricalColumn("region", ("north", "south", ""), ("n/a",))
RATING = CategoricalColumn("rating", ("1", "2"), ())
OWNER = CategoricalColumn("owner", ("true", "false"), ())
SCORE = NumericColumn("score", (), (0.1, 0.25, 0.5), (), False, (0.0, 0.01, 0.9, 1.0))
PLAN = CountPlan(
    columns=(AMOUNT, TERM, BARE, REGION, RATING, OWNER, SCORE),
    score="score",
    score_range=(0.0, 1.0),
    segments=(SegmentColumn("channel", ("app", "branch")), SegmentColumn("region", ("south", "other"))),
)
WITHOUT_SEGMENTS = replace(PLAN, segments=())
SCHEMA = {
    "amount": pl.Float64,
    "term": pl.Float32,
    "bare": pl.Int64,
    "region": pl.String,
    "rating": pl.Int64,
    "owner": pl.Boolean,
    "channel": pl.String,
    "score": pl.Float64,
}


def bin_of(column: Column, value: Any) -> int:
    """The bin of one value, by the definition."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return column.bins - 1
    if isinstance(column, CategoricalColumn):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return column.known.index(text) if text in column.known else column.bins - 2
    ranges = [] if column.unseen else list(pairwise([-INF, *column.edges, INF]))
    inside = [place for place, (low, high) in enumerate(ranges) if low < value <= high or value == low == -INF]
    if value in column.points:
        return column.points.index(value)
    if value in column.specials:
        return len(column.points) + len(ranges) + column.specials.index(value)
    return column.bins - 2 if column.unseen else len(column.points) + inside[0]


def tails_of(column: Column, value: Any) -> list[bool]:
    """Whether one value is below the minimum, below p0.1, above p99.9, above the maximum."""
    tails = column.tails if isinstance(column, NumericColumn) else None
    if tails is None or value is None or math.isnan(value) or value in column.specials:
        return [False] * 4
    return [value < tails[0], value < tails[1], value > tails[2], value > tails[3]]


def non_finite_of(column: Column, value: Any) -> list[bool]:
    """Whether one value is infinite, whether it is NaN."""
    if isinstance(column, CategoricalColumn) or value is None:
        return [False, False]
    return [math.isinf(value), math.isnan(value)]


def micros_of(plan: CountPlan, score: float | None) -> int | None:
    """The score in micro-units; None when it is invalid."""
    if score is None or not math.isfinite(score):
        return None
    return round(min(max(score, plan.score_range[0]), plan.score_range[1]) * 1e6)


def part_of(segment: SegmentColumn, value: str | None) -> tuple[str, str]:
    """The population of one row in one segment."""
    if value is None:
        return segment.name, "null"
    return segment.name, value if value in segment.values else "other"


def one_by_one(frame: pl.DataFrame, plan: CountPlan) -> Counts:
    """The counts of a frame."""
    counts = Counts.zero(plan)
    invalid = 0
    low, high = (round(end * 1_000_000) for end in plan.score_range)
    for row in frame.iter_rows(named=True):
        micros = micros_of(plan, row[plan.score]) if plan.score else 0
        invalid += micros is None
        if plan.score and micros is not None:
            counts.score_cells[min((micros - low) * 10_000 // (high - low), 9_999)] += 1
        for part in {WHOLE, *(part_of(segment, row[segment.name]) for segment in plan.segments)}:
            for column in plan.columns:
                value = row[column.name]
                counts.bins[part][column.name][bin_of(column, value)] += 1
                counts.score_sums[part][column.name][bin_of(column, value)] += micros or 0
                counts.tails[part][column.name][:] += tails_of(column, value)
                counts.non_finite[part][column.name][:] += non_finite_of(column, value)
    return replace(counts, rows=frame.height, invalid_scores=invalid)


def assert_equal(found: Counts, expected: Counts) -> None:
    """Every number equal, bit for bit."""
    assert (found.rows, found.invalid_scores) == (expected.rows, expected.invalid_scores)
    np.testing.assert_array_equal(found.score_cells, expected.score_cells)
    for kind in ("bins", "score_sums", "tails", "non_finite"):
        got, wanted = getattr(found, kind), getattr(expected, kind)
        assert got.keys() == wanted.keys()
        for part, columns in wanted.items():
            assert got[part].keys() == columns.keys()
            for name, vector in columns.items():
                assert got[part][name].dtype == np.int64
                np.testing.assert_array_equal(got[part][name], vector, err_msg=f"{kind} {part} {name}")


def write(folder: Path, parts: list[pl.DataFrame], name: str = "rows") -> list[str]:
    """Write each frame to a file of small row groups."""
    paths = [str(folder / f"{name}-{number}.parquet") for number in range(len(parts))]
    for part, path in zip(parts, paths, strict=True):
        part.write_parquet(path, row_group_size=max(7, part.height // 20))
    return paths


def near(*values: float) -> st.SearchStrategy[float]:
    """Values at, right below and right above the given ones, where bins are decided."""
    return st.sampled_from([float(v) for value in values for v in (value, *np.nextafter(value, (-INF, INF)))])


odd = st.sampled_from([None, INF, -INF, NAN, -0.0, 1e308, -1e308, 5e-324])
regions = ["north", "south", "", "n/a", "<script>", "null", "other", "a region whose name is rather long"]
rows = st.fixed_dictionaries(
    {
        "amount": odd | st.floats() | near(0, 5, 1, 2.5, 4, -999, -3, -1, 6, 8),
        "term": odd | st.sampled_from([1.0, 2.0, 3.0, 4.0, 0.5, -1.0]) | st.floats(width=32),
        "bare": st.none() | st.integers(-(2**63), 2**63 - 1),
        "region": st.none() | st.sampled_from(regions) | st.text(max_size=20),
        "rating": st.none() | st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1),
        "owner": st.none() | st.booleans(),
        "channel": st.none() | st.sampled_from(["app", "branch", "agent"]),
        "score": odd | st.floats(0, 1) | near(0, 0.1, 0.25, 0.5, 0.01, 0.9, 1) | st.sampled_from([-2.0, 7.0]),
    }
)
parts = st.lists(st.lists(rows, max_size=25).map(lambda some: pl.DataFrame(some, SCHEMA, strict=False)), min_size=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all examples of a property; each example overwrites its files."""
    return tmp_path_factory.mktemp("counting")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, tables and comparisons so small that few rows need many of them, and binary searches."""
    for module in (cells, tally, polars_counting):
        monkeypatch.setattr(module, "BLOCK_ROWS", 4)
    monkeypatch.setattr(tally, "TABLE_CELLS", 300)
    monkeypatch.setattr(cells, "COMPARED", 4)


@given(parts.filter(lambda some: len(some) <= 3), st.sampled_from([PLAN, WITHOUT_SEGMENTS]))
@settings(max_examples=100, deadline=None)
def test_counts_are_those_of_counting_one_by_one(folder: Path, some: list[pl.DataFrame], plan: CountPlan) -> None:
    assert_equal(count_parquet(write(folder, some), plan, score_paths=None), one_by_one(pl.concat(some), plan))


@given(parts)
@settings(max_examples=30, deadline=None)
def test_the_sum_of_days_is_the_count_of_all_their_rows(folder: Path, some: list[pl.DataFrame]) -> None:
    paths = write(folder, some)
    total = Counts.zero(PLAN)
    for path in paths:
        total = total + count_parquet([path], PLAN, score_paths=None)
    assert_equal(total, count_parquet(paths, PLAN, score_paths=None))


def population(number: int, seed: int = 1) -> pl.DataFrame:
    """Many rows of every kind, for more than one block."""
    generator = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "amount": generator.normal(2, 3, number).round(1),
            "term": generator.integers(0, 5, number).astype(np.float32),
            "bare": generator.integers(-9, 9, number),
            "region": generator.choice(regions, number).tolist(),
            "rating": generator.integers(0, 4, number),
            "owner": generator.random(number) < 0.5,
            "channel": generator.choice(["app", "branch", "agent"], number).tolist(),
            "score": generator.beta(2, 8, number),
        },
        SCHEMA,
        strict=False,
    )
    missing = [pl.when(pl.Series(generator.random(number) > 0.1)).then(pl.col(name)).alias(name) for name in SCHEMA]
    return frame.with_columns(missing)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("plan", [PLAN, WITHOUT_SEGMENTS])
def test_neither_blocks_nor_tables_nor_the_way_of_searching_change_a_count(tmp_path: Path, plan: CountPlan) -> None:
    frame = population(300).with_columns(
        pl.when(pl.int_range(pl.len()) % 11 == 0).then(NAN).otherwise(pl.col("amount")).alias("amount")
    )
    assert_equal(count_parquet(write(tmp_path, [frame]), plan, score_paths=None), one_by_one(frame, plan))


@pytest.mark.parametrize(
    ("low", "high"), [(300.0, 850.0), (-12.5, 12.5), (-100_000.0, 100_000.0), (0.25, 0.251), (-9.0, -3.0)]
)
def test_score_sums_are_exact_on_every_scale_whatever_is_packed_together(
    tmp_path: Path, low: float, high: float
) -> None:
    frame = population(6_000).with_columns(low + (high - low) * pl.col("score").alias("score") * 1.01)
    plan = replace(PLAN, score_range=(low, high), columns=(TERM, OWNER), segments=())
    found = count_parquet(write(tmp_path, [frame, frame]), plan, score_paths=None)
    both = one_by_one(frame, plan)
    assert_equal(found, both + both)
    assert int(both.score_sums[WHOLE]["term"].sum()) == int(both.score_sums[WHOLE]["owner"].sum())


@pytest.mark.parametrize("high", [1.0, 850.0, 100_000.0])
def test_many_equal_rows_with_the_highest_score_do_not_overflow(tmp_path: Path, high: float) -> None:
    plan = CountPlan((OWNER, TERM), "score", (-high, high), ())
    frame = population(1).with_columns(owner=pl.lit(True), term=pl.lit(2.0), score=pl.lit(high))
    paths = write(tmp_path, [pl.concat([frame] * 30_000)])
    found = count_parquet(paths * 3, plan, score_paths=None)
    assert found.bins[WHOLE]["owner"].tolist() == [90_000, 0, 0, 0]
    assert found.score_sums[WHOLE]["term"].tolist() == [0, 90_000 * round(high * 1e6), 0, 0, 0, 0]


def test_numbers_counted_as_categories_compare_as_text_and_nan_is_null(tmp_path: Path) -> None:
    frame = pl.DataFrame({"grade": [1.0, 2.5, 2.5, NAN, None, 7.0]})
    plan = CountPlan((CategoricalColumn("grade", ("1.0", "2.5"), ()),), None, (0.0, 1.0), ())
    found = count_parquet(write(tmp_path, [frame]), plan, score_paths=None)
    assert found.bins[WHOLE]["grade"].tolist() == [1, 2, 1, 2]


def test_thousands_of_categories_and_of_segment_values_are_counted(tmp_path: Path) -> None:
    codes = np.random.default_rng(5).integers(0, 3_000, 4_000)
    frame = pl.DataFrame({"shop": [f"shop {code}" for code in codes], "day": [f"day {code % 400}" for code in codes]})
    shops = CategoricalColumn("shop", tuple(f"shop {number}" for number in range(2_500)), ())
    points = NumericColumn("number", tuple(map(float, range(0, 600, 2))), (), (), True, None)
    plan = CountPlan((shops, points), None, (0.0, 1.0), (SegmentColumn("day", tuple(f"day {n}" for n in range(350))),))
    frame = frame.with_columns(number=pl.Series(codes % 601))
    assert_equal(count_parquet(write(tmp_path, [frame]), plan, score_paths=None), one_by_one(frame, plan))


@pytest.mark.parametrize("stored", [pl.Categorical, pl.Enum(sorted(regions))])
def test_dictionary_encoded_text_counts_as_text(tmp_path: Path, stored: pl.DataType) -> None:
    frame = population(500)
    encoded = frame.with_columns(pl.col("region").cast(stored))
    assert_equal(count_parquet(write(tmp_path, [encoded]), PLAN, score_paths=None), one_by_one(frame, PLAN))


def test_no_files_and_files_without_rows_count_nothing(tmp_path: Path) -> None:
    empty = write(tmp_path, [population(0), population(0)])
    for paths, score_paths in ((empty, None), ([], None), ([], []), (empty, empty)):
        found = count_parquet(paths, PLAN, score_paths=score_paths)
        assert_equal(found, Counts.zero(PLAN))


def test_scores_may_stand_in_files_of_their_own_cut_differently(tmp_path: Path) -> None:
    frame = population(1_000)
    features = write(tmp_path, [frame.drop("score").head(10), frame.drop("score").slice(10)], "features")
    scores = write(tmp_path, [frame.select("score").head(700), frame.select("score").slice(700)], "scores")
    assert_equal(count_parquet(features, PLAN, score_paths=scores), one_by_one(frame, PLAN))


def test_the_score_files_win_over_a_score_among_the_features(tmp_path: Path) -> None:
    frame = population(50)
    stale = write(tmp_path, [frame.with_columns(score=pl.lit(0.99))], "features")
    scores = write(tmp_path, [frame.select("score")], "scores")
    assert_equal(count_parquet(stale, PLAN, score_paths=scores), one_by_one(frame, PLAN))


def test_columns_that_are_not_counted_may_differ_between_files(tmp_path: Path) -> None:
    frame = population(40)
    paths = write(tmp_path, [frame.head(20), frame.tail(20).with_columns(application_id=pl.lit("x"))])
    assert_equal(count_parquet(paths, PLAN, score_paths=None), one_by_one(frame, PLAN))


def test_another_number_of_scores_than_rows_is_refused_with_both_numbers(tmp_path: Path) -> None:
    frame = population(9)
    features, scores = write(tmp_path, [frame.drop("score")], "features"), write(tmp_path, [frame.head(8)], "scores")
    with pytest.raises(BadInput, match="8 scores for 9 rows"):
        count_parquet(features, PLAN, score_paths=scores)


def test_an_absent_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no column 'amount', 'channel'"):
        count_parquet(write(tmp_path, [population(3).drop("amount", "channel")]), PLAN, score_paths=None)
    features = write(tmp_path, [population(3)], "features")
    with pytest.raises(BadInput, match=r"scores-0.parquet.* no column 'score'"):
        count_parquet(features, PLAN, score_paths=write(tmp_path, [population(3).drop("score")], "scores"))


def test_text_where_numbers_are_counted_is_refused_by_name(tmp_path: Path) -> None:
    frame = population(3).with_columns(pl.col("amount").cast(pl.String))
    with pytest.raises(BadInput, match="'amount' is stored as String"):
        count_parquet(write(tmp_path, [frame]), PLAN, score_paths=None)


def test_a_column_whose_type_changes_between_files_is_refused(tmp_path: Path) -> None:
    frame = population(3)
    paths = write(tmp_path, [frame, frame.with_columns(pl.col("amount").cast(pl.String))])
    with pytest.raises(BadInput, match="amount"):
        count_parquet(paths, PLAN, score_paths=None)


def test_a_truncated_file_is_bad_input_and_an_absent_one_a_failure_of_the_storage(tmp_path: Path) -> None:
    [path] = write(tmp_path, [population(3)])
    Path(path).write_bytes(Path(path).read_bytes()[:-9])
    with pytest.raises(BadInput, match=r"rows-0\.parquet"):
        count_parquet([path], PLAN, score_paths=None)
    with pytest.raises(InfrastructureError, match=r"absent\.parquet"):
        count_parquet([str(tmp_path / "absent.parquet")], PLAN, score_paths=None)


def test_a_path_is_never_a_pattern(tmp_path: Path) -> None:
    frame = population(3)
    paths = write(tmp_path, [frame, frame], "rows[01]*")
    assert count_parquet(paths[:1], PLAN, score_paths=None).rows == 3


def test_counts_of_different_plans_do_not_add() -> None:
    other = replace(PLAN, columns=(replace(AMOUNT, edges=(1.0,)), *PLAN.columns[1:]))
    with pytest.raises(BadInput, match="cannot be added"):
        Counts.zero(PLAN) + Counts.zero(other)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (lambda: replace(AMOUNT, edges=(1.0, 1.0)), "edges increase"),
        (lambda: replace(AMOUNT, edges=(1.0, NAN)), "finite"),
        (lambda: replace(AMOUNT, specials=(5.0,)), "two bins"),
        (lambda: replace(AMOUNT, tails=(1.0, 0.0, 2.0, 3.0)), "in the order"),
        (lambda: replace(AMOUNT, unseen=True), "unseen"),
        (lambda: replace(REGION, specials=("north",)), "two bins"),
        (lambda: SegmentColumn("channel", ("app", "app")), "twice"),
        (lambda: replace(PLAN, columns=(AMOUNT, AMOUNT)), "once"),
        (lambda: replace(PLAN, score_range=(1.0, 0.0)), "range"),
        (lambda: replace(PLAN, score_range=(0.0, NAN)), "range"),
        (lambda: replace(PLAN, score_range=(0.0, 1e-7)), "1e-6"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_with_the_rule(wrong: Any, rule: str) -> None:
    with pytest.raises(BadInput, match=rule):
        wrong()
