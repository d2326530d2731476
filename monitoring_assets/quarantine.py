"""Versions that are kept back, and why: a marker while it lasts, and a result that the publisher acts on."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from monitoring_assets import layout
from monitoring_assets.results import Input, Result, Status, write_result
from monitoring_assets.version import Clock
from resources.object_store import ObjectStore

Stage = Literal["manifest", "onboarding"]
ASSETS: dict[Stage, str] = {"manifest": "manifest", "onboarding": "reference"}
"""The asset that a stage's results are about."""


class Quarantined(BaseModel):
    """A version that is kept back. ``of`` is the fingerprint of what is wrong: another one deserves another try.

    A bad ``manifest`` keeps back the change that it would be; failed ``onboarding`` the whole version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: str
    stage: Stage
    of: str
    reason: str


def keep_back(store: ObjectStore, found: Quarantined, clock: Clock) -> None:
    """Quarantine a version; the same finding again changes nothing."""
    _record(store, found, "quarantined", clock)
    store.put(layout.quarantine(found.stage, found.model, found.version), found.model_dump_json().encode())


def release(store: ObjectStore, found: Quarantined, clock: Clock) -> None:
    """Let a version go on."""
    cleared = found.model_copy(update={"reason": ""})
    _record(store, cleared, "ok", clock)
    store.delete(layout.quarantine(found.stage, found.model, found.version))


def release_if_kept_back(store: ObjectStore, stage: Stage, model: str, version: str, clock: Clock) -> None:
    """Let a version go on, if it is kept back."""
    blob = store.get(layout.quarantine(stage, model, version))
    if blob is not None:
        release(store, Quarantined.model_validate_json(blob.data), clock)


def kept_back(store: ObjectStore, stage: Stage) -> list[Quarantined]:
    """The versions that a stage keeps back, in the order of their names."""
    blobs = (store.get(info.key) for info in store.list(layout.quarantines(stage)))
    return [Quarantined.model_validate_json(blob.data) for blob in blobs if blob is not None]


def names_kept_back(store: ObjectStore, stage: Stage) -> set[tuple[str, str]]:
    """Model and version of each of them, from a listing alone."""
    folder = layout.quarantines(stage)
    found = (info.key.removeprefix(folder).removesuffix(".json").split("/", 1) for info in store.list(folder))
    return {(model, version) for model, version in found}


def _record(store: ObjectStore, found: Quarantined, status: Status, clock: Clock) -> None:
    # Live whenever it was found: a version that is kept back is so now, however old the file that is to blame.
    result = Result(
        model=found.model,
        version=found.version,
        partition=layout.REGISTRY_PARTITION,
        kind="pipeline",
        asset=ASSETS[found.stage],
        status=status,
        reason=found.reason,
        recorded_at=clock(),
        trigger="arrival",
        live=True,
        inputs=(Input(asset="registry", digest=found.of),),
    )
    write_result(store, result, layout.REGISTRY_PARTITION)
