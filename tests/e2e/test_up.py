"""`scorewatch up`: the webserver and the daemon over a real instance, and how they end."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

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


@dataclass
class Stack:
    """A running `scorewatch up` and its GraphQL."""

    machine: Any
    process: Any
    port: int

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer; fails on an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps({"query": query, "variables": variables})
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch(self, model: str, partitions: list[str]) -> str:
        """Launch a backfill of all assets as Dagit does; its id."""
        found = self.ask(
            """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            p={"partitionNames": partitions, "assetSelection": [key(model, asset) for asset in ASSETS]},
        )["launchPartitionBackfill"]
        assert found["__typename"] == "LaunchBackfillSuccess", found
        return str(found["backfillId"])

    def partitions(self, model: str, asset: str) -> list[tuple[str, str, str]]:
        """Ranges of the asset's partitions with their status: first, last, status."""
        node = self.ask(
            """query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode { assetPartitionStatuses {
                 ... on TimePartitionStatuses { ranges { startKey endKey status } } } } } }""",
            k=key(model, asset),
        )["assetNodeOrError"]
        ranges = node["assetPartitionStatuses"]["ranges"]
        return [(each["startKey"], each["endKey"], each["status"]) for each in ranges]

    def executions(self, model: str, asset: str) -> list[dict[str, Any]]:
        """Every execution of the asset's check."""
        found: list[dict[str, Any]] = self.ask(
            """query($k: AssetKeyInput!, $n: String!) { assetCheckExecutions(assetKey: $k, checkName: $n, limit: 100) {
                 status partition evaluation { severity description targetMaterialization { storageId }
                   metadataEntries { label ... on FloatMetadataEntry { floatValue }
                     ... on TableMetadataEntry { table { records } } } } } }""",
            k=key(model, asset),
            n=ASSETS[asset],
        )["assetCheckExecutions"]
        return found


def key(model: str, asset: str) -> dict[str, list[str]]:
    return {"path": [model, "1.0.0", asset]}


def start(machine: Any, port: int) -> Stack:
    """Start `scorewatch up`, and wait until it says that it is up."""
    process = machine.start("up", "--port", str(port))
    lines = []
    while line := process.popen.stdout.readline():
        lines.append(line)
        if "Ctrl-C" in line:
            assert f"http://127.0.0.1:{port}" in "".join(lines)
            assert str(machine.home / "logs") in "".join(lines)
            process.family()
            return Stack(machine, process, port)
    raise AssertionError(f"{''.join(lines)}{process.finish()}")


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def stack(new_machine: Callable[[], Any]) -> Iterator[Stack]:
    """A stack on which a person backfills `other` in the browser while the command backfilled `small`.

    At the end it gets SIGTERM, which has to end it as Ctrl-C does.
    """
    machine = new_machine()
    stack = start(machine, a_free_port())
    stack.launch("other", DAYS)
    code, _, err = machine.backfill("small").finish()
    assert code == 0, err
    yield stack
    stack.process.family()
    stack.process.popen.terminate()
    code, _, err = stack.process.finish()
    assert code == 0, err
    assert stack.process.alive() == []


def test_each_version_is_a_group_whose_lineage_is_the_way_of_the_data(stack: Stack) -> None:
    nodes = stack.ask("{ assetNodes { assetKey { path } groupName dependencyKeys { path } isPartitioned } }")
    for model in ("small", "other", "remote"):
        own = {each["assetKey"]["path"][2]: each for each in nodes["assetNodes"] if each["groupName"].startswith(model)}
        assert {each["groupName"] for each in own.values()} == {f"{model}__1_0_0"}
        assert {name: {parent["path"][2] for parent in each["dependencyKeys"]} for name, each in own.items()} == PARENTS
        assert {name for name, each in own.items() if not each["isPartitioned"]} == {"reference"}


def test_what_the_command_materialised_is_there_partition_by_partition(stack: Stack) -> None:
    for asset in ASSETS:
        assert stack.partitions("small", asset) == [(DAYS[0], DAYS[-1], "MATERIALIZED")]


