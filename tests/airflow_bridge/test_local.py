"""A task as a process of the machine: what it is given, what is seen of it, and how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.airflow_bridge.conftest import Inside

FINAL, PASSING = "AirflowFailException", "AirflowException"
# Should nobody end it, it ends itself.
ALARM_S = 30
PREAMBLE = f"import os, signal, subprocess, sys\nsignal.alarm({ALARM_S})"


@pytest.fixture
def runner(tmp_path: Path) -> Callable[[str], str]:
    """Makes an executable of some lines of Python."""

    def make(code: str) -> str:
        path = tmp_path / "runner"
        path.write_text(f"#!{sys.executable}\n{PREAMBLE}\n{code}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return make


def test_the_runner_gets_the_plans_arguments_and_the_partition_as_they_are(
    inside: Inside, runner: Callable[[str], str]
) -> None:
    odd = ["run", "$(touch x); `id`", "a b", "/etc/passwd.yaml", "plan.json", "}} %}", "--image=evil"]
    found = inside("processes.run", command=runner("print(sys.argv[1:])"), arguments=odd)

    assert found["raised"] is None
    assert found["lines"][-1] == str([*odd, "--partition", "2026-01-31"])


@pytest.mark.parametrize(
    ("conf", "added"),
    [
        ({"reason": "catch-up"}, ["--trigger", "catch-up"]),
        ({"reason": "--force"}, []),
        ({"reason": ["catch-up"]}, []),
        ({}, []),
        (None, []),
    ],
)
def test_whoever_starts_a_run_chooses_among_the_plans_reasons_and_adds_nothing_of_their_own(
    inside: Inside, runner: Callable[[str], str], conf: dict[str, Any] | None, added: list[str]
) -> None:
    found = inside("processes.run", command=runner("print(sys.argv[1:])"), arguments=["run"], conf=conf)

    assert found["lines"][-1] == str(["run", "--partition", "2026-01-31", *added])


@pytest.mark.parametrize(("run_type", "added"), [("manual", ["--trigger", "backfill"]), ("scheduled", [])])
def test_a_run_without_a_reason_of_its_own_is_there_for_that_of_its_type(
    inside: Inside, runner: Callable[[str], str], run_type: str, added: list[str]
) -> None:
    asked = {"command": runner("print(sys.argv[1:])"), "arguments": ["run"]}
    found = inside("processes.run", **asked, run_type=run_type)

    assert found["lines"][-1] == str(["run", "--partition", "2026-01-31", *added])


def test_a_line_is_in_the_log_while_the_runner_still_runs(
    inside: Inside, runner: Callable[[str], str], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    waits = f"print('first')\nwhile not os.path.exists({str(seen)!r}): pass\nprint('last', file=sys.stderr)"
    found = inside("processes.run", command=runner(waits), arguments=["run"], at="first", then=str(seen))

    assert found["raised"] is None
    assert found["lines"][-2:] == ["first", "last"]


def test_bytes_that_are_no_text_and_endless_lines_do_not_stop_a_task(
    inside: Inside, runner: Callable[[str], str]
) -> None:
    code = r"sys.stdout.buffer.write(b'\xff\xfe caf\xc3\xa9\n' + b'x' * 40_000)"
    found = inside("processes.run", command=runner(code), arguments=["run"])

    assert found["raised"] is None
    assert found["lines"][-4:] == ["�� café", "x" * 16_384, "x" * 16_384, "x" * 7_232]


@pytest.mark.parametrize(
    ("exit_code", "raised", "reason"),
    [
        (2, FINAL, "exit code 2: its input is wrong"),
        (3, FINAL, "exit code 3: a blocking check failed"),
        (75, PASSING, "exit code 75: a store.* or another process has the partition"),
        (130, PASSING, "exit code 130: it was interrupted"),
        (1, PASSING, "exit code 1: nothing that was planned for"),
    ],
)
def test_the_exit_code_says_whether_another_try_may_help(
    inside: Inside, runner: Callable[[str], str], exit_code: int, raised: str, reason: str
) -> None:
    found = inside("processes.run", command=runner(f"sys.exit({exit_code})"), arguments=["run"])

    assert found["raised"] == raised
    assert _matches(found, reason)
    assert ("is not tried again" in found["message"]) == (raised == FINAL)


def test_a_runner_that_was_killed_is_tried_again(inside: Inside, runner: Callable[[str], str]) -> None:
    found = inside("processes.run", command=runner("os.kill(os.getpid(), signal.SIGKILL)"), arguments=["run"])

    assert found["raised"] == PASSING
    assert _matches(found, "exit code 137: it was killed, perhaps because it used more memory")


@pytest.mark.parametrize("exit_code", [2, 75])
def test_failures_reach_another_process_as_they_are(inside: Inside, exit_code: int) -> None:
    found = inside("processes.through_a_pipe", exit_code=exit_code)

    assert found["raised"] == (FINAL if exit_code == 2 else PASSING)
    assert f"exit code {exit_code}: " in found["message"]


@pytest.mark.parametrize("partition", [None, ""])
def test_a_run_of_no_partition_fails_for_good_before_anything_is_started(
    inside: Inside, runner: Callable[[str], str], tmp_path: Path, partition: str | None
) -> None:
    started = tmp_path / "started"
    command = runner(f"open({str(started)!r}, 'w')")
    found = inside("processes.run", command=command, arguments=["run"], partition=partition)

    assert found["raised"] == FINAL
    assert _matches(found, "no partition key.*partition_key")
    assert not started.exists()


def test_the_runner_sees_nothing_of_airflows_own_environment(inside: Inside, runner: Callable[[str], str]) -> None:
    environ = {
        "AIRFLOW__CORE__FERNET_KEY": "of-airflow-alone",
        "AIRFLOW_CONN_WAREHOUSE": "postgres://user:of-airflow-alone@db",
        "_AIRFLOW_PROCESS_CONTEXT": "client",
        "__AIRFLOW_SUPERVISOR": "of-airflow-alone",
        "SCOREWATCH_STORE": "s3://scores",
        "AWS_REGION": "af-south-1",
        "DAGSTER_HOME": "/srv/dagster",
    }
    code = "print(sorted(name for name in os.environ if 'AIRFLOW' in name or 'of-airflow-alone' in os.environ[name]))"
    shown = "print(os.environ['SCOREWATCH_STORE'], os.environ['AWS_REGION'], os.environ['DAGSTER_HOME'])"
    found = inside("processes.run", command=runner(f"{code}\n{shown}"), arguments=["run"], environ=environ)

    assert found["lines"][-2:] == ["[]", "s3://scores af-south-1 /srv/dagster"]


@pytest.mark.parametrize("command", ["/no/such/scorewatch", "scorewatch run", "/etc/hosts"])
def test_a_command_that_is_none_names_the_option(inside: Inside, command: str) -> None:
    found = inside("processes.run", command=command, arguments=["run"])

    assert found["raised"] == FINAL
    assert _matches(found, rf"'{command}' cannot be run: .*option command of \[scorewatch\]")


FAMILY = f"""
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.alarm({ALARM_S}); signal.pause()"])
print(os.getpid(), child.pid)
print("up")
"""


@pytest.mark.parametrize(("then", "raised"), [("terminate", PASSING), ("time out", "AirflowTaskTimeout")])
def test_a_task_that_is_ended_takes_the_runner_and_its_children_along(
    inside: Inside, runner: Callable[[str], str], then: str, raised: str
) -> None:
    found = inside("processes.run", command=runner(f"{FAMILY}\nsignal.pause()"), arguments=["run"], at="up", then=then)

    assert found["raised"] == raised
    assert found["reaped"]
    assert _left(found) == []


def test_a_runner_that_was_interrupted_tells_why_before_it_ends(inside: Inside, runner: Callable[[str], str]) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: (print('tidied up'), sys.exit(130)))\nprint('up')\nsignal.pause()"
    found = inside("processes.run", command=runner(code), arguments=["run"], at="up", then="terminate")

    assert found["lines"][-1] == "tidied up"
    assert _matches(found, "exit code 130: it was interrupted")


def test_a_runner_that_does_not_end_is_killed_before_airflow_kills_the_task(
    inside: Inside, runner: Callable[[str], str]
) -> None:
    deaf = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FAMILY}\nwhile True: signal.pause()"
    found = inside("processes.run", command=runner(deaf), arguments=["run"], at="up", then="terminate", grace_s=0.2)

    assert _matches(found, "exit code 137")
    assert found["seconds"] < 4
    assert _left(found) == []


def test_what_the_runner_leaves_running_ends_with_it(inside: Inside, runner: Callable[[str], str]) -> None:
    found = inside("processes.run", command=runner(FAMILY), arguments=["run"])

    assert found["raised"] is None
    assert _left(found) == []


def test_on_one_machine_kubernetes_is_not_imported(airflow_python: Path) -> None:
    code = "import sys, airflow_bridge.local; print('kubernetes' in sys.modules)"
    found = subprocess.run([airflow_python, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert found.stdout.splitlines()[-1] == "False"


def _matches(found: dict[str, Any], pattern: str) -> bool:
    assert re.search(pattern, found["message"]), found["message"]
    return True


def _family(found: dict[str, Any]) -> list[int]:
    pids = [int(pid) for pid in found["lines"][found["lines"].index("up") - 1].split()]
    assert len(pids) == 2
    assert found["seconds"] < ALARM_S / 2, "they ended by themselves"
    return pids


def _left(found: dict[str, Any]) -> list[int]:
    """Which of them live on: a process that was killed may take a moment to end."""
    pids, end = _family(found), time.monotonic() + 5
    while (left := [pid for pid in pids if _alive(pid)]) and time.monotonic() < end:
        time.sleep(0.01)
    return left


def _alive(pid: int) -> bool:
    """Whether it still runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
