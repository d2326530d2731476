"""The HTTP server in front of the two recorders."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.recorders.datadog import API_KEY, DatadogRecorder
from tests.recorders.faults import Answer, Fault, Request
from tests.recorders.pagerduty import ROUTING_KEY, PagerDutyRecorder


class Recorder:
    """Both services on one port of this machine. What they keep outlives a stop; a second start has the same port.

    Read what they keep between requests, or inside `wait_until`, which holds requests back meanwhile.
    """

    def __init__(self) -> None:
        self.pagerduty, self.datadog = PagerDutyRecorder(), DatadogRecorder()
        self._changed = threading.Condition()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._held: set[threading.Event] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environ(self) -> dict[str, str]:
        """The settings with which Scorewatch sends to this recorder."""
        return {
            "SCOREWATCH_PAGERDUTY_ROUTING_KEY": ROUTING_KEY,
            "SCOREWATCH_PAGERDUTY_URL": self.url,
            "DD_API_KEY": API_KEY,
            "SCOREWATCH_DATADOG_URL": self.url,
        }

    @property
    def problems(self) -> list[str]:
        """What was wrong with payloads that were refused."""
        return self.pagerduty.problems + self.datadog.problems

    def start(self) -> None:
        """Listen; before that connections are refused."""
        recorder = self

        class Own(Handler):
            def serve(self, content: bytes) -> None:
                answer = recorder._answer(Request(self.command, self.path, self.headers, content))
                if answer:
                    self.reply(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Own)
        self._server.daemon_threads = False  # so that closing waits for them
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        """Let held answers go, and refuse connections again."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        with self._changed:
            for event in self._held:
                event.set()
        self._thread.join()
        self._server.server_close()
        self._server = None

    def wait_until(self, condition: Callable[[], object], limit_s: float = 30) -> None:
        """Returns once it is true; raises AssertionError if it is not within the limit."""
        with self._changed:
            assert self._changed.wait_for(condition, limit_s), f"not within {limit_s} s"

    def _answer(self, request: Request) -> Answer | None:
        with self._changed:
            services = [each for each in (self.pagerduty, self.datadog) if request.path in each.paths]
            if not services:
                return Answer(404, {"errors": ["Not found"]})
            service = services[0]
            service.requests += 1
            fault = service.faults.next() or Fault(takes_effect=True)
            answer = _taken(service, request) if fault.takes_effect else None
            if fault.held:
                self._held.add(fault.held)
            self._changed.notify_all()
        if fault.held:
            fault.held.wait(60)
        return None if fault.lost else fault.answer or answer


def _taken(service: PagerDutyRecorder | DatadogRecorder, request: Request) -> Answer:
    try:
        return service.take(request)
    except Exception as error:  # a mistake of the recorder's must not look like one more fault of the network
        service.problems.append(f"{request.path}: {error!r}")
        return Answer(500, {"errors": [repr(error)]})


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: a connection for each request, which ends without an answer unless `reply` gives one."""

    def serve(self, content: bytes) -> None:
        raise NotImplementedError

    def do_POST(self) -> None:
        self.serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_PATCH(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self.do_POST()

    def do_GET(self) -> None:
        self.serve(b"")

    def reply(self, answer: Answer) -> None:
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}
        try:
            self.send_response(answer.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:
            pass  # the client went away; what it asked for was done

    def log_message(self, *_: Any) -> None:
        """Nothing: standard error belongs to the tests."""
