"""Counting Parquet files with Polars: one streaming read, in memory that does not grow with the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from resources.engines.cells import BLOCK_ROWS, CategoryCells, Codes, NumericCells, Scratch
from resources.engines.counting import CountPlan, Counts, NumericColumn
from resources.engines.tally import Tally
from resources.errors import BadInput, InfrastructureError


def count_parquet(
    paths: Sequence[str],
    plan: CountPlan,
    *,
    score_paths: Sequence[str] | None,
    storage_options: Mapping[str, Any] | None = None,
) -> Counts:
    """Count the rows of Parquet files, in one streaming read of them.

    ``score_paths`` hold the column ``plan.score`` of the same rows in the same order; None if ``paths`` hold it too.
    Raises BadInput when files cannot be read together, lack a column, hold text where the plan has numbers, or have
    another number of rows than their scores; InfrastructureError when the storage fails.
    """
    if not paths:
        return Counts.zero(plan)
    options = dict(storage_options) if storage_options else None
    try:
        rows = _scan(paths, options)
        if score_paths is not None and plan.score is not None:
            rows = _with_scores(rows, _scan(score_paths, options), plan.score, f"{_name(score_paths)}, {_name(paths)}")
        counter = FrameCounter(plan, rows.collect_schema(), _name(paths))
        for frame in rows.select(counter.names).collect_batches():
            counter.add(frame)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{_name(paths)}: cannot be read: {error}; write the partition again") from error
    except OSError as error:
        raise InfrastructureError(f"{_name(paths)}: the storage failed: {error}; try again") from error
    return counter.counts()


class FrameCounter:
    """Counts frames of rows under a plan.

    ``schema`` is that of the frames, of which the columns ``names`` are used; ``where`` is their origin, for errors.
    Raises BadInput when the schema lacks a column or has something else where the plan has numbers.
    """

    def __init__(self, plan: CountPlan, schema: pl.Schema, where: str) -> None:
        columns = [
            _Numbers(column) if isinstance(column, NumericColumn) else _Texts(column.name, column.known)
            for column in plan.columns
        ]
        self._encoders = [*columns, *(_Texts(segment.name, segment.values) for segment in plan.segments)]
        self._columns, self._scored = len(columns), plan.score is not None
        scores = [plan.score] if plan.score is not None else []
        self.names = list(dict.fromkeys([encoder.name for encoder in self._encoders] + scores))
        numbers = [column.name for column in plan.columns if isinstance(column, NumericColumn)] + scores
        _check(schema, self.names, numbers, where)
        prepared = [encoder.prepared(schema) for encoder in self._encoders] + [_numbers(name) for name in scores]
        self._prepared = [expression.alias(str(place)) for place, expression in enumerate(prepared)]
        self._tally, self._scratch = Tally(plan), Scratch()

    def add(self, frame: pl.DataFrame) -> None:
        """Count the rows of a frame."""
        arrays = [series.to_numpy() for series in frame.select(self._prepared)]
        sources = [frame.get_column(encoder.name) for encoder in self._encoders]
        for start in range(0, frame.height, self._tally.block_rows):
            rows = slice(start, min(start + self._tally.block_rows, frame.height))
            codes = [
                encoder.encode(values[rows], source, start, self._scratch)
                for encoder, values, source in zip(self._encoders, arrays, sources, strict=False)
            ]
            scores = arrays[-1][rows] if self._scored else None
            self._tally.add(rows.stop - start, codes[: self._columns], codes[self._columns :], scores)

    def counts(self) -> Counts:
        """The counts of all frames so far."""
        return self._tally.counts()


class _Numbers:
    """Encodes the values of a numeric column."""

    def __init__(self, column: NumericColumn) -> None:
        self.name = column.name
        self._cells = NumericCells(column)
        self._codes = _codes(self._cells.size)

    def prepared(self, _: pl.Schema) -> pl.Expr:
        return _numbers(self.name)

    def encode(self, values: npt.NDArray[np.float64], source: pl.Series, start: int, scratch: Scratch) -> Codes:
        codes = self._codes[: len(values)]
        missing = self._cells.encode(values, scratch, codes)
        if missing and missing > (nulls := source.slice(start, len(values))).null_count():
            self._cells.mark_nan(nulls.is_null().to_numpy(), codes)
        return codes


class _Texts:
    """Encodes the values of a categorical column or segment, by their hashes."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        hashes = pl.Series([*known, None], dtype=pl.String).hash().to_numpy()
        self._cells = CategoryCells(hashes[:-1], int(hashes[-1]))
        self._codes = _codes(self._cells.size)

    def prepared(self, schema: pl.Schema) -> pl.Expr:
        column = pl.col(self.name)
        return (column.fill_nan(None) if schema[self.name].is_float() else column).cast(pl.String).hash()

    def encode(self, values: npt.NDArray[np.uint64], _: pl.Series, __: int, scratch: Scratch) -> Codes:
        codes = self._codes[: len(values)]
        self._cells.encode(values, scratch, codes)
        return codes


def _codes(size: int) -> Codes:
    return np.empty(BLOCK_ROWS, dtype=np.uint8 if size <= 256 else np.uint32)


def _numbers(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64).fill_null(float("nan"))


def _scan(paths: Sequence[str], options: dict[str, Any] | None) -> pl.LazyFrame:
    return pl.scan_parquet(list(paths), glob=False, extra_columns="ignore", storage_options=options)


def _with_scores(rows: pl.LazyFrame, scores: pl.LazyFrame, score: str, where: str) -> pl.LazyFrame:
    _check(scores.collect_schema(), [score], [score], where)
    lengths = [int(frame.select(pl.len()).collect().item()) for frame in (rows, scores)]
    if lengths[0] != lengths[1]:
        raise BadInput(f"{where}: {lengths[1]} scores for {lengths[0]} rows; run the scores stage again")
    return pl.concat([rows.drop(score, strict=False), scores.select(score)], how="horizontal")


def _check(schema: pl.Schema, names: Sequence[str], numbers: Sequence[str], where: str) -> None:
    absent = [name for name in names if name not in schema]
    if absent:
        raise BadInput(f"{where}: no column {', '.join(map(repr, absent))}; run the stage that writes it again")
    for name in numbers:
        dtype = schema[name]
        if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
            raise BadInput(f"{where}: {name!r} is stored as {dtype}, and numbers are counted; store it as a number")


def _name(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}" if paths else "no file"
