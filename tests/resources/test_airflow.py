"""The client of Airflow's API, against a recorder that answers as Airflow 3.3.2 does."""

from __future__ import annotations

import logging
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from resources.airflow import Airflow, TaskInstance
from resources.errors import InfrastructureError
from resources.secrets import Secret
from tests.recorders import answer_lost, failing, unreachable
from tests.recorders.airflow import AirflowRecorder

DAG = "ke_nano_loan__1_0_0"
DAY = "2026-01-19"
PASSWORD = 'p"ss\\w0rd-that-nobody-sees'
CONF = {"reason": "arrival", "runs": 1}


@pytest.fixture
def service() -> Iterator[AirflowRecorder]:
    recorder = AirflowRecorder()
    recorder.dags.add(DAG)
    recorder.start()
    yield recorder
    recorder.stop()
    assert recorder.problems == []


def ids(airflow: Airflow, *arguments: str, **filters: Any) -> list[str]:
    return [run.dag_run_id for run in airflow.runs(*arguments, **filters)]


def test_a_run_is_asked_for_once_however_often_it_is_asked_for(service: AirflowRecorder) -> None:
    airflow = Airflow(service.url)
    assert [airflow.run(DAG, "mine__1", DAY, CONF) for _ in range(2)] == [True, True]
    [made] = service.runs
    assert (made["dag_id"], made["dag_run_id"], made["partition_key"], made["conf"]) == (DAG, "mine__1", DAY, CONF)
    [found] = airflow.runs(DAG)
    assert (found.dag_id, found.dag_run_id, found.partition_key, found.conf) == (DAG, "mine__1", DAY, CONF)
    assert (found.run_type, found.state, found.finished, found.end_date) == ("manual", "queued", False, None)


def test_a_dag_that_is_not_there_has_no_runs_and_takes_none(service: AirflowRecorder) -> None:
    airflow = Airflow(service.url)
    assert airflow.run("unknown", "mine__1", DAY, CONF) is False
    assert ids(airflow, "unknown") == []
    assert service.runs == []


@pytest.mark.parametrize("page_limit", [100, 7], ids=["pages of a hundred", "an operator who allows less"])
def test_all_runs_are_found_however_many_pages_they_are(service: AirflowRecorder, page_limit: int) -> None:
    service.page_limit = page_limit
    made = [service.add(DAG, DAY)["dag_run_id"] for _ in range(203)]
    assert ids(Airflow(service.url), DAG) == made
    assert ids(Airflow(service.url)) == made


def test_a_run_that_ends_between_two_pages_hides_no_other_one(service: AirflowRecorder) -> None:
    made = [service.add(DAG, DAY) for _ in range(150)]
    found = Airflow(service.url).runs(DAG, state=("queued", "running"))
    seen = [next(found).dag_run_id]
    service.end(made[0])
    seen += [run.dag_run_id for run in found]
    assert seen == [run["dag_run_id"] for run in made]


def test_filters_are_airflows(service: AirflowRecorder) -> None:
    airflow = Airflow(service.url)
    waiting, ended = service.add(DAG, DAY), service.add(DAG, "2026-01-18", "backfill", "success")
    airflow.run(DAG, "mine__1", DAY, CONF)
    assert ids(airflow, DAG, state=("success", "failed")) == [ended["dag_run_id"]]
    assert ids(airflow, run_type=("manual", "backfill")) == [ended["dag_run_id"], "mine__1"]
    assert ids(airflow, DAG, run_id_prefix_pattern="mine__") == ["mine__1"]
    assert ids(airflow, DAG, partition_key_prefix_pattern=DAY) == [waiting["dag_run_id"], "mine__1"]


def test_the_tasks_that_a_run_failed_of_are_told(service: AirflowRecorder) -> None:
    run = service.add(DAG, DAY)
    service.end(run, "failed", tries_left=3)
    airflow = Airflow(service.url)
    [found] = airflow.runs(DAG)
    [task] = airflow.failed_tasks(found)
    assert (task.task_id, task.try_number, task.max_tries) == ("features", 1, 3)


@pytest.mark.parametrize(
    ("state", "tries", "expected"),
    [("failed", 1, True), ("failed", 3, True), ("failed", 4, False), ("upstream_failed", 0, False), (None, 0, False)],
)
def test_a_task_failed_for_good_when_it_had_tries_left(state: str | None, tries: int, *, expected: bool) -> None:
    task = TaskInstance(task_id="features", state=state, try_number=tries, max_tries=3)
    assert task.failed_for_good is expected


