"""Where a version's policy comes from: its manifest, and the fleet's defaults for what that leaves open."""

from __future__ import annotations

from collections.abc import Mapping

from monitoring_assets.alerting.policy import Limits, Policy
from monitoring_assets.fleet_defaults import FleetPolicy
from monitoring_assets.manifest import Manifest
from monitoring_assets.manifest_sections import EpisodeRules, Thresholds

RULES = tuple(EpisodeRules.model_fields)


def policy_of(manifest: Manifest, fleet: FleetPolicy) -> Policy:
    """The policy of a version: what its manifest states, else what the fleet's does."""
    own = manifest.policy
    stated = own.model_fields_set
    psi = own.psi if "psi" in stated else fleet.psi
    csi = own.csi if "csi" in stated else fleet.csi
    rules = {name: getattr(own if name in stated else fleet, name) for name in RULES}
    return _policy(manifest, psi or Thresholds(), csi or Thresholds(), rules)


def policy_instead(manifest: Manifest, present: FleetPolicy, tried: FleetPolicy) -> Policy:
    """The policy that the version would have if ``tried`` overruled everything that it states."""
    now = policy_of(manifest, present)
    psi, csi = (own or limits for own, limits in ((tried.psi, now.psi), (tried.csi, now.csi)))
    rules = {name: getattr(tried if name in tried.model_fields_set else now, name) for name in RULES}
    # One of the two may be tried against the other of a manifest that it has no room in.
    rules["warnings"] = min(rules["warnings"], rules["among"])
    return _policy(manifest, psi, csi, rules)


def _policy(manifest: Manifest, psi: Thresholds | Limits, csi: Thresholds | Limits, rules: Mapping[str, int]) -> Policy:
    return Policy(
        psi=Limits(psi.warn, psi.critical),
        csi=Limits(csi.warn, csi.critical),
        tier=manifest.tier,
        role=manifest.role,
        every=manifest.partitions.every,
        **rules,
    )
