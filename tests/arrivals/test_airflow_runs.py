"""Tasks as runs of Airflow: what is asked for, what is let go, and what is made of what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from airflow_bridge.ready import DONE, ready_key
from airflow_bridge.schema import ACTIVE_RUNS
from monitoring_assets.arrivals.agenda import Task
from monitoring_assets.arrivals.airflow_runs import PAST, AirflowRuns, Requested
from monitoring_assets.layout import reference
from resources.airflow import Airflow
from resources.errors import InfrastructureError
from tests.recorders import answer_lost, unreachable
from tests.recorders.airflow import BEGIN, AirflowRecorder

NAME = ("ke-nano-loan", "1.0.0")
DAG, OTHER_DAG = "ke_nano_loan__1_0_0", "zm_payroll__1_0_0"
D16, D17, D18, D19 = (f"2026-01-{day}" for day in range(16, 20))
KINDS = ("arrival", "onboarding", "catch-up", "behind")
HOUR = timedelta(hours=1)


@pytest.fixture
def service() -> Iterator[AirflowRecorder]:
    recorder = AirflowRecorder()
    recorder.dags |= {DAG, OTHER_DAG}
    recorder.start()
    yield recorder
    recorder.stop()
    assert recorder.problems == []


@pytest.fixture
def airflow(story: Any, service: AirflowRecorder) -> AirflowRuns:
    story.deploy()
    story.deploy(model="zm-payroll")
    return restarted(story, service)


def restarted(story: Any, service: AirflowRecorder) -> AirflowRuns:
    """What a new process of the code location has."""
    return AirflowRuns(Airflow(service.url), story.lender.store, story.members)


def task(*partitions: str, kind: str = "arrival", name: tuple[str, str] = NAME, attempt: int = 1) -> Task:
    trigger: Any = "catch-up" if kind == "behind" else kind
    where = {"arrival": (*partitions[-1:], "01234567"), "catch-up": ("2026-01-01", "2026-01-19")}.get(
        kind, ("89abcdef",)
    )
    return Task(*name, "digest", trigger, partitions, "/".join([kind, *name, *where]), attempt)


def asked(service: AirflowRecorder) -> list[tuple[str, str, Any]]:
    """DAG, partition and reason of the runs that were asked for."""
    return [(run["dag_id"], run["partition_key"], run["conf"]["reason"]) for run in service.asked_for()]


def known(airflow: AirflowRuns, task: Task) -> tuple[str, int] | None:
    """State and attempts of a task."""
    found = airflow.of([task.key]).get(task.key)
    return found and (found.state, found.runs)


def ready(story: Any, partition: str) -> bytes | None:
    blob = story.lender.store.get(ready_key(DAG, partition))
    return blob and blob.data


def test_a_version_is_busy_with_runs_of_people_and_of_tasks_but_not_with_those_of_the_timetable(
    airflow: AirflowRuns, service: AirflowRecorder
) -> None:
    assert airflow.busy() == {}
    service.add(DAG, D19, "scheduled", "running")
    service.add(DAG, D18, "manual", "success")
    service.add("anothers_dag", D18, "manual", "running")
    assert airflow.busy() == {}
    other = task(D19, kind="onboarding", name=("zm-payroll", "1.0.0"))
    airflow.request([task(D16), task(D17, D18, kind="catch-up"), other])
    service.add(DAG, D16, "backfill", "queued")
    assert airflow.busy() == {
        NAME: {"arrival", "catch-up", "backfill"},
        ("zm-payroll", "1.0.0"): {"onboarding"},
    }


def test_onboarding_is_one_run_of_the_newest_partition(airflow: AirflowRuns, service: AirflowRecorder) -> None:
    onboarding = task(D16, D17, D18, D19, kind="onboarding")
    assert airflow.request([onboarding]) == Requested(1, 0)
    assert asked(service) == [(DAG, D19, "onboarding")]
    service.end(service.runs[0])
    assert known(airflow, onboarding) == ("done", 1)


def test_a_version_without_a_partition_that_has_ended_asks_for_nothing(
    airflow: AirflowRuns, service: AirflowRecorder
) -> None:
    assert airflow.request([task(kind="onboarding")]) == Requested(0, 0)
    assert service.runs == []


def test_an_arrival_lets_the_run_go_that_waits_for_it(
    airflow: AirflowRuns, service: AirflowRecorder, story: Any
) -> None:
    waiting, arrival = service.add(DAG, D19), task(D19)
    service.add(OTHER_DAG, D19)
    assert known(airflow, arrival) is None
    assert airflow.request([arrival]) == Requested(0, 1)
    assert service.asked_for() == []
    assert ready(story, D19) not in (None, DONE)
    assert known(airflow, arrival) == ("running", 1)
    service.end(waiting, at=BEGIN + HOUR)
    assert known(restarted(story, service), arrival) == ("done", 1)
    assert airflow.of([arrival.key])[arrival.key].ended_at == BEGIN + HOUR


def test_an_arrival_that_no_run_waits_for_is_asked_for(
    airflow: AirflowRuns, service: AirflowRecorder, story: Any
) -> None:
    service.end(service.add(DAG, D19))
    service.add(DAG, D18)
    service.add(DAG, D19, "backfill")
    assert airflow.request([task(D19)]) == Requested(1, 0)
    assert asked(service) == [(DAG, D19, "arrival")]
    assert ready(story, D19) is not None, "for a run that the timetable makes later"
    assert ready(story, D18) is None


def test_corrected_data_is_not_left_to_a_run_that_was_let_go_before(
    airflow: AirflowRuns, service: AirflowRecorder
) -> None:
    service.add(DAG, D19)
    airflow.request([task(D19)])
    corrected = replace(task(D19), key=f"{task(D19).key}-corrected")
    assert airflow.request([corrected]) == Requested(1, 0)
    assert known(airflow, corrected) == ("running", 1)


def test_days_that_land_together_are_done_when_all_of_their_runs_are(
    airflow: AirflowRuns, service: AirflowRecorder, story: Any
) -> None:
    waiting = [service.add(DAG, each) for each in (D17, D18)]
    arrival = task(D16, D17, D18)
    assert airflow.request([arrival]) == Requested(1, 2)
    assert asked(service) == [(DAG, D16, "arrival")]
    for run in (waiting[1], *service.asked_for()):
        assert known(restarted(story, service), arrival) == ("running", 1)
        service.end(run)
    assert known(airflow, arrival) == ("running", 1)
    service.end(waiting[0])
    assert known(airflow, arrival) == ("done", 1)


@pytest.mark.parametrize("kind", ["catch-up", "behind"])
def test_history_is_a_run_a_partition(airflow: AirflowRuns, service: AirflowRecorder, story: Any, kind: str) -> None:
    catch_up = task(D16, D17, D18, kind=kind)
    assert known(airflow, catch_up) is None
    service.add(DAG, D18)
    assert airflow.request([catch_up]) == Requested(3, 0)
    assert asked(service) == [(DAG, each, "catch-up") for each in (D16, D17, D18)]
    assert ready(story, D18) is None, "what waits is not let go by it"
    for run in service.asked_for():
        assert known(airflow, catch_up) == ("running", 1)
        service.end(run)
    assert known(airflow, catch_up) == ("done", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tries_left", "expected"), [(3, "done"), (0, "failed")], ids=["bad data", "infrastructure"])
def test_bad_data_is_the_end_of_a_task_and_infrastructure_is_not(
    airflow: AirflowRuns, service: AirflowRecorder, kind: str, tries_left: int, expected: str
) -> None:
    wanted = task(D18, D19, kind=kind)
    airflow.request([wanted])
    *others, last = service.asked_for()
    for run in others:
        service.end(run)
    service.end(last, "failed", tries_left=tries_left)
    assert known(airflow, wanted) == (expected, 1)


@pytest.mark.parametrize(("tries_left", "expected"), [(3, "done"), (0, "failed")], ids=["bad data", "infrastructure"])
def test_so_it_is_with_a_run_that_was_let_go(
    airflow: AirflowRuns, service: AirflowRecorder, tries_left: int, expected: str
) -> None:
    waiting = service.add(DAG, D19)
    airflow.request([task(D19)])
    service.end(waiting, "failed", tries_left=tries_left)
    assert known(airflow, task(D19)) == (expected, 1)
    airflow.request([task(D19, attempt=2)])
    assert asked(service) == [(DAG, D19, "arrival")]
    assert known(airflow, task(D19)) == ("running", 2)


def test_a_run_that_failed_of_no_task_is_tried_again(airflow: AirflowRuns, service: AirflowRecorder) -> None:
    airflow.request([task(D19)])
    service.end(service.runs[0], "failed")
    service.failed_tasks.clear()
    assert known(airflow, task(D19)) == ("failed", 1)


def test_of_the_past_of_many_new_versions_airflow_gets_little_at_a_time_and_of_arrivals_all(
    airflow: AirflowRuns, service: AirflowRecorder, story: Any
) -> None:
    every_day = [f"2026-01-{day:02d}" for day in range(1, 20)]
    story.land(*every_day, at=story.lender.now - HOUR)
    for model in [f"new-{number}" for number in range(6)]:
        story.deploy(model=model)
    for member in story.members:
        story.lender.store.put(reference(*member.name, "0" * 64), b"")
        service.dags.add(member.manifest.slug)
    airflow = restarted(story, service)
    story.reload()
    for _ in range(5):
        airflow.request(story.watch.tick(airflow))
    assert [run["conf"]["reason"] for run in service.asked_for()] == ["catch-up"] * PAST
    assert all(count < ACTIVE_RUNS for count in Counter(run["dag_id"] for run in service.asked_for()).values())
    service.end(service.asked_for()[0])
    airflow.request(story.watch.tick(airflow))
    assert len(service.asked_for()) <= PAST + 1
    arrival = task(D19, name=story.members[0].name)
    assert airflow.request([arrival]) == Requested(1, 0)


@pytest.mark.parametrize("end", [("success", 0), ("failed", 3)], ids=["green", "exit code 2"])
def test_history_whose_runs_left_no_result_is_asked_for_again(
    airflow: AirflowRuns, service: AirflowRecorder, story: Any, end: tuple[str, int]
) -> None:
    """As when a variable of the pods is mistyped, or their image does not know an option yet."""
    story.land(D16, D17, D18, at=story.lender.now - HOUR)
    story.lender.store.put(reference(*NAME, "0" * 64), b"")
    for attempt in (1, 2, 3):
        story.reload()
        airflow.request(story.watch.tick(airflow))
        runs = [run for run in service.runs if run["dag_id"] == DAG and f"__{attempt}__" in run["dag_run_id"]]
        assert sorted(run["partition_key"] for run in runs) == [D16, D17, D18]
        assert {run["conf"]["reason"] for run in runs} == {"catch-up"}
        for run in runs:
            service.end(run, end[0], at=story.lender.now, tries_left=end[1])
        assert {task.version for task in story.watch.tick(airflow) if task.model == NAME[0]} == set(), "not at once"
        story.lender.now += HOUR


def test_what_counts_is_the_last_attempt(airflow: AirflowRuns, service: AirflowRecorder) -> None:
    wanted = task(D16, D17, kind="catch-up")
    for attempt in range(1, 12):
        airflow.request([replace(wanted, attempt=attempt)])
        for run in service.asked_for():
            if run["state"] == "queued":
                assert known(airflow, wanted) == ("running", attempt)
                service.end(run, "failed" if attempt < 11 else "success")
    assert known(airflow, wanted) == ("done", 11)
    assert len(service.runs) == 22


def test_tasks_are_known_by_their_whole_keys(airflow: AirflowRuns, service: AirflowRecorder) -> None:
    wanted = [task(f"2026-01-{day:02d}", kind="arrival") for day in range(1, 20)]
    airflow.request(wanted[::2])
    by_hand = service.add(DAG, D19, "manual")
    by_hand["dag_run_id"] = service.runs[0]["dag_run_id"].rpartition("__")[0].replace("__1", "x")
    assert set(airflow.of([each.key for each in wanted])) == {each.key for each in wanted[::2]}
    assert airflow.of([]) == {}


def test_hours_are_asked_for_by_ids_that_airflow_takes(airflow: AirflowRuns, service: AirflowRecorder) -> None:
    hour = "2026-01-19-23:00"
    waiting = service.add(DAG, hour)
    airflow.request([task(hour)])
    service.end(waiting)
    assert known(airflow, task(hour)) == ("done", 1)
    airflow.request([task(hour, attempt=2)])
    [run] = service.asked_for()
    assert (run["partition_key"], ":" in run["dag_run_id"]) == (hour, False)


def test_the_same_request_again_makes_no_other_run(airflow: AirflowRuns, service: AirflowRecorder, story: Any) -> None:
    tasks = [task(D19), task(D16, D17, kind="catch-up")]
    airflow.request(tasks)
    restarted(story, service).request(tasks)
    assert len(service.runs) == 3


def test_a_dag_that_is_not_there_yet_keeps_nobody_waiting_and_is_asked_again(
    airflow: AirflowRuns, service: AirflowRecorder
) -> None:
    service.dags.remove(DAG)
    other = task(D19, kind="onboarding", name=("zm-payroll", "1.0.0"))
    assert airflow.request([task(D19), task(D19, kind="onboarding"), other]) == Requested(1, 0)
    assert airflow.busy() == {("zm-payroll", "1.0.0"): {"onboarding"}}
    assert known(airflow, task(D19)) is None
    service.dags.add(DAG)
    assert airflow.request([task(D19)]) == Requested(1, 0)
    assert known(airflow, task(D19)) == ("running", 1)


def test_a_dag_that_airflow_cannot_read_does_not_keep_others_from_theirs(
    airflow: AirflowRuns, service: AirflowRecorder
) -> None:
    service.unreadable.add(DAG)
    others = [task(day, kind="behind", name=("zm-payroll", "1.0.0")) for day in (D16, D17, D18)]
    with pytest.raises(InfrastructureError, match=rf"1 of 4 runs were not taken.*{DAG}.*import errors"):
        airflow.request([task(D19), *others])
    assert {dag for dag, *_ in asked(service)} == {OTHER_DAG}


def test_an_airflow_that_is_down_is_an_error_that_names_it_and_nothing_is_lost(
    airflow: AirflowRuns, service: AirflowRecorder, story: Any
) -> None:
    waiting = service.add(DAG, D18)
    tasks = [task(D18), task(D19, attempt=2), task(D16, D17, kind="catch-up")]
    service.stop()
    for call in (airflow.busy, lambda: airflow.of([tasks[0].key]), lambda: airflow.request(tasks)):
        with pytest.raises(InfrastructureError, match=service.url):
            call()
    service.start()
    assert airflow.of([each.key for each in tasks]) == {}
    assert restarted(story, service).request(tasks) == Requested(3, 1)
    service.end(waiting)
    assert known(airflow, tasks[0]) == ("done", 1)


def test_a_request_that_was_interrupted_is_not_taken_for_done(airflow: AirflowRuns, service: AirflowRecorder) -> None:
    catch_up = task(D16, D17, D18, kind="catch-up")
    airflow.busy()
    service.faults.add(answer_lost(), unreachable())
    with pytest.raises(InfrastructureError, match="2 of 3 runs were not taken"):
        airflow.request([catch_up])
    assert len(service.runs) == 2
    for run in service.asked_for():
        service.end(run)
    assert known(airflow, catch_up) == ("failed", 1)


def test_runs_that_wait_for_what_is_done_already_end_without_any_work(
    airflow: AirflowRuns, service: AirflowRecorder, story: Any
) -> None:
    service.add(DAG, D18)
    airflow.request([task(D18)])
    told = ready(story, D18)
    airflow.let_go({NAME: {D17, D18}, ("gone", "1.0.0"): {D17}})
    assert (ready(story, D17), ready(story, D18), ready(story, D19)) == (DONE, told, None)
    story.lender.store.delete(ready_key(DAG, D17))
    airflow.let_go({NAME: {D17, D18, D19}})
    assert (ready(story, D17), ready(story, D19)) == (None, DONE), "each is written once"
    assert airflow.request([task(D19)]) == Requested(1, 0), "it is corrected data"
    assert ready(story, D19) not in (None, DONE)
