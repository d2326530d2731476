"""Running partitions through a version's assets, and looking at what that left in the store."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest

from monitoring_assets.results import Result

ALL = ("features", "scores", "distribution", "psi", "csi")


@pytest.fixture(scope="session")
def run() -> Callable[..., Any]:
    """``run(version, partitions, assets=ALL, trigger="backfill", force=False)``: records by (asset, partition)."""
    from monitoring_assets.assets import pipeline

    def run(
        version: Any,
        partitions: Sequence[str],
        assets: Sequence[str] = ALL,
        *,
        trigger: Any = "backfill",
        force: bool = False,
    ) -> dict[tuple[str, str], Any]:
        found = {}
        for batch in pipeline.run(version, assets, partitions, trigger=trigger, force=force):
            for each in batch:
                key = (each.outcome.asset, each.outcome.partition)
                assert key not in found, f"two outcomes of {key} in one run"
                found[key] = each
        return found

    return run


@pytest.fixture(scope="session")
def attempts() -> Callable[..., list[Result]]:
    """``attempts(version, partition, kind, asset=None)``: the stored results, oldest first, each checked for nan."""

    def attempts(version: Any, partition: str, kind: str, asset: str | None = None) -> list[Result]:
        manifest, path = version.manifest, version.calendar.encode(partition)
        found = []
        for info in version.store.list(f"results/{manifest.model}/{manifest.version}/{path}/{kind}/"):
            data = version.store.get(info.key).data
            json.loads(data, parse_constant=_refuse)
            found.append(Result.model_validate_json(data))
        return [result for result in found if asset in (None, result.asset)]

    return attempts


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in a result")


@pytest.fixture(scope="session")
def stored() -> Callable[..., pl.DataFrame]:
    """``stored(version, asset, partition)``: the rows that the partition's pointer leads to."""
    from monitoring_assets.datasets import locations

    def stored(version: Any, asset: str, partition: str) -> pl.DataFrame:
        current = version.current(asset, partition)
        assert current is not None
        found = locations(version.store, version.path(asset, partition), current)
        return pl.read_parquet(found, glob=False, storage_options=version.store.storage_options() or None)

    return stored


@pytest.fixture(scope="session")
def parquet() -> Callable[[pl.DataFrame], bytes]:
    """A frame as the bytes of an uncompressed Parquet file, in which a test can find and spoil its values."""

    def parquet(frame: pl.DataFrame) -> bytes:
        buffer = io.BytesIO()
        frame.write_parquet(buffer, compression="uncompressed")
        return buffer.getvalue()

    return parquet


@pytest.fixture(scope="session")
def go_on(run: Callable[..., Any], attempts: Callable[..., list[Result]]) -> Callable[..., Any]:
    """``go_on(lender, version, stopped_at)`` runs three days, the second of them bad, as the nightly run would.

    Whatever stopped the second: the other days are complete, it has a result of every kind, downstream of the asset
    ``stopped_at`` nothing is published and all is ``insufficient_data``. Returns the result that says what is wrong.
    """

    def go_on(lender: Any, version: Any, stopped_at: str, state: str = "blocked") -> Any:
        days = ["2026-01-01", "2026-01-02", "2026-01-03"]
        bad = days[1]
        recorded = run(version, days)
        for (asset, day), each in recorded.items():
            if day != bad:
                assert (each.outcome.state, each.result.status) == ("materialised", "ok"), (asset, day)
        after = ALL[ALL.index(stopped_at) + 1 :]
        assert recorded[stopped_at, bad].outcome.state == state
        for asset in after:
            each = recorded[asset, bad]
            assert (each.outcome.state, each.result.status) == ("skipped", "insufficient_data")
            assert recorded[stopped_at, bad].result.reason in each.result.reason
        for asset in (stopped_at, *after):
            folder = f"data/{asset}/{version.manifest.model}/{version.manifest.version}/{bad}"
            assert lender.listed(folder) == [], "something half-written is visible"
        for kind in ("psi", "csi"):
            assert [result.status for result in attempts(version, bad, kind)] == ["insufficient_data"]
        [found] = attempts(version, bad, "quality", stopped_at)
        assert found == recorded[stopped_at, bad].result
        return found

    return go_on
