"""One model version, with everything its stages work with passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from monitoring_assets import layout
from monitoring_assets.datasets import Current, DatasetPath, read_current
from monitoring_assets.manifest import Manifest, identity_digest
from monitoring_assets.partitions import PartitionCalendar
from monitoring_assets.results import Kind, is_live
from monitoring_assets.stability.profile import ReferenceProfile
from resources.object_store import ObjectStore
from resources.registry import VersionFiles
from resources.settings import Settings

Clock = Callable[[], datetime]
FEATURES, SCORES, DISTRIBUTION, PSI, CSI = "features", "scores", "distribution", "psi", "csi"
CHECKS: dict[str, Kind] = {FEATURES: "quality", SCORES: "quality", DISTRIBUTION: "quality", PSI: "psi", CSI: "csi"}
"""The one check of each asset, by its kind."""

CODE_VERSIONS = {FEATURES: "1", SCORES: "1", DISTRIBUTION: "1", PSI: "3", CSI: "3"}
"""Part of every input digest: a new number makes an asset's stored partitions stale."""


@dataclass(frozen=True)
class DeployedVersion:
    """A manifest by its digest, and where its data is: what can be known of a version without its reference."""

    manifest: Manifest
    manifest_digest: str
    store: ObjectStore
    settings: Settings
    clock: Clock

    @property
    def name(self) -> str:
        """Model and version, as messages name them."""
        return f"{self.manifest.model} {self.manifest.version}"

    @cached_property
    def calendar(self) -> PartitionCalendar:
        """The version's partitions."""
        return self.manifest.partitions.calendar

    def deadline(self, partition: str) -> datetime:
        """When the partition's data is overdue."""
        return self.calendar.window(partition)[1] + self.manifest.sla

    def is_live(self, partition: str, *, due: datetime, now: datetime, grace: timedelta) -> bool:
        """Whether what an arrival finds now may page, of a partition that was due then."""
        newest = self.calendar.latest_complete(now) or partition
        return is_live(
            "arrival",
            recorded_at=now,
            due=due,
            grace=grace,
            partitions_since=max(0, len(self.calendar.keys(partition, newest)) - 1),
            deadline=self.deadline(partition),
        )

    @cached_property
    def identity(self) -> str:
        """Digest of the part of the manifest that never changes; input digests build on it."""
        return identity_digest(self.manifest)

    def path(self, asset: str, partition: str) -> DatasetPath:
        """Where one partition of one of the version's assets lies."""
        encoded = self.calendar.encode(partition)
        return DatasetPath(asset, self.manifest.model, self.manifest.version, partition, encoded)

    def current(self, asset: str, partition: str) -> Current | None:
        """The pointer of one partition of one asset; None when it was never materialised."""
        return read_current(self.store, self.path(asset, partition))[0]

    def materialised(self, asset: str) -> list[str]:
        """The partitions of one of the version's assets that were ever materialised, oldest first."""
        folder = layout.datasets(asset, self.manifest.model, self.manifest.version)
        return [self.calendar.decode(name) for name in self.store.list_folders(folder)]


@dataclass(frozen=True)
class ModelVersion(DeployedVersion):
    """An onboarded version: its frozen reference, and its files in the registry."""

    profile: ReferenceProfile
    files: VersionFiles

    @cached_property
    def reference_digest(self) -> str:
        """Digest of the frozen reference profile."""
        return self.profile.digest
