"""`scorewatch up`: the webserver and the daemon over a real instance, and how they end."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.processes import command_line

ASSETS = {"features": "quality", "scores": "quality", "distribution": "quality", "psi": "psi", "csi": "csi"}
DAYS = [f"2025-03-{day:02d}" for day in range(1, 6)]
PARENTS = {
    "source": set(),
    "reference": set(),
    "features": {"source", "reference"},
    "scores": {"features"},
    "distribution": {"features", "scores", "reference"},
    "psi": {"distribution", "reference"},
    "csi": {"distribution", "reference"},
}


def key(model: str, asset: str) -> dict[str, list[str]]:
    return {"path": [model, "1.0.0", asset]}


@pytest.fixture(scope="module")
def stack(new_machine: Callable[[], Any], start_stack: Callable[..., Any]) -> Iterator[Any]:
    """A stack on which a person backfills `other` in the browser while the command backfilled `small`.

    At the end it gets SIGTERM, which has to end it as Ctrl-C does.
    """
    machine = new_machine()
    stack = start_stack(machine)
    stack.launch("other", DAYS)
    code, _, err = machine.backfill("small").finish()
    assert code == 0, err
    yield stack
    stack.process.family()
    stack.process.popen.terminate()
    code, _, err = stack.process.finish()
    assert code == 0, err
    assert stack.process.alive() == []


def test_each_version_is_a_group_whose_lineage_is_the_way_of_the_data(stack: Any) -> None:
    nodes = stack.ask("{ assetNodes { assetKey { path } groupName dependencyKeys { path } isPartitioned } }")
    for model in ("small", "other", "remote"):
        own = {each["assetKey"]["path"][2]: each for each in nodes["assetNodes"] if each["groupName"].startswith(model)}
        assert {each["groupName"] for each in own.values()} == {f"{model}__1_0_0"}
        assert {name: {parent["path"][2] for parent in each["dependencyKeys"]} for name, each in own.items()} == PARENTS
        assert {name for name, each in own.items() if not each["isPartitioned"]} == {"reference"}


def test_what_the_command_materialised_is_there_partition_by_partition(stack: Any) -> None:
    for asset in ASSETS:
        assert stack.partitions("small", asset) == [(DAYS[0], DAYS[-1], "MATERIALIZED")]


def test_a_check_has_one_execution_for_each_partition_that_targets_its_materialisation(stack: Any) -> None:
    for asset in ASSETS:
        drifts = asset in ("psi", "csi", "distribution")
        expected = [(day, "FAILED" if drifts and day > DAYS[2] else "SUCCEEDED") for day in DAYS]
        executions = stack.executions("small", asset)
        assert sorted((each["partition"], each["status"]) for each in executions) == expected
        assert all(each["evaluation"]["targetMaterialization"] for each in executions)


def test_a_drifted_partition_shows_its_psi_and_its_worst_columns(stack: Any) -> None:
    for asset, plotted, column in (("psi", "psi", "score"), ("csi", "csi_max", "income")):
        [found] = [each for each in stack.executions("small", asset) if each["partition"] == DAYS[3]]
        entries = {entry["label"]: entry for entry in found["evaluation"]["metadataEntries"]}
        assert entries[plotted]["floatValue"] > 0.25
        worst = json.loads(entries["worst columns"]["table"]["records"][0])
        assert (worst["column"], worst["status"]) == (column, "breach")
        assert found["evaluation"]["severity"] == "ERROR"


def test_the_frozen_reference_is_materialised(stack: Any) -> None:
    node = stack.ask(
        """query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode {
             assetMaterializations { metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }""",
        k=key("small", "reference"),
    )["assetNodeOrError"]
    assert node["assetMaterializations"]
    for found in node["assetMaterializations"]:
        assert {"label": "rows", "intValue": 2000} in found["metadataEntries"]


def test_a_backfill_launched_in_the_browser_runs_once_and_leaves_nothing_planned(
    stack: Any, eventually: Callable[..., Any]
) -> None:
    def done() -> Any:
        found = stack.ask(
            """{ partitionBackfillsOrError { ... on PartitionBackfills { results { status runs { tags { key value }
                 status } } } } }"""
        )["partitionBackfillsOrError"]["results"]
        return found if found[0]["status"] not in ("REQUESTED", "FAILING") else None

    [backfill] = eventually(done, "the backfill ends", limit=150)
    assert backfill["status"] == "COMPLETED_SUCCESS"
    [run] = backfill["runs"]
    assert run["status"] == "SUCCESS"
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert tags["dagster/asset_partition_range_start"] == DAYS[0]
    assert tags["dagster/asset_partition_range_end"] == DAYS[-1]
    for asset in ASSETS:
        assert stack.partitions("other", asset) == [(DAYS[0], DAYS[-1], "MATERIALIZED")]
        executions = stack.executions("other", asset)
        assert sorted(each["partition"] for each in executions) == DAYS
        assert {each["status"] for each in executions} <= {"SUCCEEDED", "FAILED"}
    in_progress = stack.ask(
        "query($k: [AssetKeyInput!]!) { assetsLatestInfo(assetKeys: $k) { inProgressRunIds unstartedRunIds } }",
        k=[key("other", asset) for asset in ASSETS],
    )["assetsLatestInfo"]
    assert all(each == {"inProgressRunIds": [], "unstartedRunIds": []} for each in in_progress)
    assert stack.machine.recorded("other") == stack.machine.recorded("small")


def test_a_second_stack_on_the_same_home_is_refused_with_the_address_of_the_first(stack: Any, free_port: int) -> None:
    code, out, err = stack.machine.run("up", "--port", str(free_port))
    assert (code, out) == (2, "")
    assert f"http://127.0.0.1:{stack.port}" in err
    assert str(stack.process.popen.pid) in err
    assert stack.process.popen.poll() is None


def test_a_port_that_is_taken_is_named_and_nothing_starts(machine: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, out, err = machine.run("up", "--port", str(port))
    assert (code, out) == (2, "")
    assert f"Port {port} of 127.0.0.1 is taken" in err
    assert "--port" in err
    assert not (machine.home / "logs").exists()


def test_a_temporary_folder_whose_name_is_too_long_for_sockets_is_named_and_nothing_starts(
    machine: Any, free_port: int
) -> None:
    folder = machine.temporary / (32 * "long")
    folder.mkdir()
    code, _, err = machine.run("up", "--port", str(free_port), TMPDIR=str(folder))
    assert code == 2
    assert str(folder) in err
    assert "Set TMPDIR" in err
    assert list(folder.iterdir()) == []


def test_ctrl_c_ends_every_process_also_in_the_middle_of_a_run(
    machine: Any, start_stack: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    stack = start_stack(machine)
    stack.ask(
        """mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) { __typename } }""",
        p={
            "selector": {
                "repositoryLocationName": "models",
                "repositoryName": "__repository__",
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [key("small", asset) for asset in ASSETS],
            },
            "mode": "default",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": DAYS[0]}]},
            "runConfigData": "{}",
        },
    )
    eventually(lambda: machine.written() > 0, "the run writes")
    stack.process.family()
    stack.process.popen.send_signal(signal.SIGINT)
    code, _, err = stack.process.finish()
    assert code == 0, err
    assert "Traceback" not in err
    assert stack.process.alive() == []
    # Those in the queue go on there; one that had no time to begin is taken for failed by the next stack's monitoring.
    left_alone = {"QUEUED", "STARTING"}
    assert set(machine.run_statuses()) <= {"CANCELED", "FAILURE", "SUCCESS"} | left_alone, "none is left as running"
    socket.create_server(("127.0.0.1", stack.port)).close()
    assert list(machine.temporary.iterdir()) == []


def test_a_process_that_is_killed_is_started_again(
    machine: Any, start_stack: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    stack = start_stack(machine)
    for name in ("dagster._daemon", "dagster_webserver", "monitoring_assets.definitions.models"):
        [child] = children(stack, name)
        child.kill()
        eventually(lambda name=name, child=child: children(stack, name) not in ([], [child]), f"another {name}")
    eventually(lambda: groups_or_none(stack), "the webserver serves the groups again")
    stack.process.family()
    stack.process.popen.send_signal(signal.SIGINT)
    code, _, err = stack.process.finish()
    assert code == 0, err
    assert "the daemon ended (exit code -9); starting it again" in err
    assert stack.process.alive() == []


def test_a_process_that_dies_again_and_again_ends_everything_with_its_last_lines(
    machine: Any, start_stack: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    stack = start_stack(machine)
    for _ in range(6):
        [webserver] = eventually(lambda: children(stack, "dagster_webserver"), "a webserver")
        stack.process.family()
        webserver.kill()
        psutil.wait_procs([webserver], timeout=10)
    code, _, err = stack.process.finish()
    assert code == 75
    assert "The webserver ended by itself (exit code -9), so everything was stopped" in err
    assert stack.process.alive() == []


def children(stack: Any, name: str) -> list[psutil.Process]:
    """The children of the stack whose command line has that word."""
    found = psutil.Process(stack.process.popen.pid).children()
    return [each for each in found if name in command_line(each)]


def groups_or_none(stack: Any) -> set[str] | None:
    try:
        return stack.groups() - {"registry"}
    except (OSError, http.client.HTTPException):
        return None


def test_a_registry_that_cannot_be_reached_is_named_at_the_start(machine: Any, free_port: int) -> None:
    process = machine.start(
        *("up", "--port", str(free_port)),
        SCOREWATCH_REGISTRY="s3://nowhere/registry",
        SCOREWATCH_S3_ENDPOINT=f"http://127.0.0.1:{free_port}",
        AWS_ACCESS_KEY_ID="somebody",
        AWS_SECRET_ACCESS_KEY="not-for-a-log",
        AWS_DEFAULT_REGION="us-east-1",
    )
    code, out, err = process.finish(90)
    assert (code, out) == (75, ""), err
    assert "s3://nowhere/registry" in err
    assert "not-for-a-log" not in err
    assert not (machine.home / "logs").exists(), "nothing was started"
    assert process.alive() == []
