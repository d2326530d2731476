"""From a column's values to cell numbers, a block of rows at a time. Numpy only, so that every engine counts alike.

A column's cells are finer than its bins, so that bins and tails are both sums of cells. A block is compared with all of
a column's limits at once: per value that is several times cheaper than any search, hash or group-by.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resources.engines.counting import (
    NON_FINITE,
    NULL,
    OTHER,
    TAILS,
    CategoricalColumn,
    NumericColumn,
    Population,
    SegmentColumn,
)

Codes: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

BLOCK_ROWS = 65_536
# Beyond so many limits a binary search is cheaper than comparing with each. Their number must fit a byte.
COMPARED = 128


class Scratch:
    """Room for one block's comparisons. Kept, because the page faults of fresh memory cost as much as the comparing."""

    def __init__(self) -> None:
        self._mask = np.empty(COMPARED * BLOCK_ROWS, dtype=np.bool_)

    def mask(self, limits: int, rows: int) -> npt.NDArray[np.bool_]:
        """An uninitialised mask [limits, rows]."""
        return self._mask[: limits * rows].reshape(limits, rows)


@dataclass(frozen=True)
class CellMeaning:
    """What the rows of a cell count as: their bin, and whether each of ``TAILS`` and of ``NON_FINITE``."""

    bin: int
    tails: tuple[bool, ...] = (False,) * len(TAILS)
    non_finite: tuple[bool, ...] = (False,) * len(NON_FINITE)


class NumericCells:
    """Cells of a numeric column.

    The limits are all values at which a meaning changes, ascending, each the top of a cell; ``x < v`` has its limit
    right below v. The cell of x is the number of limits that x is at most. For what is missing that is 0, since a NaN
    is at most nothing; the last cell is for those of the missing values that are NaN.
    """

    def __init__(self, column: NumericColumn) -> None:
        self._column = column
        own = (*column.points, *column.specials)
        low, high = (column.tails[:2], column.tails[2:]) if column.tails else ((), ())
        below = (float(np.nextafter(value, -np.inf)) for value in (*own, *low))
        largest = float(np.finfo(np.float64).max)
        self._tops = sorted({*own, *below, *column.edges, *high, -np.inf, largest, np.inf})
        self._limits = np.array(self._tops)
        self.size = len(self._limits) + 2

    def encode(self, values: npt.NDArray[np.float64], scratch: Scratch, out: Codes) -> int:
        """Write each value's cell, NaN for null, into ``out``. Returns how many are missing."""
        low, high = np.minimum.reduce(values), np.maximum.reduce(values)
        missing = bool(np.isnan(low))
        if missing:
            low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        # Only limits within the block's range tell its values apart: the outer ones, mostly, cost nothing.
        start = bisect_left(self._tops, low)
        passed = 0 if missing else len(self._limits) - bisect_left(self._tops, high)
        limits = self._limits[start : len(self._limits) - passed]
        if len(limits) > COMPARED:
            out[:] = len(self._limits) - np.searchsorted(self._limits, values)
        else:
            mask = scratch.mask(len(limits), len(values))
            np.less_equal(values, limits[:, None], out=mask)
            np.add.reduce(mask.view(np.uint8), axis=0, dtype=np.uint8, out=out)
            np.add(out, passed, out=out)
        return len(out) - int(np.count_nonzero(out)) if missing else 0

    def mark_nan(self, null: npt.NDArray[np.bool_], out: Codes) -> None:
        """Move the missing values that are not null to the cell of NaN."""
        out[(out == 0) & ~null] = self.size - 1

    def meanings(self) -> list[CellMeaning]:
        """What each cell counts as."""
        null = self._column.bins - 1
        falling = map(self._meaning, reversed(self._tops))
        return [CellMeaning(null), *falling, CellMeaning(null, non_finite=(False, True))]

    def _meaning(self, value: float) -> CellMeaning:
        column, tails = self._column, self._column.tails
        if value in column.specials:
            first = column.bins - 1 - column.unseen - len(column.specials)
            return CellMeaning(first + column.specials.index(value))
        if value in column.points:
            bin_number = column.points.index(value)
        else:
            bin_number = column.bins - 2 if column.unseen else len(column.points) + bisect_left(column.edges, value)
        outside = (value < tails[0], value < tails[1], value > tails[2], value > tails[3]) if tails else (False,) * 4
        return CellMeaning(bin_number, outside, (bool(np.isinf(value)), False))


class CategoryCells:
    """Cells of a categorical column or segment, from 64-bit hashes: 0 for unseen, 1 … K for known values, then null.

    ``hashes`` are those of the K known values, uint64 [K], and ``null`` that of null, by the engine's hash function.
    Two values with one hash would be counted as one; at 64 bits, a memory error is the likelier cause of a wrong count.
    """

    def __init__(self, hashes: npt.NDArray[np.uint64], null: int) -> None:
        self._hashes = np.append(hashes, np.uint64(null))
        self._order = np.argsort(self._hashes)
        self.size = len(self._hashes) + 1

    def encode(self, hashes: npt.NDArray[np.uint64], scratch: Scratch, out: Codes) -> None:
        """Write the cell of each value, given by its hash, into ``out``."""
        known = len(self._hashes)
        if known > COMPARED:
            place = self._order[np.searchsorted(self._hashes, hashes, sorter=self._order) % known]
            out[:] = np.where(self._hashes[place] == hashes, place + 1, 0)
            return
        mask = scratch.mask(known, len(hashes))
        np.equal(hashes, self._hashes[:, None], out=mask)
        cells = mask.view(np.uint8)
        np.multiply(cells, np.arange(1, known + 1, dtype=np.uint8)[:, None], out=cells)
        np.add.reduce(cells, axis=0, dtype=np.uint8, out=out)


def category_meanings(column: CategoricalColumn) -> list[CellMeaning]:
    """What each cell of a categorical column counts as."""
    known, unseen, null = range(column.bins - 2), column.bins - 2, column.bins - 1
    return [CellMeaning(unseen), *map(CellMeaning, known), CellMeaning(null)]


def segment_parts(segment: SegmentColumn) -> list[Population]:
    """The population that the rows of each cell of a segment belong to."""
    return [(segment.name, value) for value in (OTHER, *segment.values, NULL)]
