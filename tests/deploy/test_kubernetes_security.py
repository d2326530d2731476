"""deploy/kubernetes: what Pod Security's profile `restricted` wants, and what keeps a pod up and within its bounds."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.manifests import Cluster

SECONDS_OF_A_CALL = 60
"""A code server that is stopped lets the calls under way go on for so long (Dagster 1.13)."""
API = {"scorewatch-daemon", "scorewatch-webserver", "scorewatch-control"}
"""Accounts whose processes call the cluster's API."""


def test_the_namespace_lets_restricted_pods_in_only(cluster: Cluster) -> None:
    labels = cluster.one("Namespace", "scorewatch")["metadata"]["labels"]

    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert re.fullmatch(r"v1\.\d+", labels["pod-security.kubernetes.io/enforce-version"])


def test_every_pod_is_restricted(cluster: Cluster) -> None:
    for name, template in cluster.templates().items():
        assert violations(template["spec"]) == [], name


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda spec: spec.update(hostPID=True), "hostPID"),
        (lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}), "volume host"),
        (lambda spec: spec["securityContext"].pop("seccompProfile"), "seccompProfile"),
        (lambda spec: spec["securityContext"].update(runAsUser=0), "runAsUser"),
        (lambda spec: spec["securityContext"].pop("runAsGroup"), "runAsGroup"),
        (lambda spec: spec.pop("enableServiceLinks"), "enableServiceLinks"),
        (lambda spec: spec["initContainers"][0]["securityContext"].pop("capabilities"), "schema: capabilities"),
        (lambda spec: spec["initContainers"][0].pop("resources"), "schema: limits"),
        (
            lambda spec: spec["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
            "daemon: readOnlyRootFilesystem",
        ),
        (
            lambda spec: spec["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True),
            "daemon: allowPrivilegeEscalation",
        ),
        (lambda spec: spec["containers"][0]["securityContext"].update(privileged=True), "daemon: privileged"),
        (lambda spec: spec["containers"][0].update(image="scorewatch/monitoring:latest"), "daemon: image"),
        (lambda spec: spec["containers"][0]["resources"]["limits"].pop("memory"), "daemon: limits"),
        (lambda spec: spec["volumes"][0]["emptyDir"].pop("sizeLimit"), "sizeLimit of home"),
    ],
)
def test_what_is_not_is_seen(cluster: Cluster, change: Callable[[dict[str, Any]], None], found: str) -> None:
    spec = copy.deepcopy(cluster.templates()["scorewatch-daemon"]["spec"])
    change(spec)

    assert violations(spec) == [found]


def violations(spec: dict[str, Any]) -> list[str]:
    """What a pod does not keep of Pod Security's profile `restricted`, and of what we want beyond it."""
    own = spec["securityContext"]
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    found += [name for name in ("sysctls", "seLinuxOptions", "appArmorProfile", "windowsOptions") if name in own]
    kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret", "downwardAPI"}
    for volume in spec.get("volumes", []):
        found += [] if set(volume) - {"name"} <= kinds else [f"volume {volume['name']}"]
        found += [f"sizeLimit of {volume['name']}"] if volume.get("emptyDir", {"sizeLimit": 1}) == {} else []
    kept = {
        "runAsNonRoot": own.get("runAsNonRoot") is True,
        "runAsUser": own.get("runAsUser") == 1000,
        "runAsGroup": own.get("runAsGroup") == 1000,
        "fsGroup": own.get("fsGroup") == 1000,
        "seccompProfile": own.get("seccompProfile") == {"type": "RuntimeDefault"},
        "enableServiceLinks": spec.get("enableServiceLinks") is False,
        "automountServiceAccountToken": "automountServiceAccountToken" in spec,
    }
    found += [name for name, holds in kept.items() if not holds]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        found += [f"{container['name']}: {each}" for each in _violations_of(container)]
    return found


def _violations_of(container: dict[str, Any]) -> list[str]:
    own, resources = container["securityContext"], container.get("resources", {})
    kept = {
        "privileged": not own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
        "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "runAsNonRoot": own.get("runAsNonRoot") is True,
        "overrides": not own.keys() & {"runAsUser", "seccompProfile", "procMount", "seLinuxOptions"},
        "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
        "image": ":latest" not in container["image"] and re.search(r"(:|@sha256:)[0-9a-f.]+$", container["image"]),
        "limits": resources.get("limits", {}).keys() == {"cpu", "memory"},
        "requests": resources.get("requests", {}).keys() >= {"cpu", "memory"} or "limits" not in resources,
        "home and /tmp": {"/tmp"} <= {each["mountPath"] for each in container["volumeMounts"]},  # noqa: S108
    }
    return [name for name, holds in kept.items() if not holds]


