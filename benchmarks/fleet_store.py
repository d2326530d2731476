"""A fleet that has been at work for two months: what registry, store and lake hold of every version.

Every version has a lake of its own, and every day of `DAYS` went through all stages. There is one each of the objects
that a sensor lists or reads while nothing changes, with what it looks for in them; rows and models nobody reads here.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Literal

from benchmarks.s3 import LAKE, REGISTRY, STORE, Put, serve
from monitoring_assets import layout
from monitoring_assets.arrivals.agenda import HORIZON
from monitoring_assets.datasets import Current, content_digest
from monitoring_assets.results import Input, Result
from monitoring_assets.version import CSI, DISTRIBUTION, FEATURES, PSI

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
DAYS = HORIZON["day"]
VERSION = "1.0.0"
FEATURE_NAMES = [f"feature_{number}" for number in range(20)]
ROWS = b"the rows of a day"
NO_FILES = content_digest([])
"""Digest of a partition without files, as all of them are here."""
ROWS_DIGEST = content_digest([md5(ROWS, usedforsecurity=False).hexdigest()])


def model_name(number: int) -> str:
    """Name of a version's model."""
    return f"lender-{number % 10}-loan-{number:04d}"


def partitions() -> list[str]:
    """The days that are done, oldest first; the last is the newest that has ended."""
    return [f"{NOW - timedelta(days=age):%Y-%m-%d}" for age in range(DAYS, 0, -1)]


def manifest(model: str) -> bytes:
    """A manifest as data scientists write them."""
    features = "\n".join(f"  - {{name: {name}, kind: numeric, max_null_rate: 0.05}}" for name in FEATURE_NAMES)
    return f"""\
apiVersion: scorewatch/v1
model: {model}
version: "{VERSION}"
owner: credit-risk@lender.example
tier: 1
partitions: {{every: day, timezone: UTC, start: {partitions()[0]}}}
source: {{uri: "s3://{LAKE}/{model}/{{partition:%Y-%m-%d}}/*.parquet", key: application_id, sla_hours: 6}}
features:
{features}
score: {{kind: onnx, artefact: model.onnx, scale: pd, higher_is: risk}}
reference: {{uri: reference.parquet, sample: holdout, population: applied, label: defaulted, timestamp: applied_at}}
segments: [product, channel]
policy: {{psi: {{warn: 0.10, critical: 0.25}}, csi: {{warn: 0.10, critical: 0.25}}}}
links: {{runbook: "https://runbooks.lender.example/{model}"}}
""".encode()


def deployed(model: str) -> dict[str, bytes]:
    """The files of a version's folder in the registry by their keys, the manifest last."""
    folder = layout.registry_folder(model, VERSION)
    files = {"reference.parquet": b"reference", "model.onnx": b"model", layout.MANIFEST_FILE: manifest(model)}
    return {f"{folder}/{name}": data for name, data in files.items()}


def _fill(put: Put, versions: int) -> None:
    deployed_at = NOW - timedelta(days=DAYS)
    pointers = {(asset, day): _pointer(asset, day) for asset in (FEATURES, DISTRIBUTION, PSI) for day in partitions()}
    for model in map(model_name, range(versions)):
        for key, data in deployed(model).items():
            put(REGISTRY, key, data, deployed_at)
        put(STORE, layout.reference(model, VERSION, "0" * 64), b"{}", deployed_at)
        put(STORE, layout.history_done(model, VERSION), partitions()[-1].encode(), deployed_at)
        for day in partitions():
            landed_at = _landed_at(day)
            put(LAKE, f"{model}/{day}/part-00000.parquet", ROWS, landed_at)
            for asset in (FEATURES, DISTRIBUTION, PSI):
                put(STORE, layout.current(asset, model, VERSION, day), pointers[asset, day], landed_at)
            for kind in (PSI, CSI):
                put(STORE, layout.result(model, VERSION, day, kind, 1), _result(model, day, kind, landed_at), landed_at)


def _landed_at(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(hours=26)


def _pointer(asset: str, day: str) -> bytes:
    made_from = {FEATURES: Input(asset="source", partition=day, digest=ROWS_DIGEST)}.get(
        asset, Input(asset=FEATURES, partition=day, digest=NO_FILES)
    )
    measured = {"arrived_at": _landed_at(day).isoformat()}
    current = Current(
        asset=asset, partition=day, input_digest="0" * 64, inputs=(made_from,), files=(), measured=measured
    )
    return current.model_dump_json().encode()


def _result(model: str, day: str, kind: Literal["psi", "csi"], recorded_at: datetime) -> bytes:
    return Result(
        model=model,
        version=VERSION,
        partition=day,
        kind=kind,
        asset=kind,
        status="ok",
        attempt=1,
        recorded_at=recorded_at,
        trigger="arrival",
        live=True,
        inputs=(Input(asset=DISTRIBUTION, partition=day, digest=NO_FILES),),
    ).to_json()


if __name__ == "__main__":
    serve(lambda put: _fill(put, int(sys.argv[1])))
