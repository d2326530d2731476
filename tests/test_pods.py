"""Runs as pods: what Kubernetes is asked for, who has to be allowed that, and how a run's end is noticed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher import WorkerStatus
from dagster._daemon.monitoring.run_monitoring import monitor_started_run

from airflow_bridge.stage_pod import MAIN, MODEL, PREPARE
from monitoring_assets.heartbeats import EXTERNAL_TAG, Heartbeats, heartbeat
from monitoring_assets.leases import LASTS
from tests.launched_pods import DAY, IMAGE, MODEL_IMAGE, Launched, allowed, launcher
from tests.recorders.kubernetes import KubernetesRecorder
from tests.recorders.pod_security import violations

CONTAINER = {"kind": "container", "image": MODEL_IMAGE}
LOG = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesRecorder]:
    found = KubernetesRecorder(tmp_path_factory.mktemp("cluster") / "config")
    yield found
    found.stop()


@pytest.fixture
def kubernetes(cluster: KubernetesRecorder) -> Iterator[KubernetesRecorder]:
    cluster.forget()
    yield cluster
    assert cluster.problems == []


@pytest.fixture
def pods(lender: Any, kubernetes: KubernetesRecorder, tmp_path: Path) -> Iterator[Launched]:
    """A small model, a greedy one, and one that scores with its own image."""
    manifests = [
        lender.manifest(model="small", resources={"cpu": 0.5, "memory": "512Mi"}),
        lender.manifest(model="greedy", resources={"cpu": 8, "memory": "64Gi"}),
        lender.manifest(model="vendor", score=CONTAINER),
        lender.manifest(model="stranger", score={**CONTAINER, "image": f"evil.example/x@sha256:{'ab' * 32}"}),
    ]
    folder = tmp_path / "instance"
    folder.mkdir()
    images = "registry.example/models, other.example"
    with launcher(folder, kubernetes, *manifests, max_cpu=4, max_memory_mib=8192, model_images=images) as found:
        yield found


def started(pods: Launched, model: str = "small", **tags: str) -> dg.DagsterRun:
    """A launched run whose process has begun."""
    run = pods.run(model, **tags)
    if EXTERNAL_TAG not in run.tags:
        pods.instance.launch_run(run.run_id, pods.workspace)
    begun = DagsterEvent(DagsterEventType.RUN_START.value, job_name=run.job_name)
    pods.instance.report_dagster_event(begun, run.run_id)
    found = pods.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def looked_at(pods: Launched, run: dg.DagsterRun) -> dg.DagsterRun:
    """The run after Dagster's monitoring has looked at it."""
    [record] = pods.instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
    monitor_started_run(pods.instance, pods.workspace, record, LOG)
    found = pods.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


def messages(pods: Launched, run: dg.DagsterRun) -> str:
    return "\n".join(event.message for event in pods.instance.all_logs(run.run_id))


