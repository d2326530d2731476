"""Reading a partition's source: whether its columns are what the reference had, and the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import polars as pl

from monitoring_assets.stability.profile import ColumnProfile
from resources.errors import InfrastructureError
from resources.lake import SourceFile, storage_options

Physical = Literal["number", "integer", "boolean", "text", "null", "other"]
BATCH_CELLS = 50_000_000
NUMBERS: tuple[Physical, ...] = ("number", "integer", "null")


class UnreadableSource(Exception):
    """A source file is not what it should be; the message names the file."""


def physical(dtype: pl.DataType) -> Physical:
    """The type a Parquet column is stored as, as far as a model can tell types apart."""
    if dtype.is_integer():
        return "integer"
    if dtype.is_float() or dtype.is_decimal():
        return "number"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    return "null" if dtype == pl.Null else "other"


def column_problem(column: ColumnProfile, dtype: pl.DataType) -> str:
    """Why a source column of ``dtype`` is not what the reference had; empty when it is."""
    found = physical(dtype)
    if found in ("null", column.physical):
        return ""
    if column.numeric and {found, column.physical} <= {"integer", "number"}:
        return ""
    return f"{column.name!r} is stored as {found} ({dtype}), in the reference it was {column.physical}"


def column_expression(name: str, *, numeric: bool) -> pl.Expr:
    """A feature as the stages see it: numbers as float64, categories as strings."""
    return pl.col(name).cast(pl.Float64 if numeric else pl.String)


def read_schema(file: SourceFile, endpoint: str | None) -> pl.Schema:
    """The file's columns. Raises UnreadableSource."""
    with _reading(file):
        return scan([file], endpoint).collect_schema()


def scan(files: Sequence[SourceFile], endpoint: str | None) -> pl.LazyFrame:
    """A lazy scan of source files."""
    options = storage_options(files[0].uri, s3_endpoint=endpoint)
    return pl.scan_parquet([file.uri for file in files], glob=False, storage_options=options or None)


def batches(
    files: Sequence[SourceFile], expressions: Sequence[pl.Expr], columns: int, endpoint: str | None
) -> Iterator[pl.DataFrame]:
    """The files' rows in order, in frames of bounded size that do not depend on how the rows are spread over files.

    Raises UnreadableSource.
    """
    rows = max(10_000, BATCH_CELLS // max(columns, 1))
    rest: list[pl.DataFrame] = []
    held = 0
    for file in files:
        for batch in _file_batches(file, expressions, rows, endpoint):
            rest.append(batch)
            held += batch.height
            while held >= rows:
                joined = pl.concat(rest)
                # One chunk: how a frame is cut in memory shows in the bytes of its Parquet.
                yield joined.head(rows).rechunk()
                rest, held = [joined.slice(rows)], held - rows
    if held:
        yield pl.concat(rest).rechunk()


def _file_batches(
    file: SourceFile, expressions: Sequence[pl.Expr], rows: int, endpoint: str | None
) -> Iterator[pl.DataFrame]:
    with _reading(file):
        yield from scan([file], endpoint).select(expressions).collect_batches(chunk_size=rows, maintain_order=True)


@contextmanager
def _reading(file: SourceFile) -> Iterator[None]:
    """Tells a file that is wrong, which is a verdict on the data, from trouble on the way to it."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UnreadableSource(f"{file_name(file)}: {first_line(error)}") from error
    except OSError as error:
        raise InfrastructureError(
            f"{file.uri} could not be read: {first_line(error)}. Try again; if that does not help, check that the "
            "platform may read it."
        ) from error


def file_name(file: SourceFile) -> str:
    """The file as messages name it, beside the URI of its partition."""
    return file.uri.rsplit("/", 1)[-1]


def first_line(error: BaseException) -> str:
    """What a message can quote of an error of Polars, which explains itself over many lines."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
