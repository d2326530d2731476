"""What is known of the processes of a test: nothing of those that belong to somebody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.processes import Process

WAITS = "input()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {WAITS!r}])
print("started", flush=True)
child.wait()
"""


@contextmanager
def started(code: str) -> Iterator[Process]:
    process = Process(
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    try:
        yield process
    finally:
        process.end()


def test_a_process_is_ended_with_what_it_started() -> None:
    with started(PARENT) as process:
        assert process.popen.stdout.readline() == "started\n"
        assert len(process.alive()) == 2
    assert psutil.wait_procs([*process.family().values()], timeout=30)[1] == []


@pytest.mark.parametrize("how", ["finish", "end"])
def test_whoever_has_the_id_of_a_process_that_ended_is_left_alone(how: str) -> None:
    with started(PARENT) as stranger:
        assert stranger.popen.stdout.readline() == "started\n"
        with started(WAITS) as ended:
            getattr(ended, how)()
            ended.popen.pid = stranger.popen.pid
            assert ended.alive() == []
            ended.end()
        assert len(stranger.alive()) == 2
