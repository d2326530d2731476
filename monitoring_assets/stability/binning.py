"""Bins of one column, chosen once from the reference and frozen per model version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from monitoring_assets.stability.psi import FloatArray, IntArray

MAX_DISTINCT = 20
"""Up to so many distinct values a numeric column gets a bin a value, and a bin for unseen values."""

MASS_POINT = 0.05
"""A value that holds this share of the rows (a zero, a cap) has a bin of its own beside the deciles."""

POOLED_BELOW = 0.01
"""Categories below this share of the reference are one bin for PSI; they are still counted one by one."""

BinKind = Literal["valid", "special", "unseen", "null"]


@dataclass(frozen=True)
class NumericBins:
    """Own-value bins, then right-closed ranges with open ends, then special values, unseen (if any) and null."""

    points: tuple[float, ...]
    edges: tuple[float, ...]
    specials: tuple[float, ...]
    unseen: bool

    def labels(self) -> tuple[str, ...]:
        """A name for every bin, in the order of the counts."""
        ranges = () if self.unseen else _range_labels(self.edges)
        unseen = ("unseen",) if self.unseen else ()
        return (*map(_number, self.points), *ranges, *map(_number, self.specials), *unseen, "null")

    def kinds(self) -> tuple[BinKind, ...]:
        """What each bin holds, in the order of the counts."""
        valid = len(self.points) + (0 if self.unseen else len(self.edges) + 1)
        return _kinds(valid, len(self.specials), unseen=self.unseen)


@dataclass(frozen=True)
class CategoricalBins:
    """A bin a category of the reference, then special values, unseen and null."""

    categories: tuple[str, ...]
    specials: tuple[str, ...]

    def labels(self) -> tuple[str, ...]:
        """A name for every bin, in the order of the counts."""
        return (*self.categories, *self.specials, "unseen", "null")

    def kinds(self) -> tuple[BinKind, ...]:
        """What each bin holds, in the order of the counts."""
        return _kinds(len(self.categories), len(self.specials), unseen=True)


def numeric_bins(values: FloatArray, rows: int, specials: Sequence[float]) -> NumericBins:
    """Bins of a numeric column from its valid reference values (no null, no special value), out of ``rows`` rows.

    Infinities get no bin of their own: they fall into the outer ranges, or are unseen.

    Mass points are taken out before the deciles, whose edges are values of the reference: plain deciles hide a
    change of coding (Taiwan's PAY_6 → PAY_0 is .147 by deciles and .926 by value).
    """
    finite = values[np.isfinite(values)]
    distinct, counts = np.unique(finite, return_counts=True)
    if len(distinct) <= MAX_DISTINCT:
        return NumericBins(tuple(distinct.tolist()), (), tuple(sorted(specials)), unseen=True)
    points = distinct[counts >= MASS_POINT * rows]
    rest = finite[~np.isin(finite, points)]
    edges = np.unique(np.quantile(rest, np.arange(1, 10) / 10, method="inverted_cdf"))
    edges = edges[edges < rest.max()]
    return NumericBins(tuple(points.tolist()), tuple(edges.tolist()), tuple(sorted(specials)), unseen=False)


def psi_groups(counts: IntArray, kinds: Sequence[BinKind], *, pool: bool) -> IntArray:
    """Bin → group of the PSI: the identity, or with ``pool`` one group for all valid bins below 1 % of the rows."""
    rare = np.zeros(len(counts), dtype=bool)
    if pool and counts.sum() > 0:
        rare = (np.asarray(kinds) == "valid") & (counts < POOLED_BELOW * counts.sum())
    if rare.sum() < 2:
        return np.arange(len(counts))
    own = np.cumsum(~rare) - 1
    return np.where(rare, int((~rare).sum()), own)


def tail_limits(values: FloatArray) -> tuple[float, float, float, float] | None:
    """Minimum, 0.1 % and 99.9 % quantile and maximum of the finite reference values; None without any."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    low, high = np.quantile(finite, [0.001, 0.999], method="inverted_cdf")
    return float(finite.min()), float(low), float(high), float(finite.max())


def _kinds(valid: int, specials: int, *, unseen: bool) -> tuple[BinKind, ...]:
    kinds: list[BinKind] = ["valid"] * valid
    kinds += ["special"] * specials
    if unseen:
        kinds.append("unseen")
    return (*kinds, "null")


def _range_labels(edges: Sequence[float]) -> tuple[str, ...]:
    if not edges:
        return ("any",)
    inner = (f"({_number(a)}, {_number(b)}]" for a, b in pairwise(edges))
    return (f"≤ {_number(edges[0])}", *inner, f"> {_number(edges[-1])}")


def _number(value: float) -> str:
    short = f"{value:.6g}"
    return short if float(short) == value else repr(value)
