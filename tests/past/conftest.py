"""Stores, results of all sorts, and what rows of them must look like."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets import layout
from monitoring_assets.results import Input, Metric, Result
from resources.object_store import LocalStore, ObjectStore, S3Store, parse_uri

NOW = datetime.now(UTC).replace(microsecond=0)


class Archive:
    """Writes results into a store as stages and the publisher do, and knows what they are as rows."""

    now = NOW

    def clock(self) -> datetime:
        return NOW

    def result(self, partition: str = "2026-03-01", attempt: int = 1, **changes: Any) -> Result:
        metrics = (
            Metric(metric="psi", column="score", window=1, value=0.1 + 0.2, net_value=1e-17, n=150, p_value=0.5),
            Metric(metric="rows", value=150, n=150, partitions=("2026-02-28", partition), status="breach", note="ü\n"),
        )
        said = {
            "model": "ke-nano-loan",
            "version": "3.2.0",
            "partition": partition,
            "kind": "psi",
            "asset": "psi",
            "status": "ok",
            "attempt": attempt,
            "recorded_at": datetime(2026, 3, 2, 4, 5, 6, 789, tzinfo=UTC),
            "trigger": "arrival",
            "live": True,
            "inputs": (Input(asset="distribution", partition=partition, digest="0" * 64),),
            "metrics": metrics,
        }
        return Result.model_validate(said | changes)

    def path(self, result: Result) -> tuple[str, str, str, str, int]:
        """What `layout` names a result by."""
        encoded = result.partition.replace(":", "-")
        return result.model, result.version, encoded, result.kind, result.attempt

    def write(self, store: ObjectStore, *results: Result) -> None:
        """Results that are not published yet."""
        for result in results:
            store.put(layout.pending(*self.path(result)), b"")
            store.put(layout.result(*self.path(result)), result.to_json())

    def publish(self, store: ObjectStore, *results: Result) -> None:
        """Results that are published and not compacted."""
        for result in results:
            store.put(layout.result(*self.path(result)), result.to_json())
            store.put(layout.uncompacted(*self.path(result)), b"")
            store.delete(layout.pending(*self.path(result)))

    def rows(self, results: Iterable[Result]) -> list[dict[str, Any]]:
        """The rows of results, sorted; a lost or doubled one shows."""
        return self.in_order(_row(result) for result in results)

    def in_order(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(
            rows, key=lambda row: [row[name] for name in ("model", "version", "partition", "kind", "attempt")]
        )

    def keys(self, store: ObjectStore, prefix: str) -> list[str]:
        return [info.key for info in store.list(prefix)]

    def age(self, store: ObjectStore, key: str, age: timedelta) -> None:
        """Makes an object that old."""
        modified = NOW - age
        if isinstance(store, LocalStore):
            os.utime(store.location(key), (modified.timestamp(), modified.timestamp()))
            return
        from moto.s3.models import s3_backends

        place = parse_uri(store.location(key))
        stored = s3_backends["123456789012"]["aws"].get_object(place.bucket, place.key)
        stored.last_modified = modified.replace(tzinfo=None)


def _row(result: Result) -> dict[str, Any]:
    row = result.model_dump(exclude={"inputs"})
    for metric in row["metrics"]:
        metric |= {name: list(value) for name, value in metric.items() if isinstance(value, tuple)}
    return row | {"metrics": list(row["metrics"])}


@pytest.fixture(scope="session")
def archive() -> Archive:
    return Archive()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Every test with this runs against a new store of each kind."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    return S3Store(bucket, "some/prefix", endpoint=server.endpoint)


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


class Intercepted:
    """A store that calls ``before(method, key)`` before, and ``after(method, key)`` after, each of its calls."""

    def __init__(
        self,
        store: ObjectStore,
        before: Callable[[str, str], None] = lambda *_: None,
        after: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self._store, self._before, self._after = store, before, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(key: str = "", *arguments: Any) -> Any:
            self._before(name, key)
            answer = found(key, *arguments) if name != "storage_options" else found()
            if name == "list":
                answer = iter(list(answer))
            self._after(name, key)
            return answer

        return call


@pytest.fixture(scope="session")
def intercepted() -> type[Intercepted]:
    return Intercepted
