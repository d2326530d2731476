"""Stores for the tests of this directory, and processes that work on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from resources.object_store import ObjectStore, S3Store, open_store


@pytest.fixture
def s3_store(s3_server: Any, bucket: str) -> S3Store:
    return S3Store(bucket, "some/prefix", endpoint=s3_server.endpoint)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Every test with this runs against a new store of each kind."""
    if request.param == "s3":
        store: ObjectStore = request.getfixturevalue("s3_store")
        return store
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def start_worker() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts store_worker.py on a store; it waits for a line once it is ready. None outlives the test."""
    with ExitStack() as stack:

        def start(store: ObjectStore, action: str, *arguments: str) -> subprocess.Popen[str]:
            script = str(Path(__file__).with_name("store_worker.py"))
            endpoint = store.storage_options().get("aws_endpoint_url", "")
            process = subprocess.Popen(
                [sys.executable, script, action, store.uri, endpoint, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def keyed_calls(tmp_path: Path) -> list[Callable[[ObjectStore, str], object]]:
    """Every call of a store that takes a key."""
    return [
        lambda store, key: store.get(key),
        lambda store, key: store.put(key, b"x"),
        lambda store, key: store.put_if_absent(key, b"x"),
        lambda store, key: store.compare_and_swap(key, b"x", None),
        lambda store, key: store.compare_and_swap(key, b"x", "etag"),
        lambda store, key: store.put_file(key, Path(__file__)),
        lambda store, key: store.fetch(key, tmp_path / "fetched"),
        lambda store, key: store.head(key),
        lambda store, key: store.delete(key),
        lambda store, key: store.location(key),
    ]
