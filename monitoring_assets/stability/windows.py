"""Windows of several partitions: sums of stored counts, and the verdict over them.

A partition D is judged over every window that ends at D. A breach needs effect (net PSI at or above the threshold)
and evidence (p below the column's level), and in a window longer than one partition it must survive without its
worst partition, so that a one-day glitch is reported for its day and does not linger for weeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitoring_assets.stability.psi import BoolArray, FloatArray, IntArray, psi
from monitoring_assets.stability.significance import pearson

MIN_ROWS_PER_BIN = 10
RECORDED_NET = 0.02
"""Windows with a smaller net PSI are not in results: no threshold may be lower, so no policy can breach in them."""

SURVIVAL = 0.8
"""Share of the threshold that must be left without the worst partition; also where an alert clears."""

NOT_ELIGIBLE, OK, WARN, BREACH = -1, 0, 1, 2


@dataclass(frozen=True)
class Thresholds:
    """Net PSI from which a shift is a warning, and from which it is critical."""

    warn: float
    critical: float


@dataclass(frozen=True)
class Column:
    """One column's history: ``counts`` [P, K] aligned with consecutive partitions (0 where one is missing)."""

    counts: IntArray
    reference: IntArray
    dispersion: float = 1.0


@dataclass(frozen=True)
class WindowVerdicts:
    """Verdicts of one column for T target partitions over W windows; every array is [T, W].

    ``level`` is NOT_ELIGIBLE, OK, WARN or BREACH; ``significant`` is p below the column's level, whatever the effect.
    ``net_without_worst`` is nan but in eligible windows longer than one partition in which some policy could breach:
    those with evidence and a net PSI of at least RECORDED_NET.
    """

    lengths: tuple[int, ...]
    rows: IntArray
    bins: IntArray
    value: FloatArray
    net: FloatArray
    p_value: FloatArray
    net_without_worst: FloatArray
    level: IntArray
    significant: BoolArray

    def deciding(self) -> IntArray:
        """Index of the window that decides each target [T]: the shortest one at the highest level."""
        return np.asarray(np.argmax(self.level, axis=1))

    def worst_level(self) -> IntArray:
        """Highest level over the windows [T]; NOT_ELIGIBLE where no window has rows enough."""
        return np.asarray(self.level.max(axis=1))

    def moved(self) -> BoolArray:
        """Eligible windows with evidence and a net PSI that is recorded [T, W]: some policy could breach in them."""
        return np.asarray((self.level != NOT_ELIGIBLE) & self.significant & (self.net >= RECORDED_NET))


def window_sums(counts: IntArray, targets: IntArray, lengths: Sequence[int]) -> IntArray:
    """Sums of ``counts`` [P, …] over the ``lengths`` partitions ending at each target, shape [T, W, …]."""
    total = np.concatenate([np.zeros((1, *counts.shape[1:]), dtype=np.int64), np.cumsum(counts, axis=0)])
    ends = targets + 1
    return np.stack([total[ends] - total[np.maximum(ends - length, 0)] for length in lengths], axis=1)


def judge(
    column: Column, targets: IntArray, lengths: Sequence[int], thresholds: Thresholds, level: float
) -> WindowVerdicts:
    """Judge one column at the target partitions (row numbers of ``column.counts``) over windows of ``lengths``."""
    sums = window_sums(column.counts, targets, lengths)
    index = psi(sums, column.reference)
    evidence = pearson(sums, column.reference, column.dispersion)
    eligible = (index.rows > 0) & (index.rows >= MIN_ROWS_PER_BIN * index.bins) & (column.reference.sum() > 0)
    significant = evidence.p_value < level
    candidate = eligible & significant & (index.net >= min(RECORDED_NET, thresholds.warn))
    without_worst = _net_without_worst(column, sums, targets, lengths, candidate)
    verdict = np.where(eligible, OK, NOT_ELIGIBLE)
    for outcome, threshold in ((WARN, thresholds.warn), (BREACH, thresholds.critical)):
        survives = np.isnan(without_worst) | (without_worst >= SURVIVAL * threshold)
        verdict = np.where(candidate & (index.net >= threshold) & survives, outcome, verdict)
    return WindowVerdicts(
        lengths=tuple(lengths),
        rows=index.rows,
        bins=index.bins,
        value=index.value,
        net=index.net,
        p_value=evidence.p_value,
        net_without_worst=without_worst,
        level=np.asarray(verdict),
        significant=np.asarray(significant),
    )


def _net_without_worst(
    column: Column, sums: IntArray, targets: IntArray, lengths: Sequence[int], candidate: BoolArray
) -> FloatArray:
    """Smallest net PSI left when any one partition is taken out; nan for windows of one partition."""
    left = np.full(candidate.shape, np.nan)
    for w, length in enumerate(lengths):
        rows = np.flatnonzero(candidate[:, w]) if length > 1 else np.empty(0, dtype=np.int64)
        if rows.size == 0:
            continue
        members = targets[rows][:, None] - np.arange(length)
        parts = np.where((members >= 0)[..., None], column.counts[np.maximum(members, 0)], 0)
        net = psi(sums[rows, w][:, None, :] - parts, column.reference).net
        left[rows, w] = np.where(np.isnan(net), 0.0, net).min(axis=1)
    return left
