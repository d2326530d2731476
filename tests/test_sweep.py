from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets import layout
from monitoring_assets.datasets import Current, DataFile, DatasetPath, publish, read_current
from monitoring_assets.sweep import Swept, sweep
from resources.errors import InfrastructureError
from resources.object_store import LocalStore, ObjectInfo, ObjectStore, S3Store, parse_uri

NOW = datetime.now(UTC).replace(microsecond=0)
SECOND, MINUTE, DAY, WEEK = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1), timedelta(days=7)
PATH = DatasetPath("features", "ke-nano-loan", "3.2.0", "2026-01-02-05:00", "2026-01-02-05-00")
FOLDER = "data/features/ke-nano-loan/3.2.0/2026-01-02-05-00"
OTHER = "data/features/ke-nano-loan/3.2.0/2026-01-02-06-00"
A, B, C = "a" * 64, "b" * 64, "f" * 64
ONE, TWO = "part-00000.parquet", "part-00001.parquet"


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Every test with this runs against a new store of each kind."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    return S3Store(bucket, "some/prefix", endpoint=server.endpoint)


def clock() -> datetime:
    return NOW


def put(store: ObjectStore, key: str, age: timedelta, data: bytes = b"rows") -> str:
    """Writes an object that was last modified ``age`` before the clock; its key."""
    store.put(key, data)
    modified = NOW - age
    if isinstance(store, LocalStore):
        os.utime(store.location(key), (modified.timestamp(), modified.timestamp()))
    else:
        from moto.s3.models import s3_backends

        place = parse_uri(store.location(key))
        stored = s3_backends["123456789012"]["aws"].get_object(place.bucket, place.key)
        stored.last_modified = modified.replace(tzinfo=None)
    return key


def pointer(digest: str, *names: str) -> Current:
    files = tuple(DataFile(name=name, sha256="0" * 64, size=4, rows=1) for name in names)
    return Current(asset=PATH.asset, partition=PATH.partition, input_digest=digest, inputs=(), files=files)


def point(store: ObjectStore, age: timedelta, digest: str, *names: str, folder: str = FOLDER) -> str:
    return put(store, f"{folder}/current.json", age, pointer(digest, *names).model_dump_json().encode())


def keys(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list()}


class Watched:
    """A store that notes every call and every key that a listing shows, and does something first at some calls."""

    def __init__(self, store: ObjectStore, first: Callable[[str], None] = lambda _: None) -> None:
        self._store, self._first = store, first
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._watch(name, found) if callable(found) else found

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.calls.append(f"list {prefix}")
        for info in self._store.list(prefix):
            self.calls.append(f"listed {info.key}")
            yield info

    def _watch(self, name: str, method: Callable[[str], Any]) -> Callable[[str], Any]:
        def call(key: str) -> Any:
            self._first(f"{name} {key}")
            self.calls.append(f"{name} {key}")
            return method(key)

        return call

    @property
    def requests(self) -> list[str]:
        return [call for call in self.calls if not call.startswith("listed")]


def test_an_empty_store_has_nothing_to_sweep(store: ObjectStore) -> None:
    assert sweep(store, clock) == Swept(objects=0, size=0, partitions=0)


def test_the_current_attempt_survives_however_old_it_is(store: ObjectStore) -> None:
    for name in (ONE, TWO):
        put(store, f"{FOLDER}/{A}/{name}", 400 * DAY + SECOND)
    point(store, 400 * DAY, A, ONE, TWO)
    before = keys(store)
    assert sweep(store, clock) == Swept(objects=0, size=0, partitions=1)
    assert keys(store) == before


@pytest.mark.parametrize(("since", "gone"), [(WEEK, False), (WEEK + SECOND, True)])
def test_a_superseded_attempt_goes_seven_days_after_the_swap(store: ObjectStore, since: timedelta, gone: bool) -> None:
    superseded = {put(store, f"{FOLDER}/{A}/{name}", 30 * DAY, b"superseded") for name in (ONE, TWO)}
    put(store, f"{FOLDER}/{B}/{ONE}", since + SECOND)
    point(store, since, B, ONE)
    before = keys(store)
    assert sweep(store, clock) == (Swept(2, 20, 1) if gone else Swept(0, 0, 1))
    assert keys(store) == (before - superseded if gone else before)


@pytest.mark.parametrize(("age", "gone"), [(WEEK, False), (WEEK + SECOND, True)])
@pytest.mark.parametrize("published", [True, False])
def test_a_crashed_attempt_goes_seven_days_after_it_was_written(
    store: ObjectStore, age: timedelta, gone: bool, published: bool
) -> None:
    crashed = put(store, f"{FOLDER}/{B}/{ONE}", age)
    if published:
        put(store, f"{FOLDER}/{A}/{ONE}", 30 * DAY)
        point(store, 30 * DAY, A, ONE)
    before = keys(store)
    assert sweep(store, clock) == (Swept(1, 4, 1) if gone else Swept(0, 0, 1))
    assert keys(store) == (before - {crashed} if gone else before)


