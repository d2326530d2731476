"""What is counted in a model version's rows, and the counts: exact, additive, the same from every engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resources.errors import BadInput

MICROS = 1_000_000
SCORE_CELLS = 10_000
TAILS = ("below_min", "below_p001", "above_p999", "above_max")
NON_FINITE = ("infinite", "nan")
OTHER, NULL = "other", "null"

# With scores up to this, blocks of thousands of rows fit the sums that tally.py packs with their counts.
_SCORE_LIMIT = 100_000.0

Int64Array: TypeAlias = npt.NDArray[np.int64]
Population: TypeAlias = tuple[str, str]
ByColumn: TypeAlias = Mapping[Population, Mapping[str, Int64Array]]
WHOLE: Population = ("", "")


@dataclass(frozen=True)
class NumericColumn:
    """A numeric column and its frozen bins, in order: points, range bins, specials, unseen (if flagged), null.

    ``points`` are values with a bin of their own, by exact equality; ``specials`` likewise, declared by the user.
    ``edges`` are the k inner edges of the other valid values: (-inf, e0], (e0, e1], …, (ek-1, +inf). With ``unseen``
    there are no such ranges: a valid value that is not a point is unseen. ``tails`` are the reference's min, 0.1 %
    quantile, 99.9 % quantile and max. Values are compared as float64; NaN is null, infinities are valid.
    """

    name: str
    points: tuple[float, ...]
    edges: tuple[float, ...]
    specials: tuple[float, ...]
    unseen: bool
    tails: tuple[float, float, float, float] | None

    def __post_init__(self) -> None:
        own, tails = self.points + self.specials, self.tails or ()
        _require(all(map(math.isfinite, own + self.edges + tails)), self.name, "points, edges and tails are finite")
        _require(len(set(own)) == len(own), self.name, "no value has two bins")
        _require(all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False)), self.name, "edges increase")
        _require(list(tails) == sorted(tails), self.name, "tails are in the order min, p0.1, p99.9, max")
        _require(not (self.unseen and self.edges), self.name, "a column with an unseen bin has no edges")

    @property
    def bins(self) -> int:
        """Number of bins, null included."""
        ranges = 1 if self.unseen else len(self.edges) + 1
        return len(self.points) + ranges + len(self.specials) + 1


@dataclass(frozen=True)
class CategoricalColumn:
    """A categorical column and its bins, in order: categories, specials, unseen, null.

    Values are compared as text: booleans are "true" and "false", integers their decimal digits.
    """

    name: str
    categories: tuple[str, ...]
    specials: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(len(set(self.known)) == len(self.known), self.name, "no category has two bins")

    @property
    def known(self) -> tuple[str, ...]:
        """The values with a bin of their own, in the order of their bins."""
        return self.categories + self.specials

    @property
    def bins(self) -> int:
        """Number of bins, unseen and null included."""
        return len(self.known) + 2


@dataclass(frozen=True)
class SegmentColumn:
    """A column whose values split the population; other values are "other", nulls are "null"."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(len(set(self.values)) == len(self.values), self.name, "no segment value is named twice")

    @property
    def populations(self) -> tuple[Population, ...]:
        """(segment, value) of each part. A real value "other" or "null" is counted with the rest of that name."""
        named = [value for value in self.values if value not in (OTHER, NULL)]
        return tuple((self.name, value) for value in (*named, OTHER, NULL))


Column: TypeAlias = NumericColumn | CategoricalColumn


@dataclass(frozen=True)
class CountPlan:
    """Everything that one pass over the rows counts. ``score`` may also be one of ``columns``, for its bins."""

    columns: tuple[Column, ...]
    score: str | None
    score_range: tuple[float, float]
    segments: tuple[SegmentColumn, ...]

    def __post_init__(self) -> None:
        for entries in (self.columns, self.segments):
            names = [entry.name for entry in entries]
            _require(len(set(names)) == len(names), "the plan", "every column and segment is named once")
        low, high = self.score_range
        within = -_SCORE_LIMIT <= low < high <= _SCORE_LIMIT
        _require(within, self.score or "score", f"the score's range is low < high within ±{_SCORE_LIMIT:g}")
        low_micro, high_micro = self.micro_range
        _require(low_micro < high_micro, self.score or "score", "the score's range is at least 1e-6 wide")

    @property
    def micro_range(self) -> tuple[int, int]:
        """The score's range in micro-units."""
        low, high = self.score_range
        return round(low * MICROS), round(high * MICROS)

    @property
    def populations(self) -> tuple[Population, ...]:
        """The whole population, then every part of every segment."""
        return (WHOLE, *(part for segment in self.segments for part in segment.populations))


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of some rows under one plan. They add: the sum over days is the count of all the days' rows, exactly.

    bins:           (segment, value) → column → rows per bin, int64 [bins]; ``WHOLE`` is the whole population.
    score_sums:     likewise Σ score in micro-units, of scores rounded to 1e-6. Invalid scores add nothing, and a score
                    outside the plan's range counts as the end of the range that is nearer.
    tails:          likewise rows in the order of ``TAILS``, int64 [4]: strictly outside the reference's tails, over
                    valid values that are not special. Zero for categorical columns and columns without tails.
    non_finite:     likewise rows in the order of ``NON_FINITE``, int64 [2]; a NaN is also in the null bin.
    score_cells:    int64 [10000], rows per equal cell of the score's range, by the score rounded to 1e-6; scores
                    outside the range are in the end cells, invalid ones in none.
    invalid_scores: rows whose score is null, NaN or infinite.
    """

    rows: int
    bins: ByColumn
    score_sums: ByColumn
    tails: ByColumn
    non_finite: ByColumn
    score_cells: Int64Array
    invalid_scores: int

    @classmethod
    def zero(cls, plan: CountPlan) -> Counts:
        """The counts of no rows."""

        def zeros(sizes: Sequence[int]) -> ByColumn:
            named = list(zip((column.name for column in plan.columns), sizes, strict=True))
            return {part: {name: np.zeros(size, np.int64) for name, size in named} for part in plan.populations}

        bins = [column.bins for column in plan.columns]
        tails, non_finite = [len(TAILS)] * len(bins), [len(NON_FINITE)] * len(bins)
        cells = np.zeros(SCORE_CELLS, np.int64)
        return cls(0, zeros(bins), zeros(bins), zeros(tails), zeros(non_finite), cells, 0)

    def __add__(self, other: Counts) -> Counts:
        """Counts of the rows of both. Raises BadInput when they were counted under different plans."""
        if _layout(self.bins) != _layout(other.bins):
            raise BadInput(
                "these counts cannot be added: their columns, bins or segments differ, so they were counted with "
                "different reference profiles; count both with the same model version's profile"
            )
        return Counts(
            rows=self.rows + other.rows,
            bins=_sum(self.bins, other.bins),
            score_sums=_sum(self.score_sums, other.score_sums),
            tails=_sum(self.tails, other.tails),
            non_finite=_sum(self.non_finite, other.non_finite),
            score_cells=self.score_cells + other.score_cells,
            invalid_scores=self.invalid_scores + other.invalid_scores,
        )


def _sum(one: ByColumn, other: ByColumn) -> ByColumn:
    return {
        part: {name: counts + other[part][name] for name, counts in columns.items()} for part, columns in one.items()
    }


def _layout(bins: ByColumn) -> dict[Population, dict[str, int]]:
    return {part: {name: len(counts) for name, counts in columns.items()} for part, columns in bins.items()}


def _require(holds: bool, name: str, rule: str) -> None:
    if not holds:
        raise BadInput(f"{name}: cannot be counted, because this does not hold: {rule}; freeze the reference again")
