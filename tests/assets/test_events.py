"""What Dagster knows after a run over several partitions: materialisations, and one evaluation of each of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from monitoring_assets import layout
from monitoring_assets.assets.events import asset_key, evaluated_partitions
from monitoring_assets.assets.factory import RESOURCE, Work, group
from monitoring_assets.assets.pipeline import ORDER, Recorded
from monitoring_assets.cli import backfill, run
from monitoring_assets.cli.execution import execute
from monitoring_assets.heartbeats import EXTERNAL_TAG, end_killed_runs, heartbeat
from monitoring_assets.instance import BORN_TAG, HOST_TAG, PROCESS_TAG, open_instance, process_tags, unrecorded
from monitoring_assets.version import CHECKS, ModelVersion

GOOD, BAD, DRIFTED, ABSENT = "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"
DAYS = [GOOD, BAD, DRIFTED, ABSENT]
DELIVERED = {GOOD, DRIFTED}


class World(NamedTuple):
    """A model of which one day has duplicate keys, one another population, and one no data; and a Dagster instance."""

    version: ModelVersion
    instance: dg.DagsterInstance

    def key(self, asset: str) -> dg.AssetKey:
        return asset_key(self.version.manifest.model, self.version.manifest.version, asset)

    def materialised(self, asset: str) -> set[str]:
        return self.instance.get_materialized_partitions(self.key(asset))

    def history(self, asset: str) -> Sequence[AssetCheckExecutionRecord]:
        """Every execution of the asset's check, the newest first."""
        key = dg.AssetCheckKey(self.key(asset), CHECKS[asset])
        return self.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)

    def evaluation(self, asset: str, partition: str) -> AssetCheckEvaluation:
        """The newest evaluation of a partition; there has to be one."""
        record = next(each for each in self.history(asset) if each.partition == partition)
        assert record.event is not None
        assert record.event.dagster_event is not None
        return record.event.dagster_event.asset_check_evaluation_data

    def statuses(self) -> dict[str, list[tuple[str | None, str]]]:
        """Of every asset's check: partition and status of each execution."""
        found = {}
        for asset in ORDER:
            found[asset] = sorted((each.partition, each.status.value) for each in self.history(asset))
        return found


