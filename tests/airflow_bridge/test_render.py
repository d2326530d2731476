"""Plans as DAGs: what Airflow writes into its database for them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_bridge.schema import DagPlan, Partitions, encode
from tests.airflow_bridge.conftest import Inside
from tests.airflow_bridge.plans import plan

LOADERS = 16
DAG_ID = "ke-nano-loan_1.0.0"


def dumped(found: DagPlan) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encode(found))
    return document


def rendered(inside: Inside, found: DagPlan) -> dict[str, Any]:
    """The DAG as Airflow stores it, its tasks by their ids."""
    document: dict[str, Any] = json.loads(inside("rendering.serialised", plan=dumped(found)))["dag"]
    document["tasks"] = {task["__var"]["task_id"]: task["__var"] for task in document["tasks"]}
    return document


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a version's folder with these plans, by their ids, and with loaders that are empty."""

    def make(plans: dict[str, bytes]) -> Path:
        (tmp_path / "plans").mkdir()
        for number in range(LOADERS):
            (tmp_path / f"shard_{number:02}.py").touch()
        for dag_id, data in plans.items():
            (tmp_path / "plans" / f"{dag_id}.json").write_bytes(data)
        return tmp_path

    return make


def loaded(inside: Inside, version: Path) -> list[dict[str, Any]]:
    """What each of the loaders gives."""
    return [inside("rendering.load", file=str(version / f"shard_{number:02}.py")) for number in range(LOADERS)]


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_plan_is_the_same_dag_to_the_byte_in_every_process(
    inside: Inside, start_inside: Callable[..., Inside], scheduled: bool
) -> None:
    found = dumped(plan(scheduled=scheduled, waits=True, tags=("tier:1", "daily", "risk")))
    other = start_inside(PYTHONHASHSEED="1")

    first = inside("rendering.serialised", plan=found)

    assert first == other("rendering.serialised", plan=found)
    assert DAG_ID in first


def test_a_task_is_a_stage_that_follows_those_it_names(inside: Inside) -> None:
    tasks = rendered(inside, plan())["tasks"]

    assert {name: task.get("downstream_task_ids", []) for name, task in tasks.items()} == {
        "features": ["scores"],
        "scores": ["monitoring"],
        "monitoring": [],
    }


def test_where_airflow_schedules_the_first_tasks_follow_a_wait_for_the_data(inside: Inside) -> None:
    tasks = rendered(inside, plan(scheduled=True, waits=True))["tasks"]

    (wait,) = set(tasks) - {"features", "scores", "monitoring"}
    assert tasks[wait]["downstream_task_ids"] == ["features"]


@pytest.mark.parametrize(("scheduled", "waits"), [(True, False), (False, True)])
def test_nothing_waits_where_others_schedule_or_nobody_said_how(inside: Inside, scheduled: bool, waits: bool) -> None:
    tasks = rendered(inside, plan(scheduled=scheduled, waits=waits))["tasks"]

    assert set(tasks) == {"features", "scores", "monitoring"}


def test_assets_lead_from_task_to_task(inside: Inside) -> None:
    tasks = rendered(inside, plan())["tasks"]

    def names(assets: list[dict[str, Any]]) -> list[str]:
        return [each["__var"]["name"] for each in assets]

    model = "ke-nano-loan/1.0.0"
    assert names(tasks["scores"]["inlets"]) == [f"{model}/features"]
    assert names(tasks["scores"]["outlets"]) == [f"{model}/scores"]
    assert names(tasks["monitoring"]["inlets"]) == [f"{model}/scores"], "what a task makes itself does not enter it"
    assert names(tasks["monitoring"]["outlets"]) == [f"{model}/counts", f"{model}/csi", f"{model}/psi"]
    outlet = tasks["scores"]["outlets"][0]["__var"]
    assert (outlet["uri"], outlet["group"]) == (f"dagster://asset/{model}/scores", model)
    assert outlet == tasks["monitoring"]["inlets"][0]["__var"]


