"""The Population Stability Index over frozen bins.

Formula: Siddiqi, *Credit Risk Scorecards* (2006), Σ (a − e) · ln(a / e), with a the current and e the reference
share of a bin. The same index over the bins of one characteristic is called the CSI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SHARE_FLOOR = 1e-4
"""Smallest share of a bin that counts: it stands in for ln(0), and decides the value of an unseen category."""


@dataclass(frozen=True)
class Psi:
    """PSI of many samples against one reference; every array has the leading shape of the samples.

    ``value`` is nan where either side has no rows; ``bins`` counts the bins that hold a row on either side.
    """

    value: FloatArray
    net: FloatArray
    bins: IntArray
    rows: IntArray


def shares(counts: npt.ArrayLike, used: BoolArray) -> FloatArray:
    """Shares of the bins ``[..., K]``, floored at ``SHARE_FLOOR`` and renormalised over the bins in use."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        floored = np.where(used, np.maximum(counts / total, SHARE_FLOOR), 0.0)
        return np.asarray(floored / floored.sum(axis=-1, keepdims=True))


def contributions(current: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    """What each bin adds to the PSI, shape ``[..., K]``; bins that are empty on both sides add 0."""
    current = np.asarray(current)
    reference = np.broadcast_to(np.asarray(reference), current.shape)
    used = (current > 0) | (reference > 0)
    a, e = shares(current, used), shares(reference, used)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(used, (a - e) * np.log(a / e), 0.0))


def sampling_part(bins: npt.ArrayLike, rows: npt.ArrayLike, reference_rows: npt.ArrayLike) -> FloatArray:
    """Expected PSI of two samples of one population, (K − 1)(1/n + 1/N): the part that sampling alone makes."""
    with np.errstate(divide="ignore"):
        scale = 1 / np.asarray(rows) + 1 / np.asarray(reference_rows, dtype=np.float64)
        return np.asarray((np.asarray(bins) - 1) * scale)


def psi(current: npt.ArrayLike, reference: npt.ArrayLike) -> Psi:
    """PSI and net PSI of ``current`` counts ``[..., K]`` against ``reference`` counts ``[K]`` or ``[..., K]``.

    Net PSI = max(0, PSI − (K − 1)(1/n + 1/N)).
    """
    current = np.asarray(current, dtype=np.int64)
    reference = np.asarray(reference, dtype=np.int64)
    rows, reference_rows = current.sum(axis=-1), reference.sum(axis=-1)
    bins = ((current > 0) | (reference > 0)).sum(axis=-1)
    value = contributions(current, reference).sum(axis=-1)
    value = np.where((rows > 0) & (reference_rows > 0), value, np.nan)
    with np.errstate(invalid="ignore"):
        net = np.maximum(0.0, value - sampling_part(bins, rows, reference_rows))
    return Psi(value=value, net=np.asarray(net), bins=np.asarray(bins), rows=np.asarray(rows))


@dataclass(frozen=True)
class Decomposition:
    """One PSI, split: the parts sum to the whole; ``within_valid`` is the PSI among the valid values alone."""

    valid: float
    null: float
    special: float
    unseen: float
    within_valid: float


def decompose(current: IntArray, reference: IntArray, kinds: Sequence[str]) -> Decomposition:
    """Split the PSI of one sample ``[K]`` by the kind of each bin: ``valid``, ``null``, ``special`` or ``unseen``."""
    parts = contributions(current, reference)
    names = np.asarray(kinds)
    valid = names == "valid"
    within = psi(current[valid], reference[valid]).value
    return Decomposition(
        **{kind: float(parts[names == kind].sum()) for kind in ("valid", "null", "special", "unseen")},
        within_valid=0.0 if np.isnan(within) else float(within),
    )


def merge_bins(counts: npt.NDArray[Any], groups: IntArray) -> IntArray:
    """Add up bins ``[..., B]`` into the groups ``[B] → 0 … K−1`` that the PSI is computed over (pooled categories)."""
    merged = np.zeros((*counts.shape[:-1], int(groups.max()) + 1), dtype=np.int64)
    for bin_index, group in enumerate(groups):
        merged[..., group] += counts[..., bin_index]
    return merged
