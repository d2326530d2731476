"""The pods of overlays/kind without Kustomize, as far as processes on one machine need them: the base's, with the
settings that the overlay adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tests.deploy.manifests import FOLDER, Cluster

BASE, KIND = FOLDER / "base", FOLDER / "overlays" / "kind"


def specs() -> dict[str, dict[str, Any]]:
    """The specifications of the pods, by the name of what makes them."""
    names = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    objects = [each for name in names for each in yaml.safe_load_all((BASE / name).read_text(encoding="utf-8"))]
    return {name: each["spec"] for name, each in Cluster("base", objects).templates().items()}


def config_maps() -> dict[str, dict[str, str]]:
    """The config maps, by name: files of the base, and settings of both."""
    found: dict[str, dict[str, str]] = {}
    for folder in (BASE, KIND):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        for generated in kustomization["configMapGenerator"]:
            data = found.setdefault(generated["name"], {})
            data |= {name: (folder / name).read_text(encoding="utf-8") for name in generated.get("files", [])}
            lines = [line for name in generated.get("envs", []) for line in (folder / name).read_text().splitlines()]
            data |= dict(line.split("=", 1) for line in [*lines, *generated.get("literals", [])])
    # The overlay puts it in: runs' pods have the daemon's image.
    found["scorewatch"]["SCOREWATCH_IMAGE"] = specs()["scorewatch-daemon"]["containers"][0]["image"]
    return found


def probes(spec: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Commands by which the kubelet asks how a container is: its name, the command."""
    for container in spec["containers"]:
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if command := container.get(kind, {}).get("exec", {}).get("command"):
                yield container["name"], command
