"""The stored distributions of consecutive partitions, as arrays: what windows, rates and volume are judged on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from monitoring_assets.assets.stored import reading
from monitoring_assets.datasets import Current
from monitoring_assets.stability.profile import WHOLE, ReferenceProfile, SegmentKey
from monitoring_assets.stability.psi import IntArray
from monitoring_assets.version import DISTRIBUTION, ModelVersion
from resources.at_once import at_once
from resources.engines.counting import Counts
from resources.object_store.base import MissingObject

SCHEMA = pl.Schema(
    {
        "part": pl.String,
        "column": pl.String,
        "segment": pl.String,
        "value": pl.String,
        "index": pl.Int32,
        "count": pl.Int64,
        "score_sum": pl.Int64,
    }
)
BINS, TAILS, NON_FINITE, CELLS = "bins", "tails", "non-finite", "score cells"


def to_frame(counts: Counts) -> pl.DataFrame:
    """The counts of one partition as rows, those that are zero left out."""
    labels: list[tuple[str, str, str, str]] = []
    vectors: list[IntArray] = []
    sums: list[IntArray] = []
    for (segment, value), columns in counts.bins.items():
        for column, vector in columns.items():
            tails, non_finite = counts.tails[segment, value][column], counts.non_finite[segment, value][column]
            vectors += [vector, tails, non_finite]
            sums += [counts.score_sums[segment, value][column], np.zeros_like(tails), np.zeros_like(non_finite)]
            labels += [(part, column, segment, value) for part in (BINS, TAILS, NON_FINITE)]
    labels.append((CELLS, "", "", ""))
    vectors.append(counts.score_cells)
    sums.append(np.zeros_like(counts.score_cells))
    sizes = [len(vector) for vector in vectors]
    numbers, summed = np.concatenate(vectors), np.concatenate(sums)
    kept = np.flatnonzero((numbers != 0) | (summed != 0))
    index = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    named = pl.DataFrame(labels, schema=list(SCHEMA)[:4], orient="row")[np.repeat(np.arange(len(labels)), sizes)[kept]]
    return named.with_columns(
        pl.Series("index", index[kept]), pl.Series("count", numbers[kept]), pl.Series("score_sum", summed[kept])
    )


@dataclass(frozen=True)
class History:
    """Distributions of P partitions in the order of time; counts are zero where ``present`` is False.

    ``bins`` and ``tails`` map (segment, value) to column to counts [P, B] and [P, 4].
    """

    partitions: tuple[str, ...]
    present: np.ndarray[tuple[int], np.dtype[np.bool_]]
    rows: IntArray
    bins: dict[SegmentKey, dict[str, IntArray]]
    tails: dict[SegmentKey, dict[str, IntArray]]

    def positions(self, partitions: Sequence[str]) -> IntArray:
        """Positions of some of the partitions [T]."""
        index = {partition: position for position, partition in enumerate(self.partitions)}
        return np.asarray([index[partition] for partition in partitions], dtype=np.int64)


class Distributions:
    """Reads the stored distributions of a version, each of them once in a run."""

    def __init__(self, version: ModelVersion) -> None:
        self._version = version
        self._current: dict[str, Current | None] = {}
        self._frames: dict[str, pl.DataFrame] = {}

    def current(self, partition: str) -> Current | None:
        """The distribution's pointer; None when the partition has none."""
        if partition not in self._current:
            self._current[partition] = self._version.current(DISTRIBUTION, partition)
        return self._current[partition]

    def look_up(self, partitions: Iterable[str]) -> None:
        """Read the pointers of partitions that are to be asked for, together."""
        at_once(self.current, {each: None for each in partitions if each not in self._current})

    def remember(self, partition: str, current: Current, frame: pl.DataFrame | None = None) -> None:
        """Take in a distribution that this run has just made, or found."""
        self._current[partition] = current
        if frame is not None:
            self._frames[partition] = frame

    def history(self, partitions: Sequence[str]) -> History:
        """The distributions of partitions in the order of time, with zeros for those that are missing."""
        self.look_up(partitions)
        found = [(position, partition) for position, partition in enumerate(partitions) if self.current(partition)]
        read = at_once(self._frame, [partition for _, partition in found])
        frames = [
            frame.with_columns(position=pl.lit(position, pl.Int32))
            for (position, _), frame in zip(found, read, strict=True)
        ]
        everything = pl.concat(frames) if frames else SCHEMA.to_frame().with_columns(position=pl.lit(0, pl.Int32))
        present = np.zeros(len(partitions), dtype=bool)
        rows = np.zeros(len(partitions), dtype=np.int64)
        for position, partition in found:
            present[position] = True
            rows[position] = self._rows(partition)
        bins, tails = _arrays(self._version.profile, everything, len(partitions))
        return History(tuple(partitions), present, rows, bins, tails)

    def rows(self, partitions: Sequence[str]) -> tuple[IntArray, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Row numbers of partitions from their pointers alone, and which partitions exist."""
        self.look_up(partitions)
        present = [self.current(partition) is not None for partition in partitions]
        rows = [self._rows(partition) if there else 0 for partition, there in zip(partitions, present, strict=True)]
        return np.asarray(rows, dtype=np.int64), np.asarray(present, dtype=np.bool_)

    def score_cells(self, partition: str) -> tuple[IntArray, IntArray]:
        """Cells of the score's range that hold rows of a present partition, and their rows, both [C]."""
        cells = self._frame(partition).filter(pl.col("part") == CELLS)
        return cells["index"].cast(pl.Int64).to_numpy(), cells["count"].to_numpy()

    def _rows(self, partition: str) -> int:
        current = self.current(partition)
        return int(current.measured["rows"]) if current else 0

    def _frame(self, partition: str) -> pl.DataFrame:
        if partition not in self._frames:
            current = self.current(partition)
            assert current is not None  # noqa: S101 - callers ask for present partitions only
            [file] = current.files
            key = self._version.path(DISTRIBUTION, partition).file(current.input_digest, file.name)
            with reading(self._version, DISTRIBUTION, partition):
                # In one request: Polars makes two of a file in S3, for its end first.
                blob = self._version.store.get(key)
                if blob is None:
                    raise MissingObject(f"{self._version.store.uri}/{key} is missing")
                self._frames[partition] = pl.read_parquet(blob.data)
        return self._frames[partition]


def _arrays(
    profile: ReferenceProfile, frame: pl.DataFrame, partitions: int
) -> tuple[dict[SegmentKey, dict[str, IntArray]], dict[SegmentKey, dict[str, IntArray]]]:
    sizes = {column.name: len(column.groups) for column in profile.columns}
    keys = [WHOLE, *(key for key in profile.score_column.counts if key != WHOLE)]
    bins = {key: {name: np.zeros((partitions, size), dtype=np.int64) for name, size in sizes.items()} for key in keys}
    tails = {key: {name: np.zeros((partitions, 4), dtype=np.int64) for name in sizes} for key in keys}
    for part, arrays in ((BINS, bins), (TAILS, tails)):
        rows = frame.filter(pl.col("part") == part)
        for (column, segment, value), group in rows.group_by("column", "segment", "value"):
            target = arrays.get((str(segment), str(value)), {}).get(str(column))
            if target is not None:
                target[group["position"].to_numpy(), group["index"].to_numpy()] = group["count"].to_numpy()
    return bins, tails
