"""Airflow's REST API as far as it is used: tokens, DAGs, and their runs, which a test ends as it likes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.recorders.faults import Answer, Fault, Faults, Request
from tests.recorders.server import Handler

Run = dict[str, Any]

STATES = ("queued", "running", "success", "failed")
TYPES = ("backfill", "scheduled", "manual", "operator_triggered", "asset_triggered", "asset_materialization")
BEGIN = datetime(2026, 1, 20, tzinfo=UTC)

_FILTERS: dict[str, Callable[[Run, list[str]], bool]] = {
    "state": lambda run, values: run["state"] in values,
    "run_type": lambda run, values: run["run_type"] in values,
    "run_id_prefix_pattern": lambda run, values: begins(run["dag_run_id"], values[0]),
    "partition_key_prefix_pattern": lambda run, values: begins(run["partition_key"], values[0]),
}
_ALLOWED = {"state": STATES, "run_type": TYPES}
_BODY = {"dag_run_id", "logical_date", "partition_key", "conf"}


def begins(text: str | None, prefix: str) -> bool:
    """Airflow's range from a prefix to the one that follows: of "…19" that is more than it says."""
    term = re.sub(r"[\W_]+$", "", prefix)
    upper = term
    while upper and not chr(ord(upper[-1]) + 1).isalnum():
        upper = upper[:-1]
    return text is not None and term <= text < upper[:-1] + chr(ord(upper[-1]) + 1)