def test_of_a_crashed_attempt_only_the_old_files_go(store: ObjectStore) -> None:
    old, young = (put(store, f"{FOLDER}/{A}/{name}", age) for name, age in ((ONE, 8 * DAY), (TWO, 6 * DAY)))
    watched: Any = Watched(store)
    assert sweep(watched, clock).objects == 1
    assert keys(store) == {young}
    assert watched.requests[-2:] == [f"head {old}", f"delete {old}"]


@pytest.mark.parametrize("age", [100 * DAY, 30 * DAY], ids=["written before the swap", "written after the swap"])
def test_files_that_the_pointer_does_not_list_leave_its_own_attempt(store: ObjectStore, age: timedelta) -> None:
    kept = {put(store, f"{FOLDER}/{A}/{ONE}", 50 * DAY), point(store, 50 * DAY, A, ONE)}
    put(store, f"{FOLDER}/{A}/{TWO}", age)
    assert sweep(store, clock).objects == 1
    assert keys(store) == kept


def test_an_attempt_that_took_long_to_upload_is_read_about_and_stays(store: ObjectStore) -> None:
    kept = {put(store, f"{FOLDER}/{A}/{name}", 30 * DAY + after) for name, after in ((ONE, 60 * MINUTE), (TWO, MINUTE))}
    kept.add(point(store, 30 * DAY, A, ONE, TWO))
    watched: Any = Watched(store)
    assert sweep(watched, clock).objects == 0
    assert f"get {FOLDER}/current.json" in watched.requests
    assert keys(store) == kept


def test_a_partition_is_not_mistaken_for_one_whose_name_it_begins_with(store: ObjectStore) -> None:
    day = FOLDER.removesuffix("-05-00")
    for folder, current in ((day, A), (FOLDER, B)):
        for digest in (A, B):
            put(store, f"{folder}/{digest}/{ONE}", 30 * DAY)
        point(store, 30 * DAY, current, ONE, folder=folder)
    assert sweep(store, clock) == Swept(2, 8, 2)
    assert keys(store) == {
        f"{day}/{A}/{ONE}",
        f"{day}/current.json",
        f"{FOLDER}/{B}/{ONE}",
        f"{FOLDER}/current.json",
    }


def test_keys_that_no_stage_writes_are_left_alone(store: ObjectStore) -> None:
    foreign = {
        put(store, key, 400 * DAY)
        for key in (
            "data/notes.txt",
            "data/features/ke-nano-loan/3.2.0/notes.txt",
            f"data/features/ke-nano-loan/{A}/{ONE}",
            f"{FOLDER}/notes.txt",
            f"{FOLDER}/backup/{ONE}",
            f"{FOLDER}/{A.upper()}/{ONE}",
            f"{FOLDER}/{A}/deeper/{ONE}",
            f"{FOLDER}/deeper/{A}/{ONE}",
            f"database/features/ke-nano-loan/3.2.0/2026-01-02/{A}/{ONE}",
            f"results/ke-nano-loan/3.2.0/2026-01-02/{A}/{ONE}",
            "results/ke-nano-loan/3.2.0/2026-01-02/psi/0001.json",
        )
    }
    put(store, f"{FOLDER}/{A}/{ONE}", 400 * DAY)
    assert sweep(store, clock) == Swept(1, 4, 1)
    assert keys(store) == foreign


