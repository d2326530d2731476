"""What a piece of work costs, measured as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Usage:
    """What a process took: wall seconds, CPU seconds of all its threads, its largest resident size, what it printed."""

    wall_s: float
    cpu_s: float
    peak_gib: float
    output: str


def measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command to the end, with its children. Raises subprocess.CalledProcessError when it fails.

    A process starts with the peak memory of the one it was forked from, so a small one stands between.
    """
    between = [sys.executable, __file__, *command]
    done = subprocess.run(between, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return Usage(**json.loads(done.stdout))


def _measured(command: Sequence[str]) -> Usage:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - a benchmark's own
        output = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    unit = 1 if sys.platform == "darwin" else 1024
    cpu = used.ru_utime + used.ru_stime
    return Usage(time.perf_counter() - start, cpu, used.ru_maxrss * unit / 2**30, output)


if __name__ == "__main__":
    print(json.dumps(asdict(_measured(sys.argv[1:]))))
