"""A task as a process of the worker's machine.

When the task's own process is killed with SIGKILL, nobody is left to end the runner. It ends by itself with its next
line of output, for which there is no reader, or runs to the end. Either is harmless: the runner is idempotent and has a
lease on its partition, and as long as it has, the next try ends with exit code 75 and is tried again.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_bridge.config import SECTION, Config
from airflow_bridge.runner import arguments, check_partition, failure, for_its_reason
from airflow_bridge.schema import DagPlan, Task

if TYPE_CHECKING:
    from airflow.sdk import Context

GRACE_S = 4
"""From SIGTERM to SIGKILL. Airflow itself gives a task 5 seconds."""
LINE_LENGTH = 16_384
"""Characters after which a line goes into the log as several."""


def task(plan: DagPlan, task: Task, config: Config, **kwargs: Any) -> BaseOperator:
    """The operator of a task; the keyword arguments are those of BaseOperator."""
    return LocalTask(command=config.command, arguments=arguments(task), reasons=plan.reasons, **kwargs)


def environment(worker: Mapping[str, str]) -> dict[str, str]:
    """What the runner gets of the worker's environment: all but Airflow's own part, which holds Airflow's secrets."""
    kept = {name: value for name, value in worker.items() if not name.lstrip("_").startswith("AIRFLOW_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class LocalTask(BaseOperator):
    """Runs a command with arguments, and logs what it prints. It and whatever it starts end with the task."""

    template_fields = ("arguments",)

    def __init__(
        self, *, command: str, arguments: list[str], reasons: Mapping[str, Sequence[str]], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.arguments = arguments
        self.reasons = reasons
        self._process: subprocess.Popen[str] | None = None
        self._watch: threading.Thread | None = None

    def execute(self, context: Context) -> None:
        """Raises AirflowFailException if another try cannot help, and AirflowException if it may."""
        check_partition(context)
        line = [self.command, *self.arguments, *for_its_reason(context, self.reasons)]
        self.log.info("Running: %s", shlex.join(line))
        exit_code = self._run(line)
        if exit_code:
            raise failure(exit_code)

    def on_kill(self) -> None:
        """Ends the runner: SIGTERM to all of its process group, SIGKILL if it does not end in time."""
        if self._process is None or self._watch is None:
            return
        if self._watch.is_alive():
            _signal(self._process.pid, signal.SIGTERM)
            self._watch.join(GRACE_S)
        if self._watch.is_alive():
            _signal(self._process.pid, signal.SIGKILL)
            self._watch.join()
        self._process.wait()

    def _run(self, line: list[str]) -> int:
        self._process = process = self._start(line)
        self._watch = threading.Thread(target=_end_with, args=(process.pid,), daemon=True)
        self._watch.start()
        assert process.stdout is not None  # noqa: S101 - it was started with a pipe
        try:
            for part in iter(partial(process.stdout.readline, LINE_LENGTH), ""):
                self.log.info("%s", part.rstrip("\n"))
            self._watch.join()
        except BaseException:
            self.on_kill()
            raise
        finally:
            process.stdout.close()
        return process.wait()

    def _start(self, line: list[str]) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(  # noqa: S603
                line,
                env=environment(os.environ),
                # The task's own is Airflow's line to its supervisor.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise AirflowFailException(
                f"{self.command!r} cannot be run: {error.strerror}. Set the option command of [{SECTION}] in Airflow's "
                "configuration to an executable of this machine, without arguments."
            ) from error


def _end_with(leader: int) -> None:
    """Wait for the leader of a group, then end what it left running, which holds its output open.

    The leader is not reaped here: until it is, its number cannot become that of another group.
    """
    os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    _signal(leader, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
