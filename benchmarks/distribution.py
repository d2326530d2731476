"""The counting pass on a million rows of 110 columns, against merely scanning the same file.

Both read the same zstd Parquet in a process of their own, in turn, and report the CPU seconds of that work alone:
imports cost both sides the same and would only flatter the ratio. CPU and not wall time, since that is what a pod pays
for, and what other work on the machine disturbs least.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

from benchmarks import drift
from benchmarks.measure import Usage, measured
from resources.engines.counting import CategoricalColumn, Column, CountPlan, NumericColumn
from resources.engines.polars_counting import count_parquet

ROWS = 1_000_000
CONTINUOUS, ZERO_INFLATED, CATEGORICAL = 80, 15, 15
PAIRS = 7
REFERENCE_ROWS = 20_000
CATEGORIES = [f"category {number}" for number in range(8)]
SHARES = [0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05]


def run() -> dict[str, float]:
    """Medians of alternating runs: CPU seconds of counting and of scanning, and the ratio of each pair."""
    with tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as folder:
        reference, path = Path(folder) / "reference.parquet", Path(folder) / "rows.parquet"
        generator = np.random.default_rng(20260101)
        columns = CONTINUOUS, ZERO_INFLATED, CATEGORICAL
        rows(generator, REFERENCE_ROWS, *columns).write_parquet(reference)
        rows(generator, ROWS, *columns).write_parquet(path, compression="zstd", statistics=False)
        megabytes = path.stat().st_size / 1e6
        child("scan", reference, [path])  # the file is in the page cache from here on, for both sides
        pairs = [(child("scan", reference, [path]), child("count", reference, [path])) for _ in range(PAIRS)]
    scans, counts = [cpu_s(scan) for scan, _ in pairs], [cpu_s(count) for _, count in pairs]
    return {
        "distribution.cpu_over_floor": median(count / scan for scan, count in zip(scans, counts, strict=True)),
        "distribution.cpu_s": median(counts),
        "distribution.floor_cpu_s": median(scans),
        "distribution.peak_gib": median(count.peak_gib for _, count in pairs),
        "distribution.floor_peak_gib": median(scan.peak_gib for scan, _ in pairs),
        "distribution.file_mb": megabytes,
        **drift.run(),
    }


def rows(
    generator: np.random.Generator, number: int, continuous: int, zero_inflated: int, categorical: int
) -> pl.DataFrame:
    """Rows like a lender's: amounts, a quarter of them with nulls, counts that are mostly 0, categories, a score."""
    columns = {}
    for column in range(continuous):
        values = pl.Series(generator.normal(size=number) if column % 2 else generator.lognormal(3, 1, number))
        with_nulls = column % 4 == 0
        columns[f"continuous {column}"] = (
            values.set(pl.Series(generator.random(number) < 0.03), None) if with_nulls else values
        )
    for column in range(zero_inflated):
        amounts = generator.gamma(2, 100, number)
        columns[f"zero-inflated {column}"] = pl.Series(np.where(generator.random(number) < 0.6, 0.0, amounts))
    for column in range(categorical):
        codes = generator.choice(len(CATEGORIES), number, p=SHARES)
        columns[f"categorical {column}"] = pl.Series(CATEGORIES).gather(codes)
    columns["score"] = pl.Series(generator.beta(2, 8, number))
    return pl.DataFrame(columns)


def count_plan(reference: Path) -> CountPlan:
    """Bins as a reference has them: deciles, zero by itself, all but the rarest category."""
    return CountPlan(tuple(_column(series) for series in pl.read_parquet(reference)), "score", (0.0, 1.0), ())


def _column(series: pl.Series) -> Column:
    if series.dtype == pl.String:
        return CategoricalColumn(series.name, tuple(CATEGORIES[:-1]), ())
    values = series.drop_nulls().to_numpy()
    points = (0.0,) if series.name.startswith("zero") else ()
    edges = np.unique(np.quantile(values[~np.isin(values, points)], np.arange(0.1, 1, 0.1)))
    low, high = np.quantile(values, (0.001, 0.999))
    tails = (float(values.min()), float(low), float(high), float(values.max()))
    return NumericColumn(series.name, points, tuple(map(float, edges)), (), False, tails)


def child(work: str, reference: Path, paths: Sequence[Path]) -> Usage:
    """Scan or count files in a process of its own."""
    return measured([sys.executable, "-m", "benchmarks.distribution", work, str(reference), *map(str, paths)])


def cpu_s(usage: Usage) -> float:
    """CPU seconds of the child's work alone."""
    return float(usage.output)


def _scan(_: Path, paths: list[str]) -> Callable[[], object]:
    return lambda: pl.scan_parquet(paths).select(pl.all().max()).collect(engine="streaming")


def _count(reference: Path, paths: list[str]) -> Callable[[], object]:
    plan = count_plan(reference)
    return lambda: count_parquet(paths, plan, score_paths=None)


def _main(kind: str, reference: str, *paths: str) -> None:
    work = {"scan": _scan, "count": _count}[kind](Path(reference), list(paths))
    before = time.process_time()
    work()
    print(time.process_time() - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