class TestTheJob:
    @pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
    @pytest.mark.parametrize("model", ["small", "vendor"])
    def test_kubernetes_knows_every_field_of_it(self, pods: Launched, model: str, version: str) -> None:
        job = pods.launch(model, dagster__partition=DAY)
        assert kubernetes_validate.validate(job, version, strict=True) == version

    @pytest.mark.parametrize("model", ["small", "vendor"])
    def test_its_pod_is_what_pod_security_calls_restricted(self, pods: Launched, model: str) -> None:
        spec = pods.launch(model, dagster__partition=DAY)["spec"]["template"]["spec"]
        assert violations(spec) == []
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"] == container["resources"]["limits"]

    def test_it_executes_the_run_and_builds_its_version_only(self, pods: Launched) -> None:
        run = pods.instance.launch_run(pods.run("small").run_id, pods.workspace)
        job = pods.job_of(run)
        (main,) = job["spec"]["template"]["spec"]["containers"]
        assert [*main["command"], *main["args"]][:3] == ["dagster", "api", "execute_run"]
        assert run.run_id in main["args"][-1]
        assert {"name": "SCOREWATCH_ONLY", "value": "small/1.0.0"} in main["env"]
        assert pods.kubernetes.namespaces == {"scorewatch"}
        assert job["spec"]["backoffLimit"] == 0
        assert job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "stage"
        assert job["metadata"]["labels"]["dagster/run-id"] == run.run_id

    def test_its_configuration_is_a_file_in_a_folder_that_it_may_write_to(self, pods: Launched) -> None:
        spec = pods.launch("small")["spec"]["template"]["spec"]
        environ = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
        mounts = {each["mountPath"]: each for each in spec["containers"][0]["volumeMounts"]}
        volumes = {each["name"]: each for each in spec["volumes"]}
        assert mounts[environ["DAGSTER_HOME"]] == {
            "name": "home",
            "subPath": "dagster",
            "mountPath": environ["DAGSTER_HOME"],
        }
        file = mounts[f"{environ['DAGSTER_HOME']}/dagster.yaml"]
        assert volumes[file["name"]]["configMap"] == {"name": "scorewatch-dagster"}
        assert (file["subPath"], file["readOnly"]) == ("dagster.yaml", True)

    def test_it_is_in_the_namespace_of_the_pod_that_launches_it(
        self, lender: Any, kubernetes: KubernetesRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "namespace").write_text("drill\n")
        monkeypatch.setattr("monitoring_assets.pods._OWN_NAMESPACE", tmp_path / "namespace")
        (tmp_path / "instance").mkdir()
        with launcher(tmp_path / "instance", kubernetes, lender.manifest(model="small")) as drill:
            drill.launch("small")
        assert kubernetes.namespaces == {"drill"}

    def test_tags_of_a_run_change_nothing(self, pods: Launched) -> None:
        hostile = '{"container_config": {"image": "evil"}, "pod_spec_config": {"hostNetwork": true}}'
        one = pods.launch("small")["spec"]["template"]["spec"]
        other = pods.launch("small", **{"dagster-k8s__config": hostile})["spec"]["template"]["spec"]
        for spec in (one, other):
            spec["containers"][0].pop("args")
        assert one == other
        assert one["containers"][0]["image"] == IMAGE

    def test_it_has_what_its_assets_ask_for(self, pods: Launched) -> None:
        (main,) = pods.launch("small")["spec"]["template"]["spec"]["containers"]
        assert main["resources"]["limits"] == {"cpu": "500m", "memory": "512Mi"}

    def test_a_run_that_asks_for_too_much_fails_and_says_so(self, pods: Launched) -> None:
        why = pods.refused("greedy")
        assert "The run of greedy/1.0.0 asks for 8 cores, and at most 4 are allowed" in why
        assert "max_cpu of the run_launcher in dagster.yaml" in why
        assert pods.kubernetes.jobs == []


class TestAModelsOwnImage:
    def test_it_runs_between_the_features_and_the_run(self, pods: Launched) -> None:
        template = pods.launch("vendor", dagster__partition=DAY)["spec"]["template"]
        prepare, model = template["spec"]["initContainers"]
        (main,) = template["spec"]["containers"]
        assert [prepare["name"], model["name"], main["name"]] == [PREPARE, MODEL, MAIN]
        assert [*prepare["command"], *prepare["args"]] == [
            "scorewatch",
            "features",
            "vendor",
            "1.0.0",
            "--partition",
            DAY,
        ]
        assert (prepare["image"], model["image"], main["image"]) == (IMAGE, MODEL_IMAGE, IMAGE)
        for each in (prepare, model, main):
            environ = {variable["name"]: variable["value"] for variable in each["env"]}
            assert environ["SCOREWATCH_FEATURES_URI"] == "file:///scoring/features.parquet"
            assert environ["SCOREWATCH_SCORES_URI"] == "file:///scoring/scores.parquet"
            assert {"name": "scoring", "mountPath": "/scoring"} in each["volumeMounts"]

    def test_it_gets_nothing_of_ours(self, pods: Launched) -> None:
        template = pods.launch("vendor", dagster__partition=DAY)["spec"]["template"]
        _, model = template["spec"]["initContainers"]
        (main,) = template["spec"]["containers"]
        assert "envFrom" not in model
        assert "command" not in model
        assert {each["name"] for each in model["env"]} == {"HOME", "SCOREWATCH_FEATURES_URI", "SCOREWATCH_SCORES_URI"}
        shared = {each["name"] for each in model["volumeMounts"]} & {each["name"] for each in main["volumeMounts"]}
        assert shared == {"scoring"}
        assert template["metadata"]["annotations"] == {"eks.amazonaws.com/skip-containers": MODEL}

    @pytest.mark.parametrize(
        "tags",
        [
            {"scorewatch__trigger": "onboarding", "scorewatch__partitions": f"2026-01-02,{DAY}"},
            {"scorewatch__partitions": ""},
        ],
    )
    def test_a_run_that_takes_no_scores_does_without(self, pods: Launched, tags: dict[str, str]) -> None:
        assert "initContainers" not in pods.launch("vendor", **tags)["spec"]["template"]["spec"]

    def test_a_run_without_the_scores_asset_does_without(self, pods: Launched) -> None:
        job = pods.launch("vendor", assets=("psi", "csi"), dagster__partition=DAY)
        assert "initContainers" not in job["spec"]["template"]["spec"]

    @pytest.mark.parametrize(
        "tags",
        [
            {"scorewatch__partitions": f"2026-01-02,{DAY}"},
            {"dagster__asset_partition_range_start": "2026-01-02", "dagster__asset_partition_range_end": DAY},
        ],
    )
    def test_a_run_of_several_partitions_is_refused(self, pods: Launched, tags: dict[str, str]) -> None:
        assert "2 partitions, with a container of the model's own" in pods.refused("vendor", **tags)

    def test_an_image_that_nobody_allowed_is_refused(self, pods: Launched) -> None:
        why = pods.refused("stranger", dagster__partition=DAY)
        assert "has the image evil.example/x@sha256:" in why
        assert "allowed are those of registry.example/models, other.example" in why


