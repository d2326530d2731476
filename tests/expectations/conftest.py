from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monitoring_assets.expectations.batch import CountHistory
from monitoring_assets.stability.binning import CategoricalBins, NumericBins
from monitoring_assets.stability.profile import WHOLE, ColumnProfile, ReferenceProfile
from monitoring_assets.stability.windows import Thresholds

RNG_SEED = 20_260_101
REFERENCE_ROWS = 50_000
LENGTHS = (1, 2, 3, 5, 7, 14, 28)


def numeric_column(name: str, role: str = "feature", **changes: object) -> ColumnProfile:
    bins = NumericBins(
        points=(0.0,), edges=tuple(float(edge) for edge in range(1, 9)), specials=(-999.0,), unseen=False
    )
    counts = (9_000, *[4_500] * 9, 300, 200)
    column = {
        "name": name,
        "role": role,
        "physical": "number",
        "bins": bins,
        "counts": {WHOLE: counts, ("product", "small"): tuple(count // 2 for count in counts)},
        "score_sums": tuple(range(len(counts))),
        "groups": tuple(range(len(counts))),
        "tails": (-4.0, 0.1, 30.5, 44.0),
        "tail_counts": (0, 50, 50, 0),
        "dispersion": 1.3,
    }
    return ColumnProfile(**{**column, **changes})  # type: ignore[arg-type]


def categorical_column(name: str, categories: tuple[str, ...] = ("north", "south", "a", "b")) -> ColumnProfile:
    counts = (30_000, 19_000, *[200] * (len(categories) - 2), 0, 600)
    groups = (0, 1, *[4] * (len(categories) - 2), 2, 3)
    return ColumnProfile(
        name=name,
        role="feature",
        physical="text",
        bins=CategoricalBins(categories, specials=()),
        counts={WHOLE: counts},
        score_sums=(),
        groups=groups,
        tails=None,
        tail_counts=(0, 0, 0, 0),
    )


def profile_of(*columns: ColumnProfile) -> ReferenceProfile:
    return ReferenceProfile(
        model="ke-nano-loan",
        version="3.2.0",
        identity="ab" * 32,
        sample="holdout",
        population="applied",
        rows=REFERENCE_ROWS,
        score="score",
        columns=columns,
        segments={"product": ("small",)},
        reference_sha256="cd" * 32,
    )


def history_of(profile: ReferenceProfile, partitions: int, rows: int = 2_000, seed: int = RNG_SEED) -> CountHistory:
    """Partitions drawn from the reference itself: no drift."""
    rng = np.random.default_rng(seed)
    counts, tails = {}, {}
    for column in profile.columns:
        reference = column.reference_counts()
        counts[column.name] = rng.multinomial(rows, reference / reference.sum(), size=partitions).astype(np.int64)
        shares = np.array(column.tail_counts) / reference.sum()
        tails[column.name] = rng.binomial(rows, shares, size=(partitions, 4)).astype(np.int64)
    return CountHistory(
        partitions=tuple(str(np.datetime64("2026-01-01") + day) for day in range(partitions)),
        present=np.ones(partitions, dtype=bool),
        counts=counts,
        tails=tails,
        rows=np.full(partitions, rows, dtype=np.int64),
        measures={},
    )


@pytest.fixture(scope="session")
def profile() -> ReferenceProfile:
    unusable = numeric_column("constant", unusable="the reference holds one value only")
    return profile_of(
        numeric_column("income"), categorical_column("region"), unusable, numeric_column("score", role="score")
    )


@pytest.fixture(scope="session")
def drawn() -> Callable[..., CountHistory]:
    return history_of


@pytest.fixture(scope="session")
def gx_suite() -> Any:
    """The module under test: importing it imports Great Expectations."""
    from monitoring_assets.expectations import suite

    return suite


@pytest.fixture(scope="session")
def policy(gx_suite: Any) -> Any:
    return gx_suite.SuitePolicy(
        psi=Thresholds(0.1, 0.25),
        csi=Thresholds(0.12, 0.3),
        lengths=LENGTHS,
        level=1e-5,
        max_null_rates={"income": 0.05},
    )


@pytest.fixture
def suite(gx_suite: Any, profile: ReferenceProfile, policy: Any) -> Any:
    return gx_suite.build_suite(profile, policy)
