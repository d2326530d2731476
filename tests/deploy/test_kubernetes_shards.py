"""deploy/kubernetes: as many code servers of model versions as the README says for a fleet, each found by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring_assets.sensors.registry import SHARD_LIMIT
from monitoring_assets.sensors.reloading import location
from tests.deploy.manifests import FOLDER, Cluster, variant

COMPONENTS = FOLDER / "components"
SHARDS = [1, *(int(path.name.removeprefix("shards-")) for path in COMPONENTS.glob("shards-*"))]


def sharded(folder: Path, shards: int) -> Cluster:
    """EKS with so many shards, as step 3 of the README has it: a component, or none for one shard."""
    component = [f"../../components/shards-{shards}"] if shards > 1 else []
    return variant(folder, "eks", lambda document: document.update(components=component))


def test_there_is_a_component_for_each_size_of_the_sizing_table() -> None:
    assert sorted(SHARDS) == [1, 3, 10]


@pytest.mark.parametrize("shards", SHARDS)
def test_code_servers_the_shards_and_the_workspace_are_of_one_mind(tmp_path: Path, shards: int) -> None:
    agree(sharded(tmp_path / "kubernetes", shards), shards)


def test_so_are_those_of_an_overlay_as_it_is(cluster: Cluster) -> None:
    agree(cluster, int(cluster.settings()["SCOREWATCH_SHARDS"]))


def test_another_number_of_shards_is_made_by_the_changes_that_the_component_names(tmp_path: Path) -> None:
    """A copy of its folder, where the number stands twice, and an entry each in the workspace."""
    folder, shards = tmp_path / "kubernetes", 4

    def change(document: dict[str, Any]) -> None:
        new = folder / "components" / f"shards-{shards}"
        new.mkdir()
        text = (COMPONENTS / "shards-3" / "kustomization.yaml").read_text()
        text, changes = re.subn(r"(SHARDS=|count: )3", rf"\g<1>{shards}", text)
        assert changes == 2
        (new / "kustomization.yaml").write_text(text)
        entries = (COMPONENTS / "shards-3" / "workspace.yaml").read_text()
        last = entries.splitlines(keepends=True)[-1]
        (new / "workspace.yaml").write_text(entries + last.replace("models-2", "models-3"))
        document.update(components=[f"../../components/{new.name}"])

    agree(variant(folder, "eks", change), shards)


def agree(cluster: Cluster, shards: int) -> None:
    """Whether control finds a server for each location that it stores something for, and that one serves its shard."""
    models = cluster.one("StatefulSet", "scorewatch-models")
    workspace = yaml.safe_load(cluster.one("ConfigMap", "scorewatch-workspace")["data"]["workspace.yaml"])
    entries = {entry["grpc_server"]["location_name"]: entry["grpc_server"] for entry in workspace["load_from"]}
    [container] = models["spec"]["template"]["spec"]["containers"]
    [shard] = [each for each in container["env"] if each["name"] == "SCOREWATCH_SHARD"]

    assert int(cluster.settings()["SCOREWATCH_SHARDS"]) == models["spec"]["replicas"] == shards
    assert set(entries) == {"control", *(location(number, shards) for number in range(shards))}
    assert (entries["control"]["host"], entries["control"]["port"]) == ("scorewatch-control", 4270)
    for number in range(shards):
        server = entries[location(number, shards)]
        assert server["host"] == f"scorewatch-models-{number}.{models['spec']['serviceName']}"
        assert server["port"] == container["ports"][0]["containerPort"]
    assert shard["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}
    assert cluster.one("Service", "scorewatch-models")["spec"]["clusterIP"] == "None"


def test_the_readme_says_which_component_is_for_how_many_versions() -> None:
    step = re.search(r"^3\. .*?^4\. ", (FOLDER / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert step is not None
    for shards in sorted(SHARDS):
        assert f"{shards * SHARD_LIMIT:,}" in step[0]
        assert shards == 1 or f"components/shards-{shards}" in step[0]
