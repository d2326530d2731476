"""How far the score's mean and the approval rate have moved, from counts in fine cells of the score's range.

A shift that no PSI threshold sees can still be odds × 1.26: the mean of the score on the log-odds scale is what a CUSUM
follows, and the approval rate is what the lender feels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monitoring_assets.stability.psi import FloatArray, IntArray
from monitoring_assets.stability.significance import pearson

APPROVAL_POINTS = 0.03
"""From this difference to the reference's, in either direction, an approval rate is a warning."""


@dataclass(frozen=True)
class CellMoments:
    """Rows, mean and variance of a score on a linear scale."""

    rows: int
    mean: float
    variance: float


def cell_values(low: float, high: float, cells: int, *, probability: bool) -> FloatArray:
    """What a score in each of ``cells`` equal cells of [low, high] counts as: the middle; of a probability its logit.

    The middles of cells in [0, 1] are neither 0 nor 1, so that every logit is finite.
    """
    middles = low + (np.arange(cells) + 0.5) * ((high - low) / cells)
    return np.asarray(np.log(middles / (1 - middles)) if probability else middles)


def moments(values: FloatArray, counts: IntArray) -> CellMoments | None:
    """Moments of ``counts`` rows at ``values``, both [C]; None without rows."""
    rows = int(counts.sum())
    if rows == 0:
        return None
    mean = float(values @ counts / rows)
    return CellMoments(rows, mean, float((values - mean) ** 2 @ counts / rows))


def standardised_shift(now: CellMoments, reference: CellMoments, dispersion: float) -> float | None:
    """z = (m − μ) / √(φ σ² (1/n + 1/N)), approximately standard normal as long as the score does not drift.

    m and n are the partition's mean and rows, μ, σ² and N those of the reference, and φ ≥ 1 is the between-day X²/df of
    the reference's score bins: real books vary more from day to day than independent draws do. None where all scores of
    the reference are in one cell.
    """
    variance = max(dispersion, 1.0) * reference.variance * (1 / now.rows + 1 / reference.rows)
    return (now.mean - reference.mean) / variance**0.5 if variance > 0 else None


@dataclass(frozen=True)
class ApprovalShift:
    """Approval rates now and in the reference, and the evidence that they differ."""

    rate: float
    reference_rate: float
    p_value: float

    @property
    def difference(self) -> float:
        """Percentage points / 100 that the rate has risen."""
        return self.rate - self.reference_rate


def approval_shift(
    approved: int, rows: int, reference_approved: int, reference_rows: int, dispersion: float
) -> ApprovalShift:
    """Compare the approved among ``rows`` > 0 with those of the reference; the test is the one that PSI has."""
    now, then = (approved, rows - approved), (reference_approved, reference_rows - reference_approved)
    p_value = float(pearson(now, then, dispersion).p_value)
    return ApprovalShift(approved / rows, reference_approved / reference_rows, p_value)
