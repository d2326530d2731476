"""The fleet as Airflow's DAGs: which there are, when a plan is another one, and who schedules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from airflow_bridge.export import CURRENT, plan_key, set_key
from airflow_bridge.graph import read
from airflow_bridge.schema import DagPlan, PlanSet, decode
from monitoring_assets import exporting, layout
from monitoring_assets.assets.factory import STAGE_TAG
from monitoring_assets.definitions.models import _built
from monitoring_assets.exporting import export_fleet, scheduler
from monitoring_assets.refresh import Refresher
from monitoring_assets.sensors.exporter import exporter_sensor
from resources.errors import BadInput
from resources.settings import Settings
from tests.conftest import Lender

MODEL = "ke-nano-loan"
SLUG = "ke_nano_loan__"


class Platform:
    """A lender's registry, and who exports what is in it."""

    def __init__(self, lender: Lender, orchestrator: str = "dagster") -> None:
        self.lender = lender
        self.settings: Settings = lender.settings.model_copy(update={"orchestrator": orchestrator})

    def deploy(self, version: str, **changes: Any) -> None:
        document = self.lender.manifest(precomputed=True, version=version, **changes)
        self.lender.registry.put(f"{MODEL}/{version}/model.yaml", yaml.safe_dump(document).encode())

    def export(self, **more: Any) -> Any:
        return export_fleet(self.settings, self.fleet, **more)

    @property
    def fleet(self) -> Any:
        return Refresher(self.settings, self.lender.clock).look().fleet

    @property
    def plans(self) -> dict[str, DagPlan]:
        """In force, read as Airflow's side reads them."""
        store = self.lender.store
        found = PlanSet.model_validate_json(store.get(set_key(json.loads(store.get(CURRENT).data)["set"])).data)
        return {dag_id: decode(store.get(plan_key(sha)).data, sha) for dag_id, sha in found.plans.items()}


@pytest.fixture
def platform(lender: Lender) -> Platform:
    return Platform(lender)


def test_every_active_version_is_a_dag_whose_tasks_run_its_stages(platform: Platform) -> None:
    platform.deploy("1", resources={"cpu": 0.5, "memory": "1Gi"}, links={"runbook": "https://wiki.lender.example/x"})
    platform.deploy("2", status="retired")
    assert platform.export().new == (f"{SLUG}1",)
    [plan] = platform.plans.values()
    digest = next(platform.fleet.members).digest
    assert [(task.id, task.arguments) for task in plan.tasks] == [
        (stage, ("run", MODEL, "1", "--stage", stage, "--manifest-digest", digest))
        for stage in ("features", "scores", "monitoring")
    ]
    assert {(task.resources.cpu, task.resources.memory_mib) for task in plan.tasks} == {(0.5, 1024)}
    assert plan.links == {
        "Dagit": f"http://127.0.0.1:3000/assets/{MODEL}/1",
        "runbook": "https://wiki.lender.example/x",
    }
    assert plan.owner == "credit-risk@lender.example"
    assert (plan.scheduled, plan.waits) == (False, True)
    assert plan.reasons["manual"] == plan.reasons["backfill"] == ("--trigger", "backfill")
    assert plan.reasons["scheduled"] == ("--trigger", "arrival")


def test_what_did_not_change_stays_as_it_is_and_what_was_retired_goes(platform: Platform) -> None:
    for version in ("1", "2", "3"):
        platform.deploy(version)
    platform.export()
    before = platform.plans
    platform.deploy("2", tier=3)
    platform.deploy("3", status="retired")
    done = platform.export()
    assert (done.new, done.changed, done.gone, done.unchanged) == ((), (f"{SLUG}2",), (f"{SLUG}3",), 1)
    assert platform.plans[f"{SLUG}1"] == before[f"{SLUG}1"]
    assert platform.export().unchanged == 2


def test_with_airflow_the_dags_are_scheduled(lender: Lender) -> None:
    platform = Platform(lender, "airflow")
    platform.deploy("1")
    platform.export()
    assert [plan.scheduled for plan in platform.plans.values()] == [True]
    assert scheduler(lender.store) == "airflow"


