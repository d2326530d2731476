"""A task as a pod: what Kubernetes is asked for, what a plan cannot change of it, and what its end means."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from airflow_bridge.schema import Asset, DagPlan, Partitions, Resources, Task, encode
from tests.airflow_bridge.conftest import Inside
from tests.recorders.kubernetes import KubernetesRecorder
from tests.recorders.pod_security import violations

OPTIONS = {
    "execution": "kubernetes",
    "image": f"registry.example/scorewatch@sha256:{'0f' * 32}",
    "namespace": "scoring",
    "service_account": "scorewatch-stages",
    "env_from_secret": "scorewatch-keys",
    "env_from_config_map": "scorewatch",
    "max_cpu": "4",
    "max_memory_mib": "8192",
}
RBAC = Path(__file__).parents[2] / "deploy" / "kubernetes" / "components" / "airflow" / "rbac.yaml"
KUBERNETES = ("1.30", "1.34", "1.37")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def a_plan(**changes: Any) -> dict[str, Any]:
    """One task; ``changes`` are those of the plan, and of the task if it has a field of that name."""
    own = {name: changes.pop(name) for name in list(changes) if name in Task.model_fields}
    task = Task(**{"id": "scores", "assets": (Asset(key="ke/1/scores"),), "arguments": ("run", "ke", "1.0.0"), **own})
    partitions = Partitions.model_validate({"every": "day", "timezone": "UTC", "start": "2026-01-01"})
    fields = {"dag_id": "ke-nano-loan_1.0.0", "group": "ke", "partitions": partitions, "scheduled": False}
    document: dict[str, Any] = json.loads(encode(DagPlan(**{**fields, "tasks": (task,), **changes})))
    return document


@pytest.fixture
def pod_of(airflow: Inside, kubernetes: KubernetesRecorder) -> Callable[..., dict[str, Any]]:
    """The pod of a plan: ``pod_of(plan, **options)``; with ``run_type`` of a run of that type."""

    def ask(plan: dict[str, Any], run_type: str = "manual", **options: str) -> dict[str, Any]:
        kubernetes.forget()
        assert airflow("pods.start", plan=plan, options={**OPTIONS, **options}, run_type=run_type) == ""
        (found,) = kubernetes.pods
        return found

    return ask


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("options", [{}, {"env_from_secret": "", "env_from_config_map": ""}])
def test_kubernetes_knows_every_field_of_the_pod(
    pod_of: Callable[..., dict[str, Any]], version: str, options: dict[str, str]
) -> None:
    assert kubernetes_validate.validate(pod_of(a_plan(), **options), version, strict=True) == version


def test_the_schema_would_refuse_a_field_that_kubernetes_does_not_know(pod_of: Callable[..., dict[str, Any]]) -> None:
    pod = pod_of(a_plan())
    pod["spec"]["containers"][0]["securityContext"]["runAsNonroot"] = True

    with pytest.raises(kubernetes_validate.ValidationError, match="runAsNonroot"):
        kubernetes_validate.validate(pod, KUBERNETES[-1], strict=True)


def test_the_pod_is_what_pod_security_calls_restricted(pod_of: Callable[..., dict[str, Any]]) -> None:
    spec = pod_of(a_plan())["spec"]

    assert violations(spec) == []
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["runAsUser"] == spec["securityContext"]["runAsUser"] == 1000
    # Of the pod too, for containers that somebody else puts into it.
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert (spec["automountServiceAccountToken"], spec["serviceAccountName"]) == (False, "scorewatch-stages")


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(hostNetwork=True),
        lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        lambda spec: spec["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True),
        lambda spec: spec["containers"][0]["securityContext"].update(capabilities={"drop": ["NET_RAW"]}),
        lambda spec: spec["containers"][0]["securityContext"].update(runAsUser=0),
        lambda spec: spec["containers"][0]["securityContext"].update(runAsNonRoot=False),
        lambda spec: spec["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        lambda spec: spec["initContainers"].append({"name": "more"}),
    ],
)
def test_what_restricted_forbids_is_seen(
    pod_of: Callable[..., dict[str, Any]], change: Callable[[dict[str, Any]], None]
) -> None:
    spec = copy.deepcopy(pod_of(a_plan())["spec"])
    spec.setdefault("initContainers", [])
    change(spec)

    assert len(violations(spec)) >= 1


def test_the_pod_runs_the_configured_image_with_the_plans_arguments(pod_of: Callable[..., dict[str, Any]]) -> None:
    pod = pod_of(a_plan())
    (container,) = pod["spec"]["containers"]

    assert (pod["metadata"]["namespace"], container["image"]) == ("scoring", OPTIONS["image"])
    assert container["command"] == ["scorewatch"]
    assert container["args"] == ["run", "ke", "1.0.0", "--partition", "2026-01-31"]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["activeDeadlineSeconds"] == 4 * 3600 + 300


def test_why_a_run_is_there_adds_arguments_of_the_plan(pod_of: Callable[..., dict[str, Any]]) -> None:
    pod = pod_of(a_plan(reasons={"backfill": ("--trigger", "backfill")}), run_type="backfill")

    expected = ["run", "ke", "1.0.0", "--partition", "2026-01-31", "--trigger", "backfill"]
    assert pod["spec"]["containers"][0]["args"] == expected


def test_in_a_pod_task_and_trigger_find_the_cluster_that_airflow_runs_in(airflow: Inside) -> None:
    asked = {"plan": a_plan(), "options": OPTIONS, "host": "10.96.0.1"}

    assert airflow("pods.clusters", **asked) == ["https://10.96.0.1:443"] * 3


def test_what_it_writes_it_writes_into_folders_of_its_own(pod_of: Callable[..., dict[str, Any]]) -> None:
    spec = pod_of(a_plan())["spec"]
    (container,) = spec["containers"]
    own = {volume["name"] for volume in spec["volumes"] if volume["emptyDir"] == {}}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    environ = {variable["name"]: variable["value"] for variable in container["env"]}

    assert set(mounts) == {"/tmp", environ["HOME"]}  # noqa: S108 - the pod's own
    assert environ["SCOREWATCH_HOME"] == environ["HOME"]
    assert set(mounts.values()) == own


def test_secrets_are_named_and_never_written_out(pod_of: Callable[..., dict[str, Any]]) -> None:
    (container,) = pod_of(a_plan())["spec"]["containers"]

    assert container["envFrom"] == [
        {"configMapRef": {"name": "scorewatch"}},
        {"secretRef": {"name": "scorewatch-keys"}},
    ]
    assert {variable["name"] for variable in container["env"]} == {"HOME", "SCOREWATCH_HOME", "DAGSTER_HOME"}


@pytest.mark.parametrize(
    ("asked", "options", "cpu", "memory"),
    [
        (Resources(cpu=1.5, memory_mib=3000), {}, "1500m", "3000Mi"),
        (Resources(cpu=4, memory_mib=8192), {}, "4000m", "8192Mi"),
        (Resources(cpu=0.0001, memory_mib=64), {}, "1m", "64Mi"),
        (None, {}, "1000m", "2048Mi"),
        (None, {"max_cpu": "0.5", "max_memory_mib": "1024"}, "500m", "1024Mi"),
    ],
)
def test_a_task_gets_what_its_plan_asks_for_or_a_default(
    pod_of: Callable[..., dict[str, Any]], asked: Resources | None, options: dict[str, str], cpu: str, memory: str
) -> None:
    (container,) = pod_of(a_plan(resources=asked), **options)["spec"]["containers"]

    assert container["resources"] == {
        "requests": {"cpu": cpu, "memory": memory},
        "limits": {"cpu": cpu, "memory": memory},
    }


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Resources(cpu=4.5, memory_mib=64), "asks for 4.5 cores, and at most 4 are allowed.*option max_cpu"),
        (Resources(cpu=1, memory_mib=8193), "asks for 8193 MiB of memory, and at most 8192 .*option max_memory_mib"),
    ],
)
def test_a_plan_that_asks_for_too_much_is_refused(airflow: Inside, asked: Resources, expected: str) -> None:
    refused = airflow("pods.start", plan=a_plan(resources=asked), options=OPTIONS)

    assert re.search(f"The task scores of ke-nano-loan_1.0.0 {expected}", refused)


@pytest.mark.parametrize(
    "hostile",
    [
        {"arguments": ("--image=evil", "--namespace=kube-system", "$(SECRET)", "/etc/shadow.yaml", "pod.json", "}}")},
        {"id": "_" * 199 + "x", "dag_id": "Z" * 200, "group": "g." * 100},
        {"id": "_._", "group": "___"},
        {"description": "automountServiceAccountToken: true", "tags": ("hostNetwork: true",), "owner": "root"},
        {"links": {"image": "https://evil.example/image"}},
        {"pool": "kube-system"},
    ],
)
def test_a_hostile_plan_changes_arguments_names_and_labels_only(
    pod_of: Callable[..., dict[str, Any]], hostile: dict[str, Any]
) -> None:
    expected, found = pod_of(a_plan()), pod_of(a_plan(**hostile))
    arguments = found["spec"]["containers"][0].pop("args")
    expected["spec"]["containers"][0].pop("args")
    labels = found["metadata"]["labels"]

    assert found["spec"] == expected["spec"]
    assert (found["metadata"]["namespace"], found["metadata"].get("annotations")) == ("scoring", {})
    assert set(labels) == set(expected["metadata"]["labels"])
    assert arguments == [*hostile.get("arguments", ("run", "ke", "1.0.0")), "--partition", "2026-01-31"]
    assert NAME.fullmatch(found["metadata"]["name"])
    own = {name: label for name, label in labels.items() if name.startswith("app.kubernetes.io/")}
    assert len(own) == 3
    assert [label for label in own.values() if not label or not LABEL.fullmatch(label)] == []


def test_a_pod_outlives_the_worker_and_is_watched_by_the_triggerer(airflow: Inside) -> None:
    expected = {
        "durable": True,
        "deferrable": True,
        "random_name_suffix": True,
        "on_finish_action": "delete_pod",
        "poll_interval": 15,
        "logging_interval": 60,
        "startup_timeout_seconds": 600,
        "log_events_on_startup": False,
        "log_pod_spec_on_failure": False,
        "do_xcom_push": False,
        "retries": 3,
    }

    assert airflow("pods.options_of_the_operator", plan=a_plan(), options=OPTIONS, names=list(expected)) == expected


def ended(exit_code: int, container: str = "base") -> dict[str, Any]:
    """The status of a pod of which a container ended so."""
    status = {"name": container, "ready": False, "restartCount": 0, "image": "i", "imageID": "i"}
    state = {"terminated": {"exitCode": exit_code, "reason": "Completed"}}
    phase = "Failed" if exit_code else "Succeeded"
    if container == "base":
        return {"phase": phase, "containerStatuses": [{**status, "state": state}]}
    waiting = {**status, "name": "base", "state": {"waiting": {"reason": "PodInitializing"}}}
    return {
        "phase": phase,
        "initContainerStatuses": [{**status, "state": state}],
        "containerStatuses": [waiting],
    }


@pytest.mark.parametrize(
    ("status", "raised", "message"),
    [
        (ended(0), None, ""),
        (ended(2), "AirflowFailException", "exit code 2: its input is wrong"),
        (ended(3), "AirflowFailException", "exit code 3: a blocking check failed"),
        (ended(75), "AirflowException", "exit code 75: a store"),
        (ended(137), "AirflowException", "exit code 137: it was killed, perhaps because it used more memory"),
        (ended(2, "prepare"), "AirflowFailException", "exit code 2: its input is wrong"),
        (ended(75, "prepare"), "AirflowException", "exit code 75: a store"),
        (
            ended(1, "model"),
            "AirflowException",
            "The model's own image ended with exit code 1; the log of the container",
        ),
        ({"phase": "Failed", "reason": "Evicted"}, "AirflowException", "returned a failure"),
    ],
)
def test_the_end_of_the_pod_says_whether_another_try_may_help(
    airflow: Inside, kubernetes: KubernetesRecorder, status: dict[str, Any], raised: str | None, message: str
) -> None:
    kubernetes.pod_status = status
    found = airflow("pods.run", plan=a_plan(), options=OPTIONS)

    assert found["raised"] == raised
    assert message in found["message"]
    assert "scorewatch-keys" not in found["message"]
    assert [call.verb for call in kubernetes.calls].count("create") == 1
    last = kubernetes.calls[-1]
    assert (last.verb, last.resource) == ("delete", "pods")
    assert last.name.startswith("scorewatch-scores-")


def test_airflow_may_do_what_it_does_and_nothing_else(airflow: Inside, kubernetes: KubernetesRecorder) -> None:
    for status in (ended(0), ended(3), ended(1, "model")):
        kubernetes.pod_status = status
        airflow("pods.run", plan=a_plan(), options=OPTIONS)

    of_pods = {(verb, "", "pods") for verb in ("create", "delete", "get", "list", "patch")}
    assert kubernetes.rights == {*of_pods, ("get", "", "pods/log")} == allowed()


def allowed() -> set[tuple[str, str, str]]:
    """What the Role of Airflow's account allows in the manifests: verb, API group, resource."""
    role, _ = yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_a_second_try_finds_the_pod_of_the_first_one(airflow: Inside, kubernetes: KubernetesRecorder) -> None:
    kubernetes.pod_status = {"phase": "Running"}
    for number in (1, 2):
        assert airflow("pods.start", plan=a_plan(), options=OPTIONS, try_number=number) == ""

    assert len(kubernetes.pods) == 1


def test_a_run_of_no_partition_starts_no_pod(airflow: Inside, kubernetes: KubernetesRecorder) -> None:
    found = airflow("pods.run", plan=a_plan(), options=OPTIONS, partition=None)

    assert found["raised"] == "AirflowFailException"
    assert "no partition key" in found["message"]
    assert kubernetes.calls == []
