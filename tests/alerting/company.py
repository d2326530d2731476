"""A lender whose versions are registered, and a publisher whose clock the test moves."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from monitoring_assets.alerting.publisher import Round, publish
from monitoring_assets.fleet import Fleet, Member, Registered
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.manifest import Manifest
from monitoring_assets.results import Result, write_result
from resources.settings import Settings
from tests.alerting.conftest import MODEL, VERSION, Scene, shift
from tests.conftest import Lender


class Company:
    """A lender with versions that are registered, and the publisher."""

    def __init__(self, lender: Lender, environ: dict[str, str]) -> None:
        own = {
            "SCOREWATCH_STORE": lender.settings.store_uri,
            "SCOREWATCH_REGISTRY": lender.settings.registry_uri,
            "SCOREWATCH_ENV": "test",
        }
        self.lender, self.settings = lender, Settings.from_environment(own | environ, lender.folder)
        self.manifests: list[Manifest] = []
        self.now = datetime(2026, 1, 1, 21, 30, tzinfo=UTC)
        self._registered_at: datetime | None = None

    def register(self, **manifest: Any) -> Scene:
        partitions = {"every": "day", "timezone": "Africa/Nairobi", "start": date(2026, 1, 1)}
        stated = {"model": MODEL, "version": VERSION, "tier": 1, "partitions": partitions}
        self.manifests.append(Manifest.model_validate(self.lender.manifest(**stated | manifest)))
        self._registered_at = self.now
        return Scene(self.lender.store)

    def publish(self, after: timedelta = timedelta(), *, refused: bool = False) -> Round:
        """A round of the publisher; before it the snapshot of the fleet, if anything was registered."""
        if self._registered_at is not None:
            self._write_fleet(self._registered_at)
            self._registered_at = None
        self.now += after
        return publish(self.settings, lambda: self.now, refused=refused)

    def _write_fleet(self, now: datetime) -> None:
        members = [Member(manifest=each, digest="0", files="0", deployed_at=now) for each in self.manifests]
        found = (
            Registered(
                model=each.manifest.model, version=each.manifest.version, fingerprint="0", files="0", member=each
            )
            for each in members
        )
        FleetFile(self.lender.store).write(Fleet(registered=tuple(found)))

    def write(self, model: str, partition: str, status: str, **more: Any) -> None:
        """A live csi result of one column."""
        named = {"model": model, "version": VERSION, "partition": partition, "status": status, "recorded_at": self.now}
        metrics = (shift("car_value", {"breach": 1.82, "warn": 0.15}.get(status, 0.01)),)
        found = {"trigger": "arrival", "live": True, "metrics": metrics, "kind": "csi", "asset": "csi"}
        write_result(self.lender.store, Result(**named | found | more), partition.replace(":", "-"))