def test_an_infrastructure_failure_is_tried_again_later_and_later(inside: Inside) -> None:
    task = rendered(inside, plan())["tasks"]["scores"]

    assert task["retries"] > 0
    assert task["retry_delay"] == 60.0
    assert task["retry_exponential_backoff"] == 2.0
    assert task["max_retry_delay"] == 1800.0
    assert task["execution_timeout"] > 0
    assert task["owner"] == "credit-risk@lender.example"


@pytest.mark.parametrize(("every", "runs"), [("day", 16 + 7), ("hour", 16 + 7 * 24)])
def test_runs_that_wait_for_late_data_leave_room_for_others(inside: Inside, every: str, runs: int) -> None:
    partitions = Partitions.model_validate({"every": every, "timezone": "UTC", "start": "2026-01-01"})

    assert rendered(inside, plan(partitions=partitions))["max_active_runs"] == runs


def test_no_task_depends_on_the_past_and_nothing_is_caught_up(inside: Inside) -> None:
    found = rendered(inside, plan())

    assert found["catchup"] is False
    assert not any(task.get("depends_on_past") for task in found["tasks"].values())


@pytest.mark.parametrize("scheduled", [True, False])
def test_runs_of_a_partition_are_allowed_and_scheduled_ones_only_where_airflow_schedules(
    inside: Inside, scheduled: bool
) -> None:
    found = rendered(inside, plan(scheduled=scheduled))

    timetable = found["timetable"]
    assert timetable["__type"] == "airflow_bridge.timetable.PartitionTimetable"
    assert timetable["__var"]["scheduled"] is scheduled
    assert ("scheduled" in found["allowed_run_types"]) is scheduled
    assert {"backfill", "manual"} < set(found["allowed_run_types"])
    assert "operator_triggered" not in found["allowed_run_types"], "they carry no partition"


def test_the_first_partition_begins_at_midnight_of_the_partitions_zone(inside: Inside) -> None:
    found = rendered(inside, plan())

    assert found["start_date"] == 1767214800.0, "2025-12-31T21:00Z"


def test_starts_are_spread_over_the_minutes_and_stay_where_they_are(inside: Inside) -> None:
    ids = [f"model-{number}_1.0.0" for number in range(1_100)]

    found = inside("rendering.delays", dag_ids=ids, limit=10)

    assert set(found) == set(range(11))
    assert max(Counter(found).values()) < 150, "a hundred a minute, more or less"
    assert inside("rendering.delays", dag_ids=ids[:3], limit=10) == found[:3]
    assert set(inside("rendering.delays", dag_ids=ids, limit=0)) == {0}


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ("Loans of *all* [branches](javascript:alert(1))", r"Loans of \*all\* \[branches\]\(javascript\:alert\(1\)\)"),
        ("<script>alert(1)</script>", r"\<script\>alert\(1\)\<\/script\>"),
        ("# big\n    code", "\\# big\ncode"),
        ("It is in /etc/passwd.md.", r"It is in \/etc\/passwd\.md\."),
    ],
)
def test_a_description_is_shown_as_it_is_written(inside: Inside, description: str, shown: str) -> None:
    found = rendered(inside, plan(description=description))

    assert found["doc_md"].startswith(shown)
    assert found["doc_md"].endswith("\n"), "Airflow takes a text that ends in .md for the name of a file"


def test_the_page_links_to_dagster_and_says_when_a_partition_is_due(inside: Inside) -> None:
    links = {"Dagit": "http://127.0.0.1:3000/assets?a=b&c=d", "runbook": "https://wiki.lender.example/r_1"}

    page = rendered(inside, plan(links=links, sla_s=21_600))["doc_md"]

    assert "[Dagit](<http://127.0.0.1:3000/assets?a=b&c=d>)" in page
    assert "[runbook](<https://wiki.lender.example/r_1>)" in page
    assert r"due 6\:00\:00 after its end" in page
    assert r"Every day \(Africa\/Nairobi\) from 2026\-01\-01" in page


