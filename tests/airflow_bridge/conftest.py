"""Airflow cannot live in the environment of these tests: its pins are others. Tests that need it have an environment of
the `airflow` extra and nothing else, which the first one makes, and a process in it whose functions they call.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recorders.kubernetes import KubernetesRecorder

REPOSITORY = Path(__file__).parents[2]
CONSTRAINTS = REPOSITORY / "constraints-airflow.txt"
WORKER = Path(__file__).parent / "inside" / "worker.py"


class Inside:
    """A process of Airflow's environment: `inside("bundle.refresh", key=value)` calls `refresh(key=value)` in
    `tests/airflow_bridge/inside/bundle.py`. Arguments and results are what JSON can say.
    """

    def __init__(self, python: Path, home: Path, environ: dict[str, str]) -> None:
        self.home = home
        self._python, self._environ = python, environ
        self._log = (home / "worker.log").open("w+b")
        self._process = subprocess.Popen(
            [python, "-B", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environ,
            cwd=home,
            text=True,
        )

    def __call__(self, function: str, **arguments: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"function": function, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process died:\n{self.log()}"
        found = json.loads(answer)
        assert "error" not in found, f"{found['error']}\n{self.log()}"
        return found["result"]

    def airflow(self, *arguments: str) -> str:
        """What Airflow's command writes, run to its end in the same environment. A failure fails the test."""
        command = [self._python, "-m", "airflow", *arguments]
        found = subprocess.run(
            command, env=self._environ, cwd=self.home, capture_output=True, text=True, check=False, timeout=120
        )
        output = found.stdout + found.stderr
        assert found.returncode == 0, output
        return output

    def log(self) -> str:
        """What the process has written so far, Airflow's log too."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


@pytest.fixture(scope="session")
def airflow_python() -> Path:
    """The interpreter of a clean environment with the extra `airflow`, made again when what it is made of changes."""
    folder = REPOSITORY / ".cache" / f"airflow-venv-{_recipe()}"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
    return folder / "bin" / "python"


def _recipe() -> str:
    """Of what the environment is made; other parts of pyproject.toml may change as they like."""
    document = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    parts = [
        CONSTRAINTS.read_text(encoding="utf-8"),
        document["build-system"],
        document["tool"]["setuptools"],
        {name: project[name] for name in ("dependencies", "entry-points", "scripts")},
        project["optional-dependencies"]["airflow"],
        [str(REPOSITORY), sys.version],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _make(folder: Path) -> None:
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS]
    # The pip that comes with Python is old, and takes twice as long as all of this does.
    commands = ([sys.executable, "-m", "venv", folder], [*install, "--upgrade", "pip"], [*install, "-e", ".[airflow]"])
    for command in commands:
        made = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900)
        assert made.returncode == 0, made.stderr[-4000:]
    (folder / "complete").touch()


@pytest.fixture(scope="session")
def start_inside(airflow_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Inside]]:
    """Starts a process in Airflow's environment with an AIRFLOW_HOME of its own: `start_inside(**environment)`."""
    started = []

    def start(**environ: str) -> Inside:
        home = tmp_path_factory.mktemp("airflow")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        own = {
            "AIRFLOW_HOME": str(home),
            # Stands in every DAG that is serialised, though there is nothing.
            "AIRFLOW__CORE__DAGS_FOLDER": "/dags",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        }
        process = Inside(airflow_python, home, {**kept, **own, **environ})
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def inside(start_inside: Callable[..., Inside]) -> Inside:
    """One process of Airflow's environment for all tests of a session that do not care about its state."""
    return start_inside()


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesRecorder]:
    found = KubernetesRecorder(tmp_path_factory.mktemp("cluster") / "config")
    yield found
    found.stop()


@pytest.fixture
def kubernetes(everything: KubernetesRecorder) -> Iterator[KubernetesRecorder]:
    everything.forget()
    yield everything
    assert everything.problems == []


@pytest.fixture(scope="session")
def airflow(start_inside: Callable[..., Inside], everything: KubernetesRecorder) -> Inside:
    """A process of Airflow's environment whose cluster is the recorder."""
    return start_inside(KUBECONFIG=str(everything.kubeconfig))