@pytest.fixture
def world(lender: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("DAGSTER_HOME", "")  # opening an instance sets it, and this puts it back
    lender.land(GOOD)
    rows = lender.rows(BAD)
    lender.land(BAD, pl.concat([rows, rows.head(1)]))
    lender.land(DRIFTED, lender.rows(DRIFTED).with_columns(pl.col("income") + 15))
    version = lender.onboard()
    with open_instance(lender.settings) as instance:
        yield World(version, instance)


def run_by_command(world: World, partitions: Sequence[str] = DAYS) -> list[Recorded]:
    return execute(
        world.version,
        world.instance,
        ORDER,
        partitions,
        trigger="backfill",
        force=False,
        on_recorded=lambda _: None,
    )


def run_by_person(world: World, partitions: Sequence[str] = DAYS) -> dg.ExecuteInProcessResult:
    """A run as the webserver launches it: a range of partitions with all checks, of which each is planned."""
    tags = {
        "dagster/asset_partition_range_start": partitions[0],
        "dagster/asset_partition_range_end": partitions[-1],
    }
    return dg.materialize(
        group(world.version.manifest),
        selection=dg.AssetSelection.assets(*(world.key(asset) for asset in ORDER)),
        instance=world.instance,
        resources={RESOURCE: Work(world.version.settings, world.version.clock)},
        tags=tags,
        raise_on_error=False,
    )


EXPECTED = {
    "features": [(GOOD, "SUCCEEDED"), (BAD, "FAILED"), (DRIFTED, "SUCCEEDED"), (ABSENT, "FAILED")],
    "scores": [(GOOD, "SUCCEEDED"), (BAD, "FAILED"), (DRIFTED, "SUCCEEDED"), (ABSENT, "FAILED")],
    "distribution": [(GOOD, "SUCCEEDED"), (BAD, "FAILED"), (DRIFTED, "FAILED"), (ABSENT, "FAILED")],
    "psi": [(GOOD, "SUCCEEDED"), (BAD, "FAILED"), (DRIFTED, "FAILED"), (ABSENT, "FAILED")],
    "csi": [(GOOD, "SUCCEEDED"), (BAD, "FAILED"), (DRIFTED, "FAILED"), (ABSENT, "FAILED")],
}


@pytest.mark.parametrize("run", [run_by_command, run_by_person])
def test_every_partition_of_a_run_is_evaluated_once_and_none_stays_planned(
    world: World, run: Callable[[World], object]
) -> None:
    run(world)
    assert world.statuses() == EXPECTED
    for asset in ORDER:
        assert world.materialised(asset) == DELIVERED
        assert evaluated_partitions(world.instance, world.key(asset), CHECKS[asset]) == DELIVERED


@pytest.mark.parametrize("run", [run_by_command, run_by_person])
def test_an_evaluation_says_what_was_found_and_targets_the_materialisation_that_it_judged(
    world: World, run: Callable[[World], object]
) -> None:
    run(world)
    for asset in ORDER:
        ids = world.instance.event_log_storage.get_latest_storage_id_by_partition(
            world.key(asset), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        for partition in DELIVERED:
            target = world.evaluation(asset, partition).target_materialization_data
            assert target is not None
            assert target.storage_id == ids[partition]
    drifted = world.evaluation("psi", DRIFTED)
    assert drifted.severity == dg.AssetCheckSeverity.ERROR
    assert "score" in str(drifted.description)
    psi = drifted.metadata["psi"].value
    assert isinstance(psi, float)
    assert psi > 0.25
    assert worst_column(drifted) == ("score", "breach")
    assert worst_column(world.evaluation("csi", DRIFTED)) == ("income", "breach")


def worst_column(evaluation: AssetCheckEvaluation) -> tuple[object, object]:
    """Name and status in the first row of the table that an evaluation shows."""
    table = evaluation.metadata["worst columns"]
    assert isinstance(table, dg.TableMetadataValue)
    first = table.records[0].data
    return first["column"], first["status"]


def test_a_bad_and_an_absent_partition_say_why_on_every_asset_and_target_nothing(world: World) -> None:
    run_by_command(world)
    for partition, why in ((BAD, "repeat an earlier 'application_id'"), (ABSENT, "no file matches")):
        for asset in ORDER:
            found = world.evaluation(asset, partition)
            assert why in str(found.description), asset
            assert found.target_materialization_data is None
    assert world.evaluation("features", BAD).severity == dg.AssetCheckSeverity.ERROR
    assert world.evaluation("psi", BAD).severity == dg.AssetCheckSeverity.WARN


def test_a_launched_run_with_a_bad_partition_fails_after_the_others_are_done(world: World) -> None:
    failed = run_by_person(world)
    assert not failed.success
    [step] = [event for event in failed.all_events if event.is_step_failure]
    assert BAD in str(step.event_specific_data)
    done = run_by_person(world, [DRIFTED, ABSENT])
    assert done.success
    logged = [entry.user_message for entry in world.instance.all_logs(done.run_id)]
    assert not [line for line in logged if "did not yield" in line], "Dagster misses no output"


def test_a_materialisation_shows_its_rows_its_digest_and_its_status(world: World) -> None:
    run_by_command(world)
    for asset in ORDER:
        event = world.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=world.key(asset), asset_partitions=[DRIFTED]), limit=1
        ).records[0]
        found = event.asset_materialization
        assert found is not None
        current = world.version.current(asset, DRIFTED)
        assert current is not None
        assert found.metadata["digest"].value == current.digest
        assert found.metadata["dagster/partition_row_count"].value == 400
        expected = {"features": "ok", "scores": "ok", "distribution": "warn", "psi": "breach", "csi": "breach"}
        assert found.metadata["status"].value == expected[asset]
        assert (found.tags or {})["dagster/data_version"] == current.digest[:32]


def test_what_a_killed_run_did_not_tell_dagster_is_found(world: World) -> None:
    assert unrecorded(world.instance, world.version, DAYS) == set(), "nothing was done yet"
    run_by_command(world)
    assert unrecorded(world.instance, world.version, DAYS) == set()
    again = dg.AssetMaterialization(world.key("csi"), partition=DRIFTED)
    world.instance.report_runless_asset_event(again)
    assert unrecorded(world.instance, world.version, DAYS) == {DRIFTED}, "materialised, and killed before it was judged"
    run_by_command(world, [DRIFTED])
    assert unrecorded(world.instance, world.version, DAYS) == set()


