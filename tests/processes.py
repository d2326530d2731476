"""Processes that tests start or look at, any of which may end at any moment."""

from __future__ import annotations

import subprocess
from contextlib import suppress

import psutil


def command_line(process: psutil.Process) -> list[str]:
    """The words of its command; none if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


class Process:
    """A process of a test, and everything that it ever started."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self._family: dict[int, psutil.Process] = {}
        self.family()

    def family(self) -> dict[int, psutil.Process]:
        """Processes by id: this one and its descendants, as far as any call has seen them."""
        # Once its end was taken note of, its id may be that of a process of somebody else.
        if self.popen.poll() is None:
            with suppress(psutil.NoSuchProcess):
                known = psutil.Process(self.popen.pid)
                for each in (known, *known.children(recursive=True)):
                    self._family[each.pid] = each
        return self._family

    def alive(self) -> list[str]:
        """Command lines of those of the family that still run."""
        return [" ".join(command_line(each)) for each in self.family().values() if _runs(each)]

    def finish(self, limit: float = 60.0) -> tuple[int, str, str]:
        """Wait for the end: exit code, standard output and error."""
        out, err = self.popen.communicate(timeout=limit)
        return self.popen.returncode, out, err

    def end(self) -> None:
        """Kill what is left of it, each process by its id."""
        for each in self.family().values():
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.popen.communicate(timeout=30)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
