"""Check results: immutable objects that say, for one partition and one kind of check, what was found and from what.

Results are the only thing that alerts are made from. A re-run with the same findings writes nothing, unless it is
the first live attempt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from monitoring_assets import layout
from resources.object_store import ObjectStore

Kind = Literal["psi", "csi", "quality", "performance", "pipeline"]
Status = Literal["ok", "warn", "breach", "insufficient_data", "stale", "quarantined", "error"]
Trigger = Literal["arrival", "backfill", "catch-up", "onboarding"]

SEVERITY: tuple[Status, ...] = ("ok", "insufficient_data", "stale", "warn", "breach", "quarantined", "error")
"""From harmless to grave: the status of several metrics is the gravest one."""

LIVE_PARTITIONS = 3
OUTSIDE_DIGEST = {"attempt", "recorded_at", "trigger", "live"}


class Input(BaseModel):
    """What a result was computed from, so that it can be recomputed years later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asset: str
    partition: str | None = None
    digest: str


class Metric(BaseModel):
    """One number of a result. ``window`` is a length in partitions, ``partitions`` the keys that carried it.

    ``significant`` is p below the column's level: evidence, whatever the effect. In a window in which some policy could
    breach (evidence, and a net PSI of at least .02), ``net_without_worst`` is what is left without its worst partition,
    if it is longer than one, and ``season_net_value`` and ``season_significant`` are net PSI and evidence against the
    earlier cycles, if it is shorter than one; they are None where there are none.

    ``band`` is the PSI that 95 % of windows with as many rows stay below without drift. Of a column that moved,
    ``null_share`` and ``reference_null_share`` are the shares of nulls in the window and in the reference. ``counts``
    and ``reference_counts`` are rows by bin, of the metric that shows nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    column: str | None = None
    segment: str | None = None
    window: int | None = None
    partitions: tuple[str, ...] = ()
    value: float | None = None
    net_value: float | None = None
    n: int | None = None
    p_value: float | None = None
    significant: bool | None = None
    net_without_worst: float | None = None
    season_net_value: float | None = None
    season_significant: bool | None = None
    band: float | None = None
    null_share: float | None = None
    reference_null_share: float | None = None
    counts: tuple[int, ...] | None = None
    reference_counts: tuple[int, ...] | None = None
    threshold: float | None = None
    status: Status = "ok"
    note: str | None = None


class Result(BaseModel):
    """The result of one kind of check of one asset on one partition (DESIGN: never nan)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    version: str
    partition: str
    kind: Kind
    asset: str
    status: Status
    reason: str = ""
    attempt: int = 0
    recorded_at: datetime
    trigger: Trigger
    live: bool
    inputs: tuple[Input, ...] = ()
    metrics: tuple[Metric, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of everything but when, by what and how often it was computed: equal findings are equal."""
        content = self.model_dump(mode="json", exclude=OUTSIDE_DIGEST)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The bytes that are stored; absent values are left out."""
        return self.model_dump_json(exclude_none=True).encode()


def gravest(statuses: Iterable[Status]) -> Status:
    """The gravest of several statuses; ``ok`` for none."""
    return max(statuses, key=SEVERITY.index, default="ok")


def is_live(
    trigger: Trigger,
    *,
    recorded_at: datetime,
    due: datetime,
    grace: timedelta,
    partitions_since: int,
    deadline: datetime,
) -> bool:
    """Whether a result may page: an arrival, recorded within the grace period of when it was due, and not old.

    ``due`` is the later of the data's arrival and the partition's end, or for data that does not come its
    ``deadline``; ``partitions_since`` counts the partitions that have ended after this one. What was due by the
    deadline is not old, however many these are.
    """
    fresh = partitions_since <= LIVE_PARTITIONS or due <= deadline
    return trigger == "arrival" and recorded_at <= due + grace and fresh


def write_result(
    store: ObjectStore, result: Result, partition_path: str, written: dict[str, Result] | None = None
) -> Result:
    """Store a result as the next attempt, and its pending marker; ``partition_path`` is the encoded partition key.

    ``written`` are the results that the caller wrote before, by their keys, which need not be read: they never change.
    This one is added to them.

    When the newest attempt of the same asset has the same findings, and this one is not the first live one, nothing
    is written and that attempt is returned. The marker is written first: a publisher that finds a marker without a
    result waits, one that never learns of a result would lose it.
    """
    folder = layout.results(result.model, result.version, partition_path, result.kind)
    written = {} if written is None else written
    while True:
        keys = [info.key for info in store.list(folder)]
        newest = _newest_of(store, keys, result.asset, written)
        if newest is not None and newest.digest == result.digest and (newest.live or not result.live):
            return newest
        number = 1 + max((int(key.rsplit("/", 1)[-1].removesuffix(".json")) for key in keys), default=0)
        attempt = result.model_copy(update={"attempt": number})
        where = (result.model, result.version, partition_path, result.kind, number)
        store.put(layout.pending(*where), b"")
        if store.put_if_absent(layout.result(*where), attempt.to_json()):
            written[layout.result(*where)] = attempt
            return attempt
        # Another run took the number: look whether it found the same.


def newest_of_asset(store: ObjectStore, folder: str, asset: str) -> Result | None:
    """The newest attempt in a folder of results (`layout.results`) that is about an asset."""
    return _newest_of(store, [info.key for info in store.list(folder)], asset, {})


def _newest_of(store: ObjectStore, keys: list[str], asset: str, written: Mapping[str, Result]) -> Result | None:
    for key in reversed(keys):
        stored = written.get(key) or _read(store, key)
        if stored is not None and stored.asset == asset:
            return stored
    return None


def _read(store: ObjectStore, key: str) -> Result | None:
    blob = store.get(key)
    return None if blob is None else Result.model_validate_json(blob.data)
