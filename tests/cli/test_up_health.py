"""Which code servers `scorewatch up` ends, so that others take their place; by a clock of the test's."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monitoring_assets.cli import up


class Stack:
    """The children of `up`, and how their code servers are."""

    def __init__(self, *names: str) -> None:
        self.now = 1000.0
        self.ended: list[tuple[str, int]] = []
        self.started = [self._child(name, pid) for pid, name in enumerate(names)]
        self.states: dict[str, str] = {}

    def _child(self, name: str, pid: int) -> Any:
        process = SimpleNamespace(pid=pid)
        return SimpleNamespace(
            name=name, process=process, signal_group=lambda number: self.ended.append((name, number))
        )


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Stack:
    found = Stack("code-server-control", "code-server-models", "daemon", "webserver")
    monkeypatch.setattr(up.time, "monotonic", lambda: found.now)
    monkeypatch.setattr(
        "monitoring_assets.sensors.reloading.Servers", lambda _: SimpleNamespace(states=lambda: found.states)
    )
    return found


def go_on(stack: Stack, health: up.Health, seconds: int, **states: str) -> list[tuple[str, int]]:
    stack.states = {"control": "well", **states}
    for _ in range(seconds):
        stack.now += 1
        health.check()
        if stack.ended:
            break
    return stack.ended


def test_a_server_that_is_busy_for_a_minute_is_left_alone_and_one_that_is_silent_for_minutes_is_ended(
    stack: Stack,
) -> None:
    health = up.Health(stack, Path("workspace.yaml"))  # type: ignore[arg-type]
    assert go_on(stack, health, 20, models="well") == []
    assert go_on(stack, health, 120, models="silent") == []
    assert go_on(stack, health, 20, models="well") == []
    assert go_on(stack, health, 120, models="silent") == []
    assert go_on(stack, health, 100, models="silent") == [("code-server-models", signal.SIGKILL)]


def test_a_server_that_is_gone_is_ended_and_one_that_is_still_starting_is_not(stack: Stack) -> None:
    health = up.Health(stack, Path("workspace.yaml"))  # type: ignore[arg-type]
    assert go_on(stack, health, 600, models="absent") == []
    assert go_on(stack, health, 10, models="well") == []
    assert go_on(stack, health, 10, models="absent") == [("code-server-models", signal.SIGKILL)]


def test_a_server_that_is_well_again_the_next_time_is_left_alone(stack: Stack) -> None:
    health = up.Health(stack, Path("workspace.yaml"))  # type: ignore[arg-type]
    for _ in range(5):
        assert go_on(stack, health, 5, models="well") == []
        assert go_on(stack, health, 5, models="dead") == []


def test_a_server_whose_inner_process_is_not_there_is_ended_also_if_it_never_was(stack: Stack) -> None:
    health = up.Health(stack, Path("workspace.yaml"))  # type: ignore[arg-type]
    assert go_on(stack, health, 60, models="absent") == []
    assert go_on(stack, health, 10, models="dead") == [("code-server-models", signal.SIGKILL)]
