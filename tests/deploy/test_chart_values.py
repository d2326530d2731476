"""deploy/dagster: values of Dagster's chart that say what deploy/kubernetes says, and what is applied beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster._cli import create_dagster_cli
from dagster._config import process_config, validate_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_postgres.utils import get_conn_string

from monitoring_assets.pods import PodRunLauncher
from monitoring_assets.sensors.reloading import Servers, location
from resources.settings import KNOWN_NAMES, Settings
from tests.deploy.dagster_chart import COMPONENT, INSTANCE, RELEASE, WORKSPACE, Chart
from tests.deploy.iam_policies import Policies
from tests.deploy.manifests import FOLDER, REPOSITORY, Cluster, built, cluster
from tests.deploy.test_kubernetes_network import PORTS, Traffic
from tests.recorders.pod_security import violations

HERE = REPOSITORY / "deploy" / "dagster"
README = (HERE / "README.md").read_text(encoding="utf-8")
KUBERNETES = ("1.30", "1.37")
PARTS = ("control", "models-0", "models-1", "models-2", "webserver", "daemon")
SERVERS = PARTS[:4]


@pytest.fixture(scope="module")
def chart() -> Chart:
    return Chart(HERE / "values.yaml")


@pytest.fixture(scope="module")
def eks() -> Cluster:
    """The same by Kustomize alone."""
    return cluster("eks")


@pytest.fixture(scope="module")
def beside() -> Cluster:
    """What is applied beside the chart."""
    return Cluster("eks", built(HERE))


def counterpart(eks: Cluster, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Spec and container of a pod by Kustomize."""
    spec = eks.our_templates()[f"scorewatch-{part.partition('-')[0]}"]["spec"]
    return spec, spec["containers"][0]


def test_the_chart_makes_the_same_pods(chart: Chart, eks: Cluster) -> None:
    shards = int(eks.settings()["SCOREWATCH_SHARDS"])

    assert tuple(chart.templates()) == PARTS
    assert {*SERVERS} == {"control", *(location(number, shards) for number in range(shards))}


@pytest.mark.parametrize("part", PARTS)
def test_a_pod_has_the_same_image_bounds_and_security(chart: Chart, eks: Cluster, part: str) -> None:
    spec, expected = counterpart(eks, part)
    made = chart.templates()[part]["spec"]
    [container] = made["containers"]

    assert container["image"] == expected["image"] == eks.settings()["SCOREWATCH_IMAGE"]
    assert {name: container[name] for name in ("resources", "securityContext")} == {
        name: expected[name] for name in ("resources", "securityContext")
    }
    assert made["securityContext"] == spec["securityContext"]
    assert violations(made) == []


@pytest.mark.parametrize("part", PARTS)
def test_nothing_starts_before_the_schema_is_there(chart: Chart, eks: Cluster, part: str) -> None:
    [expected] = counterpart(eks, part)[0]["initContainers"]
    first = chart.templates()[part]["spec"]["initContainers"][0]
    # What it does needs no dagster.yaml, which would name another database than it is to look at.
    mounts = [each for each in expected["volumeMounts"] if each["name"] != "dagster"]

    assert first == {**expected, "volumeMounts": mounts}


@pytest.mark.parametrize("part", PARTS)
def test_a_pod_has_the_same_folders_and_dagster_home(chart: Chart, eks: Cluster, part: str) -> None:
    spec, expected = counterpart(eks, part)
    made = chart.templates()[part]["spec"]
    mounts = {each["mountPath"]: each for each in made["containers"][0]["volumeMounts"]}
    home = chart.values["global"]["dagsterHome"]

    assert {name: each["value"] for each in expected["env"] if (name := each["name"]) == "DAGSTER_HOME"} == {
        "DAGSTER_HOME": home
    }
    assert mounts[home] == {"name": "home", "mountPath": home, "subPath": "dagster"}
    assert mounts[f"{home}/dagster.yaml"]["subPath"] == "dagster.yaml"
    folders = [each for each in spec["volumes"] if "emptyDir" in each]
    assert [each for each in made["volumes"] if "emptyDir" in each] == folders
    names = {each["name"]: each.get("configMap", {}).get("name") for each in made["volumes"]}
    assert names[mounts[f"{home}/dagster.yaml"]["name"]] == INSTANCE


@pytest.mark.parametrize("part", PARTS)
def test_a_pod_has_the_same_environment_but_for_the_databases_address(chart: Chart, eks: Cluster, part: str) -> None:
    _, expected = counterpart(eks, part)
    [made] = chart.templates()[part]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in made["env"]}
    wanted = {each["name"] for each in expected["env"]} - {"DAGSTER_HOME", "SCOREWATCH_POSTGRES_URL"}

    assert set(variables) - {"DAGSTER_PG_PASSWORD", "DAGSTER_CURRENT_IMAGE"} == wanted
    assert variables["SCOREWATCH_HOME"] == "/home/scorewatch"
    assert {name for name in variables if name.startswith("SCOREWATCH_")} <= set(KNOWN_NAMES)
    of_the_chart = [each for each in made["envFrom"] if next(iter(each.values()))["name"].startswith(f"{RELEASE}-")]
    assert [each for each in made["envFrom"] if each not in of_the_chart] == expected["envFrom"]
    if part.startswith("models"):
        assert part == f"models-{variables['SCOREWATCH_SHARD']}"