def test_a_run_whose_process_is_gone_is_recorded_as_failed_and_one_that_works_is_left_alone(world: World) -> None:
    run_by_command(world, [GOOD])
    [ours] = world.instance.get_runs()
    assert ours.tags.items() >= {EXTERNAL_TAG: "command", **process_tags()}.items()
    assert not list(world.version.store.list(layout.HEARTBEATS)), "the process went on in order"
    here = {key: value for key, value in ours.tags.items() if key != EXTERNAL_TAG}
    gone = _run_like(world, ours, here | process_tags(NOBODY))
    working = _run_like(world, ours, here)
    elsewhere = _run_like(world, ours, here | {PROCESS_TAG: str(NOBODY), HOST_TAG: "another-machine"})
    unheard, heard = _run_like(world, ours, ours.tags), _run_like(world, ours, ours.tags)
    before_it_began, about_to = (_run_like(world, ours, ours.tags, dg.DagsterRunStatus.NOT_STARTED) for _ in range(2))
    store, clock = world.version.store, world.version.clock
    with heartbeat(store, heard, clock), heartbeat(store, about_to, clock):
        end_killed_runs(world.instance, world.version)
    statuses = {run.run_id: run.status for run in world.instance.get_runs()}
    assert statuses[gone] == statuses[unheard] == statuses[before_it_began] == dg.DagsterRunStatus.FAILURE
    assert statuses[about_to] == dg.DagsterRunStatus.NOT_STARTED
    assert statuses[working] == statuses[elsewhere] == statuses[heard] == dg.DagsterRunStatus.STARTED
    assert statuses[ours.run_id] == dg.DagsterRunStatus.SUCCESS


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says when a process was started")
def test_a_run_whose_process_is_gone_is_recorded_as_failed_although_another_process_has_its_id(world: World) -> None:
    run_by_command(world, [GOOD])
    [ours] = world.instance.get_runs()
    here = {key: value for key, value in ours.tags.items() if key != EXTERNAL_TAG}
    gone, working = _run_like(world, ours, here | {BORN_TAG: "an earlier one"}), _run_like(world, ours, here)
    end_killed_runs(world.instance, world.version)
    statuses = {run.run_id: run.status for run in world.instance.get_runs()}
    assert (statuses[gone], statuses[working]) == (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED)


def test_a_backfill_that_finds_nothing_left_to_do_names_what_is_done(world: World, lender: Any) -> None:
    lender.land(BAD)
    run_by_command(world)
    manifest = world.version.manifest
    for last, said in ((GOOD, f"{GOOD} is done already"), (DRIFTED, f"{GOOD} to {DRIFTED} is done already")):
        words = [manifest.model, manifest.version, "--to", last]
        done = CliRunner().invoke(backfill.command, words, obj=world.version.settings)
        assert done.stdout == f"{world.version.name}: {said}\n"


@pytest.mark.parametrize(("command", "arguments", "runs"), [(run, ["--partition"], 2), (backfill, ["--to"], 1)])
def test_a_command_that_finds_nothing_left_to_do_still_ends_the_run_that_was_killed_when_it_had_done_everything(
    world: World, command: Any, arguments: list[str], runs: int
) -> None:
    run_by_command(world, [GOOD])
    [ours] = world.instance.get_runs()
    killed = _run_like(world, ours, ours.tags | process_tags(NOBODY))

    manifest = world.version.manifest
    words = [manifest.model, manifest.version, *arguments, GOOD, "--json"]
    done = CliRunner().invoke(command.command, words, obj=world.version.settings, standalone_mode=False)

    assert (done.exception, done.return_value) == (None, 0)
    statuses = {run.run_id: run.status for run in world.instance.get_runs()}
    assert statuses.pop(killed) == dg.DagsterRunStatus.FAILURE
    assert list(statuses.values()) == [dg.DagsterRunStatus.SUCCESS] * runs


NOBODY = 4194399
"""No process has this id: it is above Linux's limit."""


def _run_like(
    world: World, run: dg.DagsterRun, tags: Mapping[str, str], status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED
) -> str:
    """Record a run in the middle of its work, or before it; its id."""
    made = dg.DagsterRun(job_name=run.job_name, status=status, tags=tags)
    return world.instance.add_run(made).run_id
