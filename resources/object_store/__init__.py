"""Object stores: the local disk and S3 behind one contract, with put-if-absent and compare-and-swap in both."""

from __future__ import annotations

from pathlib import Path

from resources.errors import BadInput
from resources.object_store.base import Blob, MissingObject, ObjectInfo, ObjectStore
from resources.object_store.local import LocalStore
from resources.object_store.names import Uri, check_key, parse_uri
from resources.object_store.s3 import S3Store

__all__ = [
    "Blob",
    "LocalStore",
    "MissingObject",
    "ObjectInfo",
    "ObjectStore",
    "S3Store",
    "Uri",
    "check_key",
    "open_store",
    "parse_uri",
]


def open_store(uri: str, *, s3_endpoint: str | None = None) -> ObjectStore:
    """The store at `file:///absolute/folder` or `s3://bucket/prefix`. Nothing is read or created until it is used.

    `s3_endpoint` is for S3 services other than Amazon's; without it boto3 decides.
    Raises BadInput when the URI is not one of a store.
    """
    parsed = parse_uri(uri)
    if not parsed.parts:
        raise BadInput(f"{uri!r} names no place for a store. Write file:///absolute/folder or s3://bucket/prefix.")
    if parsed.scheme == "file":
        return LocalStore(Path(parsed.local_path))
    return S3Store(parsed.bucket, parsed.key, endpoint=s3_endpoint)
