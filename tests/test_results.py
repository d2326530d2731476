from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from monitoring_assets.results import SEVERITY, Input, Metric, Result, gravest, is_live, write_result
from resources.object_store import LocalStore, ObjectInfo

NOW = datetime(2026, 1, 3, 2, tzinfo=UTC)
DUE = datetime(2026, 1, 3, tzinfo=UTC)
DEADLINE = DUE - timedelta(hours=1)
GRACE = timedelta(hours=24)
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from monitoring_assets.results import Metric, Result, write_result
from resources.object_store import LocalStore

store, name = LocalStore(Path(sys.argv[1])), sys.argv[2]
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
for number in range(20):
    metric = Metric(metric="psi", column=name, n=number)
    now = datetime(2026, 1, 3, tzinfo=UTC)
    result = Result(model="m", version="1", partition="2026-01-02", kind="psi", asset="psi", status="ok",
                    recorded_at=now, trigger="arrival", live=True, metrics=(metric,))
    write_result(store, result, "2026-01-02")
"""


@pytest.fixture
def store(tmp_path: Any) -> LocalStore:
    return LocalStore(tmp_path / "store")


def result(**changes: Any) -> Result:
    content = {
        "model": "ke-nano-loan",
        "version": "3.2.0",
        "partition": "2026-01-02",
        "kind": "quality",
        "asset": "features",
        "status": "ok",
        "recorded_at": NOW,
        "trigger": "arrival",
        "live": True,
        "inputs": (Input(asset="source", partition="2026-01-02", digest="ab"),),
        "metrics": (Metric(metric="rows", value=400.0, n=400),),
    }
    return Result(**{**content, **changes})


def attempts(store: LocalStore, kind: str = "quality") -> list[Result]:
    folder = f"results/ke-nano-loan/3.2.0/2026-01-02/{kind}/"
    return [Result.model_validate_json(store.get(info.key).data) for info in store.list(folder)]  # type: ignore[union-attr]


def test_a_result_is_stored_with_a_marker_that_it_is_not_published(store: LocalStore) -> None:
    written = write_result(store, result(), "2026-01-02")
    assert written == result(attempt=1)
    assert [info.key for info in store.list()] == [
        "pending/ke-nano-loan/3.2.0/2026-01-02/quality/0001",
        "results/ke-nano-loan/3.2.0/2026-01-02/quality/0001.json",
    ]
    assert attempts(store) == [written]


def test_the_same_findings_are_written_once(store: LocalStore) -> None:
    first = write_result(store, result(), "2026-01-02")
    later = result(recorded_at=NOW + timedelta(hours=5), trigger="backfill", live=False)
    assert write_result(store, later, "2026-01-02") == first
    assert write_result(store, result(), "2026-01-02") == first
    assert len(list(store.list())) == 2


def test_the_first_live_attempt_is_written_although_its_findings_are_known(store: LocalStore) -> None:
    write_result(store, result(trigger="backfill", live=False), "2026-01-02")
    assert write_result(store, result(), "2026-01-02").attempt == 2
    assert write_result(store, result(), "2026-01-02").attempt == 2
    assert write_result(store, result(trigger="backfill", live=False), "2026-01-02").attempt == 2
    assert [each.live for each in attempts(store)] == [False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "warn"},
        {"reason": "other"},
        {"metrics": ()},
        {"inputs": ()},
        {"metrics": (Metric(metric="rows", value=401.0, n=400),)},
    ],
)
def test_other_findings_are_another_attempt(store: LocalStore, change: dict[str, Any]) -> None:
    write_result(store, result(), "2026-01-02")
    assert write_result(store, result(**change), "2026-01-02").attempt == 2
    assert write_result(store, result(), "2026-01-02").attempt == 3, "what was found first is found again"


def test_assets_that_share_a_kind_do_not_hide_each_other(store: LocalStore) -> None:
    for asset in ("features", "scores", "distribution"):
        write_result(store, result(asset=asset), "2026-01-02")
    for number, asset in enumerate(("features", "scores", "distribution"), start=1):
        assert write_result(store, result(asset=asset), "2026-01-02").attempt == number
    assert [each.asset for each in attempts(store)] == ["features", "scores", "distribution"]


def test_kinds_and_partitions_are_counted_apart(store: LocalStore) -> None:
    assert write_result(store, result(kind="psi", asset="psi"), "2026-01-02").attempt == 1
    assert write_result(store, result(kind="csi", asset="csi"), "2026-01-02").attempt == 1
    hourly = result(partition="2026-01-02-05:00")
    assert write_result(store, hourly, "2026-01-02-05-00").attempt == 1
    assert store.head("results/ke-nano-loan/3.2.0/2026-01-02-05-00/quality/0001.json")


class Overtaken(LocalStore):
    """At the first listing there is nothing yet: another process writes ``taken`` right after it."""

    taken: Result | None = None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if self.taken is None:
            return super().list(prefix)
        self.put_if_absent(f"{prefix}0001.json", self.taken.to_json())
        self.taken = None
        return iter(())


@pytest.fixture
def overtaken(tmp_path: Any) -> Overtaken:
    return Overtaken(tmp_path / "store")


def test_an_attempt_that_another_process_took_is_not_overwritten(overtaken: Overtaken) -> None:
    overtaken.taken = other = result(reason="of the other process", attempt=1)
    assert write_result(overtaken, result(), "2026-01-02").attempt == 2
    assert attempts(overtaken) == [other, result(attempt=2)]
    assert overtaken.head("pending/ke-nano-loan/3.2.0/2026-01-02/quality/0002")


def test_the_same_findings_of_another_process_are_not_written_again(overtaken: Overtaken) -> None:
    overtaken.taken = other = result(attempt=1)
    assert write_result(overtaken, result(), "2026-01-02") == other
    assert attempts(overtaken) == [other]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Any, store: LocalStore) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store")]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    try:
        for writer in writers:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.communicate("go\n", timeout=60)
        assert [writer.returncode for writer in writers] == [0, 0, 0]
    finally:
        for writer in writers:
            writer.kill()
    found = [json.loads(store.get(info.key).data) for info in store.list("results")]  # type: ignore[union-attr]
    assert [each["attempt"] for each in found] == list(range(1, 61))
    written = {(each["metrics"][0]["column"], each["metrics"][0]["n"]) for each in found}
    assert written == {(name, number) for name in "abc" for number in range(20)}
    assert len(list(store.list("pending"))) == 60


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["value", "net_value", "p_value", "threshold"])
def test_a_result_cannot_hold_nan_or_infinity(name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Metric(metric="psi", **{name: value})  # type: ignore[arg-type]


@given(
    st.builds(
        Metric,
        metric=st.text(),
        column=st.none() | st.text(),
        partitions=st.lists(st.text()).map(tuple),
        value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        n=st.none() | st.integers(0, 2**53),
        status=st.sampled_from(SEVERITY),
        note=st.none() | st.text(),
    )
)
def test_what_is_written_is_read_back_with_the_same_digest(metric: Metric) -> None:
    written = result(metrics=(metric,))
    read = Result.model_validate_json(written.to_json())
    assert read == written
    assert read.digest == written.digest


def test_the_digest_leaves_out_when_by_what_and_how_often() -> None:
    other = {"attempt": 9, "recorded_at": NOW + GRACE, "trigger": "catch-up", "live": False}
    assert result(**other).digest == result().digest
    assert result(partition="2026-01-03").digest != result().digest


def test_the_gravest_status_stands_for_all() -> None:
    assert gravest([]) == "ok"
    assert gravest(["ok", "insufficient_data", "ok"]) == "insufficient_data"
    assert gravest(["breach", "warn", "stale"]) == "breach"
    assert gravest(SEVERITY) == "error"


@pytest.mark.parametrize(
    ("changes", "live"),
    [
        ({}, True),
        ({"recorded_at": DUE + GRACE}, True),
        ({"recorded_at": DUE + GRACE + timedelta(microseconds=1)}, False),
        ({"recorded_at": DUE - timedelta(days=1)}, True),
        ({"partitions_since": 3}, True),
        ({"partitions_since": 4}, False),
        ({"partitions_since": 4, "due": DEADLINE}, True),
        ({"partitions_since": 4, "due": DEADLINE, "recorded_at": DEADLINE + GRACE}, True),
        ({"partitions_since": 4, "due": DEADLINE, "recorded_at": DEADLINE + 2 * GRACE}, False),
        ({"partitions_since": 4, "due": DEADLINE + timedelta(microseconds=1)}, False),
        ({"partitions_since": 4, "due": DEADLINE, "trigger": "backfill"}, False),
        ({"trigger": "backfill"}, False),
        ({"trigger": "catch-up"}, False),
        ({"trigger": "onboarding"}, False),
    ],
)
def test_only_a_recent_arrival_is_live(changes: dict[str, Any], live: bool) -> None:
    usual = {"trigger": "arrival", "recorded_at": NOW, "due": DUE, "grace": GRACE, "partitions_since": 0}
    usual["deadline"] = DEADLINE
    assert is_live(**{**usual, **changes}) is live


def test_what_the_caller_wrote_itself_is_not_read_again(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = write_result(store, result(asset="scores"), "2026-01-02")
    reads, get, written = list[str](), LocalStore.get, dict[str, Result]()

    def read(own: LocalStore, key: str) -> Any:
        reads.append(key)
        return get(own, key)

    monkeypatch.setattr(LocalStore, "get", read)
    first = write_result(store, result(), "2026-01-02", written)
    assert (first.attempt, reads) == (2, [next(info.key for info in store.list("results/"))])
    assert write_result(store, result(), "2026-01-02", written) == first, "the same finding is no new attempt"
    assert write_result(store, result(status="warn"), "2026-01-02", written).attempt == 3
    assert len(reads) == 1
    assert write_result(store, result(asset="scores"), "2026-01-02", written) == theirs, "of another, it is read"
    assert len(reads) == 2
