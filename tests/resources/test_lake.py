from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.errors import BadInput, InfrastructureError
from resources.lake import SourceFile, check_allowed, list_files, marker_present
from resources.object_store import ObjectStore, open_store


class Lake:
    """A folder of either kind, written through a store and read as a lake."""

    def __init__(self, store: ObjectStore, endpoint: str | None) -> None:
        self.uri = store.uri
        self.put = store.put
        self.location = store.location
        self._endpoint = endpoint

    def files(self, glob: str) -> list[SourceFile]:
        return list_files(f"{self.uri}/{glob}", s3_endpoint=self._endpoint)

    def names(self, glob: str) -> list[str]:
        return [file.uri.rpartition("/")[2] for file in self.files(glob)]

    def marked(self, glob: str, marker: str) -> bool:
        return marker_present(f"{self.uri}/{glob}", marker, s3_endpoint=self._endpoint)


@pytest.fixture
def lake(store: ObjectStore) -> Lake:
    return Lake(store, store.storage_options().get("aws_endpoint_url"))


def test_files_are_listed_with_what_polars_can_read(lake: Lake) -> None:
    lake.put("day/b.parquet", b"12345")
    lake.put("day/a.parquet", b"123")
    files = lake.files("day/*.parquet")
    assert [(file.uri, file.size) for file in files] == [
        (lake.location("day/a.parquet"), 3),
        (lake.location("day/b.parquet"), 5),
    ]
    for file in files:
        assert file.last_modified.utcoffset() == timedelta(0)
        assert abs(file.last_modified - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*", ["a.parquet", "ab.parquet", "b.csv", "c[1].parquet"]),
        ("*.parquet", ["a.parquet", "ab.parquet", "c[1].parquet"]),
        ("?.parquet", ["a.parquet"]),
        ("a*.parquet", ["a.parquet", "ab.parquet"]),
        ("a.parquet", ["a.parquet"]),
        ("c[1].parquet", ["c[1].parquet"]),
        ("a?parquet", ["a.parquet"]),
        ("a", []),
        ("A.parquet", []),
        (".*", []),
        ("_*", ["_SUCCESS", "_half.parquet"]),
    ],
)
def test_only_star_and_question_mark_are_wild(lake: Lake, glob: str, expected: list[str]) -> None:
    for name in ("a.parquet", "ab.parquet", "b.csv", "c[1].parquet", "_SUCCESS", "_half.parquet", "below/a.parquet"):
        lake.put(f"day/{name}", b"x")
    assert lake.names(f"day/{glob}") == expected


def test_hidden_files_are_skipped(bucket: str, s3_server: Any, tmp_path: Path) -> None:
    from resources.object_store.s3 import s3_client

    (tmp_path / ".a.parquet.tmp").write_bytes(b"x")
    s3_client(s3_server.endpoint).put_object(Bucket=bucket, Key="day/.a.parquet.tmp", Body=b"x")
    # The marker of a folder, as the S3 console makes it.
    s3_client(s3_server.endpoint).put_object(Bucket=bucket, Key="day/", Body=b"")
    assert list_files(f"file://{tmp_path}/*") == []
    assert list_files(f"s3://{bucket}/day/*", s3_endpoint=s3_server.endpoint) == []


def test_a_missing_folder_has_no_files(lake: Lake) -> None:
    assert lake.files("no/such/day/*.parquet") == []
    lake.put("file", b"x")
    assert lake.files("file/*.parquet") == []


def test_a_missing_bucket_is_an_error(s3_server: Any) -> None:
    with pytest.raises(InfrastructureError, match="NoSuchBucket"):
        list_files("s3://no-such-bucket/day/*.parquet", s3_endpoint=s3_server.endpoint)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_path: str) -> Iterator[Any]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InfrastructureError, match="Permission denied"):
        list_files(f"file://{tmp_path}/*.parquet")


def test_the_fingerprint_changes_with_the_bytes(lake: Lake) -> None:
    lake.put("day/a.parquet", b"one")
    before = lake.files("day/*")
    assert lake.files("day/*") == before
    lake.put("day/a.parquet", b"two")
    assert lake.files("day/*")[0].fingerprint != before[0].fingerprint


def test_files_of_a_bucket_s_top_are_found(bucket: str, s3_server: Any) -> None:
    open_store(f"s3://{bucket}", s3_endpoint=s3_server.endpoint).put("a.parquet", b"x")
    files = list_files(f"s3://{bucket}/*.parquet", s3_endpoint=s3_server.endpoint)
    assert [file.uri for file in files] == [f"s3://{bucket}/a.parquet"]


def test_a_listing_does_not_page_through_the_folders_below(s3_server: Any, bucket: str) -> None:
    from moto.s3.models import s3_backends

    for key in ("day/z.parquet", *(f"day/below/{number:04}" for number in range(2_500))):
        s3_backends["123456789012"]["aws"].put_object(bucket, key, b"x")
    before = s3_server.requests
    files = list_files(f"s3://{bucket}/day/*.parquet", s3_endpoint=s3_server.endpoint)
    assert [file.uri for file in files] == [f"s3://{bucket}/day/z.parquet"]
    assert s3_server.requests - before == 1


def test_a_listing_goes_on_after_a_thousand_files(s3_server: Any, bucket: str) -> None:
    from moto.s3.models import s3_backends

    for number in range(1_500):
        s3_backends["123456789012"]["aws"].put_object(bucket, f"day/{number:04}.parquet", b"x")
    assert len(list_files(f"s3://{bucket}/day/*.parquet", s3_endpoint=s3_server.endpoint)) == 1_500


