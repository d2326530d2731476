"""A store, a registry and a lake with five weeks of data, and a stack that runs on them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from monitoring_assets.results import Result
from resources.object_store import ObjectStore, open_store

LANDED_DAYS = 35
BEGUN = datetime.now(UTC)
NOON = f"Etc/GMT{BEGUN.hour - 12:+d}"
"""Where it was noon when the tests began: none of its days ends in the middle of one, nor has one just ended."""


def applications(seed: int, rows: int, income_level: float = 7) -> bytes:
    rng = np.random.default_rng(seed)
    income = np.exp(rng.normal(income_level, 0.5, rows))
    buffer = io.BytesIO()
    pl.DataFrame(
        {
            "application_id": [f"{seed}-{row}" for row in range(rows)],
            "income": income,
            "region": rng.choice(["north", "south", "east"], rows),
            "score": 1 / (1 + income / 1000),
        }
    ).write_parquet(buffer)
    return buffer.getvalue()


def manifest(model: str, lake: str, **changes: Any) -> bytes:
    document = {
        "apiVersion": "scorewatch/v1",
        "model": model,
        "version": "1.0.0",
        "owner": "risk@lender.example",
        "partitions": {"every": "day", "timezone": NOON, "start": day(LANDED_DAYS)},
        "source": {
            "uri": f"{lake}/{{partition:%Y-%m-%d}}/*.parquet",
            "key": "application_id",
            "ready": "_SUCCESS",
        },
        "score": {"kind": "precomputed", "column": "score"},
        "reference": {"sample": "holdout"},
        **changes,
    }
    return yaml.safe_dump(document).encode()


def day(back: int) -> date:
    """So many days before today, there where it is noon: the date is that of UTC."""
    return BEGUN.date() - timedelta(days=back)


def land(lake: ObjectStore, when: date, income_level: float = 7) -> None:
    lake.put(f"{when}/part-0.parquet", applications(when.toordinal(), 300, income_level))
    lake.put(f"{when}/_SUCCESS", b"")


class World:
    """Store, registry and lake of a machine."""

    def __init__(self, machine: Any, store: str, registry: str, lake: str, endpoint: str | None = None) -> None:
        self.machine, self.lake_uri = machine, lake
        self.store, self.registry, self.lake = (
            open_store(uri, s3_endpoint=endpoint) for uri in (store, registry, lake)
        )
        self.environ = {"SCOREWATCH_STORE": store, "SCOREWATCH_REGISTRY": registry, "SCOREWATCH_ALLOWED_SOURCES": lake}
        if endpoint:
            self.environ["SCOREWATCH_S3_ENDPOINT"] = endpoint
        for back in range(LANDED_DAYS, 1, -1):
            land(self.lake, day(back))

    def put(self, model: str, **changes: Any) -> None:
        """Put a version as a data scientist's own pipeline would: the manifest last."""
        self.registry.put(f"{model}/1.0.0/reference.parquet", applications(0, 2000))
        self.registry.put(f"{model}/1.0.0/model.yaml", manifest(model, self.lake_uri, **changes))

    def results(self, model: str, kind: str) -> list[Result]:
        """Every attempt of a kind, by partition."""
        keys = [each.key for each in self.store.list(f"results/{model}/1.0.0/") if each.key.split("/")[4] == kind]
        return [Result.model_validate_json(self.store.get(key).data) for key in keys]

    def judged(self, model: str) -> set[str]:
        """Partitions with a result of psi; its figures are in the store before that."""
        keys = (each.key.split("/") for each in self.store.list(f"results/{model}/1.0.0/"))
        return {key[3] for key in keys if key[4] == "psi"}


@pytest.fixture
def s3_world(new_machine: Callable[[], Any], s3_server: Any, new_bucket: Callable[[], str]) -> World:
    store, registry, lake = (f"s3://{new_bucket()}" for _ in range(3))
    return World(new_machine(), f"{store}/scorewatch", registry, f"{lake}/applications", s3_server.endpoint)


@pytest.fixture
def local_world(new_machine: Callable[[], Any], tmp_path: Path) -> World:
    return World(new_machine(), *(f"file://{tmp_path}/{name}" for name in ("store", "registry", "lake")))


@pytest.fixture
def running(start_stack: Callable[..., Any]) -> Iterator[Callable[[World], Any]]:
    """Starts a stack on a world; it is stopped at the end, and must stop cleanly."""
    stacks = []

    def start(world: World) -> Any:
        stacks.append(start_stack(world.machine, **world.environ))
        return stacks[-1]

    yield start
    for stack in stacks:
        stack.process.family()
        stack.process.popen.terminate()
        code, _, err = stack.process.finish(90)
        assert code == 0, err
        assert stack.process.alive() == []
