"""Exports are whole or have not happened, and write nothing that is there already."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_bridge.export import CURRENT, SOURCES, Exported, Source, export, plan_key, set_key
from airflow_bridge.schema import PLAN_LIMIT, Asset, DagPlan, PlanSet, Task, decode, digest
from resources.errors import BadInput, InfrastructureError
from resources.object_store import LocalStore, ObjectStore, open_store
from tests.airflow_bridge.plans import plan
from tests.conftest import Fault, Lender, S3Server


class Watched:
    """A store that says what was done to it; ``before`` is called with the method and the key of every access."""

    def __init__(self, store: ObjectStore, before: Callable[[str, str], None] = lambda *_: None) -> None:
        self.seen: list[tuple[str, str]] = []
        self._store, self._before = store, before

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method

        def watched(key: str, *arguments: Any) -> Any:
            self._before(name, key)
            self.seen.append((name, key))
            return method(key, *arguments)

        return watched

    @property
    def written(self) -> list[str]:
        return [key for name, key in self.seen if name not in ("get", "head", "list")]


class Killed(BaseException):
    """What no code of ours handles: the process is gone."""


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    server: S3Server = request.getfixturevalue("s3_server")
    return open_store(f"s3://{request.getfixturevalue('bucket')}/scorewatch", s3_endpoint=server.endpoint)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def source(*plans: DagPlan, fingerprint: str = "1") -> Source:
    return Source(fingerprint, lambda: plans)


def sources(*names: str, **descriptions: str) -> dict[str, Source]:
    """A source for each name, with a DAG of that name; a description is its fingerprint too."""
    wanted = {**dict.fromkeys(names, "first"), **descriptions}
    return {name: source(plan(name, description=text), fingerprint=text) for name, text in wanted.items()}


def failing(error: BaseException, fingerprint: str = "2") -> Source:
    def build() -> Iterable[DagPlan]:
        raise error

    return Source(fingerprint, build)


def in_force(store: ObjectStore) -> dict[str, DagPlan]:
    """Everything that a reader of the current set gets; every digest is checked."""
    current = store.get(CURRENT)
    if current is None:
        return {}
    sha256 = json.loads(current.data)["set"]
    held = store.get(set_key(sha256))
    assert held is not None
    assert digest(held.data) == sha256
    found = {}
    for dag_id, sha in PlanSet.model_validate_json(held.data).plans.items():
        blob = store.get(plan_key(sha))
        assert blob is not None
        found[dag_id] = decode(blob.data, sha)
        assert found[dag_id].dag_id == dag_id
    return found


def descriptions(store: ObjectStore) -> dict[str, str]:
    return {dag_id: each.description for dag_id, each in in_force(store).items()}


def everything(store: ObjectStore) -> dict[str, bytes]:
    return {info.key: blob.data for info in store.list("") if (blob := store.get(info.key))}


def test_what_was_exported_is_in_force_under_digests(store: ObjectStore) -> None:
    done = export(store, sources("a", "b"))

    assert in_force(store) == {name: plan(name, description="first") for name in ("a", "b")}
    assert json.loads(everything(store)[CURRENT]) == {"set": done.set}
    assert done == Exported(done.set, new=("a", "b"))


def test_an_export_of_nothing_new_reads_two_objects_and_writes_and_builds_none(store: ObjectStore) -> None:
    first = export(store, sources("a", "b"))
    watched = Watched(store)

    again = export(watched, {name: failing(AssertionError("built"), "first") for name in ("b", "a")})

    assert watched.seen == [("get", CURRENT), ("get", SOURCES)]
    assert again == Exported(first.set, unchanged=2)


def test_only_what_changed_is_built_and_written_and_the_pointer_comes_last(store: ObjectStore) -> None:
    export(store, sources("a", "b", "c"))
    before = everything(store)
    watched = Watched(store)
    untouched = failing(AssertionError("built"), "first")

    done = export(watched, {"a": untouched, "c": untouched, **sources(b="second", d="first")})

    assert done == Exported(done.set, new=("d",), changed=("b",), unchanged=2)
    plans = {key for key in watched.written if key.startswith("airflow/plans/")}
    assert len(plans) == 2
    assert watched.written[2:] == [set_key(done.set), SOURCES, CURRENT]
    after = everything(store)
    assert {key: data for key, data in before.items() if key not in (SOURCES, CURRENT)}.items() <= after.items()
    assert descriptions(store) == {"a": "first", "b": "second", "c": "first", "d": "first"}


def test_what_is_no_longer_there_goes_and_its_plan_stays_for_runs_that_name_it(store: ObjectStore) -> None:
    first = export(store, sources("a", "b"))
    kept = everything(store)

    done = export(store, sources("b"))

    assert done == Exported(done.set, gone=("a",), unchanged=1)
    assert set(in_force(store)) == {"b"}
    assert set_key(first.set) in kept
    assert kept.keys() <= everything(store).keys()
    assert export(store, sources("a", "b")).set == first.set


def test_the_last_version_may_go_too(local: LocalStore) -> None:
    export(local, sources("a"))

    assert export(local, {}).gone == ("a",)
    assert in_force(local) == {}


def test_a_new_release_that_gives_the_same_plans_gives_no_new_set(local: LocalStore) -> None:
    first = export(local, sources("a"))
    watched = Watched(local)

    again = export(watched, {"a": source(plan("a", description="first"), fingerprint="2")})

    assert again == Exported(first.set, unchanged=1)
    assert watched.written == [SOURCES]


@pytest.mark.parametrize("error", [BadInput("the asset 'x' is wrong"), ValueError("a bug")])
def test_a_source_that_cannot_be_built_keeps_its_last_plan_and_hides_no_other(
    local: LocalStore, error: Exception
) -> None:
    export(local, sources("a", "b"))

    done = export(local, {"a": failing(error), "new": failing(error), **sources(b="second")})

    assert done.changed == ("b",)
    assert done.refused.keys() == {"a", "new"}
    assert all(str(error) in message for message in done.refused.values())
    assert descriptions(local) == {"a": "first", "b": "second"}
    assert export(local, sources(a="second", b="second")).changed == ("a",)


def test_trouble_of_the_store_while_building_changes_nothing(local: LocalStore) -> None:
    export(local, sources("a"))
    before = everything(local)

    with pytest.raises(InfrastructureError, match="no answer"):
        export(local, {**sources(a="second"), "z": failing(InfrastructureError("no answer"))})

    assert everything(local) == before


def test_of_two_sources_with_the_same_dag_the_first_by_name_has_it(local: LocalStore) -> None:
    mine, theirs = source(plan("same", description="mine")), source(plan("same", description="theirs"))

    for _ in range(2):
        done = export(local, {"2": theirs, "1": mine, **sources("other")})

        assert done.refused.keys() == {"2"}
        assert "'same' is made of '1' already" in done.refused["2"]
        assert descriptions(local) == {"same": "mine", "other": "first"}


def test_a_source_may_have_several_dags_or_none(local: LocalStore) -> None:
    done = export(local, {"group": source(plan("g"), plan("g_week")), "empty": source()})

    assert done.new == ("g", "g_week")
    assert set(in_force(local)) == {"g", "g_week"}


def test_a_plan_that_no_reader_would_take_is_refused(local: LocalStore) -> None:
    text = "x" * 4_000
    assets = [Asset(key=f"k{number}", description=text) for number in range(100)]
    tasks = tuple(Task(id=f"t{i}", assets=tuple(assets[i::2]), arguments=("run",)) for i in range(2))

    done = export(local, {"large": source(plan("large", tasks=tasks)), **sources("a")})

    assert f"and {PLAN_LIMIT} are read" in done.refused["large"]
    assert set(in_force(local)) == {"a"}


def test_an_exporter_that_is_killed_before_any_write_leaves_the_old_set_in_force(store: ObjectStore) -> None:
    old, new = sources("a", "b", "c"), sources("b", "d", a="second")
    export(store, old)

    for writes in range(100):
        try:
            export(dying_after(store, writes), new)
        except Killed:
            assert descriptions(store) == {"a": "first", "b": "first", "c": "first"}
        else:
            break

    assert writes == 5  # two plans, the set, the sources, the pointer
    assert descriptions(store) == {"a": "second", "b": "first", "d": "first"}


@pytest.mark.parametrize("writes", range(5))
def test_the_export_after_a_killed_one_completes_it(local: LocalStore, writes: int) -> None:
    export(local, sources("a", "b", "c"))
    with pytest.raises(Killed):
        export(dying_after(local, writes), sources("b", "d", a="second"))

    done = export(local, sources("b", "d", a="second"))

    assert (done.new, done.changed, done.gone, done.unchanged) == (("d",), ("a",), ("c",), 1)
    assert descriptions(local) == {"a": "second", "b": "first", "d": "first"}


def dying_after(store: ObjectStore, writes: int) -> Any:
    left = iter(range(writes))
    lock = threading.Lock()

    def before(method: str, _: str) -> None:
        with lock:
            if method in ("put", "put_if_absent", "compare_and_swap") and next(left, None) is None:
                raise Killed

    return Watched(store, before)


def test_an_exporter_whose_view_may_be_older_does_not_undo_another_ones_export(store: ObjectStore) -> None:
    export(store, sources("a"))

    def meanwhile(method: str, key: str) -> None:
        if (method, key) == ("compare_and_swap", CURRENT):
            export(store, sources("a", "newest"))

    with pytest.raises(InfrastructureError, match="Export again"):
        export(Watched(store, meanwhile), sources("a", "stale"))

    assert set(in_force(store)) == {"a", "newest"}
    assert export(store, sources("a", "newest")).unchanged == 2


def test_two_exporters_of_the_same_agree(local: LocalStore) -> None:
    def meanwhile(method: str, key: str) -> None:
        if (method, key) == ("compare_and_swap", CURRENT):
            export(local, sources("a"))

    assert export(Watched(local, meanwhile), sources("a")).new == ("a",)
    assert set(in_force(local)) == {"a"}


def test_a_swap_whose_answer_was_lost_counts(s3_lender: Lender, s3_server: S3Server) -> None:
    lost = Fault("PUT", "503 Slow Down", "SlowDown", takes_effect=True)

    def before(method: str, _: str) -> None:
        if method == "compare_and_swap":
            s3_server.faults.append(lost)

    done = export(Watched(s3_lender.store, before), sources("a"))

    assert s3_server.faults == []
    assert done.new == ("a",)
    assert set(in_force(s3_lender.store)) == {"a"}


def test_many_exporters_at_once_leave_the_set_of_one_of_them_whole(local: LocalStore) -> None:
    together = threading.Barrier(6)

    def attempt(number: int) -> str | None:
        together.wait(30)
        try:
            return export(local, sources("shared", f"own-{number}")).set
        except InfrastructureError:
            return None

    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(attempt, range(6)))

    current = json.loads(everything(local)[CURRENT])["set"]
    assert current in done
    found = set(in_force(local))
    assert "shared" in found
    assert len(found) == 2


@pytest.mark.parametrize(
    ("key", "data"),
    [
        (SOURCES, None),
        (SOURCES, b"{"),
        (SOURCES, b'{"sources": {"a": {"fingerprint": "first", "plans": {"../a": "' + b"0" * 64 + b'"}}}}'),
        (SOURCES, b'{"sources": {"a": {"fingerprint": "first", "plans": {"a": "0"}}}}'),
        (CURRENT, None),
        (CURRENT, b"[]"),
        (CURRENT, b'{"set": "../../x"}'),
        ("set", None),
        ("set", b"{}}"),
    ],
)
def test_what_somebody_damaged_is_made_again(local: LocalStore, key: str, data: bytes | None) -> None:
    first = export(local, sources("a", "b"))
    place = set_key(first.set) if key == "set" else key
    if data is None:
        local.delete(place)
    else:
        local.put(place, data)

    export(local, sources("b", a="second"))

    assert descriptions(local) == {"a": "second", "b": "first"}


def test_without_what_exporters_remember_plans_that_are_in_force_are_not_written_again(local: LocalStore) -> None:
    export(local, sources("a", "b"))
    local.delete(SOURCES)
    watched = Watched(local)

    done = export(watched, sources("b", a="second"))

    assert (done.changed, done.unchanged) == (("a",), 1)
    assert len([key for key in watched.written if key.startswith("airflow/plans/")]) == 1
