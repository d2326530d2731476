"""Compaction: results that are published are copied into the Parquet files of their month.

A file is swapped against the one that was read, and only then are the markers of its new results deleted. So a
compaction that is killed leaves markers of results that are in the file already, and the next one finds them there;
of two at once, the one that loses a swap reads the file again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

import polars as pl

from monitoring_assets import layout
from monitoring_assets.past.markers import Marker, delete, markers, read_results
from monitoring_assets.past.rows import IDENTITY, day, from_parquet, to_parquet
from monitoring_assets.version import Clock
from resources.errors import InfrastructureError
from resources.object_store import ObjectStore

LIMIT = 100_000
BATCH = 10_000
"""Markers that are held at a time; a file is rewritten once for all of its results among them."""
KEPT = timedelta(days=7)
"""How long a marker waits for a result that is absent or cannot be read."""


@dataclass(frozen=True)
class Compacted:
    """What one call did: ``results`` are in ``history/`` now and have no marker any more, ``files`` were written.

    ``waiting`` markers name results that are absent, or that cannot be read (these are in the log); they are looked
    at again next time. ``dropped`` ones waited for longer than `KEPT`.
    """

    results: int = 0
    files: int = 0
    waiting: int = 0
    dropped: int = 0

    def __add__(self, other: Compacted) -> Compacted:
        return Compacted(
            self.results + other.results,
            self.files + other.files,
            self.waiting + other.waiting,
            self.dropped + other.dropped,
        )


def compact(store: ObjectStore, clock: Clock, *, limit: int = LIMIT) -> Compacted:
    """Move up to ``limit`` results into ``history/``; there may be more while a call returns as many as that.

    Raises InfrastructureError when the store cannot be reached, and, after everything else is done, when files of
    ``history/`` cannot be read: their results keep their markers, and are read from these.
    """
    done, damaged = Compacted(), set[str]()
    listing = markers(store, layout.UNCOMPACTED)
    # What cannot be read does not count, or it would keep the others out.
    while batch := list(islice(listing, min(BATCH, limit - done.results))):
        for group in _by_file(batch):
            done += _compact_group(store, group, clock, damaged)
    if damaged:
        names = ", ".join(f"{store.uri}/{key}" for key in sorted(damaged))
        raise InfrastructureError(
            f"{names}: cannot be read as compacted results of this release of Scorewatch; see the log. Restore them, "
            "or run the newer release that wrote them; the results that belong there are kept. "
            f"Compacted besides: {done.results} results."
        )
    return done


def _by_file(batch: Iterable[Marker]) -> Iterator[list[Marker]]:
    groups: dict[tuple[str, int], list[Marker]] = {}
    for marker in batch:
        groups.setdefault((marker.partition[:7], marker.part), []).append(marker)
    yield from groups.values()


def _compact_group(store: ObjectStore, group: list[Marker], clock: Clock, damaged: set[str]) -> Compacted:
    found = read_results(store, group)
    months = found.rows.select(day().str.head(7)).to_series()
    results = files = 0
    # More than one month only of results about a version as a whole, whose keys do not say when that was.
    for month in months.unique().sort():
        key = layout.history_month(month, group[0].part)
        try:
            files += _merge(store, key, found.rows.filter(months == month))
        except pl.exceptions.PolarsError:
            logging.getLogger(__name__).exception("%s/%s cannot be read as compacted results", store.uri, key)
            damaged.add(key)
            continue
        settled = [marker for marker, each in zip(found.read, months, strict=True) if each == month]
        delete(store, settled)
        results += len(settled)
    old = [marker for marker in found.unread if marker.put_at < clock() - KEPT]
    for marker in old:
        logging.getLogger(__name__).warning(
            "%s/%s is deleted: for %d days there has been no result that can be read at %s.",
            store.uri,
            marker.key,
            KEPT.days,
            marker.result,
        )
    delete(store, old)
    return Compacted(results, files, len(found.unread) - len(old), len(old))


def _merge(store: ObjectStore, key: str, rows: pl.DataFrame) -> bool:
    """Add rows to a file, those that it has not yet; whether it was written."""
    while True:
        blob = store.get(key)
        if blob is not None:
            before = from_parquet(blob.data, newer=False).collect()
            new = rows.join(before, on=IDENTITY, how="anti")
            if new.is_empty():
                return False
            merged = pl.concat([before, new])
        else:
            merged = rows
        if store.compare_and_swap(key, to_parquet(merged.sort(IDENTITY)), blob.etag if blob else None) is not None:
            return True
        # Another compaction was faster.
