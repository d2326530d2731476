"""Quality that PSI cannot see, or sees too late: rates of nulls, special and unseen values and tails, and volume.

A rate is judged against the reference's by effect (percentage points) and evidence (an exact binomial test), volume
against the same weekday of the weeks before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from monitoring_assets.stability.binning import NumericBins
from monitoring_assets.stability.profile import ColumnProfile
from monitoring_assets.stability.psi import BoolArray, FloatArray, IntArray
from monitoring_assets.stability.significance import binomial_p_value
from monitoring_assets.stability.windows import BREACH, NOT_ELIGIBLE, OK, WARN

WARN_POINTS, CRITICAL_POINTS = 0.01, 0.10
TAIL_NAMES = ("below_min_rate", "below_p001_rate", "above_p999_rate", "above_max_rate")
VOLUME_WARN, VOLUME_CRITICAL = 0.7, 0.5
MIN_HISTORY = 3


@dataclass(frozen=True)
class RateVerdicts:
    """Rates of one column: ``rate``, ``p_value`` and ``level`` are [T, M], ``reference_rate`` and ``threshold`` [M]."""

    measures: tuple[str, ...]
    rows: IntArray
    rate: FloatArray
    reference_rate: FloatArray
    p_value: FloatArray
    threshold: FloatArray
    level: IntArray


def rate_measures(column: ColumnProfile) -> tuple[str, ...]:
    """Names of the rates that are watched for a column, in the order of ``RateVerdicts``."""
    specials = [f"special_rate {label}" for label, kind in _labelled(column) if kind == "special"]
    unseen = ["unseen_rate"] if "unseen" in column.bin_kinds else []
    tails = TAIL_NAMES if column.numeric and column.tails is not None else ()
    return ("null_rate", *specials, *unseen, *tails)


def judge_rates(
    column: ColumnProfile, counts: IntArray, tails: IntArray, level: float, max_null_rate: float | None = None
) -> RateVerdicts:
    """Judge the rates of one column at T partitions from its bin counts [T, B] and tail counts [T, 4].

    Warn: at least one point away from the reference, and p < ``level``. Breach: ten points, or a null rate above
    ``max_null_rate`` that sampling does not explain.
    """
    events = _events(column, counts, tails)
    reference = _events(column, column.reference_counts()[None, :], np.asarray([column.tail_counts], dtype=np.int64))[0]
    reference_rows = int(column.reference_counts().sum())
    rows = counts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = events / rows[:, None]
        reference_rate = reference / np.float64(reference_rows)
    p_value = binomial_p_value(events, rows[:, None], reference, reference_rows)
    shift = np.abs(rate - reference_rate)
    verdict = np.select(
        [(p_value < level) & (shift >= CRITICAL_POINTS), (p_value < level) & (shift >= WARN_POINTS)], [BREACH, WARN], OK
    )
    threshold = np.full(len(reference), WARN_POINTS)
    if max_null_rate is not None:
        threshold[0] = max_null_rate
        verdict[:, 0] = np.where(_above(events[:, 0], rows, max_null_rate, level), BREACH, verdict[:, 0])
    verdict = np.where(rows[:, None] > 0, verdict, NOT_ELIGIBLE)
    return RateVerdicts(rate_measures(column), rows, rate, reference_rate, p_value, threshold, verdict)


def _labelled(column: ColumnProfile) -> list[tuple[str, str]]:
    return list(zip(column.bins.labels(), column.bin_kinds, strict=True))


def _events(column: ColumnProfile, counts: IntArray, tails: IntArray) -> IntArray:
    kinds = np.asarray(column.bin_kinds)
    parts = [counts[:, kinds == "null"], counts[:, kinds == "special"], counts[:, kinds == "unseen"]]
    if isinstance(column.bins, NumericBins) and column.tails is not None:
        parts.append(tails)
    return np.concatenate(parts, axis=1)


def _above(count: IntArray, rows: IntArray, limit: float, level: float) -> BoolArray:
    p_value = np.where(count > 0, special.bdtrc(np.maximum(count - 1, 0).astype(float), rows.astype(float), limit), 1.0)
    return np.asarray((count > limit * rows) & (p_value < level))


@dataclass(frozen=True)
class VolumeVerdicts:
    """Volume at T partitions: rows over the median of the earlier ones, its p-value and level; nan without history."""

    ratio: FloatArray
    p_value: FloatArray
    level: IntArray


def judge_volume(rows: IntArray, history: IntArray, present: BoolArray, level: float) -> VolumeVerdicts:
    """Judge the rows [T] of partitions against ``history`` [T, H], the same weekday of the weeks before.

    ``present`` [T, H] says which of these partitions exist; at least three are needed. Two tests must agree: the
    exact one of two Poisson rates, and, where the history varies by more than Poisson, Student's t with the history's
    own spread (1.4826 · MAD, which one holiday does not widen).
    """
    weeks = present.sum(axis=1)
    enough = weeks >= MIN_HISTORY
    known = np.where(present | ~enough[:, None], history.astype(np.float64), np.nan)
    median = np.nanmedian(known, axis=1)
    variance = (1.4826 * np.nanmedian(np.abs(known - median[:, None]), axis=1)) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(enough & (median > 0), rows / median, np.nan)
        t = np.abs(rows - median) / np.sqrt(variance * (1 + 1 / weeks))
        own = np.where(variance > median, 2 * special.stdtr(np.maximum(weeks - 1, 1), -t), 0.0)
    exact = binomial_p_value(rows, 1, np.where(present, history, 0).sum(axis=1), weeks)
    p_value = np.where(np.isnan(ratio), 1.0, np.maximum(own, exact))
    smaller = np.minimum(ratio, 1 / np.where(ratio > 0, ratio, np.inf))
    smaller = np.where(ratio == 0, 0.0, smaller)
    verdict = np.select(
        [(p_value < level) & (smaller <= VOLUME_CRITICAL), (p_value < level) & (smaller <= VOLUME_WARN)],
        [BREACH, WARN],
        OK,
    )
    return VolumeVerdicts(ratio, p_value, np.where(np.isnan(ratio), NOT_ELIGIBLE, verdict))
