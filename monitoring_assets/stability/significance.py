"""Evidence that two samples differ: Pearson's X² on raw counts, and what a sample of this size could have shown.

Cochran's rule (expected counts of at least 5) decides which bins are merged before the test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from monitoring_assets.stability.psi import FloatArray, IntArray, sampling_part

MIN_EXPECTED = 5.0
POWER = 0.8


def alpha(columns: int) -> float:
    """Level of one column's test, min(.001 / number of columns, 1e-4).

    A column's verdict must not depend on the other columns' values, hence a fixed level and no ranking of p-values.
    """
    return min(0.001 / max(columns, 1), 1e-4)


@dataclass(frozen=True)
class Evidence:
    """X², its degrees of freedom after merging, and the p-value; arrays of the samples' leading shape."""

    statistic: FloatArray
    df: IntArray
    p_value: FloatArray


def pearson(current: npt.ArrayLike, reference: npt.ArrayLike, dispersion: float = 1.0) -> Evidence:
    """Two-sample Pearson X² of ``current`` counts ``[..., K]`` against ``reference`` counts ``[K]`` or ``[..., K]``.

    Bins whose expected count min(n, N)(n_j + N_j)/(n + N) is below 5 are merged into one, together with the next
    smallest bin if that is still below 5. ``dispersion`` ≥ 1 is the reference's own between-day X²/df: the statistic is
    divided by it, because real books vary more from day to day than independent draws do. p is 1 where at most one
    bin is left.
    """
    now = np.asarray(current, dtype=np.float64)
    then = np.broadcast_to(np.asarray(reference, dtype=np.float64), now.shape)
    n, total = now.sum(axis=-1, keepdims=True), (now + then).sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.where(total > 0, np.minimum(n, total - n) * (now + then) / total, 0.0)
    small = expected < MIN_EXPECTED
    small = _with_smallest_big_bin(expected, small)
    big = ~small
    pool_now, pool_then = (now * small).sum(axis=-1), (then * small).sum(axis=-1)
    merged_now = np.concatenate([now * big, pool_now[..., None]], axis=-1)
    merged_then = np.concatenate([then * big, pool_then[..., None]], axis=-1)
    statistic = _two_sample_x2(merged_now, merged_then, n, total) / max(dispersion, 1.0)
    df = (merged_now + merged_then > 0).sum(axis=-1) - 1
    usable = (df > 0) & (n[..., 0] > 0) & (total[..., 0] > n[..., 0])
    p_value = np.where(usable, special.chdtrc(np.maximum(df, 1), statistic), 1.0)
    return Evidence(np.where(usable, statistic, 0.0), np.maximum(df, 0), p_value)


def _with_smallest_big_bin(expected: FloatArray, small: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    pool = (expected * small).sum(axis=-1)
    big_expected = np.where(small, np.inf, expected)
    smallest = np.argmin(big_expected, axis=-1)
    needs_more = (pool > 0) & (pool < MIN_EXPECTED) & np.isfinite(big_expected.min(axis=-1))
    extra = np.arange(expected.shape[-1]) == smallest[..., None]
    return np.asarray(small | (extra & needs_more[..., None]))


def _two_sample_x2(now: FloatArray, then: FloatArray, n: FloatArray, total: FloatArray) -> FloatArray:
    both = now + then
    with np.errstate(invalid="ignore", divide="ignore"):
        expected_now = n * both / total
        expected_then = both - expected_now
        terms = (now - expected_now) ** 2 * (1 / expected_now + 1 / expected_then)
    return np.asarray(np.where((both > 0) & np.isfinite(terms), terms, 0.0).sum(axis=-1))


def between_day_dispersion(counts: IntArray) -> float:
    """Between-day X²/df of daily counts ``[days, K]``, never below 1; bins expected less than once a day are pooled."""
    counts = counts[counts.sum(axis=1) > 0]
    counts = counts[:, counts.sum(axis=0) > 0]
    if counts.shape[0] < 2 or counts.shape[1] < 2:
        return 1.0
    rare = counts.mean(axis=0) < 1.0
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)]) if rare.any() else counts
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    df = (pooled.shape[0] - 1) * (pooled.shape[1] - 1)
    if df <= 0:
        return 1.0
    expected = np.outer(pooled.sum(axis=1), pooled.sum(axis=0) / pooled.sum())
    return max(1.0, float(((pooled - expected) ** 2 / expected).sum() / df))


def binomial_p_value(
    count: npt.ArrayLike, rows: npt.ArrayLike, reference_count: npt.ArrayLike, reference_rows: npt.ArrayLike
) -> FloatArray:
    """Two-sided exact p-value that a rate differs from the reference's.

    Given c + C events in n + N rows, c is Binomial(c + C, n / (n + N)) when the rates are equal; the smaller tail is
    doubled. Exact because null and unseen values are often absent from the reference altogether.
    """
    c, n = np.asarray(count, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    events = c + np.asarray(reference_count, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = n / (n + np.asarray(reference_rows, dtype=np.float64))
    upper = np.where(c > 0, special.bdtrc(np.maximum(c - 1, 0), events, share), 1.0)
    lower = np.where(c < events, special.bdtr(c, events, share), 1.0)
    p_value = np.minimum(1.0, 2 * np.minimum(upper, lower))
    return np.asarray(np.where((events > 0) & (n > 0) & np.isfinite(p_value), p_value, 1.0))


def smallest_detectable_psi(
    bins: npt.ArrayLike, rows: npt.ArrayLike, reference_rows: int, threshold: float, level: float
) -> FloatArray:
    """Smallest true PSI that would breach ``threshold`` with 80 % power in a sample of this size.

    PSI / (1/n + 1/N) is approximately non-central χ² with K − 1 degrees of freedom (Yurdakul & Naranjo, 2020); a
    breach needs it above both the test's limit and the threshold, so the non-centrality is solved for the larger.
    """
    df = np.maximum(np.asarray(bins) - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / np.asarray(rows) + 1 / np.float64(reference_rows)
        noise = sampling_part(bins, rows, reference_rows)
        limit = np.maximum(special.chdtri(df, level), (threshold + noise) / scale)
        return np.asarray(special.chndtrinc(limit, df, 1 - POWER) * scale)


def no_drift_band(bins: npt.ArrayLike, rows: npt.ArrayLike, reference_rows: int, level: float = 0.95) -> FloatArray:
    """PSI below which ``level`` of the samples without any drift lie, χ²_{K−1}(level) · (1/n + 1/N); for plots only."""
    df = np.maximum(np.asarray(bins) - 1, 1)
    with np.errstate(divide="ignore"):
        scale = 1 / np.asarray(rows) + 1 / np.float64(reference_rows)
    return np.asarray(special.chdtri(df, 1 - level) * scale)
