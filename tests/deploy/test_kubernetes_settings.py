"""deploy/kubernetes: what a changed setting changes, and for whom nothing may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets.pods import PodRunLauncher
from tests.deploy.manifests import FOLDER, OVERLAYS, Cluster, cluster, variant

LONG_LIVED = {f"scorewatch-{each}" for each in ("control", "models", "webserver", "daemon")}
DAGSTER = (FOLDER / "base" / "dagster.yaml").read_text(encoding="utf-8")


def restarted(before: Cluster, after: Cluster) -> set[str]:
    """Whose pods are replaced when the second is applied over the first."""
    new = after.templates()
    return {name for name, template in before.templates().items() if new[name] != template}


def setting(text: str) -> Callable[[dict[str, Any]], object]:
    """A literal more in the overlay."""
    return lambda document: document["configMapGenerator"][0]["literals"].append(text)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_changed_setting_restarts_what_lives_long_and_nothing_else(tmp_path: Path, overlay: str) -> None:
    changed = variant(tmp_path / "kubernetes", overlay, setting("DD_SITE=datadoghq.eu"))

    assert changed.settings()["DD_SITE"] == "datadoghq.eu"
    # The template of a Job cannot be changed, and the CronJob's pods are new ones each time.
    assert restarted(cluster(overlay), changed) == LONG_LIVED


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_so_does_a_changed_configuration_of_dagster(tmp_path: Path, overlay: str) -> None:
    more = DAGSTER.replace("max_concurrent_runs: 50", "max_concurrent_runs: 80")
    assert more != DAGSTER

    assert restarted(cluster(overlay), variant(tmp_path / "kubernetes", overlay, dagster=more)) == LONG_LIVED


def test_with_more_shards_the_ones_that_are_there_learn_of_it(tmp_path: Path) -> None:
    def ten(document: dict[str, Any]) -> None:
        document.update(components=["../../components/shards-10"])

    assert "scorewatch-models" in restarted(cluster("eks"), variant(tmp_path / "kubernetes", "eks", ten))


def test_what_did_not_change_restarts_nobody(tmp_path: Path) -> None:
    assert restarted(cluster("eks"), variant(tmp_path / "kubernetes")) == set()


def test_runs_and_airflow_find_the_settings_by_names_that_never_change(tmp_path: Path) -> None:
    changed = variant(tmp_path / "kubernetes", "eks", setting("DD_SITE=datadoghq.eu"), dagster=f"{DAGSTER}\n# more\n")
    named = {*PodRunLauncher.config_type()["env_config_maps"].default_value}
    named |= {PodRunLauncher.config_type()["instance_config_map"].default_value}

    assert named == {"scorewatch", "scorewatch-dagster"}
    for each in (cluster("eks"), changed):
        assert named <= set(each.of_kind("ConfigMap"))


def test_roles_by_pod_identity_are_had_by_the_three_deletions_that_the_iam_page_names(tmp_path: Path) -> None:
    def without_annotations(document: dict[str, Any]) -> None:
        kept = [each for each in document["configMapGenerator"] if each["name"] != "this-account"]
        patches = [each for each in document["patches"] if each.get("path") != "accounts.yaml"]
        replacements = [each for each in document["replacements"] if each["source"]["name"] != "this-account"]
        document.update(configMapGenerator=kept, patches=patches, replacements=replacements)

    found = variant(tmp_path / "kubernetes", "eks", without_annotations)
    assert not any("annotations" in each["metadata"] for each in found.of_kind("ServiceAccount").values())
    assert restarted(cluster("eks"), found) == set()


def test_an_overlay_may_be_in_another_namespace_as_the_drill_s_is(tmp_path: Path) -> None:
    found = variant(tmp_path / "kubernetes", "eks", lambda document: document.update(namespace="drill"))

    assert set(found.of_kind("Namespace")) == {"drill"}
    assert {each["metadata"].get("namespace", "drill") for each in found.objects} == {"drill"}
    bindings = found.of_kind("RoleBinding").values()
    assert {subject["namespace"] for each in bindings for subject in each["subjects"]} == {"drill"}
    assert found.settings().keys() == cluster("eks").settings().keys()
