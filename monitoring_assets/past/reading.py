"""Reading the results of a period, those that are compacted and those that are not yet, as a table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date, timedelta

import polars as pl

from monitoring_assets import layout
from monitoring_assets.past.markers import PARTS, Marker, markers, read_results
from monitoring_assets.past.rows import IDENTITY, from_parquet, in_period, schema
from resources.errors import InfrastructureError
from resources.object_store import ObjectStore

TRIES = 5
"""How often files are read again that a compaction replaced meanwhile."""


def past(
    store: ObjectStore,
    *,
    since: date,
    until: date,
    models: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    """The results about partitions of [since, until), by the dates of their keys, a row each (`rows.schema`).

    Of the results about a version as a whole, those recorded on these dates (UTC). ``columns``: all of them by
    default; without ``metrics`` much less is read. In the order of model and version within each of `past_in_parts`.

    Raises ValueError for a column that there is not, InfrastructureError when the store cannot be reached or compacted
    results are damaged. A damaged result that is not compacted is left out, with a warning.
    """
    parts = past_in_parts(store, since=since, until=until, models=models, columns=columns)
    return pl.concat(list(parts), rechunk=False)


def past_in_parts(
    store: ObjectStore,
    *,
    since: date,
    until: date,
    models: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pl.DataFrame]:
    """The same as `past` in `PARTS` tables, so that a fleet's metrics need not be in memory at once.

    A model version is in one of them, and each is in the order of model, version, partition, kind and attempt.
    """
    wanted = list(schema() if columns is None else columns)
    if unknown := [name for name in wanted if name not in schema()]:
        raise ValueError(f"results have no column {', '.join(unknown)}, only {', '.join(schema())}")
    chosen = in_period(since, until)
    if models is not None:
        chosen &= pl.col("model").is_in(list(models))
    # Before any file: a result whose marker is gone is in the files by then.
    loose = _not_compacted(store, since, until, models)

    def table(part: int) -> pl.DataFrame:
        fresh = read_results(store, loose[part]).rows.filter(chosen)
        held = _compacted(store, part, since, until, chosen, [*IDENTITY, *wanted])
        # Between the two listings a result may have been compacted.
        new = fresh.select(held.columns).join(held, on=IDENTITY, how="anti")
        return pl.concat([held, new]).sort(IDENTITY).select(wanted)

    # A generator keeps what its names stand for while its caller is at work: nothing but what it gives.
    yield from map(table, range(PARTS))


def _not_compacted(store: ObjectStore, since: date, until: date, models: Collection[str] | None) -> list[list[Marker]]:
    """Markers of what may be in the period, by part. What is published meanwhile is in the second folder by then."""
    parts: list[dict[str, Marker]] = [{} for _ in range(PARTS)]
    for folder in (layout.PENDING, layout.UNCOMPACTED):
        for marker in markers(store, folder):
            dated = since.isoformat() <= marker.partition[:10] < until.isoformat()
            if (dated or marker.partition == layout.REGISTRY_PARTITION) and (models is None or marker.model in models):
                parts[marker.part][marker.result] = marker
    return [list(found.values()) for found in parts]


def _compacted(
    store: ObjectStore, part: int, since: date, until: date, chosen: pl.Expr, columns: Sequence[str]
) -> pl.DataFrame:
    """The rows of one part's files. Polars reads a file in several steps, so none may have been replaced meanwhile."""
    columns = list(dict.fromkeys(columns))
    for _ in range(TRIES):
        files = _files(store, part, since, until)
        if not files:
            return schema().to_frame().select(columns)
        try:
            rows = _scan(store, list(files)).filter(chosen).select(columns).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            if files == _files(store, part, since, until):
                raise _damaged(store, list(files), error) from error
        else:
            if files == _files(store, part, since, until):
                return rows
    raise InfrastructureError(
        f"{store.uri}/{layout.HISTORY}: the compacted results were replaced again and again while they were read. "
        "Is more than one compaction running? Try again when it is done."
    )


def _files(store: ObjectStore, part: int, since: date, until: date) -> dict[str, str]:
    """Keys and fingerprints of a part's files."""
    last = until - timedelta(days=1)
    first_key, last_key = (layout.history_month(day.isoformat()[:7], part) for day in (since, last))
    name = first_key.rpartition("/")[2]
    return {
        info.key: info.fingerprint
        for info in store.list(layout.HISTORY)
        if first_key <= info.key <= last_key and info.key.endswith(f"/{name}")
    }


def _scan(store: ObjectStore, keys: Sequence[str]) -> pl.LazyFrame:
    return from_parquet([store.location(key) for key in keys], store.storage_options(), newer=True)


def _damaged(store: ObjectStore, keys: Sequence[str], error: Exception) -> InfrastructureError:
    """Names the file, which Polars does not always do."""
    for key in keys:
        try:
            _scan(store, [key]).collect()
        except (pl.exceptions.PolarsError, OSError) as its_own:
            return InfrastructureError(
                f"{store.uri}/{key} cannot be read as compacted results: {its_own}. If it is damaged, restore an "
                "earlier version: only Scorewatch writes it."
            )
    return InfrastructureError(f"{store.uri}/{layout.HISTORY}: compacted results cannot be read: {error}")
