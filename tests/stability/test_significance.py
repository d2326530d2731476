from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest, chi2_contingency

from monitoring_assets.stability.psi import FloatArray, IntArray, psi
from monitoring_assets.stability.significance import (
    alpha,
    between_day_dispersion,
    binomial_p_value,
    no_drift_band,
    pearson,
    smallest_detectable_psi,
)

property_test = settings(deadline=None, max_examples=150)
REFERENCE_ROWS = 50_000


def tilted(shares: FloatArray, target: float) -> FloatArray:
    """Shares whose PSI against ``shares`` is ``target``: an exponential tilt, as a shift of a score makes it."""
    slope = np.linspace(-1, 1, len(shares))

    def at(strength: float) -> FloatArray:
        weights = shares * np.exp(strength * slope)
        return weights / weights.sum()

    def excess(strength: float) -> float:
        return float(((at(strength) - shares) * np.log(at(strength) / shares)).sum()) - target

    return at(brentq(excess, 0, 10))


def merged_by_hand(current: list[int], reference: list[int]) -> list[tuple[int, int]]:
    """The bins left after the merging rule, as (current, reference) rows."""
    n, total = min(sum(current), sum(reference)), sum(current) + sum(reference)
    bins = [(n * (c + r) / total, c, r) for c, r in zip(current, reference, strict=True) if c + r > 0]
    bins.sort(key=lambda entry: entry[0])
    pool = [entry for entry in bins if entry[0] < 5]
    left = [entry for entry in bins if entry[0] >= 5]
    if pool and left and sum(entry[0] for entry in pool) < 5:
        pool.append(left.pop(0))
    merged = [(c, r) for _, c, r in left]
    return merged + ([(sum(c for _, c, _ in pool), sum(r for _, _, r in pool))] if pool else [])


counts_of_two = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.one_of(st.integers(0, 12), st.integers(0, 3_000)), min_size=size, max_size=size)] * 2
    )
)


# Pearson's X²


def test_bins_with_enough_rows_are_tested_as_scipy_tests_a_table() -> None:
    current, reference = [40, 60, 65], [16_000, 17_000, 17_000]
    known = chi2_contingency([current, reference], correction=False)
    evidence = pearson(current, reference)
    assert float(evidence.statistic) == pytest.approx(known.statistic, rel=1e-12)
    assert float(evidence.p_value) == pytest.approx(known.pvalue, rel=1e-10)
    assert evidence.df == 2


@property_test
@given(counts_of_two)
def test_the_test_equals_scipy_s_on_bins_merged_by_hand(samples: tuple[list[int], list[int]]) -> None:
    current, reference = samples
    evidence = pearson(current, reference)
    assert 0 <= evidence.p_value <= 1
    if sum(current) == 0 or sum(reference) == 0 or len(bins := merged_by_hand(current, reference)) < 2:
        assert (evidence.p_value, evidence.statistic) == (1, 0)
        return
    known = chi2_contingency(np.array(bins).T, correction=False)
    assert evidence.df == len(bins) - 1
    assert float(evidence.statistic) == pytest.approx(known.statistic, rel=1e-9, abs=1e-9)
    assert float(evidence.p_value) == pytest.approx(known.pvalue, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("current", "reference", "df"),
    [
        ([60, 40, 3, 4], [5_000, 5_000, 300, 300], 2),  # two small bins make one of 6 expected rows
        ([60, 40, 1, 1], [5_000, 5_000, 100, 100], 1),  # they need the smallest big bin as well
        ([60, 40, 2], [5_000, 5_000, 300], 1),  # so does a single one
        ([5, 5, 40, 50], [5, 5, 50, 40], 3),  # five expected rows are enough
        ([60, 40, 0], [5_000, 5_000, 0], 1),  # an empty bin is no bin
        ([60, 2], [5_000, 100], 0),  # everything in one bin: nothing to test
        ([2, 2, 2], [500, 500, 500], 0),
        ([1, 1, 1], [500, 500, 500], 0),
    ],
)
def test_small_bins_are_merged(current: list[int], reference: list[int], df: int) -> None:
    evidence = pearson(current, reference)
    assert evidence.df == df
    assert (evidence.p_value == 1) == (df == 0)


