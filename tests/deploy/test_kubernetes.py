"""deploy/kubernetes: what the API server takes, and objects that fit each other and the code."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib.metadata import entry_points
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from resources.object_store import s3
from resources.settings import KNOWN_NAMES
from tests.deploy.manifests import OURS, REPOSITORY, STAND_INS, Cluster

KUBERNETES = ("1.30", "1.34", "1.36", "1.37")
SECRETS_OF_THE_DEPLOYER = {"scorewatch-postgres", "scorewatch-keys"}
SERVING = {"control": 4270, "models": 4271, "webserver": 3000}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(cluster: Cluster, version: str) -> None:
    for each in cluster.objects:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schema_would_refuse_a_field_that_kubernetes_does_not_know(cluster: Cluster) -> None:
    daemon = yaml.safe_load(yaml.safe_dump(cluster.one("Deployment", "scorewatch-daemon")))
    daemon["spec"]["template"]["spec"]["enableServiceLink"] = False

    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        kubernetes_validate.validate(daemon, KUBERNETES[-1], strict=True)


def test_everything_is_in_one_namespace_and_no_name_is_there_twice(cluster: Cluster) -> None:
    found = [(each["kind"], each["metadata"]["name"]) for each in cluster.objects]

    assert len(found) == len(set(found))
    assert ("Namespace", "scorewatch") in found
    assert {each["metadata"].get("namespace") for each in cluster.objects if each["kind"] != "Namespace"} == {
        "scorewatch"
    }


def test_images_are_pinned_and_runs_have_the_daemons(cluster: Cluster) -> None:
    images = {container["image"] for _, container, _ in cluster.containers()}
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    pinned = {
        "kind": rf"({OURS}|{STAND_INS}):{re.escape(version)}",
        "eks": rf"[a-z0-9./-]+/{OURS}@sha256:[0-9a-f]{{64}}",
    }
    [daemon] = cluster.our_templates()["scorewatch-daemon"]["spec"]["containers"]

    assert [each for each in images if not re.fullmatch(pinned[cluster.overlay], each)] == []
    assert cluster.settings()["SCOREWATCH_IMAGE"] == daemon["image"]


def test_what_is_referred_to_by_name_exists_or_is_documented(cluster: Cluster) -> None:
    readme = (REPOSITORY / "deploy" / "kubernetes" / "README.md").read_text()
    secrets = set(cluster.of_kind("Secret")) | SECRETS_OF_THE_DEPLOYER
    claims = {
        f"{name}/{claim['metadata']['name']}"
        for name, each in cluster.of_kind("StatefulSet").items()
        for claim in each["spec"].get("volumeClaimTemplates", [])
    }

    for name, template in cluster.templates().items():
        maps, named_secrets = _references(template["spec"])
        assert maps <= set(cluster.of_kind("ConfigMap")), name
        assert named_secrets <= secrets, name
        if account := template["spec"].get("serviceAccountName"):
            assert account in cluster.of_kind("ServiceAccount")
    for name, container, spec in cluster.containers():
        volumes = {each["name"] for each in spec["volumes"]} | {
            claim.partition("/")[2] for claim in claims if name.startswith(claim.partition("/")[0])
        }
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
    for each in cluster.of_kind("RoleBinding").values():
        assert each["roleRef"]["name"] in cluster.of_kind("Role")
        assert {subject["name"] for subject in each["subjects"]} <= set(cluster.of_kind("ServiceAccount"))
    assert all(secret in readme for secret in SECRETS_OF_THE_DEPLOYER)


def _references(spec: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Config maps and secrets that a pod names."""
    maps, secrets = set[str](), set[str]()
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        sources = [*container.get("envFrom", []), *(each.get("valueFrom", {}) for each in container.get("env", []))]
        for source in sources:
            for key, found in (("configMap", maps), ("secret", secrets)):
                found |= {source[end]["name"] for end in (f"{key}Ref", f"{key}KeyRef") if end in source}
    for volume in spec.get("volumes", []):
        maps |= {volume["configMap"]["name"]} if "configMap" in volume else set()
        secrets |= {volume["secret"]["secretName"]} if "secret" in volume else set()
    return maps, secrets


def test_selectors_are_of_the_pods_that_they_mean_and_of_no_others(cluster: Cluster) -> None:
    labels = {name: each["metadata"]["labels"] for name, each in cluster.templates().items()}
    selecting = {("Service", name): each["spec"]["selector"] for name, each in cluster.of_kind("Service").items()} | {
        (kind, name): each["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget")
        for name, each in cluster.of_kind(kind).items()
    }

    for (kind, name), selector in selecting.items():
        assert [each for each, own in labels.items() if selector.items() <= own.items()] == [name], kind


