"""The contract that every object store keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from resources.errors import BadInput


class MissingObject(BadInput):
    """The object that was asked for by name is not in the store."""


@dataclass(frozen=True)
class Blob:
    """An object's bytes, and the etag that `compare_and_swap` takes."""

    data: bytes
    etag: str


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing knows of an object.

    `fingerprint` changes whenever the bytes change; it is not the etag and cannot be compared and swapped.
    """

    key: str
    size: int
    last_modified: datetime
    fingerprint: str


class ObjectStore(Protocol):
    """Objects under one root, `file:///folder` or `s3://bucket/prefix`.

    Every write is atomic: readers, also after a crash of the writer, see the whole old object or the whole new one.
    `put_if_absent` and `compare_and_swap` hold between processes. Every method raises BadInput for a key that is not
    a plain relative path, and InfrastructureError, with the key and the operation, when the store cannot be reached.
    """

    @property
    def uri(self) -> str:
        """The root, without a slash at its end."""

    def get(self, key: str) -> Blob | None:
        """The object; None when there is none."""

    def put(self, key: str, data: bytes) -> str:
        """Writes or overwrites the object; the new etag."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Whether this call, and no other, created the object."""

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Writes only if the object still has `etag` (None: is absent); the new etag, or None when that is lost."""

    def put_file(self, key: str, path: Path) -> None:
        """Writes or overwrites the object with a local file, however large."""

    def fetch(self, key: str, path: Path) -> None:
        """Downloads to a local file, whole or not at all. Raises MissingObject."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, at any depth, in the order of the keys.

        Names that no key can have, and symbolic links, are left out.
        """

    def list_folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders directly below the folder `prefix` that hold an object, sorted."""

    def head(self, key: str) -> ObjectInfo | None:
        """What a listing would say of the object; None when there is none."""

    def delete(self, key: str) -> None:
        """Removes the object; that it is absent already is fine."""

    def location(self, key: str) -> str:
        """What Polars can scan. Pass `glob=False` with it: a key may hold `*`, `?` or `[`."""

    def storage_options(self) -> dict[str, str]:
        """What Polars needs to scan a location: endpoint and region.

        No credentials: Polars asks boto3's session for them itself, as this store does, and again when they expire.
        """