def test_the_bin_that_completes_the_pool_is_the_smallest_of_the_big_ones() -> None:
    merged = chi2_contingency([[90, 11], [9_000, 1_100]], correction=False)
    assert float(pearson([10, 90, 1], [900, 9_000, 200]).statistic) == pytest.approx(merged.statistic, rel=1e-12)


@pytest.mark.parametrize(("current", "reference"), [([0, 0], [50, 50]), ([50, 50], [0, 0]), ([0, 0], [0, 0])])
def test_no_rows_are_no_evidence(current: list[int], reference: list[int]) -> None:
    evidence = pearson(current, reference)
    assert (evidence.statistic, evidence.df, evidence.p_value) == (0, evidence.df, 1)


def test_many_samples_at_once_are_tested_as_one_by_one() -> None:
    rng = np.random.default_rng(2)
    samples = rng.multinomial(60, [0.5, 0.3, 0.1, 0.05, 0.03, 0.02], size=(4, 6))
    reference = np.array([5_000, 3_000, 1_000, 500, 300, 200])
    together = pearson(samples, reference)
    for index in np.ndindex(4, 6):
        alone = pearson(samples[index], reference)
        assert (together.statistic[index], together.df[index]) == (alone.statistic, alone.df)
        assert together.p_value[index] == alone.p_value


def test_the_reference_s_own_dispersion_divides_the_statistic() -> None:
    current, reference = [40, 60, 65], [16_000, 17_000, 17_000]
    plain, dispersed = pearson(current, reference), pearson(current, reference, dispersion=4.0)
    assert float(dispersed.statistic) == pytest.approx(float(plain.statistic) / 4)
    assert dispersed.p_value > plain.p_value


def test_a_dispersion_below_one_is_taken_as_one() -> None:
    current, reference = [40, 60, 65], [16_000, 17_000, 17_000]
    assert pearson(current, reference, dispersion=0.2).p_value == pearson(current, reference).p_value


@pytest.mark.parametrize(
    "shares",
    [
        [0.1] * 10,
        [0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.02, 0.01, 0.01, 0.01],  # half of these are merged at 165 rows
    ],
)
def test_one_sample_in_a_hundred_without_drift_has_p_below_one_percent(shares: list[float]) -> None:
    rng = np.random.default_rng(165)
    repetitions = 4_000
    samples = rng.multinomial(165, shares, size=repetitions)
    references = rng.multinomial(REFERENCE_ROWS, shares, size=repetitions)
    p_values = [float(pearson(now, then).p_value) for now, then in zip(samples, references, strict=True)]
    # Three standard errors of a simulated rate of .01.
    assert np.mean(np.array(p_values) < 0.01) == pytest.approx(0.01, abs=3 * np.sqrt(0.01 * 0.99 / repetitions))


@pytest.mark.parametrize(("columns", "level"), [(0, 1e-4), (1, 1e-4), (10, 1e-4), (11, 0.001 / 11), (100, 1e-5)])
def test_the_level_is_shared_by_the_columns(columns: int, level: float) -> None:
    assert alpha(columns) == pytest.approx(level)


# Between-day dispersion


def test_independent_draws_have_a_dispersion_of_about_one() -> None:
    rng = np.random.default_rng(11)
    counts = rng.multinomial(165, [0.1] * 10, size=400)
    assert 1.0 <= between_day_dispersion(counts) < 1.06


@pytest.mark.parametrize("phi", [2.0, 3.0, 5.0])
def test_over_dispersed_days_are_recognised(phi: float) -> None:
    rng = np.random.default_rng(12)
    rows, days = 165, 600
    # A Dirichlet-multinomial with concentration A has the variance of a multinomial times (n + A) / (1 + A).
    concentration = (rows - phi) / (phi - 1)
    mixes = rng.dirichlet(np.full(10, 0.1 * concentration), size=days)
    assert between_day_dispersion(rng.multinomial(rows, mixes)) == pytest.approx(phi, rel=0.1)


def test_bins_with_less_than_a_row_a_day_do_not_inflate_the_dispersion() -> None:
    rng = np.random.default_rng(13)
    counts = rng.multinomial(165, [0.4, 0.4, 0.19, *[0.001] * 10], size=400)
    assert between_day_dispersion(counts) < 1.1


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros((0, 3), dtype=int),
        np.zeros((4, 3), dtype=int),
        np.array([[5, 5, 5]]),
        np.array([[5, 5, 5], [0, 0, 0]]),
        np.array([[5, 0], [9, 0], [2, 0]]),
        np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_too_little_for_a_dispersion_counts_as_one(counts: IntArray) -> None:
    assert between_day_dispersion(counts) == 1.0


