"""What code locations are built from, in our store: as Dagster asks for it, and with several writers at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance import InstanceRef

from monitoring_assets.fleet import Fleet, scan
from monitoring_assets.instance import migrate_instance, open_instance, prepare_instance
from monitoring_assets.sensors.reloading import latest_states, publish_states
from monitoring_assets.shared_state import StoreState
from resources.errors import BadInput, InfrastructureError
from resources.object_store import LocalStore, ObjectStore, S3Store
from resources.settings import Settings


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Every test with this runs against a new store of each kind."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    return S3Store(bucket, "some/prefix", endpoint=server.endpoint)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def upload(state: StoreState, file: Path, key: str, version: str, content: bytes = b"state") -> None:
    file.write_bytes(content)
    state.upload_state_from_path(key, version, file)


def test_a_version_of_a_state_is_read_as_it_was_written_also_when_a_newer_one_is_there(
    store: ObjectStore, file: Path
) -> None:
    state = StoreState(store)
    assert state.get_latest_defs_state_info() is None
    assert state.get_latest_version("models") is None
    upload(state, file, "models", "1", b"old")
    upload(state, file, "models", "2", b"new")
    upload(state, file, "a/key of: another", "7", b"other")
    assert state.get_latest_version("models") == "2"
    assert state.list_state_keys_with_prefix("mod") == ["models"]
    for key, version, content in (
        ("models", "1", b"old"),
        ("models", "2", b"new"),
        ("a/key of: another", "7", b"other"),
    ):
        StoreState(store).download_state_to_path(key, version, file)
        assert file.read_bytes() == content
    with pytest.raises(BadInput, match="models/3"):
        state.download_state_to_path("models", "3", file)
    state.set_latest_version("models", None)
    state.set_latest_version("never there", None)
    assert state.get_latest_version("models") is None
    assert state.get_latest_version("a/key of: another") == "7"


def test_writers_at_once_lose_no_key(store: ObjectStore) -> None:
    together = threading.Barrier(4)

    def write(number: int) -> None:
        together.wait(30)
        for version in range(3):
            StoreState(store).set_latest_version(f"models-{number}", str(version))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    state = StoreState(store)
    assert {key: state.get_latest_version(key) for key in state.list_state_keys_with_prefix("models-")} == {
        f"models-{number}": "2" for number in range(4)
    }


def test_a_writer_that_always_loses_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "compare_and_swap", lambda *_: None)
    with pytest.raises(InfrastructureError, match=r"dagster/state/latest\.json was changed by others"):
        StoreState(LocalStore(tmp_path)).set_latest_version("models", "1")


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """One whose dagster.yaml names this storage, as a daemon opens it."""
    monkeypatch.setenv("SCOREWATCH_STORE", f"file://{tmp_path}/store")
    named = {"module": "monitoring_assets.shared_state", "class": "StoreState"}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"defs_state_storage": named}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as found:
        yield found


def test_the_registry_sensor_publishes_to_it_and_other_processes_of_the_instance_read_it(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    publish_states(instance, Fleet(), 2)
    found = latest_states(instance, 2)
    assert set(found) == {"models-0", "models-1"}
    # A process is given the instance in this form.
    with dg.DagsterInstance.from_ref(InstanceRef.from_dict(instance.get_ref().to_dict())) as elsewhere:
        assert isinstance(elsewhere.defs_state_storage, StoreState)
        assert latest_states(elsewhere, 2) == found
    assert len(list((tmp_path / "store" / "dagster" / "state").rglob("*"))) >= 3
    publish_states(instance, Fleet(), 2)
    assert latest_states(instance, 2) == found


LOAD = """
from dagster import DagsterInstance
from monitoring_assets.definitions.models import defs
with DagsterInstance.get():
    keys = defs().get_repository_def().asset_graph.get_all_asset_keys()
print(*sorted({key.path[0] for key in keys}))
"""


def test_a_code_server_of_another_machine_builds_what_the_registry_sensor_published(
    s3_lender: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender = s3_lender
    lender.deploy_manifest(yaml.safe_dump(lender.manifest(model="first", precomputed=True)).encode(), "first")
    environ = {
        "SCOREWATCH_POSTGRES_URL": database,
        "SCOREWATCH_STORE": lender.settings.store_uri,
        "SCOREWATCH_REGISTRY": lender.settings.registry_uri,
        "SCOREWATCH_ALLOWED_SOURCES": lender.settings.allowed_sources[0],
        "SCOREWATCH_S3_ENDPOINT": lender.settings.s3_endpoint,
    }
    homes = [tmp_path / "control", tmp_path / "models"]
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for home in reversed(homes):
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        settings = Settings.from_environment(os.environ, tmp_path)
        prepare_instance(settings)
    migrate_instance(settings)
    with open_instance(settings) as instance:
        publish_states(instance, scan(settings, Fleet()).fleet, 1)
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**os.environ, "DAGSTER_HOME": str(homes[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.split() == ["first"], done.stderr
    assert not list(tmp_path.rglob("latest.json")), "it is in the store only"
