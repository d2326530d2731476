"""psi and csi of one partition of 110 columns through Great Expectations, over all its windows."""

from __future__ import annotations

import sys
import time
from statistics import median

import numpy as np

from benchmarks.measure import measured
from monitoring_assets.stability.binning import NumericBins
from monitoring_assets.stability.profile import WHOLE, ColumnProfile, ReferenceProfile
from monitoring_assets.stability.significance import alpha
from monitoring_assets.stability.windows import Thresholds

COLUMNS = 110
WINDOWS = (1, 2, 3, 5, 7, 14, 28)
ROWS_A_DAY = 1_000
REFERENCE_ROWS = 50_000
REPEATS = 5


def run() -> dict[str, float]:
    """CPU seconds of building the suite and of both validations, in fresh processes, their imports left out."""
    times = [float(measured([sys.executable, "-m", "benchmarks.drift"]).output) for _ in range(REPEATS)]
    return {f"drift.gx_cpu_s_{COLUMNS}": median(times)}


def _profile(generator: np.random.Generator) -> ReferenceProfile:
    bins = NumericBins((), tuple(float(edge) for edge in range(9)), (), unseen=False)
    columns = []
    for number in range(COLUMNS):
        counts = tuple(generator.multinomial(REFERENCE_ROWS, [0.099] * 10 + [0.01]).tolist())
        role = "score" if number == COLUMNS - 1 else "feature"
        name, groups = f"column_{number}", tuple(range(len(counts)))
        columns.append(ColumnProfile(name, role, "number", bins, {WHOLE: counts}, counts, groups, None, (0,) * 4))  # type: ignore[arg-type]
    return ReferenceProfile(
        model="benchmark",
        version="1",
        identity="",
        sample="holdout",
        population="applied",
        rows=REFERENCE_ROWS,
        score=columns[-1].name,
        columns=tuple(columns),
        segments={},
        reference_sha256="",
    )


def _judge() -> float:
    from monitoring_assets.expectations.batch import CountHistory
    from monitoring_assets.expectations.suite import SuitePolicy, build_suite, validate

    generator = np.random.default_rng(20260101)
    profile, days = _profile(generator), max(WINDOWS)
    history = CountHistory(
        partitions=tuple(f"day {day}" for day in range(days)),
        present=np.ones(days, dtype=bool),
        counts={
            column.name: generator.multinomial(ROWS_A_DAY, [0.099] * 10 + [0.01], size=days).astype(np.int64)
            for column in profile.columns
        },
        tails={column.name: np.zeros((days, 4), dtype=np.int64) for column in profile.columns},
        rows=np.full(days, ROWS_A_DAY, dtype=np.int64),
        measures={},
    )
    policy = SuitePolicy(Thresholds(0.1, 0.25), Thresholds(0.1, 0.25), WINDOWS, alpha(COLUMNS))
    targets = np.array([days - 1])
    before = time.process_time()
    for kind in ("psi", "csi"):
        validate(build_suite(profile, policy), profile, history, targets, {kind})
    return time.process_time() - before


if __name__ == "__main__":
    print(_judge())
