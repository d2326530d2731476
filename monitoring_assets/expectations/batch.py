"""The batch that Great Expectations sees: the stored counts of consecutive partitions as one small frame.

Rows are (partition, slot) in order, P × S of them. A column of the frame is a monitored column under its own name;
its slots are its bin counts, then its tail counts, then nulls. What belongs to a partition as a whole stands in
columns named ``(partition) …``, in slot 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from monitoring_assets.problems import shown
from monitoring_assets.stability.psi import BoolArray, FloatArray, IntArray
from resources.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

TAILS = 4
_PREFIX = "(partition) "


def measure_column(measure: str) -> str:
    """Name of the frame's column that holds a measure of whole partitions."""
    return _PREFIX + measure


ROWS, PRESENT, TARGET = (measure_column(name) for name in ("rows", "present", "target"))


@dataclass(frozen=True)
class CountHistory:
    """Counts of P consecutive partitions, look-back first; a missing one is all zeros and not ``present`` [P].

    ``counts`` is column → [P, B] in the order of the column's bins, ``tails`` column → [P, 4], ``rows`` [P];
    ``measures`` is measure → [P], nan where it was not measured.
    """

    partitions: tuple[str, ...]
    present: BoolArray
    counts: dict[str, IntArray]
    tails: dict[str, IntArray]
    rows: IntArray
    measures: dict[str, FloatArray]


def refuse_measure_names(columns: Iterable[str]) -> None:
    """Raise BadInput for a feature or score whose name is kept for the measures of whole partitions."""
    taken = [column for column in columns if column.startswith(_PREFIX)]
    if taken:
        raise BadInput(
            f"feature {shown(taken[0])}: names that start with {_PREFIX!r} are kept for measures of a whole "
            "partition; rename the feature in a new model version"
        )


def to_frame(history: CountHistory, targets: IntArray) -> pd.DataFrame:
    """The batch of ``history`` in which the partitions ``targets`` [T] are to be judged.

    Scalar measures are null outside the targets, because look-back partitions were judged on their own day. Raises
    BadInput for a feature with a reserved name, ValueError for targets that are not increasing row numbers.
    """
    import pandas as pd  # noqa: PLC0415

    refuse_measure_names(history.counts)
    partitions = len(history.partitions)
    if targets.size == 0 or np.any(np.diff(targets) <= 0) or targets[0] < 0 or targets[-1] >= partitions:
        raise ValueError(f"targets must be increasing row numbers of the {partitions} partitions, not {targets}")
    target = np.isin(np.arange(partitions), targets)
    measures: dict[str, FloatArray | IntArray | BoolArray] = {
        ROWS: history.rows,
        PRESENT: history.present,
        TARGET: target,
        **{measure_column(name): np.where(target, values, np.nan) for name, values in history.measures.items()},
    }
    slots = max((counts.shape[1] + TAILS for counts in history.counts.values()), default=1)
    cells = np.full((partitions, slots, len(history.counts) + len(measures)), np.nan)
    for place, (name, counts) in enumerate(history.counts.items()):
        bins = counts.shape[1]
        cells[:, :bins, place] = counts
        cells[:, bins : bins + TAILS, place] = history.tails[name]
    for place, values in enumerate(measures.values(), start=len(history.counts)):
        cells[:, 0, place] = values
    return pd.DataFrame(cells.reshape(partitions * slots, -1), columns=[*history.counts, *measures], copy=False)


@dataclass(frozen=True)
class Batch:
    """The reading side of ``to_frame``: ``slots`` rows a partition, and the partitions to judge, ``targets`` [T]."""

    frame: pd.DataFrame
    slots: int
    targets: IntArray

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Batch:
        """Find the layout of a frame that ``to_frame`` made."""
        slots = len(frame) // int(frame[ROWS].notna().sum())
        return cls(frame, slots, np.flatnonzero(frame[TARGET].to_numpy()[::slots] == 1))

    def counts(self, column: str, bins: int) -> IntArray:
        """Bin counts [P, bins] of a column."""
        return self._slots(column, 0, bins)

    def tails(self, column: str, bins: int) -> IntArray:
        """Tail counts [P, 4] of a column with so many bins."""
        return self._slots(column, bins, bins + TAILS)

    def partition_values(self, column: str) -> IntArray:
        """Whole numbers [P] of a ``(partition) …`` column that is never null."""
        return self._slots(column, 0, 1)[:, 0]

    def _slots(self, column: str, first: int, last: int) -> IntArray:
        values = self.frame[column].to_numpy().reshape(-1, self.slots)[:, first:last]
        if values.shape[1] != last - first or np.isnan(values).any():
            raise ValueError(f"the batch has no counts in slots {first} to {last - 1} of column {shown(column)}")
        return np.asarray(values, dtype=np.int64)
