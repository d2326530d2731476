from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring_assets.datasets import (
    Current,
    DatasetPath,
    content_digest,
    data_file,
    locations,
    publish,
    read_current,
)
from resources.errors import InfrastructureError
from resources.object_store import LocalStore

PATH = DatasetPath("features", "ke-nano-loan", "3.2.0", "2026-01-02-05:00", "2026-01-02-05-00")
FOLDER = "data/features/ke-nano-loan/3.2.0/2026-01-02-05-00"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def put(store: LocalStore, made: tuple[Current, list[Path]], etag: str | None = None) -> Current:
    return publish(store, PATH, *made, etag=etag)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """``make(input_digest, content, …)``: a pointer, and the local files that it names."""

    def make(input_digest: str, *contents: bytes) -> tuple[Current, list[Path]]:
        folder = tmp_path / input_digest
        folder.mkdir(exist_ok=True)
        files = []
        for number, content in enumerate(contents):
            files.append(folder / f"part-{number:05d}.parquet")
            files[-1].write_bytes(content)
        current = Current(
            asset="features",
            partition=PATH.partition,
            input_digest=input_digest,
            inputs=(),
            files=tuple(data_file(file, len(file.read_bytes())) for file in files),
            measured={"arrived_at": "2026-01-02T06:00:00+00:00", "excess": 0.25},
        )
        return current, files

    return make


def test_a_partition_that_was_never_published_has_no_pointer(store: LocalStore) -> None:
    assert read_current(store, PATH) == (None, None)


def test_what_is_published_is_read_back_and_can_be_scanned(store: LocalStore, make: Any) -> None:
    current, files = make("aa", b"one", b"three")
    assert publish(store, PATH, current, files, None) == current
    read, etag = read_current(store, PATH)
    assert read == current
    assert etag
    assert current.rows == 8
    assert [Path(place).read_bytes() for place in locations(store, PATH, current)] == [b"one", b"three"]
    assert [info.key for info in store.list()] == [
        f"{FOLDER}/aa/part-00000.parquet",
        f"{FOLDER}/aa/part-00001.parquet",
        f"{FOLDER}/current.json",
    ]


def test_readers_see_only_the_files_they_ask_for(store: LocalStore, make: Any, tmp_path: Path) -> None:
    current, files = make("aa", b"rows")
    hashes = tmp_path / "row-hashes.parquet"
    hashes.write_bytes(b"hashes")
    current = current.model_copy(update={"files": (*current.files, data_file(hashes, 0))})
    publish(store, PATH, current, [*files, hashes], None)
    assert [Path(place).name for place in locations(store, PATH, current)] == ["part-00000.parquet"]
    assert [Path(place).name for place in locations(store, PATH, current, prefix="row-")] == ["row-hashes.parquet"]


def test_a_newer_attempt_replaces_the_pointer_and_leaves_the_old_files(store: LocalStore, make: Any) -> None:
    put(store, make("aa", b"old"))
    _, etag = read_current(store, PATH)
    newer, files = make("bb", b"new")
    publish(store, PATH, newer, files, etag)
    assert read_current(store, PATH)[0] == newer
    assert store.get(f"{FOLDER}/aa/part-00000.parquet")


def test_a_pointer_that_others_swapped_to_other_inputs_stands(store: LocalStore, make: Any) -> None:
    put(store, make("aa", b"old"))
    _, etag = read_current(store, PATH)
    rival, files = make("bb", b"rival")
    publish(store, PATH, rival, files, etag)
    with pytest.raises(InfrastructureError) as lost:
        put(store, make("cc", b"mine"), etag)
    assert "ke-nano-loan 3.2.0, features of 2026-01-02-05:00: another run published" in str(lost.value)
    assert "run the partition again" in str(lost.value)
    assert read_current(store, PATH)[0] == rival


def test_a_pointer_that_others_swapped_to_the_same_inputs_is_as_good(store: LocalStore, make: Any) -> None:
    winner, files = make("aa", b"same")
    publish(store, PATH, winner, files, None)
    assert put(store, make("aa", b"same")) == winner


def test_a_pointer_that_vanished_meanwhile_is_not_created_again(store: LocalStore, make: Any) -> None:
    put(store, make("aa", b"old"))
    _, etag = read_current(store, PATH)
    store.delete(PATH.pointer)
    with pytest.raises(InfrastructureError, match="run the partition again"):
        put(store, make("bb", b"new"), etag)


@pytest.mark.parametrize("data", [b"", b"{}", b"no JSON", b'{"asset": "features"}', b"\xff"])
def test_a_damaged_pointer_is_trouble_of_the_store_and_named(store: LocalStore, data: bytes) -> None:
    store.put(PATH.pointer, data)
    with pytest.raises(InfrastructureError) as damaged:
        read_current(store, PATH)
    assert str(damaged.value).startswith(f"{store.uri}/{FOLDER}/current.json cannot be read as a partition's pointer")
    assert "run the partition again" in str(damaged.value)


def test_a_data_file_is_described_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(bytes(range(256)) * 5_000)
    file = data_file(path, 7)
    assert (file.name, file.rows, file.size) == ("part-00000.parquet", 7, 1_280_000)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_digest_of_data_is_that_of_its_content_whatever_it_was_made_from(make: Any) -> None:
    assert make("aa", b"same")[0].digest == make("bb", b"same")[0].digest
    assert make("aa", b"same")[0].digest != make("cc", b"other")[0].digest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert content_digest(value) == content_digest(dict(reversed(value.items())))
    assert len(content_digest(value)) == 64
