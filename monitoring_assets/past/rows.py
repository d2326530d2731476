"""Results as rows of a table: the columns, how a result becomes a row, and how a file of such rows is read.

The columns are derived from `Result` and `Metric`. A field that one of them gains is a column of every file that is
written from then on, and null in rows from before.
"""

from __future__ import annotations

import io
import types
from collections.abc import Sequence
from datetime import date, datetime
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import polars as pl
from pydantic import BaseModel

from monitoring_assets import layout
from monitoring_assets.results import Result

LEFT_OUT = {"inputs"}
"""Digests of inputs do not compress, are most of a result's bytes, and who recomputes a result reads itself."""

IDENTITY = ("model", "version", "partition", "kind", "attempt")
"""What tells two results apart; files are in this order."""

ROW_GROUP = 2_000
"""Rows that are read together, so that one model is read without most of the others."""

_PLAIN = {
    str: pl.String(),
    int: pl.Int64(),
    float: pl.Float64(),
    bool: pl.Boolean(),
    datetime: pl.Datetime("us", "UTC"),
}


def dtype_of(annotation: Any) -> pl.DataType:
    """The Polars type of a field. Raises TypeError for one that no result has had so far: say here what it becomes."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return pl.Struct({name: dtype_of(field.annotation) for name, field in fields})
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple and arguments[1:] == (...,):
        return pl.List(dtype_of(arguments[0]))
    if origin in (Literal, types.UnionType, Union):
        kinds = (type(each) for each in arguments) if origin is Literal else arguments
        found = {dtype_of(each) for each in kinds if each is not type(None)}
        if len(found) == 1:
            return found.pop()
    raise TypeError(f"no column can hold {annotation}")


@cache
def schema() -> pl.Schema:
    """The columns of a row and their types."""
    fields = Result.model_fields.items()
    return pl.Schema({name: dtype_of(field.annotation) for name, field in fields if name not in LEFT_OUT})


def to_line(result: Result) -> bytes:
    """A result as `to_frame` takes it."""
    return result.model_dump_json(exclude_none=True, exclude=LEFT_OUT).encode()


def to_frame(lines: Sequence[bytes]) -> pl.DataFrame:
    """Rows from lines. Raises PolarsError when a number is too large for its column."""
    if not lines:
        return schema().to_frame()
    return pl.read_ndjson(io.BytesIO(b"\n".join(lines)), schema=schema())


def to_parquet(rows: pl.DataFrame) -> bytes:
    """The file of these rows."""
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd", row_group_size=ROW_GROUP)
    return buffer.getvalue()


def from_parquet(source: bytes | list[str], options: dict[str, str] | None = None, *, newer: bool) -> pl.LazyFrame:
    """The rows of a file's bytes, or of the files at some locations, with the columns of this release.

    What an older release did not know is null. What a newer one wrote besides is left out if ``newer``, otherwise
    collecting raises a PolarsError.
    """
    return pl.scan_parquet(
        source,
        glob=False,
        schema=schema(),
        missing_columns="insert",
        extra_columns="ignore" if newer else "raise",
        cast_options=pl.ScanCastOptions(
            missing_struct_fields="insert", extra_struct_fields="ignore" if newer else "raise"
        ),
        storage_options=options or None,
    )


def day() -> pl.Expr:
    """The date that a result is about, as text: its partition's; of one about a whole version, when it was made."""
    recorded = pl.col("recorded_at").dt.strftime("%Y-%m-%d")
    partition = pl.col("partition")
    return pl.when(partition == layout.REGISTRY_PARTITION).then(recorded).otherwise(partition.str.head(10))


def in_period(since: date, until: date) -> pl.Expr:
    """Whether `day` is in [since, until)."""
    return day().is_between(pl.lit(since.isoformat()), pl.lit(until.isoformat()), closed="left")