def test_other_code_under_the_same_release_exports_again(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.deploy("1")
    platform.export()
    before = exporting.REASONS
    monkeypatch.setattr(exporting, "REASONS", {**before, "retry": "catch-up"})
    assert platform.export().changed == (), "what did not change is not built again"
    assert exporting.code_digest() == exporting.code_digest()
    monkeypatch.setattr(exporting, "code_digest", lambda: "of another image")
    assert platform.export().changed == (f"{SLUG}1",)


def test_the_code_is_all_that_plans_are_made_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def digest() -> str:
        exporting.code_digest.cache_clear()
        return exporting.code_digest()

    for package in exporting.CODE:
        shutil.copytree(Path(__file__).parents[1] / package, tmp_path / package)
    monkeypatch.setattr("monitoring_assets.exporting.resources.files", lambda package: tmp_path / package)
    found = [digest()]
    for file in ("airflow_bridge/plan.py", "airflow_bridge/schema.py", "monitoring_assets/assets/factory.py"):
        (tmp_path / file).write_text(f"{(tmp_path / file).read_text()}\n# Another image.\n")
        found.append(digest())
    monkeypatch.undo()
    assert len({*found[1:], digest()}) == 4
    assert found[0] == digest()


def test_in_the_real_definitions_nothing_but_arrivals_would_materialise_what_airflow_schedules(
    lender: Lender,
) -> None:
    platform = Platform(lender, "airflow")
    platform.deploy("1")
    shard = platform.fleet.shard(0, 1).model_dump_json(by_alias=True, exclude_unset=True)
    real = _built(platform.settings, shard.encode())
    assert [sensor.name for sensor in real.sensors or ()] == ["arrivals"]
    assert any(node.stage for node in read(real, STAGE_TAG, scheduled=True).values())

    nightly = dg.ScheduleDefinition(
        "nightly", cron_schedule="0 3 * * *", target=dg.AssetSelection.keys(f"{MODEL}/1/psi")
    )
    with pytest.raises(BadInput, match=f"'{MODEL}/1/psi' .* would be made by .*'nightly'"):
        read(dg.Definitions.merge(real, dg.Definitions(schedules=[nightly])), STAGE_TAG, scheduled=True)
    eager = real.map_asset_specs(
        func=lambda spec: spec.replace_attributes(automation_condition=dg.AutomationCondition.eager())
    )
    with pytest.raises(BadInput, match="automation condition"):
        read(eager, STAGE_TAG, scheduled=True)


def test_two_never_schedule_the_same_and_one_takes_over_from_the_other_when_told_to(lender: Lender) -> None:
    ours, theirs = Platform(lender, "dagster"), Platform(lender, "airflow")
    ours.deploy("1")
    assert scheduler(lender.store) is None
    ours.export()
    with pytest.raises(BadInput, match=r"dagster schedules .* --take-over"):
        theirs.export()
    assert [plan.scheduled for plan in ours.plans.values()] == [False]
    theirs.export(take_over=True)
    assert [plan.scheduled for plan in ours.plans.values()] == [True]
    with pytest.raises(BadInput, match="airflow schedules"):
        ours.export()


def test_the_sensor_exports_nothing_before_somebody_did_and_then_whatever_changes(platform: Platform) -> None:
    def tick() -> str:
        return str(sensor(dg.build_sensor_context()).skip_message)

    sensor = exporter_sensor(platform.settings)
    platform.deploy("1")
    assert platform.fleet
    assert "no DAG was exported yet" in tick()
    platform.export()
    assert tick() == "0 new DAGs, 0 changed, 0 gone"
    assert tick() == "nothing changed in the registry"
    platform.deploy("2")
    assert platform.fleet
    assert tick() == "1 new DAGs, 0 changed, 0 gone"
    assert set(platform.plans) == {f"{SLUG}1", f"{SLUG}2"}


def test_the_sensor_leaves_the_dags_as_they_are_while_nobody_knows_the_registry(platform: Platform) -> None:
    platform.deploy("1")
    platform.export()
    for info in platform.lender.store.list(layout.FLEET):
        platform.lender.store.delete(info.key)
    sensor = exporter_sensor(platform.settings)
    assert "stay as they are" in str(sensor(dg.build_sensor_context()).skip_message)
    assert set(platform.plans) == {f"{SLUG}1"}


def test_the_sensor_says_that_the_other_orchestrator_schedules(lender: Lender) -> None:
    platform = Platform(lender)
    platform.deploy("1")
    platform.export()
    sensor = exporter_sensor(Platform(lender, "airflow").settings)
    assert "dagster schedules the versions" in str(sensor(dg.build_sensor_context()).skip_message)
