"""A run's wait for its data: what it asks the store, how it ends, and that it takes no worker."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_bridge.ready import DONE, ready_key
from airflow_bridge.schema import encode
from resources.errors import BadInput
from resources.object_store import open_store
from tests.airflow_bridge.conftest import Inside
from tests.airflow_bridge.plans import plan
from tests.conftest import S3Server

SUCCESS, FAILURE = ["TaskSuccessEvent"], ["TaskFailedEvent"]


def a_waiting_plan(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encode(plan(scheduled=True, waits=True, **changes)))
    return document


@pytest.fixture
def store_uri(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        ("2026-01-31", "airflow/ready/ke_1/2026-01-31"),
        ("2026-01-31-23:00", "airflow/ready/ke_1/2026-01-31-23-00"),
    ],
)
def test_a_partition_has_one_place_for_the_news_of_its_data(partition: str, expected: str) -> None:
    assert ready_key("ke_1", partition) == expected


@pytest.mark.parametrize(
    "partition", ["", "..", "../../registry", "a/b", ".hidden", "2026-01-31\n", "x" * 65, "{{ x }}"]
)
def test_what_is_no_partition_has_no_place(partition: str) -> None:
    with pytest.raises(BadInput, match="not the key of a partition"):
        ready_key("ke_1", partition)


def test_data_that_is_there_is_not_waited_for(inside: Inside, store_uri: str) -> None:
    open_store(store_uri).put(ready_key("ke", "2026-01-31"), b"a digest")
    found = inside("waits.run", store_uri=store_uri, partition="2026-01-31", lands_after=100)

    assert (found["events"], found["asked"]) == (SUCCESS, 1)
    assert found["log"][0] == f"INFO Waiting for {store_uri}/airflow/ready/ke/2026-01-31."


def test_a_run_whose_partition_was_done_in_another_way_is_skipped(inside: Inside, store_uri: str) -> None:
    open_store(store_uri).put(ready_key("ke", "2026-01-31"), DONE)
    found = inside("waits.run", store_uri=store_uri, partition="2026-01-31", lands_after=100)

    assert found["events"] == ["TaskSkippedEvent"]
    assert re.search("2026-01-31 is done already.*by hand", found["log"][-1])


@pytest.mark.parametrize("run_type", ["manual", "backfill", "asset_materialization"])
def test_a_run_that_somebody_asked_for_waits_for_nothing_and_is_not_skipped(
    inside: Inside, store_uri: str, run_type: str
) -> None:
    open_store(store_uri).put(ready_key("ke", "2026-01-31"), DONE)
    for partition in ("2026-01-31", "2026-02-01"):
        found = inside("waits.run", store_uri=store_uri, partition=partition, run_type=run_type, lands_after=100)

        assert (found["events"], found["asked"]) == (SUCCESS, 0)


def test_the_wait_ends_when_the_data_lands(inside: Inside, store_uri: str) -> None:
    found = inside("waits.run", store_uri=store_uri, partition="2026-01-31", lands_after=5)

    assert (found["events"], found["asked"]) == (SUCCESS, 6)
    assert len(found["log"]) == 2


def test_the_data_of_another_partition_or_dag_is_not_waited_for(inside: Inside, store_uri: str) -> None:
    for other in (ready_key("ke", "2026-01-30"), ready_key("kenya", "2026-01-31"), "airflow/ready/ke/2026-01-31-x"):
        open_store(store_uri).put(other, b"a digest")
    found = inside("waits.run", store_uri=store_uri, partition="2026-01-31", lands_after=3)

    assert found["asked"] == 4


def test_a_store_that_cannot_be_reached_is_asked_again_and_complained_about_once_a_time(
    inside: Inside, store_uri: str
) -> None:
    failing = [1, 2, 3, 6, 7]
    found = inside("waits.run", store_uri=store_uri, partition="2026-01-31", failing=failing, lands_after=7)

    assert (found["events"], found["asked"]) == (SUCCESS, 8)
    warnings = [line for line in found["log"] if line.startswith("WARNING")]
    assert warnings == ["WARNING The store is asked again until it answers: the store has a bad day"] * 2


def test_the_store_is_asked_beside_the_event_loop(inside: Inside, store_uri: str) -> None:
    found = inside("waits.run", store_uri=store_uri, partition="2026-01-31", lands_after=20)

    assert found["threads"]
    assert [name for name in found["threads"] if not name.startswith("wait-for-data")] == []


@pytest.mark.parametrize("partition", ["", "None of these", "../current.json"])
def test_a_run_of_no_partition_fails(inside: Inside, store_uri: str, partition: str) -> None:
    found = inside("waits.run", store_uri=store_uri, partition=partition)

    assert (found["events"], found["asked"]) == (FAILURE, 0)
    assert re.search("ERROR .*not the key of a partition", found["log"][-1])


def test_without_a_store_the_task_fails_and_names_the_option(inside: Inside) -> None:
    found = inside("waits.run", store_uri=None, partition="2026-01-31")

    assert found["events"] == FAILURE
    assert re.search(r"ERROR .*option store_uri of \[scorewatch\].*SCOREWATCH_STORE", found["log"][-1])


def test_the_store_is_the_one_of_the_triggerers_own_configuration(
    start_inside: Callable[..., Inside], s3_server: S3Server, bucket: str
) -> None:
    uri = f"s3://{bucket}/live"
    open_store(uri, s3_endpoint=s3_server.endpoint).put(ready_key("ke", "2026-01-31"), b"a digest")
    process = start_inside(AIRFLOW__SCOREWATCH__STORE_URI=uri, AIRFLOW__SCOREWATCH__S3_ENDPOINT=s3_server.endpoint)

    assert process("waits.from_the_configuration", partition="2026-01-31") == {"events": SUCCESS, "uri": uri}


def test_airflow_starts_the_wait_without_a_worker_and_with_the_runs_partition(inside: Inside) -> None:
    found = inside("waits.as_airflow_starts_it", plan=a_waiting_plan(), partition="2026-01-31")

    assert found == {
        "starts_there": True,
        "days": 3,
        "dag_id": plan().dag_id,
        "partition": "2026-01-31",
        "run_type": "manual",
        "downstream": ["features"],
    }


def test_a_wait_is_not_begun_again(inside: Inside) -> None:
    assert inside("waits.retries", plan=a_waiting_plan(), of_the_dag=5) == 0


def test_a_run_without_a_key_waits_for_no_partition_of_the_name_none(inside: Inside) -> None:
    found = inside("waits.as_airflow_starts_it", plan=a_waiting_plan(), partition=None)

    assert found["partition"] == ""


def test_a_wait_that_took_too_long_says_for_what_and_is_not_tried_again(inside: Inside) -> None:
    found = inside("waits.failed", plan=a_waiting_plan(), reason="Trigger timeout")

    assert found["raised"] == "AirflowFailException"
    expected = r"partition 2026-01-31 of ke-nano-loan_1\.0\.0 was not there within 3 days\. .*option wait_days"
    assert re.search(expected, found["message"])


def test_a_wait_that_could_not_begin_does_not_blame_the_data(inside: Inside) -> None:
    found = inside("waits.failed", plan=a_waiting_plan(), reason="Trigger failure")

    assert "was not there" not in found["message"]
    assert "Trigger failure" in found["message"]


def test_where_there_is_no_triggerer_the_sensor_asks_itself(inside: Inside, store_uri: str) -> None:
    open_store(store_uri).put(ready_key(plan().dag_id, "2026-01-31"), b"a digest")
    asked = {"plan": a_waiting_plan(), "store_uri": store_uri}

    assert inside("waits.poked", partition="2026-01-31", **asked) is True
    assert inside("waits.poked", partition="2026-02-01", **asked) is False
    assert inside("waits.poked", partition="2026-02-01", run_type="backfill", **asked) is True
    open_store(store_uri).put(ready_key(plan().dag_id, "2026-01-31"), DONE)
    assert "2026-01-31 is done already" in inside("waits.poked", partition="2026-01-31", **asked)


def test_a_run_that_somebody_asked_for_waits_for_nothing(inside: Inside) -> None:
    assert inside("waits.asked_for", partition="2026-01-31") == ["TaskSuccessEvent"]
