from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.errors import BadInput
from resources.object_store import LocalStore, MissingObject, ObjectStore, S3Store, check_key, open_store, parse_uri

KeyedCalls = list[Callable[[ObjectStore, str], object]]
StartWorker = Callable[..., subprocess.Popen[str]]


def race(start_worker: StartWorker, store: ObjectStore, action: str, count: int) -> list[int]:
    """Eight processes do the same at the same time; the number that each printed."""
    workers = [start_worker(store, action, "raced", str(count)) for _ in range(8)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return [int(worker.communicate(timeout=60)[0]) for worker in workers]


# What both stores do


def test_an_object_comes_back_with_the_etag_of_its_last_write(store: ObjectStore) -> None:
    assert store.get("a/b.json") is None
    store.put("a/b.json", b"first")
    etag = store.put("a/b.json", b"second \x00\xff")
    found = store.get("a/b.json")
    assert found is not None
    assert (found.data, found.etag) == (b"second \x00\xff", etag)
    assert '"' not in etag


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    found = store.get("empty")
    assert found is not None
    assert found.data == b""
    assert [info.size for info in store.list()] == [0]


def test_put_if_absent_creates_once_and_never_overwrites(store: ObjectStore) -> None:
    assert store.put_if_absent("a", b"first") is True
    assert store.put_if_absent("a", b"second") is False
    found = store.get("a")
    assert found is not None
    assert found.data == b"first"


def test_a_swap_needs_the_current_etag(store: ObjectStore) -> None:
    assert store.compare_and_swap("a", b"1", "no-such-etag") is None
    assert store.get("a") is None
    first = store.compare_and_swap("a", b"1", None)
    assert first is not None
    assert store.compare_and_swap("a", b"other", None) is None
    second = store.compare_and_swap("a", b"2", first)
    assert second not in (None, first)
    assert store.compare_and_swap("a", b"3", first) is None
    found = store.get("a")
    assert found is not None
    assert (found.data, found.etag) == (b"2", second)


def test_a_swap_takes_the_etag_of_put_and_of_get(store: ObjectStore) -> None:
    etag = store.compare_and_swap("a", b"2", store.put("a", b"1"))
    found = store.get("a")
    assert found is not None
    assert found.etag == etag
    assert store.compare_and_swap("a", b"3", found.etag)


def test_a_swap_of_a_deleted_object_is_lost(store: ObjectStore) -> None:
    etag = store.put("a", b"1")
    store.delete("a")
    assert store.compare_and_swap("a", b"2", etag) is None
    assert store.get("a") is None


def test_deleting_an_absent_object_is_fine(store: ObjectStore) -> None:
    store.put("a", b"1")
    store.delete("a")
    store.delete("a")
    store.delete("never/was")
    assert list(store.list()) == []


def test_files_go_in_and_come_out_whole(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 9  # above boto3's threshold of 8 MiB for multipart
    (tmp_path / "in").write_bytes(data)
    store.put("a/big", b"replaced")
    store.put_file("a/big", tmp_path / "in")
    store.fetch("a/big", tmp_path / "new/folder/out")
    assert (tmp_path / "new/folder/out").read_bytes() == data
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["out"]
    found = store.get("a/big")
    assert found is not None
    assert found.data == data
    assert store.compare_and_swap("a/big", b"small", found.etag)


def test_fetching_a_missing_object_names_it_and_leaves_the_local_file_alone(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(MissingObject, match="no/such/object"):
        store.fetch("no/such/object", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old"


def test_head_says_what_the_listing_says(store: ObjectStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    store.put("a/b", b"12345")
    info = store.head("a/b")
    assert info is not None
    assert [info] == list(store.list())
    assert (info.key, info.size) == ("a/b", 5)
    assert info.last_modified.utcoffset() == timedelta(0)
    assert before <= info.last_modified <= datetime.now(UTC) + timedelta(seconds=1)
    assert store.head("a") is None
    assert store.head("a/c") is None


def test_the_fingerprint_changes_with_the_bytes_even_if_their_number_stays(store: ObjectStore) -> None:
    fingerprints = set()
    for data in (b"one", b"two", b"six"):
        store.put("a", data)
        info = store.head("a")
        assert info is not None
        fingerprints.add(info.fingerprint)
    assert len(fingerprints) == 3


KEYS = ["a", "b-c/1", "b/1", "b/2/x", "b/2/y", "b/20", "b/é", "b0/1", "c_d/e f"]


def test_listings_are_recursive_and_in_the_order_of_the_keys(store: ObjectStore) -> None:
    for key in reversed(KEYS):
        store.put(key, b"x")
    assert [info.key for info in store.list()] == KEYS == sorted(KEYS)


@pytest.mark.parametrize("prefix", ["b", "b/", "b/2", "b/2/", "b/2/x", "c_d/e", "nothing", "nothing/here/"])
def test_a_prefix_is_the_beginning_of_the_key_wherever_it_ends(store: ObjectStore, prefix: str) -> None:
    for key in KEYS:
        store.put(key, b"x")
    assert [info.key for info in store.list(prefix)] == [key for key in KEYS if key.startswith(prefix)]


def test_folders_are_the_immediate_ones_and_sorted(store: ObjectStore) -> None:
    for key in KEYS:
        store.put(key, b"x")
    assert list(store.list_folders("")) == ["b", "b-c", "b0", "c_d"]
    assert list(store.list_folders("b")) == list(store.list_folders("b/")) == ["2"]
    assert list(store.list_folders("nothing")) == []


def test_a_folder_goes_with_its_last_object(store: ObjectStore) -> None:
    store.put("a/b/c", b"x")
    store.delete("a/b/c")
    assert list(store.list_folders("")) == []
    assert list(store.list_folders("a")) == []


def test_a_store_that_was_never_written_is_empty(store: ObjectStore) -> None:
    assert list(store.list()) == []
    assert list(store.list_folders("")) == []
    assert store.get("a") is None


BAD_KEYS = [
    *("", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/..", "./a", "a/./b", "a\\b", "a\nb", "a\x00b", "a\x7f"),
    *("a\u202eb", "\ud800", ".locks/01", ".tmp/x", "a/.hidden", "x" * 256, "x/" * 500 + "x", "é" * 128),
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_a_key_that_is_no_plain_relative_path_is_refused(key: str, keyed_calls: KeyedCalls, tmp_path: Path) -> None:
    for store in (LocalStore(tmp_path / "store"), S3Store("never-called", endpoint="http://127.0.0.1:1")):
        for call in keyed_calls:
            with pytest.raises(BadInput, match="store key"):
                call(store, key)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["/", "/a", "../", "a//", "a/../", "a/.", "\n"])
def test_a_prefix_that_begins_no_key_is_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(BadInput, match="store key"):
        store.list(prefix)
    with pytest.raises(BadInput, match="store key"):
        store.list_folders(prefix)


@given(st.text(alphabet=st.sampled_from("ab./\\ \n%~é\x00-_:"), max_size=12))
@settings(max_examples=300)
def test_an_accepted_key_never_leaves_the_root(key: str) -> None:
    try:
        check_key(key)
    except BadInput:
        return
    root = Path("/some/root")
    path = Path(os.path.normpath(root / key))
    assert path.relative_to(root).as_posix() == key
    assert LocalStore(root).location(key) == str(path)


def test_of_eight_processes_exactly_one_creates_each_object(store: ObjectStore, start_worker: StartWorker) -> None:
    count = 800 if isinstance(store, LocalStore) else 10
    assert sum(race(start_worker, store, "create", count)) == count
    assert len(list(store.list("raced/"))) == count


def test_eight_processes_that_count_by_swaps_lose_no_increment(store: ObjectStore, start_worker: StartWorker) -> None:
    count = 25 if isinstance(store, LocalStore) else 12
    lost = race(start_worker, store, "increment", count)
    found = store.get("raced")
    assert found is not None
    assert int(found.data) == 8 * count
    assert sum(lost) > 0, "nobody ever raced: the test shows nothing"


def test_polars_scans_a_location(store: ObjectStore) -> None:
    import polars as pl

    buffer = io.BytesIO()
    pl.DataFrame({"a": [1, 2, 3]}).write_parquet(buffer)
    keys = ["data/x=1/part-0.parquet", "data/x=1/part[1] é.parquet"]
    for key in keys:
        store.put(key, buffer.getvalue())
    rows = pl.scan_parquet(
        [store.location(key) for key in keys],
        storage_options=store.storage_options() or None,
        glob=False,
        hive_partitioning=False,
    )
    assert rows.select(pl.col("a").sum()).collect().item() == 12


# Where a store is


@pytest.mark.parametrize(
    ("uri", "store_uri", "location"),
    [
        ("file:///x/y", "file:///x/y", "/x/y/k"),
        ("file:///x/y z/", "file:///x/y z", "/x/y z/k"),
        ("s3://some-bucket", "s3://some-bucket", "s3://some-bucket/k"),
        ("s3://some-bucket/a/b/", "s3://some-bucket/a/b", "s3://some-bucket/a/b/k"),
    ],
)
def test_a_store_opens_at_its_uri(uri: str, store_uri: str, location: str) -> None:
    store = open_store(uri)
    assert store.uri == store_uri
    assert store.location("k") == location


@pytest.mark.parametrize(
    "uri",
    [
        *("", "/x/y", "x", "file://", "file:///", "file://host/x", "file://x", "file:///x/../y", "file:///x//y"),
        *("file:///x/%2e%2e/y", "file:///x%20y", "file:///x\\y", "file:///x\n", "FILE:///x", "s3://", "s3:///x"),
        *("s3://Bucket/x", "s3://bucket/../x", "s3://bucket//x", "s3://bucket/%2E%2e/x", "s3://bucket/a%2Fb"),
        *("s3://buc ket/x", "s3a://bucket/x", "https://bucket.s3.amazonaws.com/x", "s3://bucket/x ", "s3://b/x"),
    ],
)
def test_a_store_does_not_open_at_another_uri(uri: str) -> None:
    with pytest.raises(BadInput, match=r"s3://|file:///|bucket"):
        open_store(uri)


@pytest.mark.parametrize(
    "uri", ["s3://key:hunter2@bucket/x", "https://h/x?X-Amz-Signature=hunter2", "gs://a:hunter2@b"]
)
def test_a_refused_uri_does_not_show_its_secret(uri: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_uri(uri)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("module", ["object_store", "lake", "settings"])
def test_the_module_is_imported_without_the_heavy_packages(module: str) -> None:
    heavy = ["dagster", "polars", "boto3", "botocore", "pandas", "numpy"]
    code = f"import sys, resources.{module}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
