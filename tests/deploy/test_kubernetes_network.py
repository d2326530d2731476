"""deploy/kubernetes: who may talk to whom, worked out from the policies as Kubernetes defines them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.deploy.manifests import Cluster

STAGE = {"app.kubernetes.io/name": "scorewatch", "app.kubernetes.io/component": "stage"}
"""Of the pods that Dagster's launcher and Airflow start."""
PORTS = (53, 80, 443, 3000, 4270, 4271, 5000, 5432, 6443, 8080, 8443, 16443)
APIS = {6443, 8443, 16443}
"""Where the API of a cluster on one machine listens: that of kind, k3s and most others; minikube's; MicroK8s's."""
OUTSIDE = None
"""Anybody who is not in the namespace, at any address."""
INGRESS = "ingress"
"""The namespace of the proxy in front of Dagit, on EKS."""
ANYWHERE, METADATA = "203.0.113.7", "169.254.169.254"
POD_IDENTITY = ("169.254.170.23", "fd00:ec2::23")
"""Where the agent of EKS Pod Identity listens on each node, on port 80."""


class Traffic:
    """Kubernetes' rules: a pod that no policy selects is open; otherwise what any of its policies lets through."""

    def __init__(self, cluster: Cluster) -> None:
        self._policies = [each["spec"] for each in cluster.of_kind("NetworkPolicy").values()]
        self.pods = {
            name.removeprefix("scorewatch-"): each["metadata"]["labels"] for name, each in cluster.templates().items()
        } | {"stage": STAGE}

    def open(
        self, source: str | None, target: str | None, port: int, namespace: str = "elsewhere", address: str = ANYWHERE
    ) -> bool:
        """Whether a connection comes about; whoever is outside is in ``namespace`` and has the ``address``."""
        leaves = source is OUTSIDE or self._lets(source, "Egress", target, port, (namespace, address))
        enters = target is OUTSIDE or self._lets(target, "Ingress", source, port, (namespace, address))
        return leaves and enters

    def _lets(self, pod: str, way: str, other: str | None, port: int, outside: tuple[str, str]) -> bool:
        mine = [
            each
            for each in self._policies
            if way in each["policyTypes"] and _selects(each["podSelector"], self.pods[pod])
        ]
        rules = [rule for each in mine for rule in each.get(way.lower(), [])]
        peers = "to" if way == "Egress" else "from"
        return not mine or any(
            _has(rule["ports"], port)
            and (peers not in rule or any(self._is(peer, other, *outside) for peer in rule[peers]))
            for rule in rules
        )

    def _is(self, peer: dict[str, Any], other: str | None, namespace: str, address: str) -> bool:
        assert peer.keys() <= {"podSelector", "namespaceSelector", "ipBlock"}, "this evaluator knows no other"
        if "ipBlock" in peer:
            assert peer["ipBlock"].keys() == {"cidr"}, "this evaluator knows no exceptions"
            # Where pods are is nobody's to know: ours name places outside.
            return other is OUTSIDE and ip_address(address) in ip_network(peer["ipBlock"]["cidr"])
        if "namespaceSelector" in peer:
            assert "podSelector" not in peer, "this evaluator knows no pods of other namespaces"
            name = namespace if other is OUTSIDE else "scorewatch"
            return _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": name})
        return other is not OUTSIDE and _selects(peer["podSelector"], self.pods[other])


def _has(ports: list[dict[str, Any]], port: int) -> bool:
    assert all("endPort" not in each for each in ports), "this evaluator knows no ranges"
    return any(each["port"] == port and each["protocol"] in ("TCP", "UDP") for each in ports)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions), "this evaluator knows no other operator"
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


@pytest.fixture
def traffic(cluster: Cluster) -> Traffic:
    return Traffic(cluster)


def test_within_the_namespace_exactly_these_talk_to_each_other(cluster: Cluster, traffic: Traffic) -> None:
    expected = {
        ("webserver", "control", 4270),
        ("daemon", "control", 4270),
        ("webserver", "models", 4271),
        ("daemon", "models", 4271),
        ("control", "models", 4271),
    }
    if cluster.overlay == "kind":
        ours = traffic.pods.keys() - {"postgres", "s3"}
        expected |= {(each, "postgres", 5432) for each in ours} | {(each, "s3", 5000) for each in ours}

    found = {
        (source, target, port)
        for source in traffic.pods
        for target in traffic.pods
        for port in PORTS
        if source != target and traffic.open(source, target, port)
    }
    assert found == expected


def test_out_of_it_everything_reaches_names_the_database_and_https(cluster: Cluster, traffic: Traffic) -> None:
    for pod in traffic.pods:
        allowed = {port for port in PORTS if traffic.open(pod, OUTSIDE, port)}
        calls_it = cluster.overlay == "kind" and pod in ("webserver", "daemon", "control")
        assert allowed == {53, 443, 5432} | (APIS if calls_it else set()), pod


def test_on_eks_our_pods_are_given_their_role_by_pod_identity_too_and_never_the_nodes_own(
    cluster: Cluster, traffic: Traffic
) -> None:
    for pod in traffic.pods:
        for address in POD_IDENTITY:
            reached = {port for port in PORTS if traffic.open(pod, OUTSIDE, port, address=address)}
            assert (80 in reached) == (cluster.overlay == "eks"), pod
        assert not traffic.open(pod, OUTSIDE, 80, address=METADATA), pod


def test_from_outside_nothing_is_reached_but_dagit_by_its_proxy(cluster: Cluster, traffic: Traffic) -> None:
    def reached(namespace: str) -> set[tuple[str, int]]:
        return {(pod, port) for pod in traffic.pods for port in PORTS if traffic.open(OUTSIDE, pod, port, namespace)}

    assert reached("elsewhere") == set()
    assert reached(INGRESS) == ({("webserver", 3000)} if cluster.overlay == "eks" else set())


def test_a_pod_that_nobody_knows_reaches_nothing_of_ours(traffic: Traffic) -> None:
    traffic.pods["stranger"] = {"app.kubernetes.io/name": "stranger"}

    assert not any(traffic.open("stranger", pod, port) for pod in traffic.pods for port in PORTS)
    assert not any(traffic.open(pod, "stranger", port) for pod in traffic.pods for port in PORTS)