@pytest.mark.parametrize("happens", ["expire", "change_key"])
def test_a_token_that_is_not_taken_any_more_is_replaced(service: AirflowRecorder, happens: str) -> None:
    airflow = Airflow(service.url)
    assert ids(airflow) == []
    getattr(service, happens)()
    assert airflow.run(DAG, "mine__1", DAY, CONF) is True
    assert ids(airflow) == ["mine__1"]
    assert [path for _, path in service.requests].count("/auth/token") == 2


def test_a_user_signs_in_with_a_password(service: AirflowRecorder) -> None:
    service.users["scorewatch"] = PASSWORD
    assert ids(Airflow(service.url, "scorewatch", Secret(PASSWORD))) == []


@pytest.mark.parametrize("user", ["scorewatch", None])
def test_whoever_is_not_let_in_is_told_what_to_set_and_no_password_is_shown(
    service: AirflowRecorder, user: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    service.users["scorewatch"] = "another"
    airflow = Airflow(service.url, user, Secret(PASSWORD))
    with caplog.at_level(logging.DEBUG), pytest.raises(InfrastructureError) as raised:
        ids(airflow)
    assert service.url in str(raised.value)
    assert str(user or "anybody") in str(raised.value)
    assert "SCOREWATCH_AIRFLOW_PASSWORD" in str(raised.value)
    assert raised.value.__cause__ is None
    for text in (str(raised.value), caplog.text, repr(vars(airflow))):
        assert "w0rd" not in text
    with pytest.raises(TypeError, match="not written anywhere"):
        pickle.dumps(airflow._password)


def test_an_airflow_that_is_down_is_named_and_asked_again_when_it_is_up(service: AirflowRecorder) -> None:
    airflow = Airflow(service.url)
    service.stop()
    with pytest.raises(InfrastructureError, match=f"Airflow at {service.url} did not answer: ConnectError"):
        airflow.run(DAG, "mine__1", DAY, CONF)
    service.start()
    assert airflow.run(DAG, "mine__1", DAY, CONF) is True
    service.stop()
    with pytest.raises(InfrastructureError, match="SCOREWATCH_AIRFLOW_URL"):
        ids(airflow)
    service.start()
    assert ids(airflow) == ["mine__1"]


def test_a_request_whose_answer_is_lost_is_made_again_without_another_run(service: AirflowRecorder) -> None:
    airflow = Airflow(service.url)
    ids(airflow)
    service.faults.add(answer_lost(), unreachable())
    for _ in range(2):
        with pytest.raises(InfrastructureError, match="did not answer"):
            airflow.run(DAG, "mine__1", DAY, CONF)
    assert airflow.run(DAG, "mine__1", DAY, CONF) is True
    assert [run["dag_run_id"] for run in service.runs] == ["mine__1"]


def test_what_airflow_refuses_is_quoted(service: AirflowRecorder) -> None:
    airflow = Airflow(service.url)
    with pytest.raises(InfrastructureError, match=f"400 to POST /api/v2/dags/{DAG}/dagRuns.*no key of a day"):
        airflow.run(DAG, "mine__1", "2026-1-19", CONF)
    service.unreadable.add(DAG)
    with pytest.raises(InfrastructureError, match="has import errors"):
        airflow.run(DAG, "mine__1", DAY, CONF)
    service.faults.lasting = failing(500, {"detail": "x" * 5000})
    with pytest.raises(InfrastructureError, match="500 to GET") as raised:
        ids(airflow)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "body", [{}, [], {"dag_runs": [{"dag_id": DAG}]}, {"dag_runs": [], "next_cursor": 7}, b"<html>a proxy</html>"]
)
def test_whoever_does_not_answer_as_airflow_does_is_not_taken_for_it(service: AirflowRecorder, body: Any) -> None:
    airflow = Airflow(service.url)
    ids(airflow)
    service.faults.add(failing(200, body))
    with pytest.raises(InfrastructureError, match=f"{service.url} does not answer GET .*SCOREWATCH_AIRFLOW_URL"):
        ids(airflow)


def test_a_port_that_nobody_listens_on_takes_no_password(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with caplog.at_level(logging.DEBUG), pytest.raises(InfrastructureError) as raised:
        Airflow(url, "scorewatch", Secret(PASSWORD)).run(DAG, "mine__1", DAY, CONF)
    assert "w0rd" not in str(raised.value) + caplog.text
