#!/opt/stand-ins/bin/python
"""S3 on port 5000 and in memory, with the buckets that S3_BUCKETS names (spaces between them) made at the start."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

PORT = 5000


class OneAtATime:
    """S3 judges a condition and writes in one step; moto takes two, so nobody may come between them."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            return list(self._app(environ, start_response))


def main() -> None:
    app = OneAtATime(DomainDispatcherApplication(create_backend_app))
    http = make_server("0.0.0.0", PORT, app, threaded=True, request_handler=MotoRequestHandler)  # noqa: S104 - a Service
    threading.Thread(target=http.serve_forever, daemon=True).start()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{PORT}",
        region_name="us-east-1",
        aws_access_key_id="stand-in",
        aws_secret_access_key="stand-in",  # noqa: S106 - moto asks for none
    )
    for name in os.environ.get("S3_BUCKETS", "").split():
        client.create_bucket(Bucket=name)
    print("ready", flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    main()
