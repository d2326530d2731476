"""The features asset: a partition's rows and columns, validated against the reference, as Parquet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from monitoring_assets.assets import source
from monitoring_assets.assets.claim import Claim, claim
from monitoring_assets.assets.outcome import Outcome, blocked, missing
from monitoring_assets.assets.stored import reading
from monitoring_assets.datasets import Current, data_file, locations, publish
from monitoring_assets.landing import Landing, features_digest, landing, source_input
from monitoring_assets.results import Input, Metric, Status
from monitoring_assets.stability.rates import CRITICAL_POINTS
from monitoring_assets.version import FEATURES, ModelVersion
from resources.engines.row_sketch import Hashes, RowSketch, repeated_share
from resources.lake import SourceFile

SKETCH_FILE = "row-hashes.parquet"
REPEATS_WARN = 0.05


class Flaw(NamedTuple):
    """What keeps a source from being used: the check that fails, the column if it is about one, and what was found."""

    check: str
    column: str | None
    found: str


@dataclass(frozen=True)
class _Columns:
    """What is taken from the source: name → expression; ``identifying`` are the columns that make rows equal."""

    expressions: dict[str, pl.Expr]
    key: str
    identifying: tuple[str, ...]


def materialise(version: ModelVersion, partition: str, *, force: bool = False) -> Outcome:
    """Read the partition's source once, write it as Parquet, count what only this stage can see.

    A missing or bad source gives an outcome, never an exception; infrastructure trouble is raised.
    """
    found = landing(version, partition)
    if found.why_none:
        return missing(FEATURES, partition, found.why_none)
    with claim(version, FEATURES, partition, features_digest(version, found), force=force) as mine:
        if mine.done and mine.current is not None:
            return _outcome(version, mine.current, "reused")
        return _make(version, partition, found, mine)


def _make(version: ModelVersion, partition: str, found: Landing, mine: Claim) -> Outcome:
    files, inputs = found.files, (source_input(partition, found),)
    arrived_at = _arrival(files, mine.current)
    stopped = partial(_blocked, partition, inputs=inputs, uri=found.uri, arrived_at=arrived_at)
    problems = _schema_problems(version, files)
    if problems:
        return stopped(problems)
    with tempfile.TemporaryDirectory(prefix="scorewatch-") as folder:
        try:
            paths, rows, sketch = _write(version, files, Path(folder))
        except source.UnreadableSource as error:
            return stopped([Flaw("unreadable_files", None, str(error))])
        problems = _key_problems(version, sketch)
        if problems:
            return stopped(problems)
        hashes = _write_sketch(sketch, Path(folder))
        written = [data_file(each, count) for each, count in zip(paths, rows, strict=True)]
        done = Current(
            asset=FEATURES,
            partition=partition,
            input_digest=features_digest(version, found),
            inputs=inputs,
            files=(*written, data_file(hashes, 0)),
            measured=_measured(version, partition, arrived_at, sketch),
        )
        path = version.path(FEATURES, partition)
        return _outcome(version, publish(version.store, path, done, [*paths, hashes], mine.etag), "materialised")


def parts(version: ModelVersion, current: Current) -> list[str]:
    """What Polars can scan of a features partition: the rows, without the row hashes."""
    return locations(version.store, version.path(FEATURES, current.partition), current)


def _columns(version: ModelVersion) -> _Columns:
    manifest, profile = version.manifest, version.profile
    expressions = {manifest.source.key: pl.col(manifest.source.key)}
    for column in profile.features:
        expressions[column.name] = source.column_expression(column.name, numeric=column.numeric)
    for segment in profile.segments:
        expressions.setdefault(segment, source.column_expression(segment, numeric=False))
    if manifest.score.kind == "precomputed":
        expressions[manifest.score.column] = source.column_expression(manifest.score.column, numeric=True)
    return _Columns(expressions, manifest.source.key, tuple(column.name for column in profile.features))


def _schema_problems(version: ModelVersion, files: Sequence[SourceFile]) -> list[Flaw]:
    wanted = _columns(version)
    problems: list[Flaw] = []
    profiles = {column.name: column for column in version.profile.features}
    key_types: dict[pl.DataType, str] = {}
    for file in files:
        name = source.file_name(file)
        try:
            schema = source.read_schema(file, version.settings.s3_endpoint)
        except source.UnreadableSource as error:
            problems.append(Flaw("unreadable_files", None, str(error)))
            continue
        if wanted.key in schema:
            key_types.setdefault(schema[wanted.key], name)
        for column in wanted.expressions:
            if column not in schema:
                problems.append(Flaw("missing_columns", column, f"{name} has no column {column!r}"))
            elif column in profiles and (why := source.column_problem(profiles[column], schema[column])):
                problems.append(Flaw("changed_types", column, f"{name}: {why}"))
            elif column == version.manifest.score.column and source.physical(schema[column]) not in source.NUMBERS:
                found = f"{name}: the score {column!r} is stored as {schema[column]}, and must be a number"
                problems.append(Flaw("changed_types", column, found))
    if len(key_types) > 1:
        stored = " and as ".join(f"{dtype} in {name}" for dtype, name in key_types.items())
        problems.append(Flaw("changed_types", wanted.key, f"{wanted.key!r} is stored as {stored}"))
    return problems


def _write(version: ModelVersion, files: Sequence[SourceFile], folder: Path) -> tuple[list[Path], list[int], RowSketch]:
    columns, sketch = _columns(version), RowSketch()
    expressions = [expression.alias(name) for name, expression in columns.expressions.items()]
    paths: list[Path] = []
    rows: list[int] = []
    for batch in source.batches(files, expressions, len(expressions), version.settings.s3_endpoint):
        keys = batch[columns.key]
        sketch.add(
            keys.drop_nulls().hash().to_numpy(),
            batch.select(columns.identifying).hash_rows().to_numpy(),
            keys.null_count(),
        )
        paths.append(_write_part(batch, folder, len(paths)))
        rows.append(batch.height)
    if not paths:
        schema = source.read_schema(files[0], version.settings.s3_endpoint)
        empty = pl.DataFrame(schema=schema).select(expressions)
        paths, rows = [_write_part(empty, folder, 0)], [0]
    return paths, rows, sketch


def _write_part(batch: pl.DataFrame, folder: Path, number: int) -> Path:
    path = folder / f"part-{number:05d}.parquet"
    batch.write_parquet(path, compression="zstd", statistics=False)
    return path


def _write_sketch(sketch: RowSketch, folder: Path) -> Path:
    path = folder / SKETCH_FILE
    pl.DataFrame({"hash": sketch.sketch()}, schema={"hash": pl.UInt64}).write_parquet(path, compression="uncompressed")
    return path


def _key_problems(version: ModelVersion, sketch: RowSketch) -> list[Flaw]:
    key = version.manifest.source.key
    problems: list[Flaw] = []
    if duplicates := sketch.duplicate_keys():
        problems.append(Flaw("duplicate_keys", key, f"{duplicates} of {sketch.rows} rows repeat an earlier {key!r}"))
    if sketch.null_keys:
        problems.append(Flaw("null_keys", key, f"{sketch.null_keys} of {sketch.rows} rows have no {key!r}"))
    return problems


def _measured(version: ModelVersion, partition: str, arrived_at: datetime, sketch: RowSketch) -> dict[str, Any]:
    before = version.calendar.previous(partition, 2)[0]
    natural = version.profile.repeat_share
    repeated = 0.0
    if before != partition and (current := version.current(FEATURES, before)) is not None:
        repeated = repeated_share(sketch.sketch(), _read_sketch(version, current))
    return {
        "arrived_at": arrived_at.isoformat(),
        "duplicate_keys": 0,
        "null_keys": 0,
        "duplicate_row_excess": max(0.0, sketch.duplicate_row_share() - natural),
        "repeated_row_excess": max(0.0, repeated - natural),
    }


def _arrival(files: Sequence[SourceFile], earlier: Current | None) -> datetime:
    """When the partition's first complete data arrived: liveness and lateness are judged by it, not by corrections."""
    if earlier is not None:
        return datetime.fromisoformat(earlier.measured["arrived_at"])
    return max(file.last_modified for file in files)


