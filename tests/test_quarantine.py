"""Versions that are kept back: the marker while it lasts, and the results that the publisher acts on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from monitoring_assets.quarantine import (
    Quarantined,
    Stage,
    keep_back,
    kept_back,
    names_kept_back,
    release,
    release_if_kept_back,
)
from monitoring_assets.results import Result
from resources.object_store import ObjectStore, open_store

NOW = datetime(2026, 1, 20, 12, tzinfo=UTC)
RESULTS = "results/ke-nano-loan/2/registry/pipeline/"


def clock() -> datetime:
    return NOW


def finding(stage: Stage = "manifest", **changes: Any) -> Quarantined:
    fields = {"model": "ke-nano-loan", "version": "2", "stage": stage, "of": "abc", "reason": "tier: got the text 'x'"}
    return Quarantined(**(fields | changes))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> ObjectStore:
    """Every test with this runs against a new store of each kind."""
    if request.param == "local":
        return open_store(f"file://{tmp_path}/store")
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    return open_store(f"s3://{bucket}/some/prefix", s3_endpoint=server.endpoint)


def everything(store: ObjectStore) -> dict[str, str]:
    """Every object, and what changes with its bytes (on the disk also with their being written again)."""
    return {info.key: info.fingerprint for info in store.list("")}


def results(store: ObjectStore, folder: str = RESULTS) -> list[Result]:
    blobs = [store.get(info.key) for info in store.list(folder)]
    return [Result.model_validate_json(blob.data) for blob in blobs if blob is not None]


def test_a_version_is_kept_back_by_a_marker_and_a_live_result_that_waits_for_the_publisher(store: ObjectStore) -> None:
    keep_back(store, finding(), clock)
    assert kept_back(store, "manifest") == [finding()]
    [result] = results(store)
    assert (result.kind, result.asset, result.status, result.live) == ("pipeline", "manifest", "quarantined", True)
    assert (result.model, result.version, result.partition) == ("ke-nano-loan", "2", "registry")
    assert result.reason == "tier: got the text 'x'"
    assert result.recorded_at == NOW
    assert [each.digest for each in result.inputs] == ["abc"]
    assert list(everything(store)) == [
        "pending/ke-nano-loan/2/registry/pipeline/0001",
        "quarantine/manifest/ke-nano-loan/2.json",
        f"{RESULTS}0001.json",
    ]


def test_the_same_finding_again_gives_no_second_result(store: ObjectStore) -> None:
    keep_back(store, finding(), clock)
    before = results(store)
    keep_back(store, finding(), lambda: NOW.replace(hour=13))
    assert results(store) == before
    assert kept_back(store, "manifest") == [finding()]


def test_another_finding_gives_another_result_and_replaces_the_marker(store: ObjectStore) -> None:
    keep_back(store, finding(), clock)
    for other in (finding(of="def"), finding(of="def", reason="tier: is missing")):
        keep_back(store, other, clock)
        assert kept_back(store, "manifest") == [other]
    assert [(each.inputs[0].digest, each.reason) for each in results(store)] == [
        ("abc", "tier: got the text 'x'"),
        ("def", "tier: got the text 'x'"),
        ("def", "tier: is missing"),
    ]


def test_a_version_that_is_let_go_on_has_an_ok_result_and_no_marker(store: ObjectStore) -> None:
    keep_back(store, finding(), clock)
    release(store, finding(), clock)
    assert kept_back(store, "manifest") == []
    assert [(each.status, each.reason, each.live) for each in results(store)] == [
        ("quarantined", "tier: got the text 'x'", True),
        ("ok", "", True),
    ]
    before = everything(store)
    release(store, finding(), clock)
    release_if_kept_back(store, "manifest", "ke-nano-loan", "2", clock)
    assert everything(store) == before, "once is enough"


def test_the_same_mistake_made_again_is_told_again(store: ObjectStore) -> None:
    for _ in range(2):
        keep_back(store, finding(), clock)
        release_if_kept_back(store, "manifest", "ke-nano-loan", "2", clock)
    assert [each.status for each in results(store)] == ["quarantined", "ok", "quarantined", "ok"]


def test_a_version_that_is_not_kept_back_is_let_go_on_without_a_trace(store: ObjectStore) -> None:
    keep_back(store, finding(version="1"), clock)
    before = everything(store)
    release_if_kept_back(store, "manifest", "ke-nano-loan", "2", clock)
    release_if_kept_back(store, "onboarding", "ke-nano-loan", "1", clock)
    assert everything(store) == before


def test_the_stages_keep_back_each_for_itself(store: ObjectStore) -> None:
    bad = finding("onboarding", of="files", reason="model.onnx does not exist")
    keep_back(store, finding(), clock)
    keep_back(store, bad, clock)
    assert (kept_back(store, "manifest"), kept_back(store, "onboarding")) == ([finding()], [bad])
    release_if_kept_back(store, "manifest", "ke-nano-loan", "2", clock)
    assert (kept_back(store, "manifest"), kept_back(store, "onboarding")) == ([], [bad])
    assert [(each.asset, each.status) for each in results(store)] == [
        ("manifest", "quarantined"),
        ("reference", "quarantined"),
        ("manifest", "ok"),
    ]
    keep_back(store, bad, clock)
    assert len(results(store)) == 3, "the newest result about the reference says so already"


def test_who_is_kept_back_is_told_in_the_order_of_the_names(store: ObjectStore) -> None:
    names = [("a", "1"), ("a", "10"), ("a", "2.json"), ("a-b", "1"), ("b c", "ü")]
    for model, version in reversed(names):
        keep_back(store, finding(model=model, version=version), clock)
    assert sorted((each.model, each.version) for each in kept_back(store, "manifest")) == names
    assert names_kept_back(store, "manifest") == set(names)
    assert names_kept_back(store, "onboarding") == set()


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_folder_with_the_longest_name_that_there_can_be_is_kept_back_like_any_other(
    store: ObjectStore, letter: str
) -> None:
    longest = (letter * 255).encode()[:254].decode()
    first, second = (finding(model=longest, version=longest + last) for last in "12")
    for each in (first, second):
        keep_back(store, each, clock)
    assert sorted(kept_back(store, "manifest"), key=lambda each: each.version) == [first, second]
    release_if_kept_back(store, "manifest", first.model, first.version, clock)
    assert kept_back(store, "manifest") == [second]
    assert [each.status for each in results(store, f"results/{longest}/{first.version}/")] == ["quarantined", "ok"]


@pytest.mark.parametrize("data", [b"", b"\xff", b'{"model": "ke-nano-loan", "version": "2", "since": 1}'])
def test_a_marker_of_another_release_is_of_nothing_that_there_is_and_can_be_let_go(
    store: ObjectStore, data: bytes
) -> None:
    keep_back(store, finding("onboarding", version="1"), clock)
    store.put("quarantine/onboarding/ke-nano-loan/2.json", data)
    other, damaged = kept_back(store, "onboarding")
    assert other.version == "1"
    assert (damaged.model, damaged.version, damaged.of) == ("ke-nano-loan", "2", "")
    assert damaged.reason == f"{store.uri}/quarantine/onboarding/ke-nano-loan/2.json is damaged"
    release(store, damaged, clock)
    assert kept_back(store, "onboarding") == [other]
