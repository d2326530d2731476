"""The version that alerts are about: who owns it, what decides for it, and where its pages are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self
from urllib.parse import quote

from monitoring_assets.alerting.policies import policy_of
from monitoring_assets.alerting.policy import Policy
from monitoring_assets.fleet_defaults import FleetPolicy
from monitoring_assets.manifest import SLA, Manifest
from monitoring_assets.partitions import PartitionCalendar


@dataclass(frozen=True)
class About:
    """A version; ``links`` are those of its manifest, by their names, ``sla`` is how long after its end a partition's
    data may come. There is no ``calendar`` where there is no manifest.

    One that is not ``monitored`` (retired, or gone from the registry) has no episodes: what is open is over.
    """

    model: str
    version: str
    policy: Policy
    owner: str = "unknown"
    links: Mapping[str, str] = field(default_factory=dict)
    monitored: bool = True
    calendar: PartitionCalendar | None = None
    sla: timedelta = SLA

    @classmethod
    def of(cls, manifest: Manifest, fleet: FleetPolicy) -> Self:
        """A version as its manifest describes it."""
        return cls(
            manifest.model,
            manifest.version,
            policy_of(manifest, fleet),
            manifest.owner,
            manifest.links,
            monitored=manifest.status == "active",
            calendar=manifest.partitions.calendar,
            sla=manifest.sla,
        )

    def pages(self, dagit_url: str, dashboard_url: str | None = None) -> tuple[tuple[str, str], ...]:
        """URL and text of what to look at first: Dagit, the dashboard if there is one, the manifest's links."""
        path = "/".join(quote(part, safe="") for part in (self.model, self.version))
        checks = f"{dagit_url}/assets/{path}/csi?view=checks"
        board = ((dashboard_url, "dashboard at Datadog"),) if dashboard_url else ()
        return ((checks, "checks in Dagit"), *board, *((url, name) for name, url in sorted(self.links.items())))