def _read_sketch(version: ModelVersion, current: Current) -> Hashes:
    [location] = locations(version.store, version.path(FEATURES, current.partition), current, prefix=SKETCH_FILE)
    with reading(version, FEATURES, current.partition):
        frame = pl.read_parquet(location, glob=False, storage_options=version.store.storage_options() or None)
    return np.asarray(frame["hash"].to_numpy(), dtype=np.uint64)


def _outcome(version: ModelVersion, current: Current, state: Any) -> Outcome:
    metrics = [
        _rows(current),
        _repeats("duplicate_row_excess", "equal an earlier row of the partition", current),
        _repeats("repeated_row_excess", "are in the partition before as well", current),
    ]
    if (late := _lateness(version, current)) is not None:
        metrics.append(late)
    return Outcome(
        FEATURES,
        current.partition,
        "quality",
        state,
        tuple(metrics),
        current.inputs,
        reason="; ".join(str(metric.note) for metric in metrics if metric.status != "ok"),
        rows=current.rows,
        digest=current.digest,
        plots={"rows": current.rows},
    )


def _rows(current: Current) -> Metric:
    if current.rows:
        return Metric(metric="rows", value=current.rows, n=current.rows)
    return Metric(metric="rows", value=0.0, n=0, status="insufficient_data", note="the files hold no rows")


def _repeats(name: str, what: str, current: Current) -> Metric:
    excess = float(current.measured[name])
    if excess < REPEATS_WARN:
        return Metric(metric=name, value=excess, n=current.rows, threshold=REPEATS_WARN)
    status: Status = "breach" if excess > CRITICAL_POINTS else "warn"
    note = f"{excess:.1%} of the rows, beyond what the reference has, {what}"
    return Metric(metric=name, value=excess, n=current.rows, threshold=REPEATS_WARN, status=status, note=note)


def _lateness(version: ModelVersion, current: Current) -> Metric | None:
    """Hours between the partition's end and its data's first arrival, judged against ``source.sla_hours``."""
    sla = version.manifest.source.sla_hours
    if sla is None:
        return None
    _, end = version.calendar.window(current.partition)
    hours = (datetime.fromisoformat(current.measured["arrived_at"]) - end) / timedelta(hours=1)
    late = Metric(metric="arrival_hours", value=hours, threshold=sla)
    if hours <= sla:
        return late
    note = f"the data arrived {hours:.1f} h after the partition's end, source.sla_hours is {sla:g}"
    return late.model_copy(update={"status": "warn", "note": note})


def _blocked(
    partition: str, problems: Sequence[Flaw], *, inputs: tuple[Input, ...], uri: str, arrived_at: datetime
) -> Outcome:
    metrics = tuple(Metric(metric=name, column=column, status="breach", note=note) for name, column, note in problems)
    listed = "; ".join(note for _, _, note in problems[:5])
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    reason = f"{listed}{more}. Correct the files of {uri} and run the partition again."
    return replace(blocked(FEATURES, partition, metrics, reason, inputs), arrived_at=arrived_at)
