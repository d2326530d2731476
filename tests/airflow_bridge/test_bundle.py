"""The bundle against real stores: what becomes of plan sets, good and bad ones, on the machine that reads them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_bridge.export import CURRENT, plan_key, set_key
from airflow_bridge.schema import PLAN_LIMIT, DagPlan, Resources, canonical, digest, encode
from resources.object_store import ObjectStore, open_store
from tests.airflow_bridge.conftest import Inside
from tests.airflow_bridge.plans import plan, point_to, publish
from tests.conftest import S3Server

A, B = plan("a_1.0.0"), plan("b_1.0.0")
NEW_A = plan("a_1.0.0", description="Another text.")


@dataclass(frozen=True)
class Machine:
    """One that has a copy of the bundle, as a dag-processor or a worker has."""

    inside: Inside
    store_uri: str
    s3_endpoint: str | None = None
    name: str = field(default_factory=lambda: f"b{uuid4().hex[:8]}")
    environ: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, version: str | None = None) -> dict[str, Any]:
        """What a new bundle is like after the call, its version's files too, as texts."""
        place = {"store_uri": self.store_uri, "s3_endpoint": self.s3_endpoint}
        own = {"name": self.name, "version": version, "environ": self.environ}
        found = self.inside("bundles.call", method=method, **own, **place)
        path = Path(found["path"])
        files = {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}
        return {**found, "files": files}

    def refresh(self) -> dict[str, Any]:
        return self.call("refresh")

    def refreshed(self) -> dict[str, Any]:
        found = self.refresh()
        assert found["raised"] is None
        return found

    @property
    def versions(self) -> Path:
        return self.inside.home / "bundles" / self.name / "versions"

    def made(self) -> set[str]:
        return {folder.name for folder in self.versions.iterdir()}


def plans_in(found: dict[str, Any]) -> dict[str, bytes]:
    return {
        Path(name).stem: text.encode() for name, text in found["files"].items() if Path(name).parent.name == "plans"
    }


def of(*plans: DagPlan) -> dict[str, bytes]:
    return {each.dag_id: encode(each) for each in plans}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def machine(inside: Inside, store: ObjectStore) -> Machine:
    return Machine(inside, store.uri)


def test_a_set_becomes_a_folder_of_loaders_and_plans(machine: Machine, store: ObjectStore) -> None:
    current = publish(store, A, B)

    found = machine.call("initialize")

    assert found["raised"] is None
    assert (found["version"], Path(found["path"]).name) == (current, current)
    assert plans_in(found) == of(A, B)
    loaders = {name: text for name, text in found["files"].items() if name.startswith("shard_")}
    assert len(loaders) == 16
    assert len(set(loaders.values())) == 1
    # Airflow reads no file in which it does not find both of these words.
    assert all(word in loaders["shard_00.py"] for word in ("airflow", "DAG"))
    assert "kubernetes" not in loaders["shard_00.py"], "the import takes seconds"
    assert found["files"][".airflowignore"] == "plans/\n"
    assert "refused.py" not in found["files"]


def test_a_loader_gives_the_dags_of_its_shard(inside: Inside, machine: Machine, store: ObjectStore) -> None:
    publish(store, A, B)
    path = Path(machine.refreshed()["path"])

    shards = [inside("rendering.load", file=str(loader))["dags"] for loader in path.glob("shard_*.py")]

    assert sorted(dag_id for shard in shards for dag_id in shard) == ["a_1.0.0", "b_1.0.0"]


KUBERNETES = {
    "AIRFLOW__SCOREWATCH__EXECUTION": "kubernetes",
    "AIRFLOW__SCOREWATCH__IMAGE": f"registry.lender.example/scorewatch@sha256:{'0' * 64}",
    "AIRFLOW__SCOREWATCH__NAMESPACE": "scorewatch",
    "AIRFLOW__SCOREWATCH__SERVICE_ACCOUNT": "scorewatch",
}