def test_a_check_has_one_execution_for_each_partition_that_targets_its_materialisation(stack: Stack) -> None:
    for asset in ASSETS:
        drifts = asset in ("psi", "csi", "distribution")
        expected = [(day, "FAILED" if drifts and day > DAYS[2] else "SUCCEEDED") for day in DAYS]
        executions = stack.executions("small", asset)
        assert sorted((each["partition"], each["status"]) for each in executions) == expected
        assert all(each["evaluation"]["targetMaterialization"] for each in executions)


def test_a_drifted_partition_shows_its_psi_and_its_worst_columns(stack: Stack) -> None:
    for asset, plotted, column in (("psi", "psi", "score"), ("csi", "csi_max", "income")):
        [found] = [each for each in stack.executions("small", asset) if each["partition"] == DAYS[3]]
        entries = {entry["label"]: entry for entry in found["evaluation"]["metadataEntries"]}
        assert entries[plotted]["floatValue"] > 0.25
        worst = json.loads(entries["worst columns"]["table"]["records"][0])
        assert (worst["column"], worst["status"]) == (column, "breach")
        assert found["evaluation"]["severity"] == "ERROR"


def test_the_frozen_reference_is_materialised_once(stack: Stack) -> None:
    node = stack.ask(
        """query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode {
             assetMaterializations { metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }""",
        k=key("small", "reference"),
    )["assetNodeOrError"]
    [found] = node["assetMaterializations"]
    assert {"label": "rows", "intValue": 2000} in found["metadataEntries"]


def test_a_backfill_launched_in_the_browser_runs_once_and_leaves_nothing_planned(
    stack: Stack, eventually: Callable[..., Any]
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


def test_a_version_that_is_registered_meanwhile_is_there_after_a_reload(
    stack: Stack, deployed: Path, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    shutil.copytree(deployed / "small", tmp_path / "model")
    manifest = tmp_path / "model" / "model.yaml"
    manifest.write_text(manifest.read_text().replace("model: small", "model: newcomer"))
    code, _, err = stack.machine.run("register", str(tmp_path / "model"))
    assert code == 0, err
    stack.ask("""mutation { reloadRepositoryLocation(repositoryLocationName: "models") { __typename } }""")

    def groups() -> set[str]:
        return {each["groupName"] for each in stack.ask("{ assetNodes { groupName } }")["assetNodes"]}

    eventually(lambda: "newcomer__1_0_0" in groups(), "the new version is shown")


def test_a_second_stack_on_the_same_home_is_refused_with_the_address_of_the_first(stack: Stack) -> None:
    code, out, err = stack.machine.run("up", "--port", str(a_free_port()))
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


def test_ctrl_c_ends_every_process_also_in_the_middle_of_a_run(machine: Any, eventually: Callable[..., Any]) -> None:
    stack = start(machine, a_free_port())
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
    assert machine.run_statuses()[0] in ("FAILURE", "SUCCESS"), "the run is not left as running"
    socket.create_server(("127.0.0.1", stack.port)).close()
    assert list(machine.temporary.iterdir()) == []


def test_when_a_child_dies_the_others_are_stopped_and_its_last_lines_shown(machine: Any) -> None:
    stack = start(machine, a_free_port())
    [webserver] = [
        each for each in psutil.Process(stack.process.popen.pid).children() if "dagster_webserver" in each.cmdline()
    ]
    webserver.kill()
    code, _, err = stack.process.finish()
    assert code == 75
    assert "The webserver ended by itself (exit code -9)" in err
    assert "Serving dagster-webserver" in err
    assert stack.process.alive() == []


def test_a_registry_that_cannot_be_reached_is_named_at_the_start(machine: Any, free_port: int) -> None:
    process = machine.start(
        *("up", "--port", str(a_free_port())),
        SCOREWATCH_REGISTRY="s3://nowhere/registry",
        SCOREWATCH_S3_ENDPOINT=f"http://127.0.0.1:{free_port}",
        AWS_ACCESS_KEY_ID="somebody",
        AWS_SECRET_ACCESS_KEY="not-for-a-log",
        AWS_DEFAULT_REGION="us-east-1",
    )
    code, out, err = process.finish(90)
    assert (code, out) == (75, ""), err
    assert "could not load the code location models" in err
    assert "s3://nowhere/registry" in err
    logs = "".join(path.read_text() for path in (machine.home / "logs").iterdir())
    assert "not-for-a-log" not in err + logs
    assert process.alive() == []