class AirflowRecorder:
    """The API on one port of this machine. A request that Airflow would not understand is in ``problems``."""

    def __init__(self) -> None:
        self.dags: set[str] = set()
        self.unreadable: set[str] = set()
        """DAGs with import errors."""
        self.runs: list[Run] = []
        self.failed_tasks: dict[str, list[Run]] = {}
        """By the ids of runs."""
        self.users: dict[str, str] = {}
        """Passwords by name. Without any, everybody gets a token."""
        self.page_limit = 100
        self.faults = Faults()
        self.problems: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self._tokens: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen; before that connections are refused."""
        recorder = self

        class Own(Handler):
            def serve(self, content: bytes) -> None:
                answer = recorder._answer(Request(self.command, self.path, self.headers, content))
                if answer:
                    self.reply(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Own)
        self._server.daemon_threads = False
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}).start()

    def stop(self) -> None:
        """Refuse connections again."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def expire(self) -> None:
        """Tokens that were given are too old from now on."""
        self._tokens = dict.fromkeys(self._tokens, 401)

    def change_key(self) -> None:
        """Airflow was started with another key: tokens that were given are not its own."""
        self._tokens = dict.fromkeys(self._tokens, 403)

    def add(self, dag_id: str, partition: str, run_type: str = "scheduled", state: str = "running") -> Run:
        """A run that Airflow made."""
        run_id = f"{run_type}__2026-01-20T00:00:00+00:00__{partition}__{len(self.runs)}"
        return self._made(dag_id, run_id, partition, run_type, state, {})

    def asked_for(self) -> list[Run]:
        """The runs that somebody asked for over REST, by their ids."""
        found = [run for run in self.runs if run["run_type"] == "manual"]
        return sorted(found, key=lambda run: str(run["dag_run_id"]))

    def end(self, run: Run, state: str = "success", at: datetime | None = None, *, tries_left: int = 0) -> None:
        """A run ends; one that fails fails of one task, which had some tries left."""
        run |= {"state": state, "end_date": (at or BEGIN + timedelta(hours=1)).isoformat()}
        if state == "failed":
            task = {"task_id": "features", "state": "failed", "try_number": 4 - tries_left, "max_tries": 3}
            self.failed_tasks[run["dag_run_id"]] = [task]

    def _made(self, dag_id: str, run_id: str, partition: str, run_type: str, state: str, conf: Any) -> Run:
        run: Run = {
            "dag_id": dag_id,
            "dag_run_id": run_id,
            "run_type": run_type,
            "state": state,
            "run_after": (BEGIN + timedelta(seconds=len(self.runs))).isoformat(),
            "end_date": None,
            "partition_key": partition,
            "logical_date": None,
            "conf": conf,
        }
        self.runs.append(run)
        return run

    def _answer(self, request: Request) -> Answer | None:
        with self._lock:
            where = urlsplit(request.path)
            self.requests.append((request.method, where.path))
            fault = self.faults.next() or Fault(takes_effect=True)
            if not fault.takes_effect:
                return fault.answer
            try:
                answer = self._taken(request, unquote(where.path), parse_qs(where.query, keep_blank_values=True))
            except Exception as error:  # a mistake of the recorder's must not look like a fault of Airflow's
                self.problems.append(f"{request.path}: {error!r}")
                return Answer(500, {"detail": repr(error)})
            return None if fault.lost else answer

    def _taken(self, request: Request, path: str, query: dict[str, list[str]]) -> Answer:
        if path == "/auth/token":
            return self._token(json.loads(request.content) if request.method == "POST" else None)
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if (status := self._tokens.get(token, 401)) != 200:
            return Answer(status, {"detail": "Token Expired" if status == 401 else "Invalid JWT token"})
        tasks = re.fullmatch(r"/api/v2/dags/([^/]+)/dagRuns/([^/]+)/taskInstances", path)
        if tasks:
            found = self.failed_tasks.get(tasks[2], [])
            return Answer(200, {"task_instances": found, "total_entries": len(found)})
        runs = re.fullmatch(r"/api/v2/dags/([^/]+)/dagRuns", path)
        if not runs:
            return Answer(404, {"detail": "Not Found"})
        if runs[1] not in {*self.dags, "~"} or (request.method, runs[1]) == ("POST", "~"):
            return Answer(404, {"detail": f"The Dag with ID: `{runs[1]}` was not found"})
        return self._trigger(runs[1], request) if request.method == "POST" else self._listed(runs[1], query)

    def _token(self, body: Run | None) -> Answer:
        if self.users and body is None:
            return Answer(403, {"detail": "This method is only allowed if all are admins"})
        if self.users and self.users.get((body or {})["username"]) != (body or {})["password"]:
            # As its answer to a body that is not understood does, this quotes what was sent.
            return Answer(401, {"detail": "Invalid credentials", "input": body})
        token = f"token-{len(self._tokens)}"
        self._tokens[token] = 200
        return Answer(201, {"access_token": token})

    def _trigger(self, dag_id: str, request: Request) -> Answer:
        body = json.loads(request.content)
        if set(body) != _BODY or body["logical_date"] is not None:
            self.problems.append(f"{sorted(body)} to {request.path}")
            return Answer(422, {"detail": "Extra inputs are not permitted"})
        if dag_id in self.unreadable:
            return Answer(400, {"detail": f"Dag with dag_id: '{dag_id}' has import errors and cannot be triggered"})
        if not re.fullmatch(r"\d{4}-\d\d-\d\d(-\d\d:00)?", body["partition_key"]):
            return Answer(400, {"detail": f"{body['partition_key']!r} is no key of a day."})
        if not re.fullmatch(r"[A-Za-z0-9_.~:+-]+", body["dag_run_id"]):
            return Answer(400, {"detail": "The run_id provided does not match regex pattern"})
        if any((run["dag_id"], run["dag_run_id"]) == (dag_id, body["dag_run_id"]) for run in self.runs):
            return Answer(409, {"detail": {"reason": "Unique constraint violation"}})
        run = self._made(dag_id, body["dag_run_id"], body["partition_key"], "manual", "queued", body["conf"])
        return Answer(200, run)

    def _listed(self, dag_id: str, query: dict[str, list[str]]) -> Answer:
        cursor, limit = query.pop("cursor")[0], min(int(query.pop("limit")[0]), self.page_limit)
        for name, values in query.items():
            if name not in _FILTERS or not set(values) <= set(_ALLOWED.get(name, values)):
                self.problems.append(f"the filter {name}={values}")
                return Answer(422, {"detail": f"Invalid value for {name}"})
        found = [
            (number, run)
            for number, run in enumerate(self.runs)
            if dag_id in ("~", run["dag_id"]) and number >= int(cursor or 0)
            if all(_FILTERS[name](run, values) for name, values in query.items())
        ]
        page = found[:limit]
        following = str(page[-1][0] + 1) if len(found) > limit else None
        return Answer(200, {"dag_runs": [run for _, run in page], "next_cursor": following})
