"""An S3 service at which every role has a port of its own and may do what its policies say, in front of moto.

moto stores, and the policies are evaluated here: moto knows no condition, and no role behind a bucket's policy.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.deploy.iam_policies import Asked, Policies

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_OF_OBJECTS = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "POST": "PutObject"}
_REFUSED = b"<Error><Code>AccessDenied</Code><Message>no policy allows it</Message></Error>"


class Gate:
    """``used`` is what each role did, ``refused`` what it asked for in vain."""

    def __init__(self, s3: App, policies: Policies) -> None:
        self._s3, self._policies = s3, policies
        self.endpoints: dict[str, str] = {}
        self.used: dict[str, set[Asked]] = defaultdict(set)
        self.refused: dict[str, set[Asked]] = defaultdict(set)
        self.fails: Callable[[dict[str, Any]], bool] = lambda _: False
        """Requests that are answered with an error of S3's own."""

    @contextmanager
    def open(self, roles: Iterable[str]) -> Iterator[None]:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        servers = []
        for role in roles:
            app = self._of(role)
            server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
            self.endpoints[role] = f"http://127.0.0.1:{server.server_port}"
            servers.append((server, threading.Thread(target=server.serve_forever)))
        for _, thread in servers:
            thread.start()
        try:
            yield
        finally:
            for server, thread in servers:
                server.shutdown()
                thread.join()
                server.server_close()

    def _of(self, role: str) -> App:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            asked = what_is_asked(environ)
            if not self._policies.allow(role, asked):
                self.refused[role].add(asked)
                return _answer(environ, start_response)
            self.used[role].add(asked)
            if self.fails(environ):
                return _answer(environ, start_response)
            status: list[Any] = []
            content = list(self._s3(environ, lambda *given: status.extend(given)))
            # S3 tells only those that an object is absent who may list all of the bucket.
            bucket = Asked("s3:ListBucket", asked.resource.partition("/")[0])
            if status[0].startswith("404") and not self._policies.allow(role, bucket):
                self.refused[role].add(bucket)
                return _answer(environ, start_response)
            self.used[role] |= {bucket} if status[0].startswith("404") else set()
            start_response(*status[:2])
            return content

        return app


def what_is_asked(environ: dict[str, Any]) -> Asked:
    """The action, ARN and conditions of a request, as S3's own reference names them."""
    method, query = environ["REQUEST_METHOD"], parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    bucket, _, key = unquote(environ["PATH_INFO"]).lstrip("/").partition("/")
    context = {name: environ[header] for name, header in _HEADERS.items() if header in environ}
    if not key:
        assert method == "GET", f"{method} of a bucket is nothing that stores do"
        assert query["list-type"] == ["2"], query
        return Asked("s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": query["prefix"][0]})
    known = {"uploads", "uploadId", "partNumber", "x-id"}
    assert set(query) <= known, f"nobody said which action {set(query) - known} needs"
    if method == "DELETE":
        action = "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
        return Asked(f"s3:{action}", f"arn:aws:s3:::{bucket}/{key}")
    if method in ("PUT", "POST"):
        creates = not ("partNumber" in query or "uploads" in query)
        context["s3:ObjectCreationOperation"] = str(creates).lower()
    return Asked(f"s3:{_OF_OBJECTS[method]}", f"arn:aws:s3:::{bucket}/{key}", context)


_HEADERS = {"s3:if-none-match": "HTTP_IF_NONE_MATCH", "s3:if-match": "HTTP_IF_MATCH"}


def _answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(_REFUSED)))])
    return [_REFUSED]
