from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resources.errors import InfrastructureError
from resources.object_store import S3Store, s3

CONFLICT = ("409 Conflict", "ConditionalRequestConflict")
UNAVAILABLE = ("503 Service Unavailable", "ServiceUnavailable")


def put_directly(bucket: str, keys: list[str]) -> None:
    """Past HTTP: a thousand requests take seconds."""
    from moto.s3.models import s3_backends

    for key in keys:
        s3_backends["123456789012"]["aws"].put_object(bucket, key, b"x")


def test_listings_go_on_after_a_thousand_keys(s3_store: S3Store, bucket: str) -> None:
    keys = [f"many/{number:05}/x" for number in range(2_345)]
    put_directly(bucket, [f"some/prefix/{key}" for key in keys])
    assert [info.key for info in s3_store.list()] == keys
    assert list(s3_store.list_folders("many")) == [key.split("/")[1] for key in keys]


def test_listings_leave_out_what_no_key_can_name(s3_store: S3Store, bucket: str) -> None:
    put_directly(bucket, [f"some/prefix{rest}" for rest in ("/a/", "/a/b", "/a//b", "/a/../b", "/a/.hidden", "ed/a")])
    assert [info.key for info in s3_store.list()] == ["a/b"]
    assert list(s3_store.list_folders("a")) == []


def test_a_store_may_be_a_whole_bucket(s3_server: Any, bucket: str) -> None:
    store = S3Store(bucket, endpoint=s3_server.endpoint)
    store.put("a/b", b"x")
    assert [info.key for info in store.list()] == ["a/b"]
    assert list(store.list_folders("")) == ["a"]
    assert S3Store(bucket, "a", endpoint=s3_server.endpoint).get("b") == store.get("a/b")


def test_a_write_whose_answer_was_lost_still_counts_as_ours(s3_store: S3Store, s3_server: Any, fault: Any) -> None:
    fault("PUT", *UNAVAILABLE, takes_effect=True)
    assert s3_store.put_if_absent("created", b"1") is True
    fault("PUT", *UNAVAILABLE, takes_effect=True)
    etag = s3_store.compare_and_swap("swapped", b"1", None)
    assert etag is not None
    fault("PUT", *UNAVAILABLE, takes_effect=True)
    second = s3_store.compare_and_swap("swapped", b"2", etag)
    found = s3_store.get("swapped")
    assert found is not None
    assert (found.data, found.etag) == (b"2", second)


def test_a_resent_write_that_really_lost_is_lost(s3_store: S3Store, fault: Any) -> None:
    # The same bytes: only the write id can tell.
    etag = s3_store.put("a", b"1")
    fault("PUT", *UNAVAILABLE)
    assert s3_store.put_if_absent("a", b"1") is False
    fault("PUT", *UNAVAILABLE)
    assert s3_store.compare_and_swap("a", b"1", "0" * 32) is None
    assert s3_store.put("a", b"1") == etag


def test_a_write_that_meets_another_one_is_sent_again(s3_store: S3Store, fault: Any) -> None:
    fault("PUT", *CONFLICT)
    fault("PUT", *CONFLICT)
    assert s3_store.put_if_absent("a", b"1") is True
    fault("PUT", *CONFLICT)
    assert s3_store.put_if_absent("a", b"1") is False


def test_a_conflict_without_end_is_given_up(
    s3_store: S3Store, s3_server: Any, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_CONFLICT_WAITS", (0.0, 0.0))
    for _ in range(3):
        fault("PUT", *CONFLICT)
    with pytest.raises(InfrastructureError, match=r"conditional put of s3://.*/some/prefix/a failed: Conditional"):
        s3_store.put_if_absent("a", b"1")
    assert s3_server.faults == []


def test_a_refusal_names_operation_bucket_and_key(s3_store: S3Store, bucket: str, fault: Any) -> None:
    fault("GET", "403 Forbidden", "AccessDenied")
    with pytest.raises(InfrastructureError, match=f"get of s3://{bucket}/some/prefix/a/b failed: AccessDenied"):
        s3_store.get("a/b")
    fault("GET", "403 Forbidden", "AccessDenied")
    with pytest.raises(InfrastructureError, match=f"list of s3://{bucket}/some/prefix/a/ failed: AccessDenied"):
        list(s3_store.list("a/"))


def test_a_missing_bucket_is_not_an_absent_object(s3_server: Any) -> None:
    store = S3Store("no-such-bucket", endpoint=s3_server.endpoint)
    for call in (lambda: store.get("a"), lambda: store.put_if_absent("a", b"1"), lambda: list(store.list())):
        with pytest.raises(InfrastructureError, match="NoSuchBucket"):
            call()


def test_a_swap_in_a_missing_bucket_is_an_error_and_not_a_lost_race(s3_server: Any) -> None:
    with pytest.raises(InfrastructureError, match="NoSuchBucket"):
        S3Store("no-such-bucket", endpoint=s3_server.endpoint).compare_and_swap("a", b"1", "0" * 32)


def test_no_message_holds_credentials(s3_server: Any, bucket: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDHUNTER2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-hunter2")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-hunter2\nwith a line break")
    # Another spelling of the endpoint: the client of the first one has its credentials already.
    store = S3Store(bucket, endpoint=s3_server.endpoint.replace("127.0.0.1", "localhost"))
    with pytest.raises(InfrastructureError) as refused:
        store.get("a")
    shown = "".join(traceback.format_exception(refused.value))
    assert "hunter2" not in shown.lower()


def test_storage_options_hold_no_credentials(s3_store: S3Store, s3_server: Any) -> None:
    assert s3_store.storage_options() == {
        "aws_region": "us-east-1",
        "aws_endpoint_url": s3_server.endpoint,
        "aws_allow_http": "true",
    }
    assert set(S3Store("bucket").storage_options()) == {"aws_region"}


@pytest.fixture
def region(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., str | None]]:
    """The region that a new process's client has with this environment, and no other."""

    def found(**environ: str) -> str | None:
        s3._client.cache_clear()
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        options = s3.s3_storage_options(None)
        assert s3.s3_client(None).meta.region_name == options["aws_region"], "Polars is told another one"
        return options["aws_region"]

    config = tmp_path / "config"
    config.write_text("[default]\nregion = sa-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    yield found
    s3._client.cache_clear()


def test_the_region_has_either_of_two_names_and_boto3_s_own_comes_first(region: Callable[..., str | None]) -> None:
    assert region(AWS_REGION="eu-west-1") == "eu-west-1"
    assert region(AWS_DEFAULT_REGION="af-south-1") == "af-south-1"
    assert region(AWS_DEFAULT_REGION="af-south-1", AWS_REGION="eu-west-1") == "af-south-1"
    assert region() == "sa-east-1", "what a file says is used as before"
