"""The pod of a stage, as Kubernetes' API writes it: the same one whether Airflow or Dagster starts it.

Plain data, made by nobody's client. What is in a pod comes from the platform's configuration; of the work it has
arguments, resources within limits, labels, and an image of a model, if the platform allows that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_bridge.schema import Resources
from resources.errors import BadInput

USER = 1000
HOME = "/home/scorewatch"
DAGSTER_HOME = f"{HOME}/dagster"
MAIN, PREPARE, MODEL = "base", "prepare", "model"
"""Containers: the one that makes the assets, and before it, for a model with an image of its own, two others."""
DEFAULT_RESOURCES = Resources(cpu=1, memory_mib=2_048)

_SHARED = "/scoring"
_HANDED_OVER = {
    "SCOREWATCH_FEATURES_URI": f"file://{_SHARED}/features.parquet",
    "SCOREWATCH_SCORES_URI": f"file://{_SHARED}/scores.parquet",
}
_NOT_IN_A_LABEL = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True)
class Platform:
    """What the platform gives every pod, and the most that it gives.

    ``model_images`` are registries, folders or names of images that may run as models; without any none may.
    """

    image: str
    service_account: str
    config_maps: Sequence[str] = ()
    secrets: Sequence[str] = ()
    optional_secrets: Sequence[str] = ()
    max_cpu: float = 4
    max_memory_mib: int = 16_384
    model_images: Sequence[str] = ()


@dataclass(frozen=True)
class ModelContainer:
    """A model's image, which runs before the assets are made, and our command that writes the features for it."""

    image: str
    command: str
    arguments: Sequence[str]


def amounts(asked: Resources | None, platform: Platform, what: str, setting: str) -> dict[str, dict[str, str]]:
    """The resources of a container: what is asked for, or a default.

    Raises BadInput when that is more than the platform allows: it names ``what`` asks, and the option to raise, which
    ``setting`` has braces for.
    """
    wanted = asked or Resources(
        cpu=min(DEFAULT_RESOURCES.cpu, platform.max_cpu),
        memory_mib=min(DEFAULT_RESOURCES.memory_mib, platform.max_memory_mib),
    )
    for amount, limit, unit, option in (
        (wanted.cpu, platform.max_cpu, "cores", "max_cpu"),
        (wanted.memory_mib, platform.max_memory_mib, "MiB of memory", "max_memory_mib"),
    ):
        if amount > limit:
            raise BadInput(
                f"{what} asks for {amount:g} {unit}, and at most {limit:g} are allowed. "
                f"Ask for less, or raise {setting.format(option)}."
            )
    # Equal, so that the pod is of the class that is evicted last.
    found = {"cpu": f"{math.ceil(wanted.cpu * 1000)}m", "memory": f"{wanted.memory_mib}Mi"}
    return {"requests": found, "limits": dict(found)}


def check_image(image: str, platform: Platform, what: str, setting: str) -> None:
    """Raises BadInput unless the platform allows the image; what is named is as above."""
    name = image.partition("@")[0]
    allowed = [each.rstrip("/") for each in platform.model_images]
    if not any(name == each or name.startswith(f"{each}/") for each in allowed):
        listed = f"allowed are those of {', '.join(allowed)}" if allowed else "none is allowed"
        option = setting.format("model_images")
        raise BadInput(f"{what} has the image {image}, and {listed}. Add its registry or its name to {option}.")


def spec(
    platform: Platform,
    command: Sequence[str],
    arguments: Sequence[str],
    resources: Mapping[str, Any],
    *,
    deadline_s: int,
    model: ModelContainer | None = None,
) -> dict[str, Any]:
    """The specification of a pod that runs the command; a PodSpec of Kubernetes."""
    ours = {
        "image": platform.image,
        "resources": resources,
        "env": _variables({"HOME": HOME, "SCOREWATCH_HOME": HOME, "DAGSTER_HOME": DAGSTER_HOME}),
        "envFrom": _sources(platform),
        "volumeMounts": [{"name": "home", "mountPath": HOME}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        "securityContext": _restricted(),
    }
    found: dict[str, Any] = {
        "serviceAccountName": platform.service_account,
        "automountServiceAccountToken": False,
        # The variables that they set would have names of our settings.
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": deadline_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            # The token of a cloud account, which is not the one above, is readable for this group.
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{"name": MAIN, "command": list(command), "args": list(arguments), **ours}],
        # The image's file system is read-only.
        "volumes": [_folder("home"), _folder("tmp")],
    }
    if model is not None:
        handed = {
            "env": [*ours["env"], *_variables(_HANDED_OVER)],
            "volumeMounts": [*ours["volumeMounts"], {"name": "scoring", "mountPath": _SHARED}],
        }
        found["containers"][0] |= handed
        prepare = {"name": PREPARE, "command": [model.command], "args": list(model.arguments), **ours, **handed}
        found["initContainers"] = [prepare, _model(model.image, resources)]
        found["volumes"] += [_folder("scoring"), _folder("model-tmp")]
    return found


def notes(model: ModelContainer | None) -> dict[str, str]:
    """Annotations of the pod: on EKS a model's container is given no token of the account's role."""
    return {} if model is None else {"eks.amazonaws.com/skip-containers": MODEL}


def labels(part_of: str, **more: str) -> dict[str, str]:
    """Of the pod; network policies go by the first two."""
    return {
        "app.kubernetes.io/name": "scorewatch",
        "app.kubernetes.io/component": "stage",
        "app.kubernetes.io/part-of": label(part_of),
        **{f"scorewatch/{name}": label(text) for name, text in more.items()},
    }


def label(text: str) -> str:
    """Text as the value of a label, cut and cleaned."""
    return _NOT_IN_A_LABEL.sub("-", text)[:63].strip("-_.") or "unnamed"


def _model(image: str, resources: Mapping[str, Any]) -> dict[str, Any]:
    """Of the platform it gets a folder to share: no secret, no configuration, no account."""
    folder = "/tmp"  # noqa: S108 - its own
    return {
        "name": MODEL,
        "image": image,
        "resources": resources,
        "env": _variables({"HOME": folder, **_HANDED_OVER}),
        "volumeMounts": [{"name": "scoring", "mountPath": _SHARED}, {"name": "model-tmp", "mountPath": folder}],
        "securityContext": _restricted(),
    }


def _variables(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _sources(platform: Platform) -> list[dict[str, Any]]:
    # Of two that set the same variable Kubernetes takes the later one.
    return [
        *({"configMapRef": {"name": name}} for name in platform.config_maps),
        *({"secretRef": {"name": name}} for name in platform.secrets),
        *({"secretRef": {"name": name, "optional": True}} for name in platform.optional_secrets),
    ]


def _folder(name: str) -> dict[str, Any]:
    return {"name": name, "emptyDir": {}}


def _restricted() -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