def test_pods_import_their_operator_where_the_dag_processor_sees_it(
    start_inside: Callable[..., Inside], store: ObjectStore
) -> None:
    publish(store, A)
    kubernetes = {**KUBERNETES, "AIRFLOW__SCOREWATCH__SHARDS": "3"}

    found = Machine(start_inside(**kubernetes), store.uri).refreshed()

    loaders = {name: text for name, text in found["files"].items() if name.startswith("shard_")}
    assert sorted(loaders) == ["shard_00.py", "shard_01.py", "shard_02.py"]
    assert "\nfrom airflow.providers.cncf.kubernetes.operators import pod\n" in loaders["shard_00.py"]


def test_a_new_set_is_a_new_version_and_the_old_one_stays(machine: Machine, store: ObjectStore) -> None:
    publish(store, A, B)
    old = machine.refreshed()
    current = publish(store, NEW_A)

    found = machine.refreshed()

    assert found["version"] == current
    assert plans_in(found) == of(NEW_A)
    assert plans_in(machine.call("initialize", version=old["version"])) == of(A, B)


def test_the_same_set_is_left_alone(machine: Machine, store: ObjectStore) -> None:
    publish(store, A)
    path = Path(machine.refreshed()["path"])
    before = path.stat()

    machine.refreshed()

    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_run_keeps_its_version_after_a_newer_one_and_after_its_files_are_gone(
    machine: Machine, store: ObjectStore
) -> None:
    old = publish(store, A, B)
    machine.refreshed()
    publish(store, NEW_A)
    machine.refreshed()
    shutil.rmtree(machine.versions / old)

    found = machine.call("initialize", version=old)

    assert (found["raised"], found["version"]) == (None, old)
    assert plans_in(found) == of(A, B)


def test_another_machine_makes_the_same_files_of_a_version(
    inside: Inside, machine: Machine, store: ObjectStore
) -> None:
    publish(store, A, B)
    publish(store, NEW_A, raw={B.dag_id: b"{}"})
    here = machine.refreshed()

    there = Machine(inside, store.uri).call("initialize", version=here["version"])

    assert there["raised"] is None
    assert there["files"] == here["files"]


def test_a_pinned_bundle_is_not_refreshed(machine: Machine, store: ObjectStore) -> None:
    version = publish(store, A)

    assert "is pinned to" in machine.call("refresh", version=version)["raised"]


@pytest.mark.parametrize("version", ["", "latest", "../../etc", "0" * 63, f"{'0' * 64}~", f"{'0' * 64}~..", "0" * 65])
def test_what_is_no_version_is_refused(machine: Machine, store: ObjectStore, version: str) -> None:
    publish(store, A)

    found = machine.call("initialize", version=version)

    assert found["raised"] == f"BadInput: {version!r} is no version of the bundle {machine.name}."


def test_a_version_whose_set_was_deleted_fails_and_names_what_is_missing(machine: Machine, store: ObjectStore) -> None:
    version = publish(store, A)
    store.delete(set_key(version))

    found = machine.call("initialize", version=version)

    assert f"There is no {store.uri}/{set_key(version)}" in found["raised"]


def with_unknown_key(found: DagPlan) -> bytes:
    return canonical({**json.loads(encode(found)), "image": "evil.example/x"})


def with_template(found: DagPlan) -> bytes:
    return encode(found).replace(b"Nano loans", b"{{ var.value.secret }}")


def from_the_future(found: DagPlan) -> bytes:
    return encode(found).replace(b'"schema_version":1', b'"schema_version":2')


def of_another_dag(found: DagPlan) -> bytes:
    return encode(A if found.dag_id != A.dag_id else B)


def too_long(found: DagPlan) -> bytes:
    return encode(found) + b" " * PLAN_LIMIT


