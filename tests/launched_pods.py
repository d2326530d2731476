"""The launcher of pods on a code location with the groups of some manifests, against a recorder of Kubernetes' API."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.test_utils import create_run_for_test, in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceRequestContext

from monitoring_assets.assets.pipeline import ORDER
from tests.recorders.kubernetes import KubernetesRecorder

IMAGE = f"registry.example/scorewatch@sha256:{'0f' * 32}"
MODEL_IMAGE = f"registry.example/models/score@sha256:{'ab' * 32}"
DAY = "2026-01-03"
RBAC = Path(__file__).parents[1] / "deploy" / "kubernetes" / "base" / "rbac.yaml"
_LOCATION = """\
from pathlib import Path

import dagster as dg

from monitoring_assets.assets.factory import RESOURCE, group
from monitoring_assets.manifest_yaml import parse_manifest

files = sorted(Path(__file__).parent.glob("*.manifest"))
manifests = [parse_manifest(file.read_bytes(), where=file.name) for file in files]
assets = [asset for manifest in manifests for asset in group(manifest)]
defs = dg.Definitions(assets=assets, resources={RESOURCE: object()}, executor=dg.in_process_executor)
"""


@dataclass
class Launched:
    """An instance whose launcher speaks to the recorder, and the workspace that its runs are of."""

    instance: dg.DagsterInstance
    workspace: WorkspaceRequestContext
    kubernetes: KubernetesRecorder

    def run(self, model: str, *, assets: tuple[str, ...] = ORDER, **tags: str) -> dg.DagsterRun:
        """A run of a version of the name ``1.0.0``, not launched; ``scorewatch__trigger`` stands for a slash."""
        [location] = self.workspace.code_locations
        [repository] = location.get_repositories().values()
        [job] = [each for each in repository.get_all_jobs() if each.name.startswith("__ASSET_JOB")]
        return create_run_for_test(
            self.instance,
            job_name=job.name,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            asset_selection=frozenset(dg.AssetKey([model, "1.0.0", asset]) for asset in assets),
            tags={name.replace("__", "/"): value for name, value in tags.items()},
        )

    def launch(self, model: str, **about: Any) -> dict[str, Any]:
        """The job that comes of a launched run."""
        return self.job_of(self.instance.launch_run(self.run(model, **about).run_id, self.workspace))

    def job_of(self, run: dg.DagsterRun) -> dict[str, Any]:
        return self.kubernetes.made["jobs"][f"dagster-run-{run.run_id}"]

    def refused(self, model: str, **about: Any) -> str:
        """Why a run is not launched, as its own log says it."""
        run = self.run(model, **about)
        try:
            self.instance.launch_run(run.run_id, self.workspace)
        except Exception:
            assert self.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE
            return "\n".join(event.message for event in self.instance.all_logs(run.run_id))
        raise AssertionError("it was launched")


@contextmanager
def launcher(
    folder: Path, kubernetes: KubernetesRecorder, *manifests: dict[str, Any], **config: Any
) -> Iterator[Launched]:
    """An instance in the folder; ``config`` is that of the launcher."""
    for number, manifest in enumerate(manifests):
        (folder / f"{number}.manifest").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    (folder / "location.py").write_text(_LOCATION, encoding="utf-8")
    own = {"job_image": IMAGE, "kubeconfig_file": str(kubernetes.kubeconfig), **config}
    document = {"run_launcher": {"module": "monitoring_assets.pods", "class": "PodRunLauncher", "config": own}}
    (folder / "dagster.yaml").write_text(
        yaml.safe_dump({**document, "telemetry": {"enabled": False}, "run_monitoring": {"enabled": True}}),
        encoding="utf-8",
    )
    target = LoadableTargetOrigin(
        executable_path=sys.executable, python_file=str(folder / "location.py"), working_directory=str(folder)
    )
    with (
        dg.DagsterInstance.from_config(str(folder)) as instance,
        in_process_test_workspace(instance, target) as workspace,
    ):
        yield Launched(instance, workspace, kubernetes)


def allowed(account: str) -> set[tuple[str, str, str]]:
    """What the Role of a service account allows in the manifests: verb, API group, resource."""
    roles = [each for each in yaml.safe_load_all(RBAC.read_text(encoding="utf-8")) if each["kind"] == "Role"]
    (role,) = [each for each in roles if each["metadata"]["name"] == account]
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
