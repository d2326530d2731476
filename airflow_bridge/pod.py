"""A task as a pod of Kubernetes. Of the plan it has arguments, resources within limits, and labels: nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.providers.cncf.kubernetes.utils.container import get_container_status
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s

from airflow_bridge.config import SECTION, Config
from airflow_bridge.runner import arguments, check_partition, failure, for_its_reason
from airflow_bridge.schema import DagPlan, Resources, Task
from resources.errors import BadInput

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

USER = 1000
HOME = "/home/scorewatch"
DEFAULT_RESOURCES = Resources(cpu=1, memory_mib=2_048)
DEADLINE_MARGIN_S = 300
"""After Airflow's own timeout Kubernetes ends the pod, if nobody did."""


def task(plan: DagPlan, task: Task, config: Config, **kwargs: Any) -> BaseOperator:
    """The operator of a task; the keyword arguments are those of BaseOperator.

    Raises BadInput when the plan asks for more than the configuration allows.
    """
    return PodTask(
        image=config.image,
        namespace=config.namespace,
        service_account_name=config.service_account,
        cmds=[config.command],
        arguments=arguments(task),
        reasons=plan.reasons,
        # Lower case, and with a random end, so that it is a name for Kubernetes whatever the id is.
        name=f"scorewatch-{task.id}"[:200],
        labels={
            "app.kubernetes.io/name": "scorewatch",
            "app.kubernetes.io/part-of": _label(plan.group),
            "app.kubernetes.io/component": _label(task.id),
        },
        container_resources=_resources(plan, task, config),
        active_deadline_seconds=config.timeout_s + DEADLINE_MARGIN_S,
        env_from=_environment(config),
        **_OWN_FOLDERS,
        **_RESTRICTED,
        **_WATCHED,
        **kwargs,
    )


class PodTask(KubernetesPodOperator):
    """A KubernetesPodOperator for which the exit code says whether another try may help."""

    template_fields = ("arguments",)

    def __init__(self, *, reasons: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reasons = reasons

    def execute(self, context: Context) -> None:
        """Starts the pod, or finds the one that an earlier try started, and leaves it to the triggerer."""
        check_partition(context)
        self.arguments: list[str] = [*self.arguments, *for_its_reason(context, self.reasons)]
        super().execute(context)

    def cleanup(
        self,
        pod: k8s.V1Pod,
        remote_pod: k8s.V1Pod,
        xcom_result: dict[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """What every way of a pod's end comes by, the ones through the triggerer too."""
        try:
            super().cleanup(pod, remote_pod, xcom_result, context)
        except AirflowException as error:
            exit_code = _exit_code(remote_pod, self.base_container_name)
            if exit_code:
                raise failure(exit_code) from error
            raise


def _exit_code(pod: k8s.V1Pod, container: str) -> int | None:
    """None for a pod that was ended before its container was: evicted, timed out, never started."""
    status = get_container_status(pod, container)
    end = status and status.state and status.state.terminated
    return end.exit_code if end else None


def _resources(plan: DagPlan, task: Task, config: Config) -> k8s.V1ResourceRequirements:
    wanted = task.resources or Resources(
        cpu=min(DEFAULT_RESOURCES.cpu, config.max_cpu),
        memory_mib=min(DEFAULT_RESOURCES.memory_mib, config.max_memory_mib),
    )
    for asked, limit, unit, option in (
        (wanted.cpu, config.max_cpu, "cores", "max_cpu"),
        (wanted.memory_mib, config.max_memory_mib, "MiB of memory", "max_memory_mib"),
    ):
        if asked > limit:
            raise BadInput(
                f"The task {task.id} of {plan.dag_id} asks for {asked:g} {unit}, and at most {limit:g} are allowed. "
                f"Ask for less, or raise the option {option} of [{SECTION}] in Airflow's configuration."
            )
    # Equal, so that the pod is of the class that is evicted last.
    amounts = {"cpu": f"{math.ceil(wanted.cpu * 1000)}m", "memory": f"{wanted.memory_mib}Mi"}
    return k8s.V1ResourceRequirements(requests=amounts, limits=dict(amounts))


def _environment(config: Config) -> list[k8s.V1EnvFromSource]:
    maps = [
        k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name=name)) for name in config.env_from_config_map
    ]
    secrets = [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in config.env_from_secret]
    # Of two that set the same variable Kubernetes takes the later one.
    return [*maps, *secrets]


def _label(text: str) -> str:
    # Of a text with no letter or digit there is only a hash, and a hyphen before it.
    return str(make_safe_label_value(text)).lstrip("-")


# The image's file system is read-only.
_OWN_FOLDERS: dict[str, Any] = {
    "volumes": [k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource()) for name in ("home", "tmp")],
    "volume_mounts": [
        k8s.V1VolumeMount(name="home", mount_path=HOME),
        k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108 - the pod's own
    ],
    "env_vars": [k8s.V1EnvVar(name="HOME", value=HOME), k8s.V1EnvVar(name="SCOREWATCH_HOME", value=HOME)],
}
_RESTRICTED: dict[str, Any] = {
    "automount_service_account_token": False,
    "security_context": k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=USER,
        run_as_group=USER,
        # The token of a cloud account, which is not the one above, is readable for this group.
        fs_group=USER,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    ),
    "container_security_context": k8s.V1SecurityContext(
        run_as_non_root=True,
        run_as_user=USER,
        allow_privilege_escalation=False,
        privileged=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    ),
}
_WATCHED: dict[str, Any] = {
    # The cluster that Airflow runs in, or what KUBECONFIG names; a connection would be asked for at every turn.
    "kubernetes_conn_id": None,
    "random_name_suffix": True,
    "durable": True,
    "deferrable": True,
    "on_finish_action": "delete_pod",
    "poll_interval": 15,
    "logging_interval": 60,
    "startup_timeout_seconds": 600,
    # It costs the API server a listing of all events, each time.
    "log_events_on_startup": False,
    # It holds the environment.
    "log_pod_spec_on_failure": False,
    "do_xcom_push": False,
}