def test_a_marker_counts_only_beside_the_files(lake: Lake) -> None:
    lake.put("day/a.parquet", b"x")
    lake.put("day/below/_SUCCESS", b"")
    lake.put("day/_SUCCESS2", b"")
    assert not lake.marked("day/*.parquet", "_SUCCESS")
    lake.put("day/_SUCCESS", b"")
    assert lake.marked("day/*.parquet", "_SUCCESS")
    assert not lake.marked("missing/*.parquet", "_SUCCESS")


@pytest.mark.parametrize("marker", ["", "../_SUCCESS", "a/b", "*", "_SUCCES?"])
def test_a_marker_is_a_plain_name(marker: str) -> None:
    with pytest.raises(BadInput, match="marker"):
        marker_present("file:///a/*.parquet", marker)


@pytest.mark.parametrize(
    "uri",
    [
        *("/a/b/*.parquet", "a/*.parquet", "https://h/a.parquet", "s3a://lake/x", "s3://", "s3://lake", "s3://lake/"),
        *("file://", "file:///", "file:///a/b/", "s3://lake/a/", "s3://lake/*/x.parquet", "file:///a?/x.parquet"),
        *("s3://lake/../x", "file:///a/../x", "file:///a/%2e%2e/x", "s3://lake/a%2f..%2fx", "s3://lake/a\nb"),
    ],
)
@pytest.mark.parametrize("call", [list_files, lambda uri: marker_present(uri, "_SUCCESS")], ids=["files", "marker"])
def test_a_uri_that_names_no_files_of_one_folder_is_refused(call: Callable[[str], object], uri: str) -> None:
    with pytest.raises(BadInput):
        call(uri)


# What a manifest may read


ALLOWED = ["s3://lake/ke", "s3://other-lake", "file:///data/models/"]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://lake/ke/applications/{partition:%Y/%m/%d}/*.parquet",
        "s3://lake/ke/hour=2026-01-01 00%3A00/*.parquet",
        "s3://lake/ke",
        "s3://other-lake/anything",
        "file:///data/models/x.parquet",
        "file:///data/models/{partition:%Y-%m-%d}.parquet",
    ],
)
def test_a_uri_below_an_allowed_prefix_passes(uri: str) -> None:
    check_allowed(uri, ALLOWED)


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://lake/keX", "s3://lake/keX/x", "s3://lake/k", "s3://lake", "s3://lake/KE/x", "s3://lakes/ke/x"),
        *("s3://lake/ke/../private/x", "s3://lake/ke/%2e%2e/private", "s3://lake/ke/%2E./x", "s3://lake/ke%2Fx"),
        *("s3://lake/ke/..", "s3://lake/ke//x", "s3://lake/./ke/x", "s3://lake/ke/%252e%252e/x", "s3://lake/ke/..\\x"),
        *("s3://lake\\ke/x", "s3://u:p@lake/ke/x", "S3://lake/ke/x", "s3:/lake/ke/x", "https://lake/ke/x", "//lake/ke"),
        *("file:///data/modelsX/x", "file:///data", "file:///etc/passwd", "file:///data/models/../x", "file://lake/ke"),
        *("file:///data/models/%2e%2e/x", "file:////data/models/x", "file://localhost/data/models/x", "/data/models/x"),
        *(
            "s3://lake/ke/\x00",
            "s3://lake/ke/\n",
            " s3://lake/ke/x",
            "s3://lake/ke/\u202ex",
            "",
            "://",
            "file:data/models",
        ),
    ],
    ids=ascii,
)
def test_a_uri_outside_the_allowed_prefixes_is_refused(uri: str) -> None:
    with pytest.raises(BadInput):
        check_allowed(uri, ALLOWED)


def test_the_refusal_says_what_is_allowed_and_who_can_change_it() -> None:
    with pytest.raises(BadInput, match=r"s3://lake/keX/x.*s3://lake/ke.*SCOREWATCH_ALLOWED_SOURCES"):
        check_allowed("s3://lake/keX/x", ALLOWED)
    with pytest.raises(BadInput, match="none"):
        check_allowed("s3://lake/ke/x", [])


def test_a_bare_scheme_allows_everything_of_that_scheme_only() -> None:
    check_allowed("s3://any-bucket/x", ["s3://"])
    check_allowed("file:///any/file", ["file://"])
    with pytest.raises(BadInput):
        check_allowed("file:///any/file", ["s3://"])
    with pytest.raises(BadInput):
        check_allowed("s3://any-bucket/x", ["file://"])


def test_a_symbolic_link_does_not_lead_out_of_an_allowed_folder(tmp_path: Path) -> None:
    for name in ("allowed", "private"):
        (tmp_path / name).mkdir()
    (tmp_path / "allowed/out").symlink_to(tmp_path / "private")
    with pytest.raises(BadInput):
        check_allowed(f"file://{tmp_path}/allowed/out/*.parquet", [f"file://{tmp_path}/allowed"])
    (tmp_path / "alias").symlink_to(tmp_path / "allowed")
    check_allowed(f"file://{tmp_path}/allowed/*.parquet", [f"file://{tmp_path}/alias"])


@given(st.lists(st.sampled_from(["ke", "keX", "..", ".", "", "%2e%2e", "x", "a b"]), max_size=6))
def test_what_is_allowed_starts_with_the_prefix_and_stays_below_it(parts: list[str]) -> None:
    uri = "/".join(["s3://lake", *parts])
    try:
        check_allowed(uri, ["s3://lake/ke"])
    except BadInput:
        return
    assert parts[0] == "ke"
    assert not {".", "..", "%2e%2e"} & set(parts)
