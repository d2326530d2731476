"""What a piece of work costs: CPU seconds and peak memory, measured in a process of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What a process used: CPU seconds of its work and of its whole life, and its largest resident size in GiB."""

    work_cpu_s: float
    process_cpu_s: float
    peak_gib: float


def report(work: Callable[[], object]) -> None:
    """Do ``work`` and print its CPU seconds (all threads, user and system) for ``run`` to read; in the child process."""
    before = os.times()
    work()
    after = os.times()
    print(json.dumps({"work_cpu_s": after.user - before.user + after.system - before.system}))


def run(module: str, arguments: Sequence[str]) -> Usage:
    """Run ``python -m module arguments``, whose last line is that of ``report``, and measure the process.

    Raises subprocess.CalledProcessError when it fails.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own modules
        assert process.stdout is not None  # noqa: S101 - asked for above
        output = process.stdout.read()
        _, status, resources = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    work = json.loads(output.splitlines()[-1])["work_cpu_s"]
    # Linux counts the resident size in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(work, resources.ru_utime + resources.ru_stime, resources.ru_maxrss * unit / 2**30)