class TestTheEndOfARun:
    def test_one_whose_pod_works_is_let_alone(self, pods: Launched) -> None:
        pods.kubernetes.job_status = {"active": 1}
        assert looked_at(pods, started(pods)).status is dg.DagsterRunStatus.STARTED

    def test_one_whose_pod_was_killed_has_failed(self, pods: Launched) -> None:
        run = started(pods)
        pods.kubernetes.job_status = {"failed": 1, "startTime": "2026-01-04T00:00:00Z"}
        container = {"name": MAIN, "ready": False, "restartCount": 0, "image": IMAGE, "imageID": IMAGE}
        killed = {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
        pods.kubernetes.pod_status = {"phase": "Failed", "containerStatuses": [{**container, **killed}]}
        assert looked_at(pods, run).status is dg.DagsterRunStatus.FAILURE
        assert "ended before it did" in messages(pods, run)
        assert "OOMKilled" in messages(pods, run)

    def test_one_whose_job_is_gone_has_failed(self, pods: Launched) -> None:
        run = started(pods)
        for kind in ("jobs", "pods"):
            pods.kubernetes.made[kind].clear()
        assert looked_at(pods, run).status is dg.DagsterRunStatus.FAILURE
        assert "is gone" in messages(pods, run)

    def test_nobody_is_judged_by_an_outage_of_kubernetes(self, pods: Launched) -> None:
        run = started(pods)
        pods.kubernetes.outage = 403
        assert looked_at(pods, run).status is dg.DagsterRunStatus.STARTED

    def test_one_that_is_ended_loses_its_job_and_its_pod(self, pods: Launched) -> None:
        run = started(pods)
        assert pods.instance.run_launcher.terminate(run.run_id) is True
        assert (pods.kubernetes.jobs, pods.kubernetes.pods) == ([], [])

    def test_one_that_somebody_else_started_is_judged_by_its_heartbeat(
        self, pods: Launched, lender: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pods.instance.run_launcher, "_heartbeats", Heartbeats(lender.store, lender.clock))
        run = started(pods, **{EXTERNAL_TAG.replace("/", "__"): "airflow"})
        with heartbeat(lender.store, run.run_id, lender.clock):
            assert looked_at(pods, run).status is dg.DagsterRunStatus.STARTED
            lender.now += LASTS + timedelta(seconds=1)
            assert pods.instance.run_launcher.terminate(run.run_id) is False
            assert looked_at(pods, run).status is dg.DagsterRunStatus.FAILURE
        assert "has not been heard of since" in messages(pods, run)
        assert pods.kubernetes.calls == []

    def test_none_is_resumed(self, pods: Launched) -> None:
        assert not pods.instance.run_launcher.supports_resume_run
        health = pods.instance.run_launcher.check_run_worker_health(started(pods))
        assert health.status is WorkerStatus.RUNNING


class TestRights:
    def test_the_daemon_may_do_what_it_does_and_nothing_else(self, pods: Launched) -> None:
        self.end_of_all_kinds(pods)
        assert pods.kubernetes.rights == allowed("scorewatch-daemon")

    def test_the_webserver_may_end_runs_and_nothing_else(self, pods: Launched) -> None:
        run = started(pods)
        pods.kubernetes.calls.clear()
        assert pods.instance.run_launcher.terminate(run.run_id) is True
        assert pods.kubernetes.rights == allowed("scorewatch-webserver")

    def end_of_all_kinds(self, pods: Launched) -> None:
        TestTheEndOfARun().test_one_whose_pod_was_killed_has_failed(pods)
        pods.kubernetes.job_status = {"startTime": "2026-01-04T00:00:00Z"}
        TestTheEndOfARun().test_one_whose_job_is_gone_has_failed(pods)
        assert pods.instance.run_launcher.terminate(started(pods).run_id) is True
