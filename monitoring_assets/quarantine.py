"""Versions that are kept back, and why: a marker while it lasts, and a result that the publisher acts on."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.results import Input, Result, Status, write_result
from monitoring_assets.version import Clock
from resources.at_once import at_once
from resources.object_store import ObjectStore

Stage = Literal["manifest", "onboarding", "definitions"]
ASSETS: dict[Stage, str] = {"manifest": "manifest", "onboarding": "reference", "definitions": "definitions"}
"""The asset that a stage's results are about."""

LONGEST_NAME = 200
"""Bytes. Anybody can call a folder of the registry more than a file of the store can be called."""


class Quarantined(BaseModel):
    """A version that is kept back. ``of`` is the fingerprint of what is wrong: another one deserves another try.

    A bad ``manifest`` keeps back the change that it would be; failed ``onboarding`` the whole version, and so do
    ``definitions`` that Dagster does not take.
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
    store.put(_key(found.stage, found.model, found.version), found.model_dump_json().encode())


def release(store: ObjectStore, found: Quarantined, clock: Clock) -> None:
    """Let a version go on."""
    cleared = found.model_copy(update={"reason": ""})
    _record(store, cleared, "ok", clock)
    store.delete(_key(found.stage, found.model, found.version))


def release_if_kept_back(store: ObjectStore, stage: Stage, model: str, version: str, clock: Clock) -> None:
    """Let a version go on, if it is kept back."""
    found = _read(store, stage, _key(stage, model, version))
    if found is not None:
        release(store, found, clock)


def kept_back(store: ObjectStore, stage: Stage) -> list[Quarantined]:
    """The versions that a stage keeps back, in the order of their names."""
    keys = [info.key for info in store.list(layout.quarantines(stage))]
    return [found for found in at_once(lambda key: _read(store, stage, key), keys) if found is not None]


class Markers:
    """Those who are kept back, read again and again: of what did not change nothing but a listing."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: dict[str, tuple[str, Quarantined | None]] = {}

    def of(self, *stages: Stage) -> list[Quarantined]:
        """As `kept_back`, stage after stage."""
        return [found for stage in stages for found in self._of(stage)]

    def _of(self, stage: Stage) -> list[Quarantined]:
        there = {info.key: info.fingerprint for info in self._store.list(layout.quarantines(stage))}
        changed = [key for key, fingerprint in there.items() if self._read.get(key, ("",))[0] != fingerprint]
        fresh = dict(zip(changed, at_once(lambda key: _read(self._store, stage, key), changed), strict=True))
        gone = [key for key in self._read if key.startswith(layout.quarantines(stage)) and key not in there]
        for key in gone:
            del self._read[key]
        self._read |= {key: (there[key], found) for key, found in fresh.items()}
        return [found for key in there if (found := self._read[key][1]) is not None]


def names_kept_back(store: ObjectStore, stage: Stage) -> set[tuple[str, str]]:
    """Model and version of each of them, from a listing alone."""
    return {_name(stage, info.key) for info in store.list(layout.quarantines(stage))}


def _key(stage: Stage, model: str, version: str) -> str:
    if len(version.encode()) > LONGEST_NAME:
        version = hashlib.sha256(version.encode()).hexdigest()
    return layout.quarantine(stage, model, version)


def _name(stage: Stage, key: str) -> tuple[str, str]:
    model, _, version = key.removeprefix(layout.quarantines(stage)).removesuffix(".json").partition("/")
    return model, version


def _read(store: ObjectStore, stage: Stage, key: str) -> Quarantined | None:
    blob = store.get(key)
    if blob is None:
        return None
    try:
        return Quarantined.model_validate_json(blob.data)
    except ValidationError:
        # Of another release. It is of nothing that there is, so the version gets another try.
        model, version = _name(stage, key)
        return Quarantined(model=model, version=version, stage=stage, of="", reason=f"{store.uri}/{key} is damaged")


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
