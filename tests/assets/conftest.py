"""Running partitions through a version's assets, and looking at what that left in the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from monitoring_assets.results import Result

ALL = ("features", "scores", "distribution", "psi", "csi")
Run = Callable[..., dict[tuple[str, str], Any]]


@pytest.fixture(scope="session")
def run() -> Run:
    """``run(version, partitions, assets=…, trigger=…, force=…)``: what was recorded, by asset and partition."""
    from monitoring_assets.assets import pipeline

    def run(
        version: Any,
        partitions: Sequence[str],
        assets: Sequence[str] = ALL,
        *,
        trigger: str = "backfill",
        force: bool = False,
    ) -> dict[tuple[str, str], Any]:
        found = {}
        for batch in pipeline.run(version, assets, partitions, trigger=trigger, force=force):  # type: ignore[arg-type]
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
