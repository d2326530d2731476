"""Where a version's policy comes from: its manifest, and the fleet's defaults for what that leaves open."""

from __future__ import annotations

from monitoring_assets.alerting.policy import Limits, Policy
from monitoring_assets.fleet_defaults import FleetPolicy
from monitoring_assets.manifest import Manifest
from monitoring_assets.manifest_sections import Thresholds


def policy_of(manifest: Manifest, fleet: FleetPolicy) -> Policy:
    """The policy of a version: what its manifest states, else what the fleet's does."""
    stated = manifest.policy.model_fields_set
    psi = manifest.policy.psi if "psi" in stated else fleet.psi
    csi = manifest.policy.csi if "csi" in stated else fleet.csi
    return _policy(manifest, psi or Thresholds(), csi or Thresholds(), fleet)


def policy_instead(manifest: Manifest, present: FleetPolicy, tried: FleetPolicy) -> Policy:
    """The policy that the version would have if ``tried`` overruled everything that it states."""
    now = policy_of(manifest, present)
    psi, csi = (own or limits for own, limits in ((tried.psi, now.psi), (tried.csi, now.csi)))
    stated = present.model_copy(update={name: getattr(tried, name) for name in tried.model_fields_set})
    return _policy(manifest, psi, csi, stated)


def _policy(manifest: Manifest, psi: Thresholds | Limits, csi: Thresholds | Limits, fleet: FleetPolicy) -> Policy:
    return Policy(
        psi=Limits(psi.warn, psi.critical),
        csi=Limits(csi.warn, csi.critical),
        tier=manifest.tier,
        role=manifest.role,
        every=manifest.partitions.every,
        warnings=fleet.warnings,
        among=fleet.among,
        calm=fleet.calm,
        cooldown=fleet.cooldown,
    )
