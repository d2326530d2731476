"""Markers of results that are not compacted yet, and reading the results that they name."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
from pydantic import ValidationError

from monitoring_assets import layout
from monitoring_assets.fleet import shard_of
from monitoring_assets.past.rows import to_frame, to_line
from monitoring_assets.results import Result
from resources.at_once import at_once
from resources.object_store import ObjectStore

PARTS = 16
"""Files of a month; a model version is in the same one every month."""

_TAIL = re.compile(
    rf"([^/]+)/([^/]+)/({layout.REGISTRY_PARTITION}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}(?:-[0-9]{{2}}-[0-9]{{2}})?)"
    r"/([^/]+)/([0-9]{4,})"
)


@dataclass(frozen=True)
class Marker:
    """Names one result; ``partition`` is the encoded key, ``put_at`` when the marker was put."""

    key: str
    put_at: datetime
    model: str
    version: str
    partition: str
    kind: str
    attempt: int

    @property
    def result(self) -> str:
        """Key of the result."""
        return layout.result(self.model, self.version, self.partition, self.kind, self.attempt)

    @property
    def part(self) -> int:
        """Number of the file, of every month, that the result belongs to."""
        return shard_of(self.model, self.version, PARTS)


def markers(store: ObjectStore, folder: str, below: str = "") -> Iterator[Marker]:
    """The markers in ``layout.PENDING`` or ``layout.UNCOMPACTED``, all or those below ``MODEL/VERSION/``.

    What is no marker is left alone.
    """
    for info in store.list(folder + below):
        if found := _TAIL.fullmatch(info.key.removeprefix(folder)):
            model, version, partition, kind, number = found.groups()
            yield Marker(info.key, info.last_modified, model, version, partition, kind, int(number))


@dataclass(frozen=True)
class Found:
    """The rows of the results that could be read, the markers of these, and the other markers."""

    rows: pl.DataFrame
    read: list[Marker]
    unread: list[Marker]


def read_results(store: ObjectStore, named: Sequence[Marker]) -> Found:
    """Read the results that markers name.

    A result that is absent may be written at this moment. One that is damaged, or is not what its key says, is logged
    as a warning and keeps no other from being read.
    """
    lines = at_once(lambda marker: _line(store, marker), named)
    there = {marker: line for marker, line in zip(named, lines, strict=True) if line is not None}
    try:
        rows = to_frame(list(there.values()))
    except pl.exceptions.PolarsError:
        # One of them has a number that no column holds.
        there = {marker: line for marker, line in there.items() if _fits(store, marker, line)}
        rows = to_frame(list(there.values()))
    return Found(rows, list(there), [marker for marker in named if marker not in there])


def delete(store: ObjectStore, settled: Iterable[Marker]) -> None:
    """Remove markers."""
    at_once(store.delete, [marker.key for marker in settled])


def _line(store: ObjectStore, marker: Marker) -> bytes | None:
    blob = store.get(marker.result)
    if blob is None:
        return None
    try:
        result = Result.model_validate_json(blob.data)
    except ValidationError as error:
        _warn(store, marker, f"{error.error_count()} faults, the first: {error.errors()[0]['msg']}")
        return None
    if not _is_named_by(marker, result):
        _warn(store, marker, f"it says {result.model} {result.version} {result.partition} {result.kind}")
        return None
    return to_line(result)


def _is_named_by(marker: Marker, result: Result) -> bool:
    """Rows are told apart by what the results say, so this must be what their keys say."""
    partition = layout.encoded(result.partition)
    return marker.result == layout.result(result.model, result.version, partition, result.kind, result.attempt)


def _fits(store: ObjectStore, marker: Marker, line: bytes) -> bool:
    try:
        to_frame([line])
    except pl.exceptions.PolarsError as error:
        _warn(store, marker, str(error))
        return False
    return True


def _warn(store: ObjectStore, marker: Marker, problem: str) -> None:
    logging.getLogger(__name__).warning(
        "%s/%s is left out of the past: it cannot be read as the result that its key names (%s). Restore it, and keep "
        "its marker %s: put that again if it is gone.",
        store.uri,
        marker.result,
        problem,
        marker.key,
    )
