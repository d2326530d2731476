from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from monitoring_assets.stability.binning import CategoricalBins, NumericBins, numeric_bins, tail_limits
from monitoring_assets.stability.profile import WHOLE, ColumnProfile
from monitoring_assets.stability.psi import FloatArray, IntArray, psi
from monitoring_assets.stability.rates import RateVerdicts, judge_rates, judge_volume, rate_measures
from monitoring_assets.stability.significance import alpha, binomial_p_value
from monitoring_assets.stability.windows import BREACH, NOT_ELIGIBLE, OK, WARN

LEVEL = alpha(100)
REFERENCE_ROWS = 50_000
TAILS = ("below_min_rate", "below_p001_rate", "above_p999_rate", "above_max_rate")

Positions = Callable[[NumericBins, FloatArray], IntArray]


def numeric_column(nulls: float = 0.01, special: float = 0.02) -> ColumnProfile:
    """Three ranges, -999 and null; 50,000 rows."""
    bins = NumericBins((), (10.0, 20.0), (-999.0,), unseen=False)
    outside = np.rint(np.array([special, nulls]) * REFERENCE_ROWS).astype(int)
    inside = np.full(3, (REFERENCE_ROWS - outside.sum()) // 3)
    inside[0] += REFERENCE_ROWS - outside.sum() - inside.sum()
    return ColumnProfile(
        name="income",
        role="feature",
        physical="number",
        bins=bins,
        counts={WHOLE: (*map(int, inside), *map(int, outside))},
        score_sums=(0,) * 5,
        groups=(0, 1, 2, 3, 4),
        tails=(0.0, 0.1, 99.0, 100.0),
        tail_counts=(0, 50, 50, 0),
    )


def categorical_column() -> ColumnProfile:
    """Two categories, unseen and null, neither of which the reference has; 50,000 rows."""
    return ColumnProfile(
        name="region",
        role="feature",
        physical="text",
        bins=CategoricalBins(("rural", "urban"), ()),
        counts={WHOLE: (20_000, 30_000, 0, 0)},
        score_sums=(0,) * 4,
        groups=(0, 1, 2, 3),
        tails=None,
        tail_counts=(),
    )


def numeric_day(rows: int, nulls: int = 0, special: int = 0) -> IntArray:
    valid = rows - nulls - special
    return np.array([[valid // 3, valid // 3, valid - 2 * (valid // 3), special, nulls]])


def judged(counts: IntArray, max_null_rate: float | None = None) -> RateVerdicts:
    return judge_rates(numeric_column(), counts, np.zeros((len(counts), 4), dtype=int), LEVEL, max_null_rate)


def level_of(verdicts: RateVerdicts, measure: str, at: int = 0) -> int:
    return int(verdicts.level[at, verdicts.measures.index(measure)])


# What is measured


def test_a_numeric_column_has_null_special_and_tail_rates() -> None:
    assert rate_measures(numeric_column()) == ("null_rate", "special_rate -999", *TAILS)


def test_a_column_of_few_values_has_an_unseen_rate_as_well() -> None:
    few = NumericBins((1.0, 2.0, 3.0), (), (-1.0, -999.0), unseen=True)
    column = replace(numeric_column(), bins=few)
    assert rate_measures(column) == ("null_rate", "special_rate -1", "special_rate -999", "unseen_rate", *TAILS)


def test_a_categorical_column_has_no_tails() -> None:
    assert rate_measures(categorical_column()) == ("null_rate", "unseen_rate")


def test_a_numeric_column_without_finite_values_has_no_tails() -> None:
    column = replace(numeric_column(), tails=None)
    assert rate_measures(column) == ("null_rate", "special_rate -999")
    verdicts = judge_rates(column, numeric_day(165, nulls=2), np.zeros((1, 4), dtype=int), LEVEL)
    assert verdicts.level.tolist() == [[OK, OK]]


def test_a_verdict_carries_the_rates_it_was_made_from() -> None:
    verdicts = judge_rates(numeric_column(), numeric_day(200, nulls=10, special=6), np.array([[1, 2, 4, 3]]), LEVEL)
    assert verdicts.rows.tolist() == [200]
    assert verdicts.rate[0].tolist() == [0.05, 0.03, 0.005, 0.01, 0.02, 0.015]
    assert verdicts.reference_rate.tolist() == [0.01, 0.02, 0.0, 0.001, 0.001, 0.0]
    assert verdicts.p_value[0, 0] == binomial_p_value(10, 200, 500, REFERENCE_ROWS)
    assert verdicts.p_value[0, 5] == binomial_p_value(3, 200, 0, REFERENCE_ROWS)


# Nulls, special and unseen values


@pytest.mark.parametrize(
    ("rows", "nulls", "level"),
    [
        (165, 2, OK),
        (165, 50, BREACH),
        (165, 7, OK),  # 4 % in 165 rows is no evidence against 1 %
        (2_000, 80, WARN),  # in 2,000 rows it is
        (2_000, 300, BREACH),
        (1_000_000, 15_000, OK),  # half a point is no effect, however many rows
        (1_000_000, 0, WARN),  # nulls that disappear are a change too
    ],
)
def test_a_null_jump_needs_effect_and_evidence(rows: int, nulls: int, level: int) -> None:
    verdicts = judged(numeric_day(rows, nulls=nulls, special=rows // 50))
    assert level_of(verdicts, "null_rate") == level
    assert level_of(verdicts, "special_rate -999") == OK


def test_a_special_value_that_spreads_is_named() -> None:
    verdicts = judged(numeric_day(2_000, nulls=20, special=300))
    assert level_of(verdicts, "special_rate -999") == BREACH
    assert level_of(verdicts, "null_rate") == OK


@pytest.mark.parametrize(("unseen", "level"), [(0, OK), (1, OK), (40, WARN), (250, BREACH)])
def test_values_the_reference_never_had_are_counted(unseen: int, level: int) -> None:
    day = np.array([[800, 1_200 - unseen, unseen, 0]])
    verdicts = judge_rates(categorical_column(), day, np.zeros((1, 4), dtype=int), LEVEL)
    assert level_of(verdicts, "unseen_rate") == level
    assert level_of(verdicts, "null_rate") == OK


def test_special_and_unseen_values_of_one_column_are_kept_apart() -> None:
    column = replace(numeric_column(), bins=NumericBins((1.0, 2.0), (), (-999.0,), unseen=True))
    column = replace(column, counts={WHOLE: (30_000, 20_000, 0, 0, 0)})
    verdicts = judge_rates(column, np.array([[80, 40, 45, 0, 0]]), np.zeros((1, 4), dtype=int), LEVEL)
    assert level_of(verdicts, "special_rate -999") == BREACH
    assert level_of(verdicts, "unseen_rate") == OK


def test_every_partition_has_a_verdict_of_its_own() -> None:
    days = np.vstack([numeric_day(165, nulls=2), numeric_day(165, nulls=50), numeric_day(165, special=60)])
    verdicts = judged(days)
    assert [level_of(verdicts, "null_rate", at) for at in range(3)] == [OK, BREACH, OK]
    assert [level_of(verdicts, "special_rate -999", at) for at in range(3)] == [OK, OK, BREACH]


def test_a_partition_without_rows_has_no_verdict() -> None:
    verdicts = judged(np.vstack([numeric_day(0), numeric_day(165, nulls=50)]), max_null_rate=0.05)
    assert verdicts.level[0].tolist() == [NOT_ELIGIBLE] * 6
    assert np.isnan(verdicts.rate[0]).all()
    assert level_of(verdicts, "null_rate", at=1) == BREACH


def test_partitions_like_the_reference_are_almost_never_flagged() -> None:
    rng = np.random.default_rng(9)
    shares = numeric_column().reference_counts() / REFERENCE_ROWS
    days = rng.multinomial(165, shares, size=5_000)
    tails = np.zeros((5_000, 4), dtype=int)
    tails[:, 1:3] = rng.binomial(165, 0.001, size=(5_000, 2))
    assert (judge_rates(numeric_column(), days, tails, LEVEL).level > OK).sum() <= 2


# The manifest's own limit


@pytest.mark.parametrize(
    ("rows", "nulls", "level"),
    [
        (2_000, 90, WARN),  # below the limit of 5 %, and still a jump from 1 %
        (2_000, 110, WARN),  # above it by no more than chance
        (2_000, 180, BREACH),
        (165, 10, OK),
        (165, 30, BREACH),
    ],
)
def test_a_null_rate_above_the_manifest_s_limit_breaches_when_chance_does_not_explain_it(
    rows: int, nulls: int, level: int
) -> None:
    verdicts = judged(numeric_day(rows, nulls=nulls, special=rows // 50), max_null_rate=0.05)
    assert level_of(verdicts, "null_rate") == level
    assert verdicts.threshold.tolist() == [0.05, *[0.01] * 5]


def test_the_evidence_against_the_limit_is_the_exact_binomial_tail() -> None:
    column, rows, limit = numeric_column(nulls=0.06), 200, 0.05
    counts = range(10, 31)
    days = np.vstack([numeric_day(rows, nulls=nulls, special=4) for nulls in counts])
    verdicts = judge_rates(column, days, np.zeros((len(counts), 4), dtype=int), LEVEL, max_null_rate=limit)
    expected = [binomtest(nulls, rows, limit, alternative="greater").pvalue < LEVEL for nulls in counts]
    assert (verdicts.level[:, 0] == BREACH).tolist() == expected
    assert 0 < sum(expected) < len(counts)


def test_the_limit_holds_even_where_the_reference_is_above_it_itself() -> None:
    column, tails = numeric_column(nulls=0.12), np.zeros((1, 4), dtype=int)
    day = numeric_day(2_000, nulls=240, special=40)
    assert level_of(judge_rates(column, day, tails, LEVEL), "null_rate") == OK
    assert level_of(judge_rates(column, day, tails, LEVEL, max_null_rate=0.05), "null_rate") == BREACH


def test_a_limit_of_zero_is_broken_by_the_first_null() -> None:
    assert level_of(judged(numeric_day(165, nulls=1, special=3), max_null_rate=0.0), "null_rate") == BREACH
    assert level_of(judged(numeric_day(165, nulls=0, special=3), max_null_rate=0.0), "null_rate") == OK


# Tails


def test_cents_instead_of_euros_in_a_tenth_of_the_rows_show_in_the_tails_and_not_in_the_psi(
    bin_positions: Positions,
) -> None:
    rng = np.random.default_rng(100)
    reference, current = rng.lognormal(7.5, 0.6, REFERENCE_ROWS), rng.lognormal(7.5, 0.6, 2_000)
    current[:200] *= 100
    bins, limits = numeric_bins(reference, REFERENCE_ROWS, specials=()), tail_limits(reference)
    assert limits is not None

    def counted(values: FloatArray) -> IntArray:
        return np.bincount(bin_positions(bins, values), minlength=len(bins.labels()))

    def beyond(values: FloatArray) -> IntArray:
        lowest, low, high, highest = limits
        return np.array(
            [(values < lowest).sum(), (values < low).sum(), (values > high).sum(), (values > highest).sum()]
        )

    column = ColumnProfile(
        name="income",
        role="feature",
        physical="number",
        bins=bins,
        counts={WHOLE: tuple(counted(reference).tolist())},
        score_sums=(0,) * len(bins.labels()),
        groups=tuple(range(len(bins.labels()))),
        tails=limits,
        tail_counts=tuple(beyond(reference).tolist()),
    )
    assert psi(counted(current), counted(reference)).net < 0.10
    verdicts = judge_rates(column, counted(current)[None, :], beyond(current)[None, :], LEVEL)
    assert {name for name in TAILS if level_of(verdicts, name) >= WARN} == {"above_p999_rate", "above_max_rate"}
    assert level_of(verdicts, "null_rate") == OK


# Volume


def volume(rows: int, history: list[int], present: list[bool] | None = None) -> tuple[int, float]:
    verdict = judge_volume(
        np.array([rows]), np.array([history]), np.array([present or [True] * len(history)]), level=1e-4
    )
    return int(verdict.level[0]), float(verdict.ratio[0])


STEADY = [160, 171, 165, 158, 169, 174, 163, 162]


@pytest.mark.parametrize(
    ("rows", "level"), [(165, OK), (140, OK), (105, WARN), (80, BREACH), (0, BREACH), (245, WARN), (340, BREACH)]
)
def test_volume_is_judged_against_the_same_weekday_of_the_weeks_before(rows: int, level: int) -> None:
    assert volume(rows, STEADY) == (level, pytest.approx(rows / 164))


@pytest.mark.parametrize(("share", "level"), [(0.75, OK), (0.65, WARN), (0.55, WARN), (0.45, BREACH), (1.3, OK)])
def test_a_change_of_volume_needs_effect_and_not_only_evidence(share: float, level: int) -> None:
    assert volume(round(16_400 * share), [100 * rows for rows in STEADY])[0] == level


def test_without_history_there_is_no_verdict_on_volume() -> None:
    level, ratio = volume(80, STEADY, present=[False] * 8)
    assert level == NOT_ELIGIBLE
    assert np.isnan(ratio)


@pytest.mark.parametrize(("weeks", "level"), [(2, NOT_ELIGIBLE), (3, BREACH)])
def test_three_weeks_are_history_enough(weeks: int, level: int) -> None:
    assert volume(80, STEADY, present=[True] * weeks + [False] * (8 - weeks))[0] == level


def test_weeks_that_are_missing_do_not_count_as_empty() -> None:
    history = [0, 171, 0, 158, 0, 174, 163, 0]
    assert volume(165, history, present=[rows > 0 for rows in history]) == (OK, pytest.approx(165 / 167))


def test_a_history_of_empty_partitions_gives_no_verdict() -> None:
    assert volume(165, [0] * 8)[0] == NOT_ELIGIBLE


def test_a_volume_that_always_varied_may_vary() -> None:
    assert volume(80, [60, 300, 150, 90, 250, 170, 40, 280])[0] == OK


def test_half_of_a_handful_of_rows_is_chance() -> None:
    assert volume(3, [6, 5, 7, 6, 6, 8, 5, 6])[0] == OK


@pytest.mark.parametrize("mean", [3, 20, 165])
def test_poisson_noise_is_no_change_of_volume(mean: int) -> None:
    rng = np.random.default_rng(mean)
    simulations = 20_000
    rows, history = rng.poisson(mean, simulations), rng.poisson(mean, (simulations, 8))
    levels = judge_volume(rows, history, np.ones_like(history, dtype=bool), level=1e-4).level
    # At a level of 1e-4 two are expected, and more than eight are a 2e-4 chance.
    assert (levels > OK).sum() <= 8


def test_partitions_are_judged_each_by_its_own_history() -> None:
    history = np.array([STEADY, [10 * rows for rows in STEADY], STEADY])
    present = np.array([[True] * 8, [True] * 8, [False] * 8])
    verdict = judge_volume(np.array([80, 1_650, 80]), history, present, level=1e-4)
    assert verdict.level.tolist() == [BREACH, OK, NOT_ELIGIBLE]
