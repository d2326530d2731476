"""Two further metrics of psi: the mean log-odds, which a CUSUM follows, and the approval rate at the cut-off."""

from __future__ import annotations

import numpy as np

from monitoring_assets.assets.history import Distributions
from monitoring_assets.manifest_sections import Score
from monitoring_assets.results import Metric
from monitoring_assets.stability.psi import BoolArray
from monitoring_assets.stability.score_shift import (
    APPROVAL_POINTS,
    approval_shift,
    cell_values,
    moments,
    standardised_shift,
)
from monitoring_assets.stability.significance import alpha
from monitoring_assets.version import ModelVersion
from resources.engines.counting import MICROS, SCORE_CELLS

MEAN_LOG_ODDS, APPROVAL_RATE = "mean_log_odds", "approval_rate"


class ScoreMetrics:
    """Makes them for the partitions of one version, from the cells that the distributions keep of the score.

    Both stand in results alone, not in the asset's Parquet: a cut-off may be added at any time, and is in no digest.
    A score whose reference is unusable has neither.
    """

    def __init__(self, version: ModelVersion, distributions: Distributions) -> None:
        self._version, self._distributions = version, distributions
        score = version.manifest.score
        self._values = cell_values(*score.range, SCORE_CELLS, probability=score.scale == "pd")
        cells = version.profile.score_cells
        self._cells = np.fromiter(cells.keys(), dtype=np.int64, count=len(cells))
        self._counts = np.fromiter(cells.values(), dtype=np.int64, count=len(cells))
        self._reference = moments(self._values[self._cells], self._counts)

    def of(self, partition: str) -> list[Metric]:
        """The metrics of one partition, which must have a distribution."""
        column = self._version.profile.score_column
        cells, counts = self._distributions.score_cells(partition)
        now, reference = moments(self._values[cells], counts), self._reference
        if now is None or reference is None or column.unusable:
            return []
        mean = Metric(
            metric=MEAN_LOG_ODDS,
            column=column.name,
            window=1,
            value=now.mean,
            net_value=standardised_shift(now, reference, column.dispersion),
            n=now.rows,
        )
        cutoff = cutoff_in_force(self._version, partition)
        if cutoff is None:
            return [mean]
        approved, approved_then = (
            int(number[_approved(self._version.manifest.score, each, cutoff)].sum())
            for each, number in ((cells, counts), (self._cells, self._counts))
        )
        shift = approval_shift(approved, now.rows, approved_then, reference.rows, column.dispersion)
        significant = shift.p_value < alpha(len(self._version.profile.columns))
        rate = Metric(
            metric=APPROVAL_RATE,
            column=column.name,
            window=1,
            value=shift.rate,
            net_value=shift.difference,
            n=now.rows,
            p_value=shift.p_value,
            significant=significant,
            threshold=APPROVAL_POINTS,
            status="warn" if significant and abs(shift.difference) >= APPROVAL_POINTS else "ok",
            note=f"{shift.rate:.1%} approved at the cut-off {cutoff:g}; {shift.reference_rate:.1%} of the reference",
        )
        return [mean, rate]


def cutoff_in_force(version: ModelVersion, partition: str) -> float | None:
    """The newest cut-off from the partition's date or before; None without one."""
    date = version.calendar.start_local(partition).date()
    return next((each.value for each in reversed(version.manifest.score.cutoffs) if each.from_ <= date), None)


def _approved(score: Score, cells: np.ndarray[tuple[int], np.dtype[np.int64]], cutoff: float) -> BoolArray:
    """Which cells are on the approved side; the one that holds the cut-off is, here and in the reference alike."""
    low, high = (round(limit * MICROS) for limit in score.range)
    cell = min((round(cutoff * MICROS) - low) * SCORE_CELLS // (high - low), SCORE_CELLS - 1)
    return np.asarray(cells <= cell if score.higher_is == "risk" else cells >= cell)
