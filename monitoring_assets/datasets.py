"""Partitions of assets as files: an attempt folder named by its inputs, and a pointer that is swapped last.

Readers open nothing but what ``current.json`` names, so a stage that dies in the middle leaves nothing that anybody
reads, and a re-run with the same inputs and code writes the same bytes to the same place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.results import Input
from resources.errors import InfrastructureError
from resources.object_store import ObjectStore

_CHUNK = 1 << 20


class DataFile(BaseModel):
    """One Parquet file of a partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    size: int
    rows: int


class Current(BaseModel):
    """What ``current.json`` says: the files of the partition, what they were made from, and what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    asset: str
    partition: str
    input_digest: str
    inputs: tuple[Input, ...]
    files: tuple[DataFile, ...]
    measured: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        """Rows in all data files."""
        return sum(file.rows for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 over the files' own digests: equal content, equal digest, whatever it was made from."""
        return content_digest([file.sha256 for file in self.files])


@dataclass(frozen=True)
class DatasetPath:
    """One partition of one asset of one model version; ``partition_path`` is the encoded ``partition``."""

    asset: str
    model: str
    version: str
    partition: str
    partition_path: str

    @property
    def pointer(self) -> str:
        """Key of ``current.json``."""
        return layout.current(self.asset, self.model, self.version, self.partition_path)

    def file(self, input_digest: str, name: str) -> str:
        """Key of a file of one attempt."""
        return f"{layout.attempt(self.asset, self.model, self.version, self.partition_path, input_digest)}/{name}"


def content_digest(value: object) -> str:
    """SHA-256 of a JSON-able value in canonical form, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_current(store: ObjectStore, path: DatasetPath) -> tuple[Current | None, str | None]:
    """The partition's pointer and the etag to swap it with; (None, None) where there is none."""
    blob = store.get(path.pointer)
    if blob is None:
        return None, None
    try:
        return Current.model_validate_json(blob.data), blob.etag
    except ValidationError as error:
        raise InfrastructureError(
            f"{store.uri}/{path.pointer} cannot be read as a partition's pointer ({error.error_count()} problems). "
            "Only Scorewatch writes it: restore it, or delete it and run the partition again."
        ) from error


def locations(store: ObjectStore, path: DatasetPath, current: Current, *, prefix: str = "part-") -> list[str]:
    """What Polars can scan: the partition's files whose name starts with ``prefix``, in order."""
    names = (file.name for file in current.files if file.name.startswith(prefix))
    return [store.location(path.file(current.input_digest, name)) for name in names]


def publish(
    store: ObjectStore, path: DatasetPath, current: Current, files: Sequence[Path], etag: str | None
) -> Current:
    """Upload ``files`` (named as in ``current.files``) and swap the pointer from ``etag`` to ``current``.

    Raises InfrastructureError when another run swapped the pointer to other content meanwhile.
    """
    for file in files:
        store.put_file(path.file(current.input_digest, file.name), file)
    if store.compare_and_swap(path.pointer, current.model_dump_json().encode(), etag) is not None:
        return current
    winner, _ = read_current(store, path)
    if winner is None or winner.input_digest != current.input_digest:
        raise InfrastructureError(
            f"{path.model} {path.version}, {path.asset} of {path.partition}: another run published this partition "
            "from other inputs at the same time. Its data stands; run the partition again."
        )
    return winner


def data_file(path: Path, rows: int) -> DataFile:
    """Describe a finished local file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return DataFile(name=path.name, sha256=digest.hexdigest(), size=path.stat().st_size, rows=rows)
