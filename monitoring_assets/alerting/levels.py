"""What one partition's psi and csi say under a policy's thresholds: how grave, how many columns, the worst of them.

The rules are those of the windows (`stability.windows`), applied to the numbers that results keep, so that another
policy can be tried on what was stored. A shift counts where its net PSI reaches the threshold with evidence, survives
without its worst partition, and is there against the same days of earlier cycles too, if there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]
FloatArray = np.ndarray[Any, np.dtype[np.float64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

SILENT, CLEAR, HOLD, WARN, CRITICAL = -1, 0, 1, 2, 3
"""Levels of a partition. SILENT says nothing (too few rows, no data), HOLD neither raises nor clears."""

SURVIVAL = 0.8
"""Share of a threshold that must be left without the worst partition, and below which a column is clear."""


@dataclass(frozen=True)
class Shifts:
    """Metrics of psi and csi that had rows enough, all [M]; nan for what was not measured.

    ``result`` numbers the result that a metric stands in, ``column`` its column. ``season_net`` is the net PSI against
    earlier cycles, nan without any. ``warn`` and ``critical`` are the thresholds that apply to the metric.
    """

    result: IntArray
    column: IntArray
    window: IntArray
    net: FloatArray
    significant: BoolArray
    without_worst: FloatArray
    season_net: FloatArray
    season_significant: BoolArray
    warn: FloatArray
    critical: FloatArray


@dataclass(frozen=True)
class Levels:
    """Of every result, [R]: its level; its columns, and those that are at that level; the metric of the worst one.

    ``worst`` is a row number of the metrics, -1 below WARN.
    """

    level: IntArray
    columns: IntArray
    reached: IntArray
    worst: IntArray


def levels(shifts: Shifts, results: int) -> Levels:
    """Judge ``results`` results by their metrics."""
    row_level = of_each(shifts)
    order = np.lexsort((shifts.window, shifts.column, shifts.result))
    starts = _starts(shifts.result[order], shifts.column[order])
    group_result = shifts.result[order][starts]
    # A column clears in its shortest window: the longer ones remember what is over.
    clear = _calm(shifts)[order][starts]
    columns = np.bincount(group_result, minlength=results)
    unclear = np.bincount(group_result[~clear], minlength=results)
    level = np.where(columns == 0, SILENT, np.where(unclear == 0, CLEAR, HOLD))
    np.maximum.at(level, shifts.result, np.where(row_level >= WARN, row_level, SILENT))
    group_level = np.maximum.reduceat(row_level[order], starts) if starts.size else np.empty(0, dtype=np.int64)
    at_level = (group_level >= WARN) & (group_level == level[group_result])
    return Levels(
        level=level,
        columns=columns,
        reached=np.bincount(group_result[at_level], minlength=results),
        worst=_worst(shifts, row_level, level),
    )


def of_each(shifts: Shifts) -> IntArray:
    """What each metric alone asks for, [M]: CRITICAL, WARN, or CLEAR for what reaches neither threshold."""
    warns = np.where(_reaches(shifts, shifts.warn), WARN, CLEAR)
    return np.asarray(np.where(_reaches(shifts, shifts.critical), CRITICAL, warns))


def _reaches(shifts: Shifts, threshold: FloatArray) -> BoolArray:
    survives = np.isnan(shifts.without_worst) | (shifts.without_worst >= SURVIVAL * threshold)
    unseasonal = np.isnan(shifts.season_net) | ((shifts.season_net >= threshold) & shifts.season_significant)
    return np.asarray((shifts.net >= threshold) & shifts.significant & survives & unseasonal)


def _calm(shifts: Shifts) -> BoolArray:
    # nan, the season that is not known, is not below anything.
    limit = SURVIVAL * shifts.warn
    return np.asarray((shifts.net < limit) | (shifts.season_net < limit))


def _starts(*keys: IntArray) -> IntArray:
    """Where a new combination of sorted keys begins."""
    if not keys[0].size:
        return np.empty(0, dtype=np.int64)
    changed = np.zeros(keys[0].size, dtype=bool)
    changed[0] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def _worst(shifts: Shifts, row_level: IntArray, level: IntArray) -> IntArray:
    worst = np.full(level.size, -1, dtype=np.int64)
    rows = np.flatnonzero((row_level >= WARN) & (row_level == level[shifts.result]))
    # Of several rows the last one written stays: the largest.
    rows = rows[np.argsort(shifts.net[rows], kind="stable")]
    worst[shifts.result[rows]] = rows
    return worst
