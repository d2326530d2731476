"""A real Airflow beside a machine: scheduler, dag-processor, triggerer and API server over the machine's store."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from tests.airflow_bridge.conftest import airflow_python
from tests.processes import command_line

__all__ = ["airflow", "airflow_python"]

IMPATIENT = {
    # These are minutes by default.
    "CORE__MAX_TASK_RETRY_DELAY": "3",
    "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
    "DAG_PROCESSOR__STALE_DAG_THRESHOLD": "1",
    "SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    # What a scheduler had under way is taken over by another one when it was silent for so long, and somebody looks.
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
    "SCHEDULER__PARSING_CLEANUP_INTERVAL": "2",
}
FINISHED = ("success", "failed")
LIMIT_S = 120.0


class Airflow:
    """The stack, its REST API, and the processes that it has on this machine."""

    def __init__(self, machine: Any, python: Path, home: Path, port: int) -> None:
        self.machine = machine
        self._port, self._token = port, ""
        kept = {name: value for name, value in machine.environ().items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        home.mkdir()
        self._output = home / "standalone.log"
        runner = str(Path(sys.executable).with_name("scorewatch"))
        where = ("--store", f"file://{machine.store}", "--home", str(home), "--port", str(port))
        with self._output.open("wb") as output:
            popen = subprocess.Popen(
                [python, "-m", "airflow_bridge.standalone", *where, "--command", runner],
                env=kept | {f"AIRFLOW__{name}": value for name, value in IMPATIENT.items()},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._popen, self._sessions = popen, {popen.pid: psutil.Process(popen.pid)}

    def await_up(self) -> None:
        until(lambda: b"Airflow is up" in self._output.read_bytes() or self._popen.poll() is not None, self.output)
        assert self._popen.poll() is None, self.output()
        self._token = self._ask("GET", "/auth/token")[1]["access_token"]

    def output(self) -> str:
        """What the stack said."""
        return self._output.read_text()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the API answers; fails on an error."""
        status, answer = self.answer(method, path, body)
        assert status < 300, (status, answer)
        return answer

    def answer(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and content of what the API answers."""
        return self._ask(method, f"/api/v2{path}", body)

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content or b"null")

    def dags(self) -> dict[str, dict[str, Any]]:
        """The DAGs that are shown, by their ids."""
        return {each["dag_id"]: each for each in self.ask("GET", "/dags?limit=100")["dags"]}

    def export(self) -> str:
        """`scorewatch export-dags`; returns when Airflow has the set's DAGs, and no others. The set's digest."""
        code, out, err = self.machine.run("export-dags", "--json")
        assert code == 0, err
        found: str = json.loads(out)["set"]
        plans = self.machine.store / "airflow" / "sets" / f"{found}.json"
        wanted = set(json.loads(plans.read_bytes())["plans"])
        shown: dict[str, Any] = {}

        def current() -> bool:
            shown.clear()
            shown.update({name: each["bundle_version"] for name, each in self.dags().items()})
            return shown == dict.fromkeys(wanted, found)

        until(current, lambda: f"DAGs {wanted} of {found}, but there are {shown}")
        return found

    def run(self, dag_id: str, partition: str) -> str:
        """Start a run by hand; its id."""
        body = {"logical_date": None, "partition_key": partition}
        found: str = self.ask("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"]
        return found

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """All runs of a DAG."""
        found: list[dict[str, Any]] = self.ask("GET", f"/dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
        return found

    def finished(self, dag_id: str, run_id: str) -> str:
        """The state that a run ends in."""
        where = f"/dags/{dag_id}/dagRuns/{_path(run_id)}"
        state = ""

        def over() -> bool:
            nonlocal state
            state = self.ask("GET", where)["state"]
            return state in FINISHED

        until(over, lambda: f"the end of {run_id}, which is {state}: {self.tasks(dag_id, run_id)}")
        return state

    def tasks(self, dag_id: str, run_id: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of a run's tasks."""
        found = self.ask("GET", f"/dags/{dag_id}/dagRuns/{_path(run_id)}/taskInstances")["task_instances"]
        return {each["task_id"]: (each["state"], each["try_number"]) for each in found}

    def log(self, dag_id: str, run_id: str, task: str, number: int = 1) -> str:
        """What a try of a task logged."""
        where = f"/dags/{dag_id}/dagRuns/{_path(run_id)}/taskInstances/{task}/logs/{number}?full_content=true"
        found = self.ask("GET", where)["content"]
        return "\n".join(str(each["event"]) + json.dumps(each.get("error_detail", "")) for each in found)

    def ran_with(self, dag_id: str, run_id: str, task: str) -> str:
        """The manifest's digest that a task's runner was given."""
        log = self.log(dag_id, run_id, task)
        found = re.search(r"--manifest-digest ([0-9a-f]{64})", log)
        assert found, log
        return found[1]

    def component(self, name: str) -> psutil.Process:
        """The process of a component, such as scheduler."""
        [found] = [each for each in self._components() if f"airflow {name}" in " ".join(command_line(each))]
        return found

    def runner(self, stage: str, partition: str) -> psutil.Process:
        """The process of `scorewatch run` that is at a stage of a partition."""
        [process] = self.runners(stage, partition)
        return process

    def runners(self, stage: str, partition: str, count: int = 1) -> list[psutil.Process]:
        """So many processes of `scorewatch run` that are at a stage of a partition; there may be no more."""
        wanted = {"run", stage, partition}
        found: list[psutil.Process] = until(
            lambda: (
                len(found := [each for each in self.alive() if wanted <= set(command_line(each))]) >= count and found
            ),
            lambda: f"{count} runners of {stage} of {partition}",
        )
        assert len(found) == count, found
        return found

    def alive(self) -> list[psutil.Process]:
        """All processes of the stack, and of runners that it has left behind."""
        self._components()
        return [each for each in psutil.process_iter() if self._is_of_it(each)]

    def _components(self) -> list[psutil.Process]:
        """Each has a session of its own; what was seen once is remembered."""
        # Once its end was taken note of, its id may be that of a process of somebody else.
        if self._popen.poll() is not None:
            return []
        found = psutil.Process(self._popen.pid).children()
        self._sessions |= {each.pid: each for each in found}
        return found

    def _is_of_it(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            own = process.environ().get("SCOREWATCH_HOME") == str(self.machine.home)
            leader = self._sessions.get(os.getsid(process.pid))
            return own or (leader is not None and (leader.is_running() or not psutil.pid_exists(leader.pid)))
        except (ProcessLookupError, psutil.Error):
            return False

    def stop(self) -> None:
        """As Ctrl-C does, which must end everything."""
        self.alive()
        self._popen.send_signal(signal.SIGINT)
        try:
            code = self._popen.wait(60)
            until(lambda: not self.alive(), lambda: f"the end of {self.alive()}", 15)
        finally:
            for each in self.alive():
                each.kill()
            self._popen.wait(30)
        assert code == 0, self.output()


def until(condition: Callable[[], Any], what: Callable[[], str], limit: float = LIMIT_S) -> Any:
    """The first true value of a condition; fails after ``limit`` seconds."""
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {limit:.0f} seconds: {what()}"
        time.sleep(0.1)
    return found


def _path(run_id: str) -> str:
    return quote(run_id, safe="")


@pytest.fixture(scope="module")
def airflow(
    new_machine: Callable[[], Any], airflow_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Airflow]:
    """An Airflow over the store of a new machine, whose DAGs are not exported yet. It must stop cleanly."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    stack = Airflow(new_machine(), airflow_python, tmp_path_factory.mktemp("stack") / "airflow", port)
    try:
        stack.await_up()
        yield stack
    finally:
        stack.stop()
