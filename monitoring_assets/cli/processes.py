"""Child processes in groups of their own: started with a log file each, watched, and ended with none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

STOP_LIMIT_S = 15.0
POLL_S = 0.1


@dataclass(frozen=True)
class Child:
    """A running `python -m …`, the leader of a process group of the same id."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]

    def last_lines(self, count: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def signal_group(self, number: int) -> bool:
        """Send a signal to the whole group; False when nothing is left of it."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


class Children:
    """The children of this process; leaving the context ends them and everything that they started.

    They run in the folder of their logs, and hold the file descriptor ``inherited`` open as long as they live.
    """

    def __init__(self, logs: Path, environ: Mapping[str, str], inherited: int) -> None:
        self._logs, self._environ, self._inherited = logs, environ, inherited
        self.started: list[Child] = []
        self._orphaned: list[Child] = []

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, *command: str, **environ: str) -> Child:
        """Start `python -m command…`; the log of an earlier one of that name is kept beside the new one."""
        log = self._logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".previous.log"))
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**self._environ, **environ},
                cwd=self._logs,
                start_new_session=True,
                pass_fds=(self._inherited,),
            )
        child = Child(name, command, environ, log, process)
        self.started.append(child)
        return child

    def ended(self) -> Child | None:
        """A child that ended by itself."""
        return next((child for child in self.started if child.process.poll() is not None), None)

    def start_again(self, child: Child) -> Child:
        """Put another one in the place of a child that ended; what that one started goes on until the end."""
        self.started.remove(child)
        self._orphaned.append(child)
        return self.start(child.name, *child.command, **child.environ)

    def orphaned(self) -> list[Child]:
        """Children that ended while something of their group still runs.

        To be asked for often: the id of an empty group can become another process's.
        """
        self._orphaned = [child for child in self._orphaned if child.signal_group(0)]
        return self._orphaned

    def stop(self) -> None:
        """SIGTERM to every group, SIGKILL to what is left of them after the limit."""
        left = [child for child in [*self.started, *self.orphaned()] if child.signal_group(signal.SIGTERM)]
        limit = time.monotonic() + STOP_LIMIT_S
        while left and time.monotonic() < limit:
            time.sleep(POLL_S)
            # poll() first: a leader that nobody waits for stays in its group as a zombie.
            left = [child for child in left if child.process.poll() is None or child.signal_group(0)]
        for child in left:
            child.signal_group(signal.SIGKILL)
        for child in self.started:
            child.process.wait()


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP ask for an orderly end instead of interrupting whatever runs just then."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
