from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from resources.errors import BadInput, InfrastructureError
from resources.object_store import LocalStore, ObjectStore


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_a_killed_writer_leaves_only_whole_objects_and_no_lock(
    local: LocalStore, start_worker: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    size = 3_000_000
    staging = tmp_path / "store/.tmp"
    for attempt in range(80):
        if attempt >= 12 and len(list(staging.iterdir())) >= 3:
            break
        worker = start_worker(local, "churn", "killed", str(size), str(tmp_path / "source"))
        assert worker.stdout
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
        for _ in range(2 + attempt % 12):
            assert worker.stdout.readline()
        before = len(list(local.list()))
        while worker.poll() is None and not any(staging.iterdir()):
            """The kill has to come in the middle of a write."""
        worker.kill()
        worker.wait()
        assert before
        for info in local.list():
            found = local.get(info.key)
            assert found is not None
            assert len(found.data) == size
            assert found.data == found.data[:1] * size
    assert len(list(staging.iterdir())) >= 3, "the kills missed the writes: the test shows nothing"
    etag = local.put("killed/swapped", b"x")
    assert local.compare_and_swap("killed/swapped", b"y", etag)


def test_leftovers_of_killed_writers_are_invisible_and_swept_after_a_day(local: LocalStore, tmp_path: Path) -> None:
    staging = tmp_path / "store/.tmp"
    staging.mkdir(parents=True)
    old, fresh = staging / "old", staging / "fresh"
    for leftover in (old, fresh):
        leftover.write_bytes(b"half")
    day_and_hour_ago = fresh.stat().st_mtime - 25 * 3600
    os.utime(old, (day_and_hour_ago, day_and_hour_ago))
    assert list(local.list()) == []
    local.put("a", b"x")
    assert [path.name for path in staging.iterdir()] == ["fresh"]
    assert [info.key for info in local.list()] == ["a"]
    assert list(local.list_folders("")) == []


def test_nothing_is_created_before_the_first_write(local: LocalStore, tmp_path: Path) -> None:
    local.get("a")
    local.head("a")
    list(local.list("a"))
    assert list(tmp_path.iterdir()) == []


def test_objects_are_as_readable_as_other_files(local: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    local.put("a", b"x")
    local.put_if_absent("b", b"x")
    expected = (tmp_path / "plain").stat().st_mode
    assert {(tmp_path / "store" / key).stat().st_mode for key in "ab"} == {expected}


def test_no_key_leads_through_a_symbolic_link(
    local: LocalStore, keyed_calls: list[Callable[[ObjectStore, str], object]], tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    local.put("a/object", b"x")
    root = tmp_path / "store"
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside/secret")
    (root / "a/loop").symlink_to(root)
    for key in ("folder/secret", "folder/new", "file", "a/loop/a/object"):
        for call in keyed_calls:
            with pytest.raises(BadInput, match="symbolic link"):
                call(local, key)
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
    assert (tmp_path / "outside/secret").read_bytes() == b"secret"
    assert [info.key for info in local.list()] == ["a/object"]
    assert list(local.list_folders("")) == ["a"]


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "link")
    store.put("a/b", b"x")
    assert (tmp_path / "real/a/b").read_bytes() == b"x"
    assert [info.key for info in store.list()] == ["a/b"]


def test_a_key_cannot_be_an_object_and_a_folder(local: LocalStore) -> None:
    local.put("a", b"x")
    local.put("b/c", b"x")
    assert local.get("a/below") is None
    assert local.get("b") is None
    for key in ("a/below", "a/far/below", "b"):
        with pytest.raises(BadInput, match="folder"):
            local.put(key, b"x")
        with pytest.raises(BadInput, match="folder"):
            local.put_if_absent(key, b"x")


def test_a_file_cannot_be_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for root in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(BadInput, match="cannot be a store"):
            LocalStore(root).put("a/b", b"x")


def test_a_full_disk_names_the_key_and_leaves_the_old_object(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    local.put("a/b", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InfrastructureError, match=r"write file://.*/store/a/b: .*No space left"):
        local.put("a/b", b"new")
    found = local.get("a/b")
    assert found is not None
    assert found.data == b"old"
    assert list((tmp_path / "store/.tmp").iterdir()) == []
