"""Stores for the tests of this directory. S3 is moto in a thread of the test process, on a free loopback port."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from resources.object_store import ObjectStore, S3Store, open_store


@dataclass(frozen=True)
class Fault:
    """One request of this method is answered with this error, before it or after it took effect."""

    method: str
    status: str
    code: str
    takes_effect: bool


class S3Server:
    """moto, one request at a time: S3 evaluates a condition and writes in one step, moto in two.

    `faults` are served in their order, each once, to the requests that they fit.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.endpoint = ""
        self.faults: list[Fault] = []
        self.requests = 0
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.requests += 1
            if not (self.faults and self.faults[0].method == environ["REQUEST_METHOD"]):
                return list(self._app(environ, start_response))
            fault = self.faults.pop(0)
            if fault.takes_effect:
                list(self._app(environ, lambda *_: None))
            else:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{fault.code}</Code><Message>a fault of the test</Message></Error>".encode()
        start_response(fault.status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server(DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, server, threaded=True, request_handler=MotoRequestHandler)
    server.endpoint = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        yield server
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def fault(s3_server: S3Server) -> Iterator[Callable[..., None]]:
    """Adds a fault: `fault(method, status, code, takes_effect=False)`."""

    def add(method: str, status: str, code: str, *, takes_effect: bool = False) -> None:
        s3_server.faults.append(Fault(method, status, code, takes_effect))

    yield add
    s3_server.faults.clear()


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """The name of a new bucket."""
    from resources.object_store.s3 import s3_client

    name = f"test-{uuid4().hex[:12]}"
    s3_client(s3_server.endpoint).create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_store(s3_server: S3Server, bucket: str) -> S3Store:
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