def test_days_without_rows_and_bins_without_rows_do_not_matter() -> None:
    rng = np.random.default_rng(14)
    counts = rng.multinomial(165, rng.dirichlet(np.full(5, 8), size=50))
    padded = np.zeros((60, 7), dtype=int)
    padded[:50, 1:6] = counts
    assert between_day_dispersion(padded) == pytest.approx(between_day_dispersion(counts))
    assert between_day_dispersion(counts) > 2


# The exact test of a rate


@property_test
@given(st.integers(0, 400), st.integers(1, 400), st.integers(0, 5_000), st.integers(1, 50_000))
def test_the_p_value_of_a_rate_is_twice_scipy_s_smaller_tail(
    count: int, rows: int, reference_count: int, reference_rows: int
) -> None:
    count, reference_count = min(count, rows), min(reference_count, reference_rows)
    p_value = float(binomial_p_value(count, rows, reference_count, reference_rows))
    assert 0 <= p_value <= 1
    if (events := count + reference_count) == 0:
        assert p_value == 1
        return
    share = rows / (rows + reference_rows)
    tails = [binomtest(count, events, share, alternative=side).pvalue for side in ("less", "greater")]
    assert p_value == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-7, abs=1e-300)


def test_a_rate_that_was_zero_in_the_reference_needs_few_rows() -> None:
    assert binomial_p_value(3, 165, 0, REFERENCE_ROWS) < 1e-6
    assert binomial_p_value(1, 165, 0, REFERENCE_ROWS) > 1e-3


@pytest.mark.parametrize(("rows", "reference_count"), [(0, 50), (165, 0), (0, 0)])
def test_without_rows_or_events_a_rate_is_no_evidence(rows: int, reference_count: int) -> None:
    assert binomial_p_value(0, rows, reference_count, 1_000) == 1


def test_rates_are_tested_elementwise() -> None:
    p_values = binomial_p_value([[0, 9], [3, 1]], [[165], [200]], [500, 0], REFERENCE_ROWS)
    assert p_values.shape == (2, 2)
    assert p_values[0, 1] == binomial_p_value(9, 165, 0, REFERENCE_ROWS)
    assert p_values[1, 0] == binomial_p_value(3, 200, 500, REFERENCE_ROWS)


# What a sample could have shown


@pytest.mark.parametrize(
    ("bins", "rows", "threshold", "level"),
    [
        (10, 165, 0.10, 1e-4),
        (10, 165, 0.25, 1e-5),
        (5, 500, 0.10, 1e-4),
        (18, 2_000, 0.25, 1e-5),
        (10, 20_000, 0.10, 1e-5),
    ],
)
def test_the_smallest_detectable_psi_breaches_with_eighty_percent_power(
    bins: int, rows: int, threshold: float, level: float
) -> None:
    rng = np.random.default_rng(80)
    even = np.full(bins, 1 / bins)
    shift = float(smallest_detectable_psi(bins, rows, REFERENCE_ROWS, threshold, level))
    assert shift > threshold
    samples = rng.multinomial(rows, tilted(even, shift), size=1_000)
    references = rng.multinomial(REFERENCE_ROWS, even, size=1_000)
    breaches = [
        psi(now, then).net >= threshold and pearson(now, then).p_value < level
        for now, then in zip(samples, references, strict=True)
    ]
    assert np.mean(breaches) == pytest.approx(0.8, abs=0.06)


def test_more_rows_show_smaller_shifts() -> None:
    rows = np.array([50, 165, 500, 2_000, 20_000])
    detectable = smallest_detectable_psi(10, rows, REFERENCE_ROWS, 0.10, 1e-4)
    assert (np.diff(detectable) < 0).all()
    assert detectable[-1] < 0.11


def test_the_band_is_the_quantile_of_psi_without_drift() -> None:
    rng = np.random.default_rng(95)
    even = np.full(6, 1 / 6)
    samples, references = rng.multinomial(2_000, even, size=3_000), rng.multinomial(10_000, even, size=3_000)
    values = [float(psi(now, then).value) for now, then in zip(samples, references, strict=True)]
    assert np.mean(values < no_drift_band(6, 2_000, 10_000, level=0.9)) == pytest.approx(0.9, abs=0.02)
