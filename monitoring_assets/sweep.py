"""Sweeping what nobody reads any more: files below ``data/`` that the pointer of their partition does not name, and
heartbeats of killed runs.

Crashed attempts leave them, and so does every attempt that another one supersedes. A file is kept for `KEPT` after it
was written and after the pointer beside it was last swapped, because until that swap readers were sent to it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from pydantic import ValidationError

from monitoring_assets import layout
from monitoring_assets.datasets import Current
from monitoring_assets.version import Clock
from resources.errors import BadInput
from resources.object_store import ObjectInfo, ObjectStore

KEPT = timedelta(days=7)

_ONE_PUBLICATION = timedelta(minutes=15)


@dataclass(frozen=True)
class Swept:
    """The objects that were removed, their bytes, and the partitions (of one asset each) that were looked at."""

    objects: int
    size: int
    partitions: int


def sweep(store: ObjectStore, clock: Clock) -> Swept:
    """Delete the files of attempts that no pointer names, and heartbeats, that are older than `KEPT`.

    A partition whose pointer is damaged is left alone, and logged as a warning. Keys below ``data/`` that no stage
    writes are left alone too. Raises InfrastructureError when the store cannot be reached; a later sweep goes on.
    """
    before = clock() - KEPT
    objects = size = partitions = 0
    for beat in store.list(layout.HEARTBEATS):
        if beat.last_modified < before:
            # Of a killed run: a living one renews it all the time.
            store.delete(beat.key)
            objects += 1
            size += beat.size
    for folder, found in _partitions(store):
        partitions += 1
        for orphan in _orphans(store, folder, found, before):
            # A stage may publish this attempt again at any moment, from the same inputs. It uploads every file before
            # it swaps the pointer to them, so a file that is still old is not part of that yet, and one that is
            # deleted now is uploaded later. No store deletes on a condition: what is left is the time between these
            # two calls, for each file by itself.
            if _is_old(store.head(orphan.key), before):
                store.delete(orphan.key)
                objects += 1
                size += orphan.size
    return Swept(objects, size, partitions)


def _partitions(store: ObjectStore) -> Iterator[tuple[str, dict[str, ObjectInfo]]]:
    """Each partition's folder and its objects by their names in it. The order of the keys keeps them together."""
    objects = ((place, info) for info in store.list(layout.DATA) if (place := layout.in_dataset(info.key)))
    for folder, group in groupby(objects, key=lambda each: each[0][0]):
        yield folder, {name: info for (_, name), info in group}


def _orphans(store: ObjectStore, folder: str, found: dict[str, ObjectInfo], before: datetime) -> list[ObjectInfo]:
    """The old files of a partition that its pointer does not name; none when it is unknown what that names."""
    pointer = found.pop(layout.POINTER_FILE, None)
    old = {name: info for name, info in found.items() if _is_old(info, before)}
    if not old or (pointer and (not _is_old(pointer, before) or _is_one_publication(pointer, found))):
        return []
    named = _named(store, folder, found, before)
    return [] if named is None else [info for name, info in old.items() if name not in named]


def _is_old(info: ObjectInfo | None, before: datetime) -> bool:
    return info is not None and info.last_modified < before


def _is_one_publication(pointer: ObjectInfo, files: dict[str, ObjectInfo]) -> bool:
    """Whether the listing alone tells that the pointer names these files, as it does in most partitions.

    They are one attempt, and all were uploaded just before the swap. That rules out what a crashed or superseded
    attempt left: it lies in another folder, or is from another time. A slower upload only costs reading the pointer.
    """
    start = pointer.last_modified - _ONE_PUBLICATION
    in_time = all(start <= info.last_modified <= pointer.last_modified for info in files.values())
    return in_time and len({name.partition("/")[0] for name in files}) == 1


def _named(store: ObjectStore, folder: str, found: dict[str, ObjectInfo], before: datetime) -> set[str] | None:
    """The names of the files that the pointer names, none without a pointer; None when nothing may be deleted."""
    key = f"{folder}/{layout.POINTER_FILE}"
    try:
        # In this order: a swap before the first call shows in the second, and one after it took no name away.
        blob, info = store.get(key), store.head(key)
        if blob is None and info is None:
            return set()
        if blob is None or not _is_old(info, before):
            return None
        current = Current.model_validate_json(blob.data)
    except (BadInput, ValidationError):
        _warn(store, key, "cannot be read as a partition's pointer")
        return None
    named = {f"{current.input_digest}/{file.name}" for file in current.files}
    if not named <= found.keys():
        # Perhaps another partition's pointer: what lies here may be all that there is.
        _warn(store, key, "names files that are not there")
        return None
    return named


def _warn(store: ObjectStore, key: str, problem: str) -> None:
    logging.getLogger(__name__).warning(
        "%s/%s %s, so nothing of this partition is swept. Only Scorewatch writes it: restore it, or delete it and run "
        "the partition again.",
        store.uri,
        key,
        problem,
    )
