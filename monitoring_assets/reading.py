"""Reading results back: the newest attempt of each partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from monitoring_assets import layout
from monitoring_assets.results import Result
from monitoring_assets.version import ModelVersion


def newest_results(version: ModelVersion, partitions: Sequence[str], kind: str) -> Iterator[Result]:
    """The newest attempt of one kind of result of each partition that has one, in the order of ``partitions``."""
    store, manifest = version.store, version.manifest
    for partition in partitions:
        folder = layout.results(manifest.model, manifest.version, version.calendar.encode(partition), kind)
        keys = [info.key for info in store.list(folder)]
        blob = store.get(keys[-1]) if keys else None
        if blob is not None:
            yield Result.model_validate_json(blob.data)
