"""Commands that people type: those that need the rights of runs become Jobs, the others run in the pod of `control`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from airflow_bridge import stage_pod
from monitoring_assets import cli
from tests.deploy.iam_story import TYPED_INTO_CONTROL
from tests.deploy.manifests import FOLDER, REPOSITORY, Cluster
from tests.deploy.test_kubernetes_security import violations

SCRIPT = FOLDER / "by-hand"
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
RUN = ["run", "ke-nano-loan", "3.2.0", "--partition", "2026-01-03", "--trigger", "backfill"]
# What needs a cluster is answered here; patches are made by kubectl itself.
KUBECTL = """\
#!/bin/sh
case "$*" in
"--namespace drill create job by-hand-"*" --from cronjob/scorewatch-by-hand --dry-run=client "*) cat {job} ;;
"patch --local "*) exec {kubectl} "$@" ;;
"--namespace drill create --filename -") cat > {created} ;;
*) echo "not expected: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture(name="job")
def _job(cluster: Cluster, tmp_path: Path) -> dict[str, Any]:
    """The Job that the script makes of a command."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    cron = cluster.one("CronJob", "scorewatch-by-hand")["spec"]["jobTemplate"]
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "by-hand-1", **cron["metadata"]}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**body, "spec": cron["spec"]}))
    created = tmp_path / "created.yaml"
    fake = tmp_path / "bin" / "kubectl"
    fake.parent.mkdir()
    fake.write_text(KUBECTL.format(job=tmp_path / "job.yaml", kubectl=kubectl, created=created))
    fake.chmod(0o755)
    environ = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}", "NAMESPACE": "drill"}
    done = subprocess.run([SCRIPT, *RUN], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--namespace drill logs --follow job/by-hand-" in done.stdout
    found: dict[str, Any] = yaml.safe_load(created.read_text())
    return found


def test_a_command_becomes_a_job_that_kubernetes_takes(job: dict[str, Any]) -> None:
    [container] = job["spec"]["template"]["spec"]["containers"]

    assert kubernetes_validate.validate(job, "1.36", strict=True) == "1.36"
    assert violations(job["spec"]["template"]["spec"]) == []
    assert [*container["command"], *container["args"]] == ["scorewatch", *RUN]


def test_its_pod_has_what_the_pod_of_a_run_has(cluster: Cluster, job: dict[str, Any]) -> None:
    platform = stage_pod.Platform(
        image=cluster.settings()["SCOREWATCH_IMAGE"],
        service_account="scorewatch-stages",
        config_maps=["scorewatch"],
        secrets=["scorewatch-postgres"],
        optional_secrets=["scorewatch-keys"],
    )
    resources = stage_pod.amounts(None, platform, "it", "{}")
    template = job["spec"]["template"]
    run, spec = stage_pod.spec(platform, ["scorewatch"], RUN, resources, deadline_s=86400), template["spec"]
    [ours], [its] = spec["containers"], run["containers"]

    assert (
        stage_pod.labels("it").items() - {("app.kubernetes.io/part-of", "it")} <= template["metadata"]["labels"].items()
    )
    for key in ("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "securityContext"):
        assert spec[key] == run[key], key
    assert ours["image"] == its["image"]
    assert _amounts(ours) == _amounts(its)
    assert ours["securityContext"].items() <= its["securityContext"].items()
    assert {"configMapRef": {"name": "scorewatch"}} in ours["envFrom"]
    assert {"secretRef": {"name": "scorewatch-keys", "optional": True}} in ours["envFrom"]


def _amounts(container: dict[str, Any]) -> list[tuple[float, float]]:
    """Cores and GiB, asked for and allowed."""
    cores = {"1": 1, "1000m": 1}
    sizes = {"2Gi": 2, "2048Mi": 2}
    return [
        (cores[container["resources"][each]["cpu"]], sizes[container["resources"][each]["memory"]])
        for each in ("requests", "limits")
    ]


def test_it_never_runs_by_itself(cluster: Cluster) -> None:
    assert cluster.one("CronJob", "scorewatch-by-hand")["spec"]["suspend"] is True


def typed(prefix: str) -> list[list[str]]:
    """What the page has people type after these words."""
    found = re.findall(rf"{re.escape(prefix)} ([^`\n]+)", OPERATIONS.replace("\\\n", ""))
    return [shlex.split(each) for each in found]


def test_what_the_page_runs_in_control_is_what_its_role_is_tested_with() -> None:
    [listed] = re.findall(r"^\| (`status`.*?) \|", OPERATIONS, re.MULTILINE)
    tested = {each[0] for each in TYPED_INTO_CONTROL}

    assert {each.split()[0] for each in re.findall(r"`(.+?)`", listed)} == tested
    assert {each[0] for each in typed("exec deploy/scorewatch-control -- scorewatch")} <= tested


def test_commands_of_the_page_exist_and_take_these_options() -> None:
    commands = typed("exec deploy/scorewatch-control -- scorewatch") + typed("deploy/kubernetes/by-hand")
    assert {"run", "backfill", "status"} <= {each[0] for each in commands}
    for each in commands:
        answer = CliRunner().invoke(cli.cli, [*each, "--help"], obj={})
        assert answer.exit_code == 0, answer.output
