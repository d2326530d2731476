"""deploy/airflow, and what deploy/kubernetes has for it: values of Airflow's chart that fit the manifests and the code.

What Airflow itself makes of the values is in tests/airflow_bridge/test_chart.py.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from airflow_bridge.config import SECTION, Config
from monitoring_assets.pods import PodRunLauncher
from resources.errors import BadInput
from resources.settings import Settings
from tests.deploy.iam_policies import PLACEHOLDERS, STORE, arn
from tests.deploy.manifests import FOLDER, OVERLAYS, REPOSITORY, Cluster, built, cluster
from tests.deploy.test_images import USERS
from tests.deploy.test_kubernetes_network import OUTSIDE, PORTS, Traffic
from tests.recorders.pod_security import violations

HERE = REPOSITORY / "deploy" / "airflow"
README = (HERE / "README.md").read_text(encoding="utf-8")
ACCOUNT = "scorewatch-airflow"
NAMESPACE = "airflow"
KUBERNETES = ("1.30", "1.34", "1.36", "1.37")
COMPONENTS = ("scheduler", "dagProcessor", "triggerer", "apiServer")


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """Filled in: what stands there for the bucket is no name of one."""
    text = (HERE / "values.yaml").read_text(encoding="utf-8").replace("STORE_BUCKET", STORE)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.fixture(scope="module")
def eks() -> Cluster:
    return cluster("eks")


@pytest.fixture(scope="module", params=OVERLAYS)
def with_airflow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """An overlay that takes the component."""
    folder = tmp_path_factory.mktemp("overlay").resolve()

    def relative(path: str) -> str:
        return os.path.relpath(FOLDER.resolve() / path, folder)

    taken = {"resources": [relative(f"overlays/{request.param}")], "components": [relative("components/airflow")]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(taken), encoding="utf-8")
    return Cluster(request.param, built(folder))


class TestOptions:
    def test_pods_are_those_that_dagster_starts_too(self, values: dict[str, Any], eks: Cluster) -> None:
        config = Config.parse(values["config"][SECTION], {})
        launcher = {name: each.default_value for name, each in PodRunLauncher.config_type().items() if name in DEFAULTS}
        settings = eks.settings()

        assert config.execution == "kubernetes"
        assert config.image == settings["SCOREWATCH_IMAGE"]
        # Dagster's are in the namespace of the pod that starts them.
        assert launcher.pop("job_namespace") is None
        assert of_pods(config)["job_namespace"] == eks.one("Deployment", "scorewatch-daemon")["metadata"]["namespace"]
        assert launcher == {name: of_pods(config)[name] for name in launcher}
        assert config.service_account in eks.of_kind("ServiceAccount")
        assert str(config.max_cpu) == str(float(settings["SCOREWATCH_MAX_CPU"]))
        assert str(config.max_memory_mib) == settings["SCOREWATCH_MAX_MEMORY_MIB"]
        assert ",".join(config.model_images) == settings["SCOREWATCH_MODEL_IMAGES"]

    def test_an_option_that_is_not_known_is_refused(self, values: dict[str, Any]) -> None:
        with pytest.raises(BadInput, match="closest known one is model_images"):
            Config.parse({**values["config"][SECTION], "model_image": "x"}, {})

    def test_every_option_is_documented(self, values: dict[str, Any]) -> None:
        page = (REPOSITORY / "docs" / "airflow.md").read_text(encoding="utf-8")

        assert [name for name in values["config"][SECTION] if f"`{name}`" not in page] == []

    def test_what_stands_for_the_bucket_is_refused_until_it_is_filled_in(self) -> None:
        options = yaml.safe_load((HERE / "values.yaml").read_text(encoding="utf-8"))["config"][SECTION]

        with pytest.raises(BadInput, match="store_uri"):
            Config.parse(options, {})

    def test_every_option_is_a_text_that_the_chart_leaves_as_it_is(self, values: dict[str, Any]) -> None:
        for section, options in values["config"].items():
            for name, text in options.items():
                # Helm writes large numbers as 1.6384e+04, and takes braces for templates.
                assert isinstance(text, str), f"{section}.{name}"
                assert "{{" not in text


DEFAULTS = ("job_namespace", "service_account_name", "env_config_maps", "env_secrets", "optional_env_secrets")


def of_pods(config: Config) -> dict[str, Any]:
    """The options by the names that they have in dagster.yaml."""
    return {
        "job_namespace": config.namespace,
        "service_account_name": config.service_account,
        "env_config_maps": list(config.env_from_config_map),
        "env_secrets": list(config.env_from_secret),
        "optional_env_secrets": list(config.env_from_optional_secret),
    }


class TestTheBundle:
    def test_it_is_the_only_one_and_of_the_store_that_the_overlay_names(
        self, values: dict[str, Any], eks: Cluster
    ) -> None:
        [bundle] = values["dagProcessor"]["dagBundleConfigList"]
        store = eks.settings()["SCOREWATCH_STORE"].replace("STORE_BUCKET", STORE)

        assert bundle["kwargs"]["store_uri"] == values["config"][SECTION]["store_uri"] == store
        assert not values["dags"]["gitSync"]["enabled"]
        assert not values["dags"]["persistence"]["enabled"]

    def test_its_class_is_the_one_that_the_page_on_airflow_names(self, values: dict[str, Any]) -> None:
        [bundle] = values["dagProcessor"]["dagBundleConfigList"]
        module, _, name = bundle["classpath"].rpartition(".")
        tree = ast.parse((REPOSITORY / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))

        assert name in {each.name for each in tree.body if isinstance(each, ast.ClassDef)}
        assert f'"{bundle["classpath"]}"' in (REPOSITORY / "docs" / "airflow.md").read_text(encoding="utf-8")


class TestTheRelease:
    def test_it_is_of_the_pinned_airflow_with_an_executor_that_the_image_has(self, values: dict[str, Any]) -> None:
        pins = (REPOSITORY / "constraints-airflow.txt").read_text(encoding="utf-8")

        assert re.findall(r"^apache-airflow==(.+)$", pins, re.MULTILINE) == [values["airflowVersion"]]
        assert values["executor"] == "LocalExecutor"
        assert "celery" not in pins.lower()
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", values["images"]["airflow"]["digest"])

    def test_pods_are_restricted_and_of_the_images_user(self, values: dict[str, Any]) -> None:
        own = values["securityContexts"]
        container = {"name": "any", "securityContext": own["containers"]}

        assert violations({"securityContext": own["pod"], "containers": [container]}) == []
        assert own["containers"]["readOnlyRootFilesystem"] is True
        assert USERS["airflow"] == f"{own['pod']['runAsUser']}:{own['pod']['runAsGroup']}"
        assert [each["mountPath"] for each in values["volumeMounts"]] == ["/tmp"]  # noqa: S108 - the pod's own
        assert [each["emptyDir"].keys() for each in values["volumes"]] == [{"sizeLimit"}]

    def test_nothing_is_without_bounds(self, values: dict[str, Any]) -> None:
        bounded = [values[name]["resources"] for name in (*COMPONENTS, "migrateDatabaseJob")]
        bounded += [values[name]["logGroomerSidecar"]["resources"] for name in COMPONENTS[:3]]

        assert [each for each in bounded if {"requests", "limits"} - each.keys()] == []

    def test_who_reads_the_store_shares_one_account_that_the_role_is_for(self, values: dict[str, Any]) -> None:
        accounts = {name: values[name]["serviceAccount"] for name in COMPONENTS[:3]}

        assert {each["name"] for each in accounts.values()} == {ACCOUNT}
        assert [name for name, each in accounts.items() if each["create"]] == ["scheduler"], "twice is an error"
        annotations = accounts["scheduler"]["annotations"]
        assert annotations == {"eks.amazonaws.com/role-arn": arn("airflow")}
        assert arn("airflow").partition("role/")[2] == ACCOUNT
        assert PLACEHOLDERS["ACCOUNT_ID"] in values["images"]["airflow"]["repository"]

    def test_secrets_are_named_and_none_is_written_out(self, values: dict[str, Any]) -> None:
        keys = {"fernetKeySecretName": "fernet-key", "apiSecretKeySecretName": "api-secret-key"}
        keys |= {"jwtSecretName": "jwt-secret"}

        for option, key in keys.items():
            assert f"create secret generic {values[option]}" in README
            assert f"--from-literal={key}=" in README
        assert f"create secret generic {values['data']['metadataSecretName']}" in README
        assert values["createUserJob"] == {"enabled": False}
        for bundled in ("postgresql", "redis", "statsd"):
            assert values[bundled] == {"enabled": False}

    def test_the_page_installs_it_where_the_rights_are_given(self) -> None:
        assert f"helm upgrade --install {NAMESPACE} apache-airflow/airflow" in README
        assert f"--namespace {NAMESPACE}" in README

    def test_dagster_can_be_told_where_it_is(self, tmp_path: Path) -> None:
        [url] = re.findall(r"`SCOREWATCH_AIRFLOW_URL=(\S+)`", README)
        environ = {"SCOREWATCH_ORCHESTRATOR": "airflow", "SCOREWATCH_AIRFLOW_URL": url}

        assert Settings.from_environment(environ, tmp_path).airflow_url == f"http://airflow-api-server.{NAMESPACE}:8080"


class TestInOurNamespace:
    def test_kubernetes_knows_every_field(self, with_airflow: Cluster) -> None:
        for each in with_airflow.objects:
            for version in KUBERNETES:
                kubernetes_validate.validate(each, version, strict=True)

    def test_the_component_adds_rights_and_a_way_and_changes_nothing(self, with_airflow: Cluster) -> None:
        before = cluster(with_airflow.overlay).objects
        added = [each for each in with_airflow.objects if each not in before]

        assert all(each in with_airflow.objects for each in before)
        assert {(each["kind"], each["metadata"]["name"]) for each in added} == {
            ("Role", ACCOUNT),
            ("RoleBinding", ACCOUNT),
            ("NetworkPolicy", "scorewatch-to-airflow"),
        }
        assert {each["metadata"]["namespace"] for each in added} == {"scorewatch"}

    def test_the_rights_are_airflows_account_in_its_own_namespace(self, with_airflow: Cluster) -> None:
        binding = with_airflow.of_kind("RoleBinding")[ACCOUNT]

        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]
        # That they are those that it uses is in tests/airflow_bridge/test_pod.py.
        rules = with_airflow.of_kind("Role")[ACCOUNT]["rules"]
        assert {name for rule in rules for name in rule["resources"]} == {"pods", "pods/log"}
        assert not {"*", "watch", "update"} & {verb for rule in rules for verb in rule["verbs"]}

    def test_who_looks_for_arrivals_reaches_airflows_api_and_nobody_else_does(self, with_airflow: Cluster) -> None:
        before, after = Traffic(cluster(with_airflow.overlay)), Traffic(with_airflow)

        def ways(traffic: Traffic, namespace: str) -> set[tuple[str, int]]:
            return {
                (pod, port) for pod in traffic.pods for port in PORTS if traffic.open(pod, OUTSIDE, port, namespace)
            }

        assert ways(after, NAMESPACE) - ways(before, NAMESPACE) == {("models", 8080)}
        assert ways(after, "elsewhere") == ways(before, "elsewhere")
