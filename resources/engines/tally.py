"""From cell numbers and scores to counts: joint tables of a few columns each. Numpy only, exact.

One addition per row and table counts the row and sums its score for several columns at once: the index combines the
columns' cells, and one int64 holds the count in its high bits and the score, in micro-units, in its low bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from resources.engines.cells import BLOCK_ROWS, Codes, NumericCells, category_meanings, segment_parts
from resources.engines.counting import (
    MICROS,
    SCORE_CELLS,
    WHOLE,
    Column,
    CountPlan,
    Counts,
    Int64Array,
    NumericColumn,
)

# A table of this size stays in the processor's nearest cache, where an addition costs least.
TABLE_CELLS = 8_000


class Tally:
    """Running counts of blocks of rows under a plan."""

    def __init__(self, plan: CountPlan) -> None:
        self._plan = plan
        self._meanings = [_Meanings(column) for column in plan.columns]
        self._parts = [segment_parts(segment) for segment in plan.segments]
        self._tables = list(_tables([each.size for each in self._meanings], [len(parts) for parts in self._parts]))
        low, high = plan.micro_range
        # An invalid score counts as 0, so 0 must be among the scores that can be packed.
        self._base, width = min(0, low), (max(0, high) - min(0, low)).bit_length()
        # 2^k scores below 2^width sum to less than 2^(k + width); their number takes k + 1 of the other 63 - k - width.
        log_rows = (62 - width) // 2
        self._shift, self._capacity, self._held = log_rows + width, 2**log_rows, 0
        self.block_rows = min(BLOCK_ROWS, self._capacity)
        self._rows = self._invalid = 0
        self._score_cells = np.zeros(SCORE_CELLS, dtype=np.int64)

    def add(
        self, rows: int, columns: Sequence[Codes], parts: Sequence[Codes], scores: npt.NDArray[np.float64] | None
    ) -> None:
        """Count a block of at most ``block_rows`` rows: each column's and each segment's cells [rows], scores [rows].

        A null score must be NaN; without scores every sum is 0.
        """
        if self._held + rows > self._capacity:
            self._unpack()
        self._held += rows
        self._rows += rows
        micros = np.zeros(rows, dtype=np.int64) if scores is None else self._micros(scores)
        packed = micros - self._base + (1 << self._shift)
        for table in self._tables:
            codes = [columns[column] for column in table.columns]
            table.add(codes if table.segment is None else [parts[table.segment], *codes], packed)

    def counts(self) -> Counts:
        """The counts so far."""
        self._unpack()
        counts = Counts.zero(self._plan)
        for table in self._tables:
            for axis, column in enumerate(table.columns, start=1):
                self._add_marginal(counts, table, column, *table.marginal(axis))
        return replace(counts, rows=self._rows, score_cells=self._score_cells.copy(), invalid_scores=self._invalid)

    def _micros(self, scores: npt.NDArray[np.float64]) -> Int64Array:
        """Scores in micro-units, 0 where invalid. Counts them in their cells on the way."""
        low, high = self._plan.micro_range
        valid = np.isfinite(scores)
        invalid = len(scores) - int(np.count_nonzero(valid))
        if invalid:
            scores = np.where(valid, scores, 0.0)
        micros = np.rint(np.clip(scores, *self._plan.score_range) * MICROS).astype(np.int64)
        cells = np.minimum((micros - low) * SCORE_CELLS // (high - low), SCORE_CELLS - 1)
        if invalid:
            micros, cells = np.where(valid, micros, 0), cells[valid]
            self._invalid += invalid
        np.add.at(self._score_cells, cells, 1)
        return micros

    def _unpack(self) -> None:
        for table in self._tables:
            table.unpack(self._shift, self._base)
        self._held = 0

    def _add_marginal(self, counts: Counts, table: _Table, column: int, rows: Int64Array, sums: Int64Array) -> None:
        name, meanings = self._plan.columns[column].name, self._meanings[column]
        bins, score_sums = meanings.by_bin(rows), meanings.by_bin(sums)
        tails, non_finite = rows @ meanings.tails, rows @ meanings.non_finite
        populations = [WHOLE] if table.segment is None else self._parts[table.segment]
        # Every row is in some part of the first segment, so its parts also make the whole.
        for part, population in enumerate(populations):
            for key in {population, WHOLE} if table.segment == 0 else {population}:
                counts.bins[key][name][:] += bins[part]
                counts.score_sums[key][name][:] += score_sums[part]
                counts.tails[key][name][:] += tails[part]
                counts.non_finite[key][name][:] += non_finite[part]


class _Meanings:
    """What the cells of one column count as, as arrays over the cells."""

    def __init__(self, column: Column) -> None:
        cells = NumericCells(column).meanings() if isinstance(column, NumericColumn) else category_meanings(column)
        self.size, self._bins = len(cells), column.bins
        self._bin = np.array([cell.bin for cell in cells])
        self.tails = np.array([cell.tails for cell in cells], dtype=np.int64)
        self.non_finite = np.array([cell.non_finite for cell in cells], dtype=np.int64)

    def by_bin(self, by_cell: Int64Array) -> Int64Array:
        """Sums over the cells of each bin: [parts, cells] → [parts, bins]."""
        sums = np.zeros((self._bins, len(by_cell)), dtype=np.int64)
        np.add.at(sums, self._bin, by_cell.T)
        return sums.T


class _Table:
    """Rows and score sums by the joint cells of a segment, if any, and some columns."""

    def __init__(self, segment: int | None, parts: int, columns: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        self.segment, self.columns = segment, columns
        self._shape = (parts, *sizes)
        cells = int(np.prod(self._shape))
        self._index_type = np.dtype(np.uint16 if cells < 2**16 else np.intp)
        self._packed, self._rows, self._sums = (np.zeros(cells, dtype=np.int64) for _ in range(3))

    def add(self, codes: Sequence[Codes], packed: Int64Array) -> None:
        """Add a block: the cells of the segment, if any, and of the columns [n], and what to add for each row [n]."""
        index = codes[0].astype(self._index_type)
        for size, code in zip(self._shape[len(self._shape) - len(codes) + 1 :], codes[1:], strict=True):
            index = index * size + code
        np.add.at(self._packed, index.astype(np.intp), packed)

    def unpack(self, shift: int, base: int) -> None:
        """Move what is packed, a count above ``shift`` bits of Σ (score - base), to the rows and sums."""
        rows = self._packed >> shift
        self._rows += rows
        self._sums += (self._packed & ((1 << shift) - 1)) + rows * base
        self._packed[:] = 0

    def marginal(self, axis: int) -> tuple[Int64Array, Int64Array]:
        """Rows and score sums by the segment's cells and those of one column, 1 for the first: both [parts, cells]."""
        others = tuple(other for other in range(1, len(self._shape)) if other != axis)
        return self._rows.reshape(self._shape).sum(axis=others), self._sums.reshape(self._shape).sum(axis=others)


def _tables(sizes: Sequence[int], parts: Sequence[int]) -> Iterator[_Table]:
    splits: list[tuple[int | None, int]] = list(enumerate(parts))
    for segment, length in splits or [(None, 1)]:
        for columns in _groups(sizes, TABLE_CELLS // length):
            yield _Table(segment, length, columns, tuple(sizes[column] for column in columns))


def _groups(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, ...]]:
    """Columns in groups whose joint cells are at most ``limit``, as long as one alone is."""
    group: tuple[int, ...] = ()
    cells = 1
    for column in sorted(range(len(sizes)), key=lambda column: sizes[column]):
        if group and cells * sizes[column] > limit:
            yield group
            group, cells = (), 1
        group, cells = (*group, column), cells * sizes[column]
    if group:
        yield group