DAMAGED = {
    "empty": b"",
    "no text": b"\xff\xfe",
    "cut off": pointer(A, ONE).model_dump_json().encode()[:-9],
    "no pointer": b"{}",
    "another format": pointer(A, ONE).model_dump_json().replace("input_digest", "digest").encode(),
    "files that are not there": pointer(C, ONE).model_dump_json().encode(),
    "a path that is no key": pointer(A, "../../secret").model_dump_json().encode(),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_pointer_costs_no_data_and_stops_no_other_partition(
    store: ObjectStore, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kept = {put(store, f"{FOLDER}/{digest}/{ONE}", 30 * DAY) for digest in (A, B)}
    kept.add(put(store, f"{FOLDER}/current.json", 30 * DAY, data))
    put(store, f"{OTHER}/{A}/{ONE}", 30 * DAY)
    with caplog.at_level(logging.WARNING, "monitoring_assets.sweep"):
        assert sweep(store, clock) == Swept(1, 4, 2)
    assert keys(store) == kept
    (warning,) = caplog.messages
    assert warning.startswith(f"{store.uri}/{FOLDER}/current.json ")
    assert "nothing of this partition is swept" in warning
    assert "run the partition again" in warning


def test_a_pointer_behind_a_link_costs_no_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalStore(tmp_path / "store")
    kept = {put(store, f"{FOLDER}/{digest}/{ONE}", 30 * DAY) for digest in (A, B)}
    (tmp_path / "store" / FOLDER / "current.json").symlink_to(tmp_path / "elsewhere.json")
    assert sweep(store, clock).objects == 0
    assert keys(store) == kept
    assert "cannot be read as a partition's pointer" in caplog.text


def test_a_store_that_cannot_be_reached_is_not_taken_for_a_damaged_pointer(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    put(store, f"{FOLDER}/{A}/{ONE}", 30 * DAY)

    def fail(call: str) -> None:
        raise InfrastructureError(f"no answer to {call}")

    watched: Any = Watched(store, fail)
    with pytest.raises(InfrastructureError, match="no answer to get"):
        sweep(watched, clock)
    assert store.head(f"{FOLDER}/{A}/{ONE}")


READS = [
    f"get {FOLDER}/current.json",
    f"head {FOLDER}/current.json",
    f"head {FOLDER}/{B}/{ONE}",
    f"head {FOLDER}/{B}/{TWO}",
]


@pytest.mark.parametrize("moment", READS)
@pytest.mark.parametrize("published", [True, False])
def test_an_orphan_that_is_published_while_it_is_swept_survives(
    store: ObjectStore, tmp_path: Path, moment: str, published: bool
) -> None:
    if published:
        put(store, f"{FOLDER}/{A}/{ONE}", 30 * DAY)
        point(store, 20 * DAY, A, ONE)
    for name in (ONE, TWO):
        put(store, f"{FOLDER}/{B}/{name}", 30 * DAY)
        (tmp_path / name).write_bytes(b"published again")
    orphaned = keys(store)
    again = pointer(B, ONE, TWO)

    def publish_once(call: str) -> None:
        if call == moment and read_current(store, PATH)[0] != again:
            etag = read_current(store, PATH)[1]
            publish(store, PATH, again, [tmp_path / ONE, tmp_path / TWO], etag)

    watched: Any = Watched(store, publish_once)
    swept = sweep(watched, clock)
    assert moment in watched.requests
    assert read_current(store, PATH)[0] == again
    # With it the attempt that was current until then: its readers opened it before the swap.
    assert keys(store) == orphaned | {PATH.pointer}
    assert {store.get(f"{FOLDER}/{B}/{name}").data for name in (ONE, TWO)} == {b"published again"}  # type: ignore[union-attr]
    assert swept.objects == (1 if moment == READS[-1] else 0)


def test_a_pointer_that_somebody_takes_away_meanwhile_costs_no_data(store: ObjectStore) -> None:
    kept = {put(store, f"{FOLDER}/{digest}/{ONE}", 30 * DAY) for digest in (A, B)}
    point(store, 30 * DAY, A, ONE)
    watched: Any = Watched(store, lambda call: store.delete(PATH.pointer) if call == READS[1] else None)
    assert sweep(watched, clock).objects == 0
    assert keys(store) == kept


def test_a_pointer_that_somebody_puts_back_meanwhile_costs_no_data(store: ObjectStore) -> None:
    kept = {put(store, f"{FOLDER}/{digest}/{ONE}", 30 * DAY) for digest in (A, B)}
    watched: Any = Watched(store, lambda call: point(store, 20 * DAY, A, ONE) if call == READS[1] else None)
    assert sweep(watched, clock).objects == 0
    assert keys(store) == {*kept, PATH.pointer}


def test_a_tree_without_old_leftovers_costs_its_listing(store: ObjectStore) -> None:
    for number, age in enumerate((2 * DAY, 8 * DAY, 400 * DAY)):
        folder = f"{FOLDER}-{number}"
        put(store, f"{folder}/{A}/{ONE}", age + 10 * MINUTE)
        put(store, f"{folder}/{A}/{TWO}", age)
        point(store, age, A, ONE, TWO, folder=folder)
    superseded, crashed = f"{FOLDER}-superseded", f"{FOLDER}-crashed"
    put(store, f"{superseded}/{A}/{ONE}", 30 * DAY)
    put(store, f"{superseded}/{B}/{ONE}", 2 * DAY)
    point(store, 2 * DAY, B, ONE, folder=superseded)
    put(store, f"{crashed}/{A}/{ONE}", 2 * DAY)
    watched: Any = Watched(store)
    assert sweep(watched, clock) == Swept(0, 0, 5)
    assert watched.requests == ["list leases/runs/", "list data/"]


def test_an_orphan_costs_one_read_of_its_pointer_and_one_look_at_each(store: ObjectStore) -> None:
    put(store, f"{FOLDER}/{A}/{ONE}", 30 * DAY)
    point(store, 30 * DAY, A, ONE)
    orphans = [put(store, f"{FOLDER}/{B}/{name}", 30 * DAY) for name in (ONE, TWO)]
    watched: Any = Watched(store)
    assert sweep(watched, clock).objects == 2
    each = [f"{method} {key}" for key in orphans for method in ("head", "delete")]
    assert watched.requests == ["list leases/runs/", "list data/", f"get {PATH.pointer}", f"head {PATH.pointer}", *each]


def test_one_partition_is_swept_before_the_rest_is_listed(store: ObjectStore) -> None:
    first, *_, last = [put(store, f"{FOLDER}-{number}/{A}/{ONE}", 30 * DAY) for number in range(3)]
    watched: Any = Watched(store)
    assert sweep(watched, clock) == Swept(3, 12, 3)
    assert watched.calls.index(f"delete {first}") < watched.calls.index(f"listed {last}")


def test_what_stages_publish_again_and_again_is_swept_down_to_what_they_read(lender: Any) -> None:
    from monitoring_assets.assets import pipeline

    days = ["2026-01-01", "2026-01-02"]
    assets = ("features", "scores", "distribution", "psi", "csi")

    def later() -> datetime:
        return datetime.now(UTC) + 8 * DAY

    def run() -> set[str]:
        recorded = [each for batch in pipeline.run(version, assets, days, trigger="backfill") for each in batch]
        return {each.outcome.state for each in recorded}

    for day in days:
        lender.land(day)
    version = lender.onboard(precomputed=True)
    run()
    watched: Any = Watched(lender.store)
    assert sweep(watched, later) == Swept(0, 0, 10)
    assert watched.requests == ["list leases/runs/", "list data/"]

    lender.land(days[0], lender.rows("a correction"))
    run()
    written = keys(lender.store)
    assert sweep(lender.store, lambda: datetime.now(UTC)).objects == 0
    swept = sweep(lender.store, later)
    current = {version.path(asset, day): version.current(asset, day) for asset in assets for day in days}
    named = {path.file(each.input_digest, file.name) for path, each in current.items() for file in each.files}
    kept = keys(lender.store)
    assert {key for key in kept if key.endswith(".parquet") and key.startswith("data/")} == named
    assert len(written - kept) == swept.objects > len(assets)
    assert run() == {"reused"}


AGES = st.sampled_from([0, 6, 7, 8, 30, 90]).map(timedelta)
NAMES = st.sampled_from([ONE, TWO, "row-hashes.parquet"])
ATTEMPTS = st.dictionaries(st.tuples(st.sampled_from([A, B, C, "backup"]), NAMES), AGES)
POINTERS = st.builds(pointer, st.sampled_from([A, B]), NAMES) | st.builds(
    pointer, st.sampled_from([A, B]), NAMES, NAMES
)
TREES = st.dictionaries(
    st.sampled_from([FOLDER, FOLDER.removesuffix("-00"), f"{FOLDER}0", FOLDER.replace("features", "scores")]),
    st.tuples(ATTEMPTS, st.none() | st.just(b"damaged") | POINTERS, AGES),
)


@given(tree=TREES)
@settings(deadline=None)
def test_whatever_the_tree_what_a_pointer_names_and_what_is_young_survives(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = LocalStore(Path(root))
        kept, orphans = set(), set()
        for folder, (files, current, swapped) in tree.items():
            named: set[str] = set()
            if current == b"damaged":
                kept.add(put(store, f"{folder}/current.json", swapped, current))
            elif current is not None:
                kept.add(put(store, f"{folder}/current.json", swapped, current.model_dump_json().encode()))
                named = {f"{current.input_digest}/{file.name}" for file in current.files}
            attempts = {f"{digest}/{name}": age for (digest, name), age in files.items() if digest != "backup"}
            at_the_swap = len({name[:64] for name in attempts}) == 1 and set(attempts.values()) == {swapped}
            healthy = current != b"damaged" and named <= attempts.keys() and swapped > WEEK and not at_the_swap
            for (digest, name), age in files.items():
                key, inside = put(store, f"{folder}/{digest}/{name}", age), f"{digest}/{name}"
                orphan = (current is None or healthy) and age > WEEK and inside in attempts.keys() - named
                (orphans if orphan else kept).add(key)
        swept = sweep(store, clock)
        assert keys(store) == kept
        assert (swept.objects, swept.size) == (len(orphans), 4 * len(orphans))
        assert sweep(store, clock).objects == 0


def test_the_heartbeat_of_a_run_that_was_killed_goes_after_seven_days(store: ObjectStore) -> None:
    put(store, layout.heartbeat("killed"), WEEK + SECOND, b"{}")
    young = put(store, layout.heartbeat("works"), WEEK, b"{}")
    assert sweep(store, clock) == Swept(objects=1, size=2, partitions=0)
    assert keys(store) == {young}