@pytest.mark.parametrize("part", SERVERS)
def test_a_code_server_is_one_that_can_reload_with_the_same_arguments(chart: Chart, eks: Cluster, part: str) -> None:
    _, expected = counterpart(eks, part)
    [made] = chart.templates()[part]["spec"]["containers"]

    assert made["args"][:3] == expected["command"] == ["dagster", "code-server", "start"]
    # What a location is called is what the workspace calls it, and that is the chart's name of the server.
    assert parsed(made["args"][3:]) == {**parsed(expected["args"]), "location_name": part}
    assert chart.servers[part]["includeConfigInLaunchedRuns"] == {"enabled": False}
    assert chart.servers[part]["deploymentStrategy"] == {"type": "Recreate"}


def parsed(words: list[str]) -> dict[str, Any]:
    command = create_dagster_cli().commands["code-server"].commands["start"]
    return command.make_context("start", list(words)).params


def test_a_probe_asks_the_same(chart: Chart, eks: Cluster) -> None:
    made = {part: each["spec"]["containers"][0] for part, each in chart.templates().items()}
    for part in PARTS:
        _, expected = counterpart(eks, part)
        assert made[part]["livenessProbe"] == with_its_port(expected["livenessProbe"]), part
    for kind in ("startupProbe", "readinessProbe"):
        assert made["webserver"][kind] == with_its_port(counterpart(eks, "webserver")[1][kind])
    # Where the chart has but its own command: as long as Kustomize's waits.
    for part in SERVERS:
        expected = counterpart(eks, part)[1]["startupProbe"]
        assert longest(made[part]["startupProbe"]) == longest(expected) > 0


def longest(probe: dict[str, Any]) -> int:
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def with_its_port(probe: dict[str, Any]) -> dict[str, Any]:
    return {**probe, "httpGet": {**probe["httpGet"], "port": 3000}} if "httpGet" in probe else probe


def test_dagsters_instance_is_the_same_but_for_the_database(chart: Chart) -> None:
    base = yaml.safe_load((FOLDER / "base" / "dagster.yaml").read_text(encoding="utf-8"))
    made = chart.instance()
    assert validate_config(dagster_instance_config_schema(), made).success

    assert made["run_launcher"]["config"].pop("instance_config_map") == INSTANCE
    # The chart has another place for it, and Dagster the same meaning.
    queued = made["run_coordinator"]["config"].pop("max_concurrent_runs")
    assert base.pop("concurrency") == {"runs": {"max_concurrent_runs": queued}}
    assert base.pop("storage").keys() == {"postgres"}
    assert made == base


