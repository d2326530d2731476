"""The code locations: what each of them is built from, and what a run's process builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from monitoring_assets.fleet import Fleet, scan
from monitoring_assets.instance import open_instance
from monitoring_assets.sensors.reloading import location, publish_states
from resources.object_store import open_store

REPOSITORY = Path(__file__).parents[2]
GROUPS = """
import json, sys, importlib
from dagster import DagsterInstance
with DagsterInstance.get():
    repository = importlib.import_module(f"monitoring_assets.definitions.{sys.argv[1]}").defs().get_repository_def()
    repository.load_all_definitions()
    nodes = repository.asset_graph.get_all_asset_keys()
    print(json.dumps({
        "keys": sorted("/".join(key.path) for key in nodes),
        "sensors": sorted(each.name for each in repository.sensor_defs),
        "schedules": sorted(each.name for each in repository.schedule_defs),
        "running": sorted(
            each.name for each in [*repository.sensor_defs, *repository.schedule_defs]
            if each.default_status.value == "RUNNING"
        ),
        "heavy": sorted(name for name in ("great_expectations", "onnxruntime", "scipy.stats") if name in sys.modules),
    }))
"""


@pytest.fixture
def load(lender: Any) -> Callable[..., Any]:
    """Loads a location in a process of its own: ``load("models", SCOREWATCH_SHARD="1")``."""

    def load(module: str, **more: str) -> Any:
        settings = lender.settings
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SCOREWATCH_", "DAGSTER_"))},
            "SCOREWATCH_HOME": str(settings.home),
            "SCOREWATCH_STORE": settings.store_uri,
            "SCOREWATCH_REGISTRY": settings.registry_uri,
            "SCOREWATCH_ALLOWED_SOURCES": settings.allowed_sources[0],
            "DAGSTER_HOME": str(settings.dagster_home),
            **more,
        }
        done = subprocess.run(
            [sys.executable, "-c", GROUPS, module],
            env=environ,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return load


@pytest.fixture
def publish(lender: Any) -> Iterator[Callable[[int], None]]:
    """Stores what the locations are built from, as the registry sensor does: ``publish(shards)``."""
    with open_instance(lender.settings) as instance:
        yield lambda shards: publish_states(instance, scan(lender.settings, Fleet()).fleet, shards)


def deploy(lender: Any, model: str, version: str = "1.0.0", **changes: Any) -> None:
    document = lender.manifest(model=model, version=version, precomputed=True, **changes)
    lender.deploy_manifest(yaml.safe_dump(document).encode(), model, version)


def test_each_location_has_the_groups_of_its_shard_and_its_own_arrivals(
    lender: Any, load: Callable[..., Any], publish: Callable[[int], None]
) -> None:
    for number in range(4):
        deploy(lender, f"model-{number}")
    deploy(lender, "retired", status="retired")
    publish(2)
    found = [load("models", SCOREWATCH_SHARDS="2", SCOREWATCH_SHARD=str(shard)) for shard in range(2)]
    models = [{key.split("/")[0] for key in each["keys"]} for each in found]
    assert models[0] | models[1] == {f"model-{number}" for number in range(4)}
    assert models[0] & models[1] == set()
    for each in found:
        assert each["sensors"] == each["running"] == ["arrivals"]
        assert each["heavy"] == []


def test_a_runs_process_builds_its_version_only_from_whichever_shard(
    lender: Any, load: Callable[..., Any], publish: Callable[[int], None]
) -> None:
    for number in range(4):
        deploy(lender, f"model-{number}")
    publish(2)
    for number in range(4):
        found = load("models", SCOREWATCH_SHARDS="2", SCOREWATCH_ONLY=f"model-{number}/1.0.0")
        assert {key.split("/")[0] for key in found["keys"]} == {f"model-{number}"}
        assert found["sensors"] == []


def test_a_location_is_built_from_what_was_stored_whatever_the_registry_says_since(
    lender: Any, load: Callable[..., Any], publish: Callable[[int], None]
) -> None:
    deploy(lender, "first")
    publish(1)
    deploy(lender, "second")
    assert {key.split("/")[0] for key in load("models")["keys"]} == {"first"}


def test_before_anything_was_stored_a_location_is_empty_and_loads(
    load: Callable[..., Any], publish: Callable[[int], None]
) -> None:
    assert load("models")["keys"] == []


def test_the_control_location_loads_no_version_and_keeps_house(
    lender: Any, load: Callable[..., Any], publish: Callable[[int], None]
) -> None:
    deploy(lender, "first")
    publish(1)
    found = load("control")
    assert found["keys"] == ["registry"]
    assert found["running"] == ["airflow_exporter", "keep_house_schedule", "publisher", "registry", "starts"]
    assert found["heavy"] == []


def test_the_registry_asset_says_what_the_store_says(lender: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from monitoring_assets.definitions import control
    from monitoring_assets.refresh import Refresher

    deploy(lender, "good")
    deploy(lender, "bad", tier=9)
    Refresher(lender.settings, lender.clock).look()
    done = dg.materialize([control._registry(lender.settings)])
    [evaluation] = done.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.description) == (False, "kept back: bad 1.0.0")
    [materialised] = done.asset_materializations_for_node("registry")
    assert materialised.metadata["active versions"].value == 1


def test_the_sweep_removes_what_no_partition_names(lender: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    from monitoring_assets.definitions import control
    from monitoring_assets.onboarding import utc_now

    store = open_store(lender.settings.store_uri)
    orphan = f"data/psi/ke/1/2026-01-01/{'0' * 64}/part-00000.parquet"
    store.put(orphan, b"rows")
    job = control._nightly(lender.settings)
    assert job.execute_in_process().success
    assert store.head(orphan) is not None, "it may still be in the making"
    monkeypatch.setattr(control, "utc_now", lambda: utc_now() + timedelta(days=8))
    assert job.execute_in_process().success
    assert store.head(orphan) is None


def test_the_workspace_file_names_the_locations_of_one_shard() -> None:
    entries = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    assert [each["grpc_server"]["location_name"] for each in entries] == ["control", location(0, 1)]
    assert all(each["grpc_server"]["host"] == "localhost" for each in entries)
