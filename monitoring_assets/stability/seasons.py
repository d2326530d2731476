"""The seasonal verdict: a short window against the pooled counts of earlier cycles, beside the one on the reference.

Every partition d of a window has earlier cycles: the partitions at the same place of the week and of the month before.
The baseline of a window is the sum of the counts of the earlier cycles of all its partitions, each of them once. Net
PSI and Pearson's test of the window against that baseline are those of the verdict on the reference, at the same level
and with the same dispersion.

Left out of the baseline of window L at partition D is the unbroken run of breached partitions that ends at D, or else
a shift that lasts would become its own baseline. A partition q is breached when the verdict on the reference (by the
thresholds now in force) of the window of L partitions that ends at q is WARN or BREACH. A q without enough rows for a
verdict does not break the run, so the run is everything after the newest q that is OK; where D itself is OK, nothing is
left out. The run is followed as far as windows of L partitions fit into the longest window that ends at D, so that it
depends on nothing that D is not judged by anyway.

The rule is off, and net is nan, when
- a partition of the window that has rows has no earlier cycle with rows, the run left out;
- the baseline has fewer rows than a window needs to be eligible;
- the run has no beginning within the longest window: a shift that fills it is no season, and longer windows carry it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitoring_assets.stability.psi import BoolArray, FloatArray, IntArray, psi
from monitoring_assets.stability.significance import pearson
from monitoring_assets.stability.windows import MIN_ROWS_PER_BIN, OK, Column, Thresholds, judge, window_sums


@dataclass(frozen=True)
class SeasonVerdicts:
    """Net PSI against the earlier cycles and whether p is below the level, [T, W].

    ``net`` is nan, and ``significant`` False, where the rule is off or was not asked for.
    """

    net: FloatArray
    significant: BoolArray


def judge_seasons(
    column: Column,
    targets: IntArray,
    lengths: Sequence[int],
    asked: BoolArray,
    earlier: IntArray,
    longest: int,
    thresholds: Thresholds,
    level: float,
) -> SeasonVerdicts:
    """Judge the windows ``asked`` [T, W] of one column against their earlier cycles.

    ``column.counts`` [P, K] are partitions in the order of time; of the ``longest`` window that ends at a target none
    is missing between others, of the time before it some may be. ``earlier`` [P, C] holds the positions of each
    partition's earlier cycles, -1 for none; only the rows of partitions in the windows that were asked for are read.
    """
    baseline = np.zeros((*asked.shape, column.counts.shape[1]), dtype=np.int64)
    rows = column.counts.sum(axis=1)
    calm = _calm(column, targets[asked.any(axis=1)], lengths, longest, thresholds, level)
    for t, w in np.argwhere(asked):
        end, first = int(targets[t]) + 1, max(0, int(targets[t]) + 1 - lengths[w])
        followed = max(0, end - 1 - longest + lengths[w])
        quiet = np.flatnonzero(calm[followed:end, w])
        if quiet.size == 0:
            continue
        before_run = followed + int(quiet[-1]) + 1
        cycles = earlier[first:end][rows[first:end] > 0]
        there = (cycles >= 0) & (cycles < before_run) & (rows[cycles] > 0)
        if there.any(axis=1).all():
            baseline[t, w] = column.counts[np.unique(cycles[there])].sum(axis=0)
    sums = window_sums(column.counts, targets, lengths)
    index = psi(sums, baseline)
    known = baseline.sum(axis=-1) >= np.maximum(MIN_ROWS_PER_BIN * index.bins, 1)
    evidence = pearson(sums, baseline, column.dispersion)
    return SeasonVerdicts(np.where(known, index.net, np.nan), np.asarray(known & (evidence.p_value < level)))


def _calm(
    column: Column, targets: IntArray, lengths: Sequence[int], longest: int, thresholds: Thresholds, level: float
) -> BoolArray:
    """Whether each window's verdict on the reference is OK [P, W], for as far as the targets' runs are followed."""
    calm = np.zeros((len(column.counts), len(lengths)), dtype=bool)
    positions = np.unique(np.maximum(targets[:, None] - np.arange(longest), 0))
    calm[positions] = judge(column, positions, lengths, thresholds, level).level == OK
    return calm