def no_json(found: DagPlan) -> bytes:
    return encode(found)[:-1]


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (with_unknown_key, "image"),
        (with_template, "which Airflow would evaluate"),
        (from_the_future, "schema_version"),
        (of_another_dag, "is one of a_1.0.0"),
        (too_long, f"at most {PLAN_LIMIT} are read"),
        (no_json, "cannot be used"),
    ],
)
def test_a_bad_plan_leaves_its_dag_as_it_was_and_the_others_change(
    machine: Machine, store: ObjectStore, spoiled: Callable[[DagPlan], bytes], message: str
) -> None:
    sound = publish(store, A, B)
    machine.refreshed()
    current = publish(store, NEW_A, raw={B.dag_id: spoiled(B)})

    found = machine.refreshed()

    assert plans_in(found) == of(NEW_A, B)
    assert found["version"] == f"{current}~{sound}"
    reason = found["files"]["refused.py"]
    assert "The DAG b_1.0.0 is not as its newest plan says." in reason
    assert message in reason
    assert "a_1.0.0 is not" not in reason


def test_a_plan_that_was_changed_in_the_store_is_not_used(machine: Machine, store: ObjectStore) -> None:
    publish(store, A, B)
    machine.refreshed()
    publish(store, NEW_A, B)
    store.put(plan_key(digest(encode(NEW_A))), encode(plan("a_1.0.0", description="Changed.")))

    found = machine.refreshed()

    assert plans_in(found) == of(A, B)
    assert "it was changed after it was exported" in found["files"]["refused.py"]


def test_a_plan_that_is_missing_is_not_used(machine: Machine, store: ObjectStore) -> None:
    publish(store, A, B)
    machine.refreshed()
    publish(store, NEW_A, B)
    store.delete(plan_key(digest(encode(NEW_A))))

    found = machine.refreshed()

    assert plans_in(found) == of(A, B)
    assert f"There is no {store.uri}/{plan_key(digest(encode(NEW_A)))}" in found["files"]["refused.py"]


def test_a_bad_plan_of_a_new_dag_is_left_out(machine: Machine, store: ObjectStore) -> None:
    current = publish(store, A, raw={B.dag_id: b"{}"})

    found = machine.refreshed()

    assert (found["version"], plans_in(found)) == (f"{current}~{current}", of(A))
    assert "The DAG b_1.0.0 is not as its newest plan says." in found["files"]["refused.py"]


def test_a_plan_beyond_the_limits_leaves_its_dag_as_it_was_for_every_worker_too(
    machine: Machine, store: ObjectStore
) -> None:
    machine = replace(machine, environ=KUBERNETES)
    sound = publish(store, A, B)
    machine.refreshed()
    current = publish(store, NEW_A, asking(B, cpu=8))

    found = machine.refreshed()

    assert (found["version"], plans_in(found)) == (f"{current}~{sound}", of(NEW_A, B))
    assert "asks for 8 cores, and at most 4 are allowed" in found["files"]["refused.py"]
    worker = replace(machine, name=f"{machine.name}-worker").call("initialize", version=found["version"])
    assert worker["files"] == found["files"]


def test_other_limits_are_asked_about_the_plans_that_are_there(machine: Machine, store: ObjectStore) -> None:
    low = replace(machine, environ=KUBERNETES)
    high = replace(machine, environ={**KUBERNETES, "AIRFLOW__SCOREWATCH__MAX_CPU": "16"})
    greedy = asking(B, cpu=8)
    current = publish(store, A, greedy)
    assert plans_in(high.refreshed()) == of(A, greedy)

    lowered = low.refreshed()

    assert (lowered["version"], plans_in(lowered)) == (f"{current}~{current}", of(A))
    assert "b_1.0.0" in lowered["files"]["refused.py"]
    raised = high.refreshed()
    assert (raised["version"], plans_in(raised)) == (current, of(A, greedy))


def asking(found: DagPlan, cpu: float) -> DagPlan:
    """The plan, when its first task asks for so many cores."""
    first, *others = found.tasks
    first = first.model_copy(update={"resources": Resources(cpu=cpu, memory_mib=1024)})
    return found.model_copy(update={"tasks": (first, *others)})


def test_what_is_wrong_stays_away_from_the_last_sound_set_however_many_sets_come(
    machine: Machine, store: ObjectStore
) -> None:
    sound = publish(store, A, B)
    machine.refreshed()
    publish(store, NEW_A, raw={B.dag_id: b"{}"})
    machine.refreshed()
    last = publish(store, plan("c_1.0.0"), raw={B.dag_id: b"{}", A.dag_id: b"[]"})

    found = machine.refreshed()

    assert found["version"] == f"{last}~{sound}"
    assert plans_in(found) == of(A, B, plan("c_1.0.0"))