def test_the_launcher_knows_its_configuration(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> None:
    own = chart.values["runLauncher"]["config"]["customRunLauncher"]["config"]
    for name in (each["env"] for each in own.values() if isinstance(each, dict)):
        monkeypatch.setenv(name, "4")
        assert name in KNOWN_NAMES

    assert process_config(PodRunLauncher.config_type(), own).success
    assert not process_config(PodRunLauncher.config_type(), {**own, "image": "x"}).success
    found = process_config(PodRunLauncher.config_type(), own).value
    assert found["job_namespace"] is None, "that of its own pod"
    assert {*found["env_secrets"], *found["env_config_maps"]} == {
        "scorewatch",
        chart.values["global"]["postgresqlSecretName"],
    }


def test_the_database_is_one_that_scorewatch_takes_too(chart: Chart, tmp_path: Path) -> None:
    url = get_conn_string(password="it's", **chart.database())

    assert Settings.from_environment({"SCOREWATCH_POSTGRES_URL": url}, tmp_path).postgres_url
    assert chart.values["postgresql"]["enabled"] is False
    assert chart.values["generatePostgresqlPasswordSecret"] is False


def test_control_finds_every_code_server_in_the_charts_workspace(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "workspace.yaml"
    file.write_text(yaml.safe_dump(chart.workspace()), encoding="utf-8")
    control = chart.templates()["control"]["spec"]
    [variable] = [each for each in control["containers"][0]["env"] if each["name"] == "SCOREWATCH_WORKSPACE"]
    mounts = {each["name"]: each["mountPath"] for each in control["containers"][0]["volumeMounts"]}

    assert set(Servers(file)._entries()) == set(SERVERS)
    assert variable["value"] == f"{mounts['workspace']}/workspace.yaml"
    assert {"name": "workspace", "configMap": {"name": WORKSPACE}} in control["volumes"]


def test_beside_the_chart_is_all_that_it_does_not_make(eks: Cluster, beside: Cluster) -> None:
    def listed(found: Cluster) -> set[tuple[str, str]]:
        return {(each["kind"], re.sub(r"-[a-z0-9]{10}$", "", each["metadata"]["name"])) for each in found.objects}

    missing = listed(eks) - listed(beside)
    assert listed(beside) <= listed(eks)
    assert {kind for kind, _ in missing} == {"Deployment", "StatefulSet", "Service", "ConfigMap"}
    assert {name for kind, name in missing if kind == "ConfigMap"} == {"scorewatch-workspace"}
    assert not beside.of_kind("Deployment", "StatefulSet", "Service")
    assert beside.settings() == eks.settings()
    for each in beside.objects:
        for version in KUBERNETES:
            kubernetes_validate.validate(each, version, strict=True)


def test_kubernetes_knows_every_field_of_the_charts_pods(chart: Chart) -> None:
    for part, template in chart.templates().items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": part, **template["metadata"]}}
        for version in KUBERNETES:
            kubernetes_validate.validate({**pod, "spec": template["spec"]}, version, strict=True)


def test_what_is_referred_to_by_name_is_beside_the_chart_its_own_or_documented(chart: Chart, beside: Cluster) -> None:
    own = {INSTANCE, WORKSPACE}
    for template in chart.templates().values():
        spec = template["spec"]
        assert spec["serviceAccountName"] in beside.of_kind("ServiceAccount")
        volumes = {each["configMap"]["name"] for each in spec["volumes"] if "configMap" in each}
        assert volumes <= own | set(beside.of_kind("ConfigMap"))
        for container in [*spec["initContainers"], *spec["containers"]]:
            sources = [*container.get("envFrom", []), *(each.get("valueFrom", {}) for each in container.get("env", []))]
            maps = {each["configMapRef"]["name"] for each in sources if "configMapRef" in each}
            assert {each for each in maps if not each.startswith(f"{RELEASE}-")} <= {"scorewatch"}
            named = [each.get("secretRef") or each.get("secretKeyRef") for each in sources]
            for secret in filter(None, named):
                if secret["name"].startswith(f"{RELEASE}-"):
                    assert secret["optional"], "nobody makes it"
                    continue
                assert f"`{secret['name']}`" in README
                assert secret.get("key", "") in README
    assert "DAGSTER_PG_PASSWORD" in README, "runs' pods have all of the secret in their environment"


def test_no_service_sets_variables_that_settings_would_not_know(chart: Chart, beside: Cluster) -> None:
    for name in [*chart.services, *beside.of_kind("Service")]:
        # DAGSTER_WEBSERVER_PORT would be an option of dagster-webserver's.
        assert not re.match(r"scorewatch|dagster-webserver", name)


def test_policies_and_budgets_know_the_charts_pods(chart: Chart, beside: Cluster) -> None:
    traffic = Traffic(beside)
    labels = {part: each["metadata"]["labels"] for part, each in chart.templates().items()}
    traffic.pods = labels
    servers = {part: chart.services[part] for part in SERVERS}
    expected = {(source, part, servers[part]) for part in servers for source in ("webserver", "daemon", "control")}

    assert {
        (source, target, port)
        for source in labels
        for target in labels
        for port in PORTS
        if source != target and traffic.open(source, target, port)
    } == expected - {("control", "control", 4270)}
    for name, budget in beside.of_kind("PodDisruptionBudget").items():
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        found = {own[COMPONENT] for own in labels.values() if wanted <= own.items()}
        assert found == {name.removeprefix("scorewatch-")}


def test_an_account_that_two_share_may_do_what_both_do(chart: Chart, beside: Cluster) -> None:
    accounts = {part: each["spec"]["serviceAccountName"] for part, each in chart.templates().items()}
    policies = Policies(REPOSITORY / "deploy" / "iam")

    def rights(account: str) -> set[tuple[str, str]]:
        rules = beside.of_kind("Role")[account]["rules"]
        return {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}

    assert accounts["webserver"] == accounts["daemon"] == "scorewatch-daemon"
    assert rights("scorewatch-webserver") < rights("scorewatch-daemon")
    may = {role: {(each.action, each.pattern) for each in policies.grants(role)} for role in ("daemon", "webserver")}
    assert may["webserver"] < may["daemon"]
    assert {accounts[part] for part in SERVERS} == {"scorewatch-control"}
    assert "role-models" in README, "control's role has the other's policy too"


def test_the_page_installs_the_chart_of_the_pinned_dagster(chart: Chart) -> None:
    [pinned] = re.findall(r"^dagster==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)

    assert f"helm upgrade --install {RELEASE} dagster/dagster --version {pinned}" in README
    assert chart.values["rbacEnabled"] is chart.values["dagster-user-deployments"]["rbacEnabled"] is False
