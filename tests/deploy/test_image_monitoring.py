"""The image of monitoring, built as its Dockerfile says and at work: the pods of overlays/kind as processes in it, over
a real Postgres and S3.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import RpcError, insecure_channel

from airflow_bridge.stage_pod import MAIN, Platform, spec
from monitoring_assets.assets.events import asset_key, evaluated_partitions
from monitoring_assets.instance import open_instance
from monitoring_assets.version import CHECKS
from resources.object_store.s3 import s3_client
from resources.settings import Settings
from tests.conftest import Lender
from tests.deploy import built, kind_pods
from tests.deploy.containers import Cluster, Pod, answer, free_ports, until
from tests.deploy.image_build import Builder, Image

# A build takes a minute, but not where others are at work.
pytestmark = pytest.mark.timeout(1800)
DAY = "2026-01-03"
WHAT = ("ke-nano-loan", "1.0.0", "--partition", DAY)
STAGES = {"features": ["features"], "scores": ["scores"], "monitoring": ["distribution", "psi", "csi"]}
HOSTS = ("scorewatch-control", "scorewatch-models-0.scorewatch-models")
SERVERS = ("control", "models", "webserver", "daemon")
PORTS = ("3000", "4270", "4271")


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    builder = Builder()
    try:
        yield builder.build("monitoring")
    finally:
        builder.remove()


@pytest.fixture
def cluster(s3_server: Any, database: str) -> Cluster:
    """The cluster's settings, with this machine's Postgres and S3, and ports that are free."""
    for bucket in ("store", "registry", "lake"):
        s3_client(s3_server.endpoint).create_bucket(Bucket=bucket)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    maps = kind_pods.config_maps()
    maps["scorewatch"]["SCOREWATCH_S3_ENDPOINT"] = s3_server.endpoint
    return Cluster(maps, {"scorewatch-postgres": {"SCOREWATCH_POSTGRES_URL": database}}, HOSTS, ports)


@pytest.fixture
def pod(image: Image, cluster: Cluster, pods: list[Pod], tmp_path: Path) -> Callable[..., Pod]:
    """Makes pods: `pod("scorewatch-daemon")`, or `pod(name, spec)`."""

    def make(name: str, what: dict[str, Any] | None = None) -> Pod:
        pods.append(Pod(image, what or kind_pods.specs()[name], cluster, tmp_path / name))
        return pods[-1]

    return make


def test_what_is_in_the_image_is_pinned_and_compiled_and_builds_nothing(image: Image) -> None:
    built.has_only_pinned_distributions(image, "constraints.txt")
    built.has_nothing_that_builds_and_nothing_left_of_the_build(image)
    built.has_byte_code_that_is_never_checked(image)
    built.belongs_to_root(image, but=("/home/scorewatch",))


def test_what_a_cluster_runs_starts_answers_its_probes_and_stops_when_it_is_asked_to(
    pod: Callable[..., Pod], cluster: Cluster
) -> None:
    assert pod("scorewatch-migrate").run("migrate") == (0, "Dagster's storage is up to date\n")
    servers = {name: pod(f"scorewatch-{name}") for name in SERVERS}
    assert servers["control"].run("schema") == (0, "Dagster's storage is there\n")
    for name in ("control", "models"):
        servers[name].start(name)
    for name, port in (("control", "4270"), ("models", "4271")):
        until(lambda port=port: serves(cluster.instead[port]), servers[name], name)
    for name in ("webserver", "daemon"):
        servers[name].start(name)
    webserver = cluster.instead["3000"]
    until(lambda: answer(webserver, "/server_info")[0] == 200, servers["webserver"], "webserver")

    for name, each in servers.items():
        for container, command in kind_pods.probes(kind_pods.specs()[f"scorewatch-{name}"]):
            until(lambda each=each, to=container, ask=command: each.run(to, command=ask)[0] == 0, each, container)
    assert pod("scorewatch-publisher").run("publisher")[0] == 0
    for name, each in servers.items():
        assert each.stop(name) == 0, each.log(name)


def test_a_version_is_registered_and_the_stages_of_a_day_leave_results_in_s3_and_materialisations_in_postgres(
    pod: Callable[..., Pod], cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_environment(
        {**cluster.maps["scorewatch"], **cluster.secrets["scorewatch-postgres"]}, tmp_path
    )
    lender = Lender(settings, "s3://lake/applications", tmp_path / "models")
    lender.land(DAY)
    migration = pod("scorewatch-migrate")
    assert migration.run("migrate")[0] == 0
    shutil.copytree(lender.model_folder(lender.manifest()), migration.volume("tmp") / "model")

    code, said = migration.run("migrate", command=["scorewatch", "register", "/tmp/model"])  # noqa: S108 - the pod's own
    assert code == 0, said
    for stage, assets in STAGES.items():
        at_work = pod(f"stage-{stage}", stage_pod(stage))
        code, said = at_work.run(MAIN)
        assert code == 0, said
        assert not (at_work.volume("home") / ".cache").exists(), "no library keeps anything about this machine"
        recorded = json.loads(said[said.index("[") :])
        assert [(each["asset"], each["state"]) for each in recorded] == [(each, "materialised") for each in assets]

    for asset in CHECKS:
        assert list(lender.store.list_folders(f"data/{asset}/ke-nano-loan/1.0.0")) == [DAY], asset
    assert {key.split("/")[4] for key in lender.listed("results/ke-nano-loan/1.0.0/")} >= {"psi", "csi"}
    monkeypatch.setenv("DAGSTER_HOME", "")  # opening an instance sets it, and this puts it back
    monkeypatch.setenv("SCOREWATCH_POSTGRES_URL", settings.postgres_url.reveal())
    with open_instance(settings) as instance:
        for asset, check in CHECKS.items():
            assert evaluated_partitions(instance, asset_key(*WHAT[:2], asset), check) == {DAY}, asset


def stage_pod(stage: str) -> dict[str, Any]:
    """The pod of a stage, as Airflow and Dagster start it."""
    platform = Platform("scorewatch/monitoring", "scorewatch-stages", ("scorewatch",), ("scorewatch-postgres",))
    return spec(platform, ["scorewatch"], ["run", *WHAT, "--stage", stage, "--json"], {}, deadline_s=600)


def serves(port: str) -> bool:
    """Whether a code server's health service, which the kubelet asks, says so."""
    with insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            # A field 1 of the value 1: SERVING. The service is called as Dagster calls it, or has no name.
            return bool(check(b"", timeout=5) == b"\x08\x01")
        except RpcError:
            return False
