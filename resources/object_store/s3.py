"""Object store in an S3 bucket. boto3 is imported by the first call, not with this module."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from resources.errors import InfrastructureError
from resources.object_store.base import Blob, MissingObject, ObjectInfo
from resources.object_store.names import check_key, check_prefix, is_key

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

# Upper bounds of the waits, in seconds, before a conditional write that met another one is sent again.
_CONFLICT_WAITS = (0.1, 0.2, 0.4, 0.8, 1.6)

_making = threading.Lock()
# A fork may happen while another thread holds it, which the child does not have.
os.register_at_fork(after_in_child=_making._at_fork_reinit)  # type: ignore[attr-defined]
_WRITE_ID = "scorewatch-write-id"
_REGION = ("AWS_DEFAULT_REGION", "AWS_REGION")


def s3_client(endpoint: str | None) -> S3Client:
    """The process's client of that endpoint (None: what boto3 finds). Threads may share it, forks may not."""
    # Threads that come first together would make one each, of 13 MiB.
    with _making:
        return _client(endpoint, os.getpid())


@lru_cache(maxsize=8)
def _client(endpoint: str | None, _pid: int) -> S3Client:
    import boto3  # noqa: PLC0415
    import botocore.session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=5,
        read_timeout=60,
        # Eight versions at once, and eight requests of each.
        max_pool_connections=64,
    )
    # The name that AWS's other kits read, and that people therefore set, is none to botocore.
    session = botocore.session.get_session({"region": ("region", list(_REGION), None, None)})
    # botocore's own reads any date that people write, and half the time of a listing went into that.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    return boto3.Session(botocore_session=session).client("s3", endpoint_url=endpoint, config=config)


def _moment(stated: str) -> datetime:
    """A timestamp of an answer: ISO 8601 in listings, as HTTP writes it in headers."""
    from botocore.utils import parse_timestamp  # noqa: PLC0415

    try:
        return datetime.fromisoformat(stated)
    except ValueError:
        return parse_timestamp(stated)


@contextmanager
def s3_call(operation: str, uri: str) -> Iterator[None]:
    """Turns what boto3 raises into an InfrastructureError that names the operation and the object."""
    from boto3.exceptions import Boto3Error  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        found = error.response["Error"]
        reason = f"{found.get('Code', 'error')}: {found.get('Message', 'no message')}"
        raise InfrastructureError(f"S3 {operation} of {uri} failed: {reason}") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        if type(error) is HTTPClientError:
            # Its text quotes the headers, and these hold the session token.
            raise InfrastructureError(
                f"S3 {operation} of {uri} failed: the HTTP client refused the request. "
                "Check that the credentials hold no line breaks."
            ) from None
        raise InfrastructureError(f"S3 {operation} of {uri} failed: {error}") from error


def list_pages(
    client: S3Client, bucket: str, prefix: str, *, delimiter: str = ""
) -> Iterator[ListObjectsV2OutputTypeDef]:
    """The pages of a listing, in the order of the keys; with a delimiter, of one folder only."""
    pages = iter(client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter))
    while True:
        # The caller's own work between two pages stays outside the translation of errors.
        with s3_call("list", f"s3://{bucket}/{prefix}"):
            page = next(pages, None)
        if page is None:
            return
        yield page


def s3_storage_options(endpoint: str | None) -> dict[str, str]:
    """What Polars needs to scan objects of that endpoint: region and endpoint, and no credentials."""
    region = s3_client(endpoint).meta.region_name
    # Without a configured region boto3 takes a pseudo-region that only it knows.
    options = {"aws_region": "us-east-1" if region == "aws-global" else region}
    if endpoint:
        options["aws_endpoint_url"] = endpoint
        options["aws_allow_http"] = str(endpoint.startswith("http://")).lower()
    return options