def test_the_refused_file_goes_with_the_bad_plan(machine: Machine, store: ObjectStore) -> None:
    publish(store, A, raw={B.dag_id: b"{}"})
    machine.refreshed()
    current = publish(store, A, B)

    found = machine.refreshed()

    assert found["version"] == current
    assert "refused.py" not in found["files"]


@pytest.mark.parametrize("known", [True, False])
def test_a_plan_that_is_put_back_is_used_with_the_next_refresh(
    machine: Machine, store: ObjectStore, known: bool
) -> None:
    if known:
        publish(store, A, B)
        machine.refreshed()
    current = publish(store, NEW_A, B)
    store.delete(plan_key(digest(encode(NEW_A))))
    machine.refreshed()
    assert plans_in(machine.refreshed()) == (of(A, B) if known else of(B))
    store.put(plan_key(digest(encode(NEW_A))), encode(NEW_A))

    found = machine.refreshed()

    assert (found["version"], plans_in(found)) == (current, of(NEW_A, B))


def test_a_version_that_a_run_had_to_do_with_in_part_is_made_whole(machine: Machine, store: ObjectStore) -> None:
    current = publish(store, A, B)
    store.delete(plan_key(digest(encode(B))))
    assert plans_in(machine.call("initialize", version=current)) == of(A)
    store.put(plan_key(digest(encode(B))), encode(B))

    found = machine.refreshed()

    assert (found["version"], plans_in(found)) == (current, of(A, B))
    assert machine.made() == {current}


HOSTILE_SETS = {
    "no JSON": b"{",
    "no object": b"[]",
    "unknown key": canonical({"schema_version": 1, "plans": {}, "loader": "import os"}),
    "a newer schema": canonical({"schema_version": 2, "plans": {}}),
    "a path for an id": canonical({"schema_version": 1, "plans": {"../../evil": "0" * 64}}),
    "a hidden file for an id": canonical({"schema_version": 1, "plans": {".airflowignore": "0" * 64}}),
    "a path for a digest": canonical({"schema_version": 1, "plans": {"a_1.0.0": "../current"}}),
    "a digest that is none": canonical({"schema_version": 1, "plans": {"a_1.0.0": 7}}),
}


@pytest.mark.parametrize("plan_set", HOSTILE_SETS.values(), ids=HOSTILE_SETS)
def test_a_set_that_cannot_be_read_leaves_everything_as_it_was(
    machine: Machine, store: ObjectStore, plan_set: bytes
) -> None:
    before = publish(store, A)
    machine.refreshed()
    bad = point_to(store, plan_set)

    found = machine.refresh()

    assert found["raised"].startswith(f"BadInput: The plan set {bad} cannot be used")
    assert (found["version"], plans_in(found)) == (before, of(A))
    assert machine.made() == {before}


def test_a_set_that_was_changed_in_the_store_is_not_used(machine: Machine, store: ObjectStore) -> None:
    before = publish(store, A)
    machine.refreshed()
    changed = publish(store, A, B)
    store.put(set_key(changed), canonical({"schema_version": 1, "plans": {}}))

    found = machine.refresh()

    assert "it was changed after it was exported" in found["raised"]
    assert found["version"] == before


@pytest.mark.parametrize("pointer", [b"", b"{}", b"[1]", b'{"set": "../../x"}', b'{"set": 1}', b"\xff", b"x" * 2_000])
def test_a_pointer_to_no_set_leaves_everything_as_it_was(machine: Machine, store: ObjectStore, pointer: bytes) -> None:
    before = publish(store, A)
    machine.refreshed()
    store.put(CURRENT, pointer)

    found = machine.refresh()

    assert CURRENT in found["raised"]
    assert found["version"] == before


