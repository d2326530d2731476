"""An S3 server in a process of its own: moto, which answers one request at a time.

A listing of moto walks over every key of the bucket, S3's only over those that it names; with a million keys a tick
would be measured for moto's loop. So the keys are kept in order here, and a listing is given its part of them.
"""

from __future__ import annotations

import bisect
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from moto.s3.models import S3Backend, s3_backends
from moto.s3.utils import _VersionedKeyStore

STORE, REGISTRY, LAKE = "scorewatch-store", "scorewatch-registry", "scorewatch-lake"
ACCOUNT, REGION = "123456789012", "us-east-1"

Put = Callable[[str, str, bytes, datetime], None]
"""Puts an object: bucket, key, data, and when it is to have been modified."""


class _Keys(_VersionedKeyStore):
    """The objects of a bucket, by their names, which are in order from the first listing on."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []
        self._ordered = False

    def setlist(self, key: str, list_: Any) -> None:
        if key not in self:
            if self._ordered:
                bisect.insort(self._names, key)
            else:
                self._names.append(key)
        super().setlist(key, list_)

    def pop(self, key: str) -> None:
        super().pop(key)
        self._names.remove(key)

    def below(self, prefix: str) -> dict[str, Any]:
        """The objects whose names start with a prefix."""
        if not self._ordered:
            self._names.sort()
            self._ordered = True
        first = bisect.bisect_left(self._names, prefix)
        last = bisect.bisect_left(self._names, prefix + chr(sys.maxunicode), lo=first)
        return {name: self[name] for name in self._names[first:last]}


def _list_objects(backend: S3Backend, bucket: Any, prefix: str | None, *others: Any, **more: Any) -> Any:
    return _list_all(backend, SimpleNamespace(keys=bucket.keys.below(prefix or "")), prefix, *others, **more)


_list_all = S3Backend.list_objects


def serve(fill: Callable[[Put], None]) -> None:
    """Serve the three buckets, with what ``fill`` puts there; ends when the standard input does."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log_request(self, *_: Any) -> None:
            """Nothing."""

    app, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        # S3 evaluates a condition and writes in one step, moto in two.
        with lock:
            return list(app(environ, start_response))

    S3Backend.list_objects = _list_objects
    backend = s3_backends[ACCOUNT]["aws"]
    for name in (STORE, REGISTRY, LAKE):
        backend.create_bucket(name, REGION).keys = _Keys()

    def put(bucket: str, key: str, data: bytes, modified: datetime) -> None:
        stored = backend.put_object(bucket, key, data, disable_notification=True)
        stored.last_modified = modified.replace(tzinfo=None)  # moto's times are UTC without saying so

    fill(put)
    http = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Quiet)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{http.server_port}", flush=True)
    sys.stdin.read()
    os._exit(0)  # taking a million objects apart takes a minute


@contextmanager
def serving(*command: str) -> Iterator[dict[str, str]]:
    """Run ``python -m COMMAND``, which calls `serve`; the environment that makes it a deployment's S3.

    It ends with this process, however that ends.
    """
    server = [sys.executable, "-m", *command]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        endpoint = process.stdout.readline().strip() if process.stdout else ""
        if not endpoint:
            raise RuntimeError(f"{' '.join(command)} ended before it served anything")
        yield _environment(endpoint)


def _environment(endpoint: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SCOREWATCH_", "DAGSTER_"))
    }
    return kept | {
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "SCOREWATCH_S3_ENDPOINT": endpoint,
        "SCOREWATCH_STORE": f"s3://{STORE}",
        "SCOREWATCH_REGISTRY": f"s3://{REGISTRY}",
        "SCOREWATCH_ALLOWED_SOURCES": f"s3://{LAKE}",
    }