class S3Store:
    """Objects below a prefix of a bucket. Credentials and region are what boto3's session finds, and AWS_REGION."""

    def __init__(self, bucket: str, prefix: str = "", *, endpoint: str | None = None) -> None:
        self._bucket = bucket
        self._folder = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._folder}".removesuffix("/")

    def get(self, key: str) -> Blob | None:
        with self._call("get", key) as client:
            try:
                answer = client.get_object(Bucket=self._bucket, Key=self._key(key))
            except client.exceptions.ClientError as error:
                if _absent(error):
                    return None
                raise
            return Blob(answer["Body"].read(), _etag(answer["ETag"]))

    def put(self, key: str, data: bytes) -> str:
        with self._call("put", key) as client:
            return _etag(client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data)["ETag"])

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put_on_condition(key, data, {"IfNoneMatch": "*"}) is not None

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": f'"{etag}"'}
        return self._put_on_condition(key, data, condition)

    def put_file(self, key: str, path: Path) -> None:
        with self._call("upload", key) as client:
            client.upload_file(str(path), self._bucket, self._key(key))

    def fetch(self, key: str, path: Path) -> None:
        with self._call("download", key) as client:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Writes beside the path and renames.
                client.download_file(self._bucket, self._key(key), str(path))
            except client.exceptions.ClientError as error:
                if _absent(error):
                    raise MissingObject(f"There is no object {key!r} in {self.uri}.") from error
                raise

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return self._walk(prefix)

    def list_folders(self, prefix: str) -> Iterator[str]:
        check_prefix(prefix)
        folder = self._folder + (prefix.removesuffix("/") + "/" if prefix else "")
        names = (
            found["Prefix"].removeprefix(folder).removesuffix("/")
            for page in self._pages(folder, delimiter="/")
            for found in page.get("CommonPrefixes", [])
        )
        return iter(sorted(name for name in names if is_key(name)))

    def head(self, key: str) -> ObjectInfo | None:
        with self._call("head", key) as client:
            try:
                found = client.head_object(Bucket=self._bucket, Key=self._key(key))
            except client.exceptions.ClientError as error:
                if _absent(error):
                    return None
                raise
        return ObjectInfo(key, found["ContentLength"], found["LastModified"], _etag(found["ETag"]))

    def delete(self, key: str) -> None:
        with self._call("delete", key) as client:
            client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def location(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._key(key)}"

    def storage_options(self) -> dict[str, str]:
        with s3_call("configuration", self.uri):
            return s3_storage_options(self._endpoint)

    def _key(self, key: str) -> str:
        check_key(key)
        return self._folder + key

    @contextmanager
    def _call(self, operation: str, key: str) -> Iterator[S3Client]:
        with s3_call(operation, f"s3://{self._bucket}/{self._key(key)}"):
            yield s3_client(self._endpoint)

    def _pages(self, prefix: str, *, delimiter: str = "") -> Iterator[ListObjectsV2OutputTypeDef]:
        with s3_call("configuration", self.uri):
            client = s3_client(self._endpoint)
        return list_pages(client, self._bucket, prefix, delimiter=delimiter)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        for page in self._pages(self._folder + prefix):
            for found in page.get("Contents", []):
                key = found["Key"].removeprefix(self._folder)
                if is_key(key):
                    yield ObjectInfo(key, found["Size"], found["LastModified"], _etag(found["ETag"]))

    def _put_on_condition(self, key: str, data: bytes, condition: dict[str, Any]) -> str | None:
        """The new etag, or None when the condition does not hold.

        A write whose answer got lost is sent again, by botocore or here, and then fails its own condition. The write
        id in the object's metadata tells it from a write that really lost.
        """
        write_id = uuid4().hex
        resent = False
        waits = iter(_CONFLICT_WAITS)
        with self._call("conditional put", key) as client:
            while True:
                try:
                    answer = client.put_object(
                        Bucket=self._bucket,
                        Key=self._key(key),
                        Body=data,
                        Metadata={_WRITE_ID: write_id},
                        **condition,
                    )
                    return _etag(answer["ETag"])
                except client.exceptions.ClientError as error:
                    resent = resent or error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    if _absent(error) or _code(error) == "PreconditionFailed":
                        return self._etag_of_write(key, write_id) if resent else None
                    wait = next(waits, None)
                    if _code(error) != "ConditionalRequestConflict" or wait is None:
                        raise
                resent = True
                time.sleep(random.uniform(0, wait))  # noqa: S311

    def _etag_of_write(self, key: str, write_id: str) -> str | None:
        with self._call("head", key) as client:
            try:
                found = client.head_object(Bucket=self._bucket, Key=self._key(key))
            except client.exceptions.ClientError as error:
                if _absent(error):
                    return None
                raise
        return _etag(found["ETag"]) if found["Metadata"].get(_WRITE_ID) == write_id else None


def _etag(quoted: str) -> str:
    return quoted.strip('"')


def _code(error: ClientError) -> str:
    return error.response["Error"].get("Code", "")


def _absent(error: ClientError) -> bool:
    # A missing bucket is a 404 too, and no reason to call the object absent; HEAD has no body to say which.
    return _code(error) in ("NoSuchKey", "404")
