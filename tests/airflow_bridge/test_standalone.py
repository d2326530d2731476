from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_bridge.standalone import environment, how_to_run_one
from resources.object_store import ObjectStore, open_store
from tests.airflow_bridge.plans import plan, publish

URL = "http://127.0.0.1:8080"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path}/store")


def standalone(tmp_path: Path, store_uri: str, port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airflow_bridge.standalone", "--store", store_uri, "--home", tmp_path / "airflow"]
    return subprocess.run(
        [*command, "--port", str(port)], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
    )


def test_a_port_that_is_taken_is_refused_before_anything_is_made(tmp_path: Path, store: ObjectStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = standalone(tmp_path, store.uri, port)

    assert found.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on: Address already in use." in found.stderr
    assert not (tmp_path / "airflow").exists()


def test_a_store_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = standalone(tmp_path, "ftp://somewhere", port)

    assert found.returncode == 1
    assert "ftp://somewhere cannot be read" in found.stderr
    assert not (tmp_path / "airflow").exists()


def test_it_says_how_to_run_the_first_partition_of_the_first_dag(store: ObjectStore) -> None:
    publish(store, plan("b_1.0.0"), plan("a_1.0.0"))

    line = how_to_run_one(store, URL).partition("; or\n")[2]
    # A shell takes it apart; instead of curl there is what says with what it was called.
    curl = """curl() { if [ "$1" = -s ]; then echo '{"access_token":"t0ken"}'; else printf '%s\\n' "$@"; fi; }"""
    found = subprocess.run(["sh", "-ec", f"{curl}\n{line}"], capture_output=True, text=True, check=True, timeout=60)

    bearer, token, body, content, address = found.stdout.splitlines()
    assert (bearer, token, body) == ("--oauth2-bearer", "t0ken", "--json")
    assert json.loads(content) == {"logical_date": None, "partition_key": "2026-01-01"}
    assert address == f"{URL}/api/v2/dags/a_1.0.0/dagRuns"


def test_it_says_that_nothing_was_exported(store: ObjectStore) -> None:
    assert "scorewatch export-dags" in how_to_run_one(store, URL)


def test_its_keys_are_for_this_user_only_and_the_same_at_the_next_start(tmp_path: Path, store: ObjectStore) -> None:
    first, second = (environment(store.uri, tmp_path, "scorewatch", 8080, {}) for _ in range(2))

    keys = {name: first[f"AIRFLOW__{name}"] for name in ("API__SECRET_KEY", "API_AUTH__JWT_SECRET")}
    assert len(set(keys.values())) == 2
    assert min(map(len, keys.values())) >= 48
    assert first == second
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("*.key")} == {0o600}


def test_what_the_caller_sets_wins_but_for_the_folder(tmp_path: Path, store: ObjectStore) -> None:
    own = {"AIRFLOW__SCOREWATCH__SHARDS": "16", "AIRFLOW_HOME": "/elsewhere", "HOME": "/home/me"}

    found = environment(store.uri, tmp_path, "scorewatch", 8080, own)

    assert (found["AIRFLOW__SCOREWATCH__SHARDS"], found["HOME"]) == ("16", "/home/me")
    assert found["AIRFLOW_HOME"] == str(tmp_path)
    assert found["AIRFLOW__API__HOST"] == "127.0.0.1"
