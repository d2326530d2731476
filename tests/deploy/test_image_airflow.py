"""Airflow's image, built as its Dockerfile says and at work over a real Postgres."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import built
from tests.deploy.containers import Cluster, Pod, answer, free_ports, until
from tests.deploy.image_build import Builder, Image

# A build takes a minute, but not where others are at work.
pytestmark = pytest.mark.timeout(1800)
OF_DAGSTERS_SIDE = {"dagster", "great-expectations", "numpy", "onnxruntime", "pandas", "polars", "scipy"}
FAB = "airflow.providers.fab.auth_manager"
SETTINGS = {
    "AIRFLOW__CORE__AUTH_MANAGER": f"{FAB}.fab_auth_manager.FabAuthManager",
    "AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS": f"{FAB}.models.db.FABDBManager",
}
PERSON = {"username": "viewer", "password": "a-word-of-theirs"}
IMPORTS = """\
import airflow_bridge.bundle, airflow_bridge.render, airflow_bridge.timetable, asyncpg, psycopg2
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from importlib.util import find_spec
print([name for name in {names} if find_spec(name)])
"""


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    builder = Builder()
    try:
        yield builder.build("airflow")
    finally:
        builder.remove()


@pytest.fixture
def pod(image: Image, pods: list[Pod], tmp_path: Path) -> Callable[..., Pod]:
    """Makes pods whose container `airflow` has these arguments."""

    def make(*arguments: str, user: int = 50_000, **environ: str) -> Pod:
        container = {
            "name": "airflow",
            "args": arguments,
            "env": [{"name": name, "value": value} for name, value in {**SETTINGS, **environ}.items()],
            "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": "logs", "mountPath": "/opt/airflow/logs"},
                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
            ],
        }
        what = {
            "securityContext": {"runAsUser": user, "runAsGroup": 0, "fsGroup": 0},
            "containers": [container],
            "volumes": [{"name": "logs", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        }
        pods.append(Pod(image, what, Cluster(), tmp_path / str(len(pods))))
        return pods[-1]

    return make


def test_what_is_in_the_image_is_pinned_and_compiled_and_builds_nothing(image: Image) -> None:
    built.has_only_pinned_distributions(image, "constraints-airflow.txt")
    built.has_nothing_that_builds_and_nothing_left_of_the_build(image)
    built.has_byte_code_that_is_never_checked(image)
    built.belongs_to_root(image, but=("/opt/airflow", "/home/airflow"))


def test_its_constraints_are_what_it_is_made_with_and_nothing_of_dagsters_side_is_among_it(image: Image) -> None:
    found = set(built.distributions(image))

    assert found - {"scorewatch"} == set(built.pins("constraints-airflow.txt")) - {"pip", "setuptools"}
    assert found & OF_DAGSTERS_SIDE == set()


def test_its_folders_belong_to_the_group_that_every_user_of_a_container_may_be_in(image: Image) -> None:
    for name in ("/opt/airflow", "/opt/airflow/logs", "/opt/airflow/airflow.cfg", "/home/airflow"):
        found = image.path(name).stat()
        assert (found.st_uid, found.st_gid) == (50_000, 0), name
        assert (found.st_mode & stat.S_IRWXG) << 3 == found.st_mode & stat.S_IRWXU, name


def test_the_entrypoint_takes_what_the_chart_calls(pod: Callable[..., Pod]) -> None:
    code, said = pod("version").run("airflow")
    assert (code, said.strip()) == (0, built.pins("constraints-airflow.txt")["apache-airflow"])
    code, said = pod("bash", "-c", "touch /tmp/a && stat --format=%a /tmp/a").run("airflow")
    assert (code, said) == (0, "664\n")
    code, said = pod("python", "-c", IMPORTS.format(names=sorted(OF_DAGSTERS_SIDE))).run("airflow")
    assert code == 0, said
    assert said.splitlines()[-1] == "[]"
    code, said = pod("plugins", "--output", "json").run("airflow")
    assert code == 0, said
    [plugin] = [each for each in json.loads(said[said.index("[{") :]) if each["name"] == "scorewatch"]
    assert plugin["timetables"] == ["airflow_bridge.timetable.PartitionTimetable"]


def test_people_log_in_with_their_passwords_and_any_user_may_run_the_server(
    pod: Callable[..., Pod], database: str
) -> None:
    [port] = free_ports(1)
    connection = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database}
    person = [word for name, value in PERSON.items() for word in (f"--{name}", value)]
    about = ("--firstname", "Test", "--lastname", "Viewer", "--email", "viewer@lender.example", "--role", "Viewer")
    for arguments in (("db", "migrate"), ("airflow", "users", "create", *person, *about)):
        code, said = pod(*arguments, **connection).run("airflow")
        assert code == 0, said
    server = pod("api-server", "--host", "127.0.0.1", "--port", port, user=123_456, **connection)
    server.start("airflow")

    until(lambda: answer(port, "/api/v2/monitor/health")[0] == 200, server, "airflow")
    assert healthy(answer(port, "/api/v2/monitor/health")[1])
    assert "<form" in answer(port, "/auth/login/")[1]
    assert answer(port, "/auth/token", json.dumps(PERSON))[0] == 201
    assert answer(port, "/auth/token", json.dumps({**PERSON, "password": "another"}))[0] == 401
    assert server.stop("airflow") == 0, server.log("airflow")


def healthy(said: str) -> bool:
    found: dict[str, Any] = json.loads(said)
    return bool(found["metadatabase"]["status"] == "healthy")