def test_a_task_names_its_assets_and_their_checks(inside: Inside) -> None:
    page = rendered(inside, plan())["tasks"]["monitoring"]["doc_md"]

    assert r"**ke\-nano\-loan\/1\.0\.0\/psi**" in page
    assert r"Checks: psi\_quality" in page


def test_every_dag_is_in_one_shard(inside: Inside, folder: Callable[..., Path]) -> None:
    plans = {f"model-{number}_1.0.0": encode(plan(f"model-{number}_1.0.0")) for number in range(40)}

    shards = loaded(inside, folder(plans))

    assert sorted(dag_id for shard in shards for dag_id in shard["dags"]) == sorted(plans)
    assert len([shard for shard in shards if shard["dags"]]) > LOADERS / 2


def test_a_plan_that_cannot_be_rendered_is_left_out_with_a_warning_and_the_others_are_there(
    inside: Inside, folder: Callable[..., Path]
) -> None:
    plans = {f"model-{number}_1.0.0": encode(plan(f"model-{number}_1.0.0")) for number in range(20)}
    # Airflow has a rule of its own that a schema cannot know: no two tasks of a DAG have the same id.
    waits = dumped(plan("taken_1.0.0", scheduled=True, waits=True))
    (wait,) = set(rendered(inside, DagPlan.model_validate_json(json.dumps(waits)))["tasks"]) - {
        "features",
        "scores",
        "monitoring",
    }
    waits["tasks"][0]["id"] = wait
    waits["tasks"][1]["upstream"] = [wait]
    bad = {"broken_1.0.0": b"{", "taken_1.0.0": json.dumps(waits).encode()}

    shards = loaded(inside, folder(plans | bad))

    assert sorted(dag_id for shard in shards for dag_id in shard["dags"]) == sorted(plans)
    messages = sorted(message for shard in shards for message in shard["warnings"])
    assert [message.split(":")[0] for message in messages] == [
        f"The DAG {dag_id} is left out" for dag_id in sorted(bad)
    ]


def test_airflow_keeps_nothing_of_a_plan_that_is_refused_after_its_first_tasks(
    inside: Inside, folder: Callable[..., Path]
) -> None:
    taken = dumped(plan("taken_1.0.0", scheduled=True, waits=True))
    taken["tasks"][0]["id"], taken["tasks"][1]["upstream"] = "wait_for_data", ["wait_for_data"]
    path = folder({"good_1.0.0": encode(plan("good_1.0.0")), "taken_1.0.0": json.dumps(taken).encode()})
    (path / ".airflowignore").write_text("plans/\n")
    for loader in path.glob("shard_*.py"):
        loader.write_text(
            "# airflow DAG\nfrom airflow_bridge.render import load\nglobals().update(load(__file__, None))\n"
        )

    assert inside("rendering.bag", folder=str(path)) == {"good_1.0.0": ["features", "monitoring", "scores"]}


def test_at_the_start_of_a_task_its_dag_alone_is_made(inside: Inside, folder: Callable[..., Path]) -> None:
    plans = {f"model-{number}_1.0.0": encode(plan(f"model-{number}_1.0.0")) for number in range(200)}
    version = folder(plans | {"broken_1.0.0": b"{"})

    found = inside("rendering.load", file=str(version / "shard_03.py"), dag_id="model-7_1.0.0")

    assert (found["dags"], found["warnings"]) == (["model-7_1.0.0"], [])


def test_all_kinds_of_partitions_are_rendered(inside: Inside) -> None:
    for every in ("hour", "day", "week", "month"):
        partitions = Partitions.model_validate({"every": every, "timezone": "UTC", "start": "2026-01-01"})

        found = rendered(inside, plan(partitions=partitions, scheduled=True))

        assert found["timetable"]["__var"]["partitions"]["every"] == every
