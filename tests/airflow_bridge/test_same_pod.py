"""Whether Dagster or Airflow starts it, a stage has the same pod."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_bridge.schema import DagPlan, encode
from airflow_bridge.stage_pod import DAGSTER_HOME, MAIN, MODEL, PREPARE
from monitoring_assets import exporting
from monitoring_assets.fleet import Fleet, scan
from tests.airflow_bridge.conftest import Inside
from tests.launched_pods import DAY, IMAGE, MODEL_IMAGE, Launched, launcher
from tests.recorders.kubernetes import KubernetesRecorder

AIRFLOW = {
    "execution": "kubernetes",
    "image": IMAGE,
    "namespace": "scorewatch",
    "service_account": "scorewatch-stages",
    "env_from_config_map": "scorewatch",
    "env_from_secret": "scorewatch-postgres",
    "env_from_optional_secret": "scorewatch-keys",
    "model_images": "registry.example/models",
}
MODELS = {
    "onnx": {"kind": "onnx", "artefact": "model.onnx"},
    "container": {"kind": "container", "image": MODEL_IMAGE},
}


@pytest.fixture
def manifest(lender: Any, request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = lender.manifest(score=MODELS[request.param], resources={"cpu": 2, "memory": "3Gi"})
    return found


@pytest.fixture
def of_dagster(
    kubernetes: KubernetesRecorder, tmp_path: Path, manifest: dict[str, Any]
) -> Iterator[Callable[[], dict[str, Any]]]:
    folder = tmp_path / "instance"
    folder.mkdir()
    with launcher(folder, kubernetes, manifest, model_images="registry.example/models") as found:
        yield lambda: _launched(found)


def _launched(pods: Launched) -> dict[str, Any]:
    pods.kubernetes.forget()
    return copy.deepcopy(pods.launch("ke-nano-loan", dagster__partition=DAY)["spec"]["template"])


@pytest.fixture
def of_airflow(
    lender: Any, kubernetes: KubernetesRecorder, airflow: Inside, manifest: dict[str, Any]
) -> Callable[..., dict[str, Any]]:
    """The pod of the stage `scores`, by the plan that the exporter makes of the manifest."""
    lender.deploy_manifest(yaml.safe_dump(manifest).encode())
    [member] = scan(lender.settings, Fleet()).fleet.members
    [plan] = exporting._plans(lender.settings, member)
    [task] = [each for each in plan.tasks if each.id == "scores"]
    alone = DagPlan(**{**dict(plan), "tasks": (task.model_copy(update={"upstream": ()}),)})

    def ask(reason: str = "", **options: str) -> dict[str, Any]:
        kubernetes.forget()
        own = {"options": {**AIRFLOW, **options}, "conf": {"reason": reason} if reason else {}}
        why = airflow("pods.start", plan=json.loads(encode(alone)), **own)
        return copy.deepcopy(kubernetes.pods[0]) if not why else {"refused": why}

    return ask


@pytest.mark.parametrize("manifest", ["onnx", "container"], indirect=True)
def test_it_is_the_same_but_for_what_it_is_told_to_do(
    of_dagster: Callable[[], dict[str, Any]], of_airflow: Callable[..., dict[str, Any]]
) -> None:
    ours, theirs = of_dagster(), of_airflow()
    [main], [base] = ours["spec"]["containers"], theirs["spec"]["containers"]

    # Dagster's pods have its configuration as a file, and build one group.
    main["env"].remove({"name": "SCOREWATCH_ONLY", "value": "ke-nano-loan/1.0.0"})
    main["volumeMounts"] = [each for each in main["volumeMounts"] if not each["mountPath"].startswith(DAGSTER_HOME)]
    ours["spec"]["volumes"] = [each for each in ours["spec"]["volumes"] if "configMap" not in each]
    # A run may be of many partitions, a task is of one.
    assert (ours["spec"].pop("activeDeadlineSeconds"), theirs["spec"].pop("activeDeadlineSeconds")) == (86_400, 14_700)
    assert (main.pop("command"), base.pop("command")) == (["dagster"], ["scorewatch"])
    assert main.pop("args")[:2] == ["api", "execute_run"]
    assert base.pop("args")[:6] == ["run", "ke-nano-loan", "1.0.0", "--stage", "scores", "--manifest-digest"]
    for spec in (ours["spec"], theirs["spec"]):
        for container in spec.get("initContainers", [])[:1]:
            assert container.pop("args")[:3] == ["features", "ke-nano-loan", "1.0.0"]
    assert ours["spec"] == _without_defaults(theirs["spec"])
    assert ours["metadata"]["annotations"] == theirs["metadata"]["annotations"]
    common = {name: theirs["metadata"]["labels"].get(name) for name in ours["metadata"]["labels"]}
    assert common["app.kubernetes.io/name"] == ours["metadata"]["labels"]["app.kubernetes.io/name"] == "scorewatch"
    assert common["app.kubernetes.io/component"] == ours["metadata"]["labels"]["app.kubernetes.io/component"] == "stage"


@pytest.mark.parametrize("manifest", ["container"], indirect=True)
def test_a_models_own_image_runs_for_the_tasks_partition(of_airflow: Callable[..., dict[str, Any]]) -> None:
    spec = of_airflow()["spec"]
    prepare, model = spec["initContainers"]

    assert [prepare["name"], model["name"], spec["containers"][0]["name"]] == [PREPARE, MODEL, MAIN]
    assert [*prepare["command"], *prepare["args"][:4]] == [
        "scorewatch",
        "features",
        "ke-nano-loan",
        "1.0.0",
        "--manifest-digest",
    ]
    assert prepare["args"][-2:] == ["--partition", "2026-01-31"]
    assert model["image"] == MODEL_IMAGE
    assert "envFrom" not in model


@pytest.mark.parametrize("manifest", ["container"], indirect=True)
def test_onboarding_takes_no_scores_of_a_models_own_image(of_airflow: Callable[..., dict[str, Any]]) -> None:
    assert not of_airflow(reason="onboarding")["spec"].get("initContainers")
    assert len(of_airflow(reason="catch-up")["spec"]["initContainers"]) == 2


@pytest.mark.parametrize("manifest", ["container"], indirect=True)
@pytest.mark.parametrize("allowed", ["", "registry.example/model", "registry.example/models/score2", "example"])
def test_an_image_that_nobody_allowed_is_refused(of_airflow: Callable[..., dict[str, Any]], allowed: str) -> None:
    refused = of_airflow(model_images=allowed)["refused"]

    assert f"has the image {MODEL_IMAGE}" in refused
    assert "the option model_images of [scorewatch] in Airflow's configuration" in refused


def _without_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    """Airflow's operator writes some of what Kubernetes takes for granted, and empty lists and mappings."""
    defaults = {"hostNetwork": False, "terminationMessagePolicy": "File"}
    found = {name: value for name, value in spec.items() if value not in ([], {}) and defaults.get(name) != value}
    for kind in {"containers", "initContainers"} & set(found):
        found[kind] = [_without_defaults(each) for each in found[kind]]
    return found
