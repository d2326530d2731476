"""Runs as pods of Kubernetes: each has a job of its own, and builds the group of its model version only.

What a pod is made of is the same as for Airflow's pods (`airflow_bridge.stage_pod`) and comes from dagster.yaml. Tags
and code locations, by which Dagster's own launcher lets anybody change pods, change nothing here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import Array, DagsterRun, DagsterRunStatus, Field, IntSource, Noneable, StringSource
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, ResumeRunContext, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import get_job_name_from_run_id
from dagster_k8s.launcher import K8sRunLauncher

from airflow_bridge import stage_pod
from airflow_bridge.graph import CPU_TAG, IMAGE_METADATA, MEMORY_TAG
from airflow_bridge.schema import Resources
from monitoring_assets.heartbeats import EXTERNAL_TAG, Heartbeats
from monitoring_assets.launcher import external_health, only
from resources.errors import BadInput

if TYPE_CHECKING:
    from dagster._core.remote_representation.external_data import AssetNodeSnap

LONGEST_S = 24 * 3600
"""After so long Kubernetes ends a run, if nobody did."""
KEPT_S = 24 * 3600
"""How long a job that ended can be looked at."""

_SETTING = "{} of the run_launcher in dagster.yaml"
_PASSED_ON = "dagster-yaml"
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class PodRunLauncher(K8sRunLauncher):
    """Set as ``run_launcher`` in dagster.yaml. `config_type` says what there is to configure."""

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        *,
        job_image: str,
        job_namespace: str | None,
        service_account_name: str,
        instance_config_map: str,
        env_config_maps: Sequence[str],
        env_secrets: Sequence[str],
        optional_env_secrets: Sequence[str],
        max_cpu: int,
        max_memory_mib: int,
        model_images: str,
        kubeconfig_file: str | None = None,
    ) -> None:
        self._platform = stage_pod.Platform(
            image=job_image,
            service_account=service_account_name,
            config_maps=tuple(env_config_maps),
            secrets=tuple(env_secrets),
            optional_secrets=tuple(optional_env_secrets),
            max_cpu=max_cpu,
            max_memory_mib=max_memory_mib,
            model_images=tuple(each.strip() for each in model_images.split(",") if each.strip()),
        )
        super().__init__(
            inst_data=inst_data,
            job_image=job_image,
            job_namespace=job_namespace or _namespace(),
            service_account_name=service_account_name,
            instance_config_map=instance_config_map,
            dagster_home=stage_pod.DAGSTER_HOME,
            load_incluster_config=kubeconfig_file is None,
            kubeconfig_file=kubeconfig_file,
            fail_pod_on_run_failure=True,
        )

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Names of what the cluster has, and the most that a version may ask for."""
        return {
            "job_image": StringSource,
            "job_namespace": Field(Noneable(StringSource), default_value=None),
            "service_account_name": Field(StringSource, default_value="scorewatch-stages"),
            "instance_config_map": Field(StringSource, default_value="scorewatch-dagster"),
            "env_config_maps": Field(Array(StringSource), default_value=["scorewatch"]),
            "env_secrets": Field(Array(StringSource), default_value=["scorewatch-postgres"]),
            "optional_env_secrets": Field(Array(StringSource), default_value=["scorewatch-keys"]),
            "max_cpu": Field(IntSource, default_value=4),
            "max_memory_mib": Field(IntSource, default_value=16_384),
            "model_images": Field(StringSource, default_value=""),
            "kubeconfig_file": Field(Noneable(StringSource), is_required=False),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> PodRunLauncher:
        """As Dagster makes it."""
        return cls(inst_data, **config_value)

    def get_container_context_for_run(self, dagster_run: DagsterRun) -> K8sContainerContext:  # noqa: ARG002
        """Where the run's job is. Everything else is in the job that `launch_run` makes."""
        return K8sContainerContext(namespace=self.job_namespace)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run's job. Raises BadInput when its version asks for more than the platform gives."""
        run = context.dagster_run
        body = self._job(run, _snaps(context))
        self._report_run_worker_creating(run, body["metadata"]["name"], self.job_namespace)
        self._api_client.create_namespaced_job_with_retries(body=body, namespace=self.job_namespace)
        self._report_run_worker_created(run)

    def _job(self, run: DagsterRun, snaps: Sequence[AssetNodeSnap]) -> dict[str, Any]:
        what = f"The run of {only(run) or run.job_name}"
        model = _model(run, snaps)
        if model is not None:
            stage_pod.check_image(model.image, self._platform, what, _SETTING)
        command = ExecuteRunArgs(
            job_origin=run.job_code_origin,  # type: ignore[arg-type]
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        ).get_command_args()
        spec = stage_pod.spec(
            self._platform,
            command[:1],
            command[1:],
            stage_pod.amounts(_asked(snaps), self._platform, what, _SETTING),
            deadline_s=LONGEST_S,
            model=model,
        )
        self._add_dagsters_own(spec, run)
        labels = {**stage_pod.labels(only(run) or run.job_name), "dagster/run-id": run.run_id}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": _job_name(run), "labels": labels},
            "spec": {
                # Dagster executes a run once, whatever it ends with; what is to be tried again gets another run.
                "backoffLimit": 0,
                "ttlSecondsAfterFinished": KEPT_S,
                "template": {
                    "metadata": {"labels": labels, "annotations": stage_pod.notes(model)},
                    "spec": spec,
                },
            },
        }

    def _add_dagsters_own(self, spec: dict[str, Any], run: DagsterRun) -> None:
        main = spec["containers"][0]
        main["env"] = [*main["env"], {"name": "SCOREWATCH_ONLY", "value": only(run)}]
        # With the first mount the kubelet makes the folder, which would be root's if it came of the second one.
        home, file = {"name": "home", "subPath": "dagster"}, {"name": _PASSED_ON, "subPath": "dagster.yaml"}
        main["volumeMounts"] = [
            *main["volumeMounts"],
            {**home, "mountPath": stage_pod.DAGSTER_HOME},
            {**file, "mountPath": f"{stage_pod.DAGSTER_HOME}/dagster.yaml", "readOnly": True},
        ]
        spec["volumes"] = [*spec["volumes"], {"name": _PASSED_ON, "configMap": {"name": self.instance_config_map}}]

    @property
    def supports_resume_run(self) -> bool:
        """No: a run that died is asked for again as another one."""
        return False

    @property
    def supports_run_worker_crash_recovery(self) -> bool:
        """As above."""
        return False

    def resume_run(self, context: ResumeRunContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Raises BadInput."""
        raise BadInput("Runs are not resumed. Set run_monitoring.max_resume_run_attempts in dagster.yaml to 0.")

    def terminate(self, run_id: str) -> bool:
        """Delete the run's job, whose process then has half a minute to end. False for runs that others started."""
        run = self._instance.get_run_by_id(run_id)
        return run is not None and EXTERNAL_TAG not in run.tags and bool(super().terminate(run_id))  # type: ignore[no-untyped-call]

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether a run lives: by its job, or by its heartbeat if it has none. Nobody is judged by an outage."""
        if EXTERNAL_TAG in run.tags:
            return external_health(self._heartbeats, self._instance, run)
        name = _job_name(run)
        try:
            status = self._api_client.get_job_status(name, self.job_namespace, wait_time_between_attempts=1)
        except Exception as error:
            # Whatever it is, it says nothing about the run.
            logging.getLogger(__name__).warning("the job %s could not be looked at: %s", name, error)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if status is None:
            return CheckRunHealthResult(WorkerStatus.FAILED, f"Its job {name} is gone.")
        ended = not status.active and bool(status.failed or status.succeeded)
        if ended and run.status is DagsterRunStatus.STARTING:
            return CheckRunHealthResult(WorkerStatus.FAILED, f"The pod of its job {name} ended before it began.")
        if ended and run.status in (DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING):
            return CheckRunHealthResult(WorkerStatus.FAILED, f"The pod of its job {name} ended before it did.")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:  # noqa: ARG002
        """How the pod ended. Never its log: what a model's own image prints might be about applicants."""
        if EXTERNAL_TAG in run.tags:
            return None
        info: str | None = super().get_run_worker_debug_info(run, include_container_logs=False)
        return "\n".join(filter(None, [*self._how_a_model_ended(run), info]))

    def _how_a_model_ended(self, run: DagsterRun) -> list[str]:
        """Of the containers that come before the run's own, which Dagster passes over; not what they say about it."""
        pods = self._api_client.get_pods_in_job(_job_name(run), self.job_namespace)
        listed = [each for pod in pods for each in (pod.status and pod.status.init_container_statuses) or ()]
        ended = [(each.name, each.state.terminated) for each in listed if each.state and each.state.terminated]
        return [f"Its container {name} ended: {how.reason}, exit code {how.exit_code}." for name, how in ended]

    @cached_property
    def _heartbeats(self) -> Heartbeats:
        return Heartbeats.configured()


def _namespace() -> str:
    """That of the pod that this is in; outside of one, what ours is called."""
    return _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.exists() else "scorewatch"


def _job_name(run: DagsterRun) -> str:
    return str(get_job_name_from_run_id(run.run_id))  # type: ignore[no-untyped-call]


def _snaps(context: LaunchRunContext) -> list[AssetNodeSnap]:
    """The run's assets, as their code location describes them."""
    run = context.dagster_run
    if not run.asset_selection or run.remote_job_origin is None or context.workspace is None:
        return []
    origin = run.remote_job_origin.repository_origin
    location = context.workspace.get_code_location(origin.code_location_origin.location_name)
    repository = location.get_repository(origin.repository_name)
    found = (repository.get_asset_node_snap(key) for key in sorted(run.asset_selection))
    return [each for each in found if each is not None]


def _asked(snaps: Sequence[AssetNodeSnap]) -> Resources | None:
    """The most that one of the assets asks for."""
    tags = [each.tags for each in snaps if each.tags and CPU_TAG in each.tags and MEMORY_TAG in each.tags]
    if not tags:
        return None
    return Resources(
        cpu=max(float(each[CPU_TAG]) for each in tags), memory_mib=max(int(each[MEMORY_TAG]) for each in tags)
    )


def _model(run: DagsterRun, snaps: Sequence[AssetNodeSnap]) -> stage_pod.ModelContainer | None:
    """The model's own container, and what it is given, if the run is to take scores from one."""
    from monitoring_assets.assets.factory import TRIGGER_TAG  # noqa: PLC0415

    named = {each.asset_key: each.metadata[IMAGE_METADATA].value for each in snaps if IMAGE_METADATA in each.metadata}
    # Onboarding takes no scores of such a version: it freezes the reference.
    if not named or run.tags.get(TRIGGER_TAG) == "onboarding":
        return None
    partitions = _partitions(run)
    if len(named) > 1 or len(partitions) > 1:
        raise BadInput(
            f"The run of {only(run) or run.job_name} is to score {len(named)} versions, or {len(partitions)} "
            "partitions, with a container of the model's own: that can be one of one. Start a run for each."
        )
    if not partitions:
        return None
    [(key, image)] = named.items()
    return stage_pod.ModelContainer(str(image), "scorewatch", ["features", *key.path[:2], "--partition", partitions[0]])


def _partitions(run: DagsterRun) -> list[str]:
    """Those that the run is of; of a range its ends, which are enough to know that it is one."""
    from monitoring_assets.assets.factory import PARTITIONS_TAG  # noqa: PLC0415

    listed = run.tags.get(PARTITIONS_TAG)
    if listed is not None:
        return [each for each in listed.split(",") if each]
    names = ("dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    return sorted({run.tags[name] for name in names if name in run.tags})
