"""What the overlays of deploy/kubernetes come to, as the cluster would get it."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "kubernetes"
OVERLAYS = ("eks", "kind")
OURS, STAND_INS = "scorewatch/monitoring", "scorewatch/stand-ins"
TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


class Cluster:
    """The objects of an overlay."""

    def __init__(self, overlay: str, objects: list[dict[str, Any]]) -> None:
        self.overlay, self.objects = overlay, objects

    def of_kind(self, *kinds: str) -> dict[str, dict[str, Any]]:
        """Objects of these kinds, by name."""
        return {each["metadata"]["name"]: each for each in self.objects if each["kind"] in kinds}

    def one(self, kind: str, name: str) -> dict[str, Any]:
        """The object of that name, or the one whose name is that and a hash of its content."""
        [found] = [
            each for full, each in self.of_kind(kind).items() if re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", full)
        ]
        return found

    def templates(self) -> dict[str, dict[str, Any]]:
        """The pods' templates, by the name of what makes the pods."""
        return {name: _template(each) for name, each in self.of_kind(*TEMPLATES).items()}

    def our_templates(self) -> dict[str, dict[str, Any]]:
        """Those that are part of the base, hence of every cluster."""
        return {name: each for name, each in self.templates().items() if name.startswith("scorewatch-")}

    def containers(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Every container, also those that run before the others: a name to tell it by, itself, its pod's spec."""
        for name, template in self.templates().items():
            spec = template["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                yield f"{name}/{container['name']}", container, spec

    def settings(self) -> dict[str, str]:
        """What everything of ours has in its environment."""
        data: dict[str, str] = self.one("ConfigMap", "scorewatch")["data"]
        return data


def _template(each: dict[str, Any]) -> dict[str, Any]:
    found = each
    for key in TEMPLATES[each["kind"]]:
        found = found[key]
    return found


@functools.cache
def cluster(overlay: str) -> Cluster:
    """An overlay, built."""
    return Cluster(overlay, built(FOLDER / "overlays" / overlay))


def variant(
    folder: Path, overlay: str = "eks", change: Callable[[dict[str, Any]], object] = id, **files: str
) -> Cluster:
    """The overlay with a change to its kustomization.yaml, and with files of the base replaced: ``dagster=…``."""
    shutil.copytree(FOLDER, folder)
    place = folder / "overlays" / overlay / "kustomization.yaml"
    document = yaml.safe_load(place.read_text(encoding="utf-8"))
    change(document)
    place.write_text(yaml.safe_dump(document), encoding="utf-8")
    for name, content in files.items():
        (folder / "base" / f"{name}.yaml").write_text(content, encoding="utf-8")
    return Cluster(overlay, built(folder / "overlays" / overlay))


def built(folder: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization, made by kubectl or kustomize; skips where there is neither."""
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    made = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    return list(yaml.safe_load_all(made.stdout))