@pytest.mark.parametrize(("component", "port"), SERVING.items())
def test_a_service_leads_to_the_port_that_its_pods_listen_on(cluster: Cluster, component: str, port: int) -> None:
    service = cluster.one("Service", f"scorewatch-{component}")
    [container] = cluster.our_templates()[f"scorewatch-{component}"]["spec"]["containers"]
    [listed] = container["ports"]
    [wanted] = service["spec"]["ports"]

    assert (wanted["port"], wanted["targetPort"]) == (port, listed["name"])
    assert listed["containerPort"] == port
    assert container["args"][container["args"].index("--port") + 1] == str(port)


def test_every_command_exists_and_takes_its_arguments(cluster: Cluster) -> None:
    for name, container, _ in cluster.containers():
        command, *words = [*container["command"], *container.get("args", [])]
        if container["image"].partition("@")[0].partition(":")[0].endswith(STAND_INS):
            assert f"/usr/local/bin/{command}" in (REPOSITORY / "deploy/docker/stand-ins/Dockerfile").read_text()
            continue
        answer = CliRunner().invoke(_click_command(command), [*words, "--help"], obj={})
        assert answer.exit_code == 0, f"{name}: {answer.output}"
        assert "Usage" in answer.output


def test_a_command_that_does_not_exist_would_be_seen() -> None:
    for command, words in (("scorewatch", ["publish", "--twice"]), ("dagster-daemon", ["run", "--workspce", "x"])):
        assert CliRunner().invoke(_click_command(command), [*words, "--help"], obj={}).exit_code == 2


def _click_command(command: str) -> Any:
    """The click command behind a console script."""
    [script] = entry_points(group="console_scripts", name=command)
    return importlib.import_module(script.module).cli


def test_settings_know_every_variable_of_ours(cluster: Cluster) -> None:
    names = set(cluster.settings())
    for _, container, _ in cluster.containers():
        names |= {each["name"] for each in container.get("env", [])}

    assert {name for name in names if name.startswith("SCOREWATCH_")} <= set(KNOWN_NAMES)


def test_s3_is_reached_in_the_region_that_the_overlay_names(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", cluster.settings()["AWS_REGION"])
    s3._client.cache_clear()
    try:
        assert s3.s3_client(None).meta.region_name == {"eks": "eu-west-1", "kind": "us-east-1"}[cluster.overlay]
    finally:
        s3._client.cache_clear()


def test_the_database_and_the_keys_are_given_to_those_only_who_need_them(cluster: Cluster) -> None:
    for name, container, _ in cluster.containers():
        if not name.startswith("scorewatch-"):
            continue
        variables = {each["name"] for each in container["env"]}
        keys = [each for each in container["envFrom"] if each.get("secretRef", {}).get("name") == "scorewatch-keys"]
        alerting = name.removeprefix("scorewatch-") in (
            "control/control",
            "models/models",
            "publisher/publisher",
            "by-hand/by-hand",
        )
        assert ("SCOREWATCH_POSTGRES_URL" in variables) == ("publisher" not in name), name
        assert [each["secretRef"]["optional"] for each in keys] == ([True] if alerting else []), name


def test_nothing_starts_before_the_schema_is_there(cluster: Cluster) -> None:
    for name in ("control", "models", "webserver", "daemon"):
        spec = cluster.our_templates()[f"scorewatch-{name}"]["spec"]
        assert [each["command"] for each in spec["initContainers"]] == [["scorewatch", "storage", "wait"]], name


def test_the_job_can_be_applied_again_once_it_is_gone_and_does_not_repeat_what_cannot_help(cluster: Cluster) -> None:
    job = cluster.one("Job", "scorewatch-migrate")["spec"]

    assert job["ttlSecondsAfterFinished"] <= 3600
    assert job["template"]["spec"]["restartPolicy"] == "Never", "a podFailurePolicy needs it"
    [rule] = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]) == ("FailJob", {"operator": "In", "values": [2]})


def test_the_publisher_is_never_there_twice_and_ends(cluster: Cluster) -> None:
    cron = cluster.one("CronJob", "scorewatch-publisher")["spec"]

    assert (cron["schedule"], cron["concurrencyPolicy"]) == ("*/5 * * * *", "Forbid")
    assert 10 <= cron["startingDeadlineSeconds"] < 300, "below ten the controller may miss every one"
    assert cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= 600