def test_nobody_asks_for_more_than_its_limit(cluster: Cluster) -> None:
    for name, container, _ in cluster.containers():
        for kind in ("cpu", "memory"):
            asked, limit = (_amount(container["resources"][each][kind]) for each in ("requests", "limits"))
            assert asked <= limit, name


def _amount(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def test_a_token_of_the_cluster_is_mounted_where_its_api_is_called_and_nowhere_else(cluster: Cluster) -> None:
    mounted = {name for name, each in cluster.templates().items() if each["spec"]["automountServiceAccountToken"]}

    assert mounted == API
    assert {each["automountServiceAccountToken"] for each in cluster.of_kind("ServiceAccount").values()} == {False}
    bound = {subject["name"] for each in cluster.of_kind("RoleBinding").values() for subject in each["subjects"]}
    assert bound == API
    assert not cluster.of_kind("ClusterRole", "ClusterRoleBinding")


def test_no_role_may_read_secrets_or_get_into_a_pod(cluster: Cluster) -> None:
    for name, role in cluster.of_kind("Role").items():
        for rule in role["rules"]:
            assert set(rule["resources"]) <= {"jobs", "jobs/status", "pods", "events"}, name
            assert "*" not in [*rule["verbs"], *rule["apiGroups"], *rule["resources"]], name


def test_on_eks_each_account_has_a_role_of_its_name_but_the_one_that_needs_none(cluster: Cluster) -> None:
    if cluster.overlay != "eks":
        assert not any("annotations" in each["metadata"] for each in cluster.of_kind("ServiceAccount").values())
        return
    roles = {
        name: each["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn")
        for name, each in cluster.of_kind("ServiceAccount").items()
    }
    without = {"scorewatch-migrate"}

    assert {name for name, role in roles.items() if role is None} == without
    for name in roles.keys() - without:
        assert re.fullmatch(rf"arn:aws:iam::\d{{12}}:role/{name}", roles[name]), name


def test_dagster_home_can_be_written_to_and_its_configuration_is_the_config_maps(cluster: Cluster) -> None:
    for name, container, _ in cluster.containers():
        environ = {each["name"]: each.get("value") for each in container.get("env", [])}
        home = environ.get("DAGSTER_HOME")
        if home is None:
            continue
        mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
        assert mounts[home] == {"name": "home", "mountPath": home, "subPath": "dagster"}, name
        assert mounts[f"{home}/dagster.yaml"]["subPath"] == "dagster.yaml", name
        assert environ["SCOREWATCH_HOME"] in mounts, name


def test_everything_that_goes_on_has_a_budget_that_lets_a_node_be_drained(cluster: Cluster) -> None:
    budgets = {name: each["spec"]["maxUnavailable"] for name, each in cluster.of_kind("PodDisruptionBudget").items()}

    assert budgets == {f"scorewatch-{each}": 1 for each in ("control", "models", "webserver", "daemon")}


def test_there_are_never_two_of_what_must_be_one(cluster: Cluster) -> None:
    for name in ("scorewatch-control", "scorewatch-daemon"):
        spec = cluster.one("Deployment", name)["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"}), name


def test_whatever_serves_is_asked_how_it_is(cluster: Cluster) -> None:
    for name, each in cluster.of_kind("Deployment", "StatefulSet").items():
        [container] = each["spec"]["template"]["spec"]["containers"]
        assert "livenessProbe" in container, name
        if "ports" not in container:
            continue
        ports = {port["containerPort"] for port in container["ports"]} | {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]
            asked = {next(iter(probe.get(way, {}).values())) for way in ("tcpSocket", "grpc") if way in probe}
            asked |= {probe["httpGet"]["port"]} if "httpGet" in probe else set()
            assert asked <= ports, (name, kind)


def test_code_servers_have_the_time_to_end_what_is_under_way(cluster: Cluster) -> None:
    for name in ("scorewatch-control", "scorewatch-models"):
        assert cluster.our_templates()[name]["spec"]["terminationGracePeriodSeconds"] > SECONDS_OF_A_CALL


def test_what_serves_is_spread_over_nodes_and_on_eks_over_zones(cluster: Cluster) -> None:
    expected = {"kubernetes.io/hostname"} | ({"topology.kubernetes.io/zone"} if cluster.overlay == "eks" else set())
    for name in ("control", "models", "webserver", "daemon"):
        constraints = cluster.our_templates()[f"scorewatch-{name}"]["spec"]["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in constraints} == expected
        # A cluster of one node has to be good enough.
        assert {each["whenUnsatisfiable"] for each in constraints} == {"ScheduleAnyway"}