def test_before_the_first_export_there_is_no_version_and_a_message_says_so(
    machine: Machine, store: ObjectStore
) -> None:
    found = machine.call("initialize")

    assert f"There is no {store.uri}/{CURRENT}. Export the DAGs" in found["raised"]
    assert found["version"] is None
    assert not Path(found["path"]).exists()


def test_a_machine_that_starts_while_the_store_is_away_goes_on_with_what_it_has(
    machine: Machine, store: ObjectStore
) -> None:
    version = publish(store, A)
    machine.refreshed()
    store.delete(CURRENT)

    found = machine.call("initialize")

    assert (found["raised"], found["version"]) == (None, version)
    assert plans_in(found) == of(A)


@pytest.fixture(scope="module")
def beside_s3(s3_server: S3Server, start_inside: Callable[..., Inside]) -> Inside:
    """A process that was started with the credentials of the S3 server."""
    return start_inside()


@pytest.fixture
def on_s3(beside_s3: Inside, s3_server: S3Server, bucket: str) -> tuple[Machine, ObjectStore]:
    store = open_store(f"s3://{bucket}/scorewatch", s3_endpoint=s3_server.endpoint)
    return Machine(beside_s3, store.uri, s3_server.endpoint), store


def test_a_refresh_that_fails_between_two_plans_leaves_nothing_and_succeeds_later(
    on_s3: tuple[Machine, ObjectStore], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, store = on_s3
    plans = [plan(f"model-{number}_1.0.0") for number in range(20)]
    before = publish(store, A)
    machine.refreshed()
    current = publish(store, NEW_A, *plans)
    answer, refused = s3_server._app, plan_key(digest(encode(plans[17])))

    def without_one(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not environ["PATH_INFO"].endswith(refused):
            return answer(environ, start_response)
        start_response("403 Forbidden", [("Content-Length", "0")])
        return []

    monkeypatch.setattr(s3_server, "_app", without_one)

    failed = machine.refresh()

    assert failed["raised"].startswith("InfrastructureError: ")
    assert refused in failed["raised"]
    assert (failed["version"], machine.made()) == (before, {before})
    monkeypatch.undo()
    assert machine.refreshed()["version"] == current


def test_plans_come_from_s3_once(on_s3: tuple[Machine, ObjectStore], s3_server: S3Server) -> None:
    machine, store = on_s3
    plans = [plan(f"model-{number}_1.0.0") for number in range(60)]
    publish(store, *plans)
    assert len(plans_in(machine.refreshed())) == 60
    publish(store, *plans, A)
    before = s3_server.requests

    found = machine.refreshed()

    assert plans_in(found) == of(*plans, A)
    assert s3_server.requests - before == 6, "two each for the pointer, the set and the plan that is new"


def test_a_killed_process_leaves_nothing_that_the_next_one_stumbles_over(machine: Machine, store: ObjectStore) -> None:
    first = publish(store, A)
    machine.refreshed()
    (machine.versions / ".making-dead" / "plans").mkdir(parents=True)
    current = publish(store, A, B)

    assert plans_in(machine.refreshed()) == of(A, B)

    assert machine.made() == {first, current}


def test_versions_go_when_nobody_used_them_for_a_day(machine: Machine, store: ObjectStore) -> None:
    unused = publish(store, A)
    machine.refreshed()
    used = publish(store, B)
    machine.refreshed()
    fresh = publish(store, A, B)
    machine.refreshed()
    long_ago = time.time() - 25 * 3600
    for version in (unused, used):
        os.utime(machine.versions / version, (long_ago, long_ago))
    assert machine.call("initialize", version=used)["raised"] is None

    current = publish(store, NEW_A)
    machine.refreshed()

    assert machine.made() == {used, fresh, current}


def test_a_version_that_airflow_keeps_a_record_of_is_left_to_airflow(machine: Machine, store: ObjectStore) -> None:
    tracked = publish(store, A)
    machine.refreshed()
    record = machine.inside.home / "bundles" / "_tracking" / machine.name / tracked
    record.parent.mkdir(parents=True)
    record.touch()
    os.utime(machine.versions / tracked, (0, 0))

    current = publish(store, B)
    machine.refreshed()

    assert machine.made() == {tracked, current}
