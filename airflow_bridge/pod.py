"""A task as a pod of Kubernetes. Of the plan it has arguments, resources within limits, and labels: nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.providers.cncf.kubernetes.utils.container import get_container_status
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s

from airflow_bridge import stage_pod
from airflow_bridge.config import SECTION, Config
from airflow_bridge.runner import arguments, check_partition, failure, for_its_reason, for_the_partition, reason
from airflow_bridge.schema import DagPlan, Task

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import PodOperatorHookProtocol
    from airflow.sdk import BaseOperator, Context

DEADLINE_MARGIN_S = 300
"""After Airflow's own timeout Kubernetes ends the pod, if nobody did."""

_SETTING = f"the option {{}} of [{SECTION}] in Airflow's configuration"


def task(plan: DagPlan, task: Task, config: Config, **kwargs: Any) -> BaseOperator:
    """The operator of a task; the keyword arguments are those of BaseOperator.

    Raises BadInput when the plan asks for more than the configuration allows.
    """
    platform, what = _platform(config), f"The task {task.id} of {plan.dag_id}"
    resources = stage_pod.amounts(task.resources, platform, what, _SETTING)
    model = _model(task, config)
    if model is not None:
        stage_pod.check_image(model.image, platform, what, _SETTING)
    return PodTask(
        specification=stage_pod.spec(
            platform, [config.command], [], resources, deadline_s=config.timeout_s + DEADLINE_MARGIN_S, model=model
        ),
        namespace=config.namespace,
        arguments=arguments(task),
        prepare=list(model.arguments) if model else [],
        unless=task.before.unless if task.before else (),
        reasons=plan.reasons,
        # Lower case, and with a random end, so that it is a name for Kubernetes whatever the id is.
        name=f"scorewatch-{task.id}"[:200],
        labels=stage_pod.labels(plan.group, stage=task.id),
        annotations=stage_pod.notes(model),
        **_WATCHED,
        **kwargs,
    )


class PodTask(KubernetesPodOperator):
    """A KubernetesPodOperator for which the exit code says whether another try may help."""

    template_fields = ("arguments", "prepare")

    def __init__(
        self,
        *,
        specification: dict[str, Any],
        prepare: list[str],
        unless: Sequence[str],
        reasons: Mapping[str, Sequence[str]],
        **kwargs: Any,
    ) -> None:
        # What is false is lost between this and the pod, except here and below.
        token = specification["automountServiceAccountToken"]
        super().__init__(
            full_pod_spec=PodGenerator.deserialize_model_dict({"spec": specification}),
            automount_service_account_token=token,
            **kwargs,
        )
        self.prepare = prepare
        self.unless = tuple(unless)
        self.reasons = reasons

    @cached_property
    def hook(self) -> PodOperatorHookProtocol:
        """To the cluster that KUBECONFIG names, or else the one that Airflow runs in.

        The provider's triggerer reads KUBECONFIG only, and has to be told of the other.
        """
        self.config_file = os.environ.get("KUBECONFIG")
        hook: PodOperatorHookProtocol = super().hook
        self.in_cluster = hook.is_in_cluster
        return hook

    def execute(self, context: Context) -> None:
        """Starts the pod, or finds the one that an earlier try started, and leaves it to the triggerer."""
        check_partition(context)
        self.arguments: list[str] = [*self.arguments, *for_its_reason(context, self.reasons)]
        super().execute(context)

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """The pod as Kubernetes is told to make it."""
        pod = super().build_pod_request_obj(context, dry_run=dry_run)
        pod.spec.enable_service_links = False
        if context is not None and reason(context, self.reasons) in self.unless:
            pod.spec.init_containers = None
        for container in pod.spec.init_containers or ():
            if container.name == stage_pod.PREPARE:
                container.args = self.prepare
        return pod

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
            if exit_code := _exit_code(remote_pod, stage_pod.MODEL):
                raise AirflowException(
                    f"The model's own image ended with exit code {exit_code}; the log of the container "
                    f"{stage_pod.MODEL!r} says why. It is tried again, if retries are left."
                ) from error
            exit_code = _exit_code(remote_pod, stage_pod.PREPARE) or _exit_code(remote_pod, self.base_container_name)
            if exit_code:
                raise failure(exit_code) from error
            raise


def _exit_code(pod: k8s.V1Pod, container: str) -> int | None:
    """None for a pod that was ended before its container was: evicted, timed out, never started."""
    status = get_container_status(pod, container)
    end = status and status.state and status.state.terminated
    return end.exit_code if end else None


def _platform(config: Config) -> stage_pod.Platform:
    return stage_pod.Platform(
        image=str(config.image),
        service_account=str(config.service_account),
        config_maps=config.env_from_config_map,
        secrets=config.env_from_secret,
        optional_secrets=config.env_from_optional_secret,
        max_cpu=config.max_cpu,
        max_memory_mib=config.max_memory_mib,
        model_images=config.model_images,
    )


def _model(task: Task, config: Config) -> stage_pod.ModelContainer | None:
    if task.before is None:
        return None
    return stage_pod.ModelContainer(task.before.image, config.command, for_the_partition(task.before.arguments))


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
