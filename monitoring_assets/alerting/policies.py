"""Where a version's policy comes from: its manifest, and the fleet's defaults for what that leaves open."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from monitoring_assets import layout
from monitoring_assets.alerting.policy import Limits, Policy
from monitoring_assets.manifest import Manifest
from monitoring_assets.manifest_sections import Part, Thresholds
from monitoring_assets.manifest_types import refuse
from monitoring_assets.manifest_wording import dotted
from monitoring_assets.manifest_yaml import load
from monitoring_assets.problems import Problem
from resources.errors import BadInput
from resources.object_store import ObjectStore

USUAL = (
    "policy: {psi: {warn: 0.1, critical: 0.25}, csi: {warn: 0.1, critical: 0.25}, "
    "warnings: 2, among: 3, calm: 2, cooldown: 3}"
)
"""The file that changes nothing, as an example."""


class FleetPolicy(Part):
    """The policy of the whole fleet. A warning opens at ``warnings`` of the last ``among`` partitions, ``calm`` clear
    ones in a row close an episode, and for ``cooldown`` partitions after that a warning opens nothing.
    """

    psi: Thresholds | None = None
    csi: Thresholds | None = None
    warnings: Annotated[int, Field(ge=1, le=5)] = 2
    among: Annotated[int, Field(ge=1, le=5)] = 3
    calm: Annotated[int, Field(ge=1, le=30)] = 2
    cooldown: Annotated[int, Field(ge=0, le=366)] = 3

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.warnings > self.among:
            message = f"{self.warnings} is more than among, which is {self.among}"
            refuse(Problem("warnings", message, "write at most as many as among"))
        return self


class FleetDefaults(Part):
    """The file `fleet.yaml` in the store's root."""

    policy: FleetPolicy = FleetPolicy()


def fleet_defaults(store: ObjectStore) -> FleetDefaults:
    """What `fleet.yaml` says; the usual where it is absent. Raises BadInput with file and key."""
    blob = store.get(layout.FLEET_DEFAULTS)
    return FleetDefaults() if blob is None else parse_defaults(blob.data, f"{store.uri}/{layout.FLEET_DEFAULTS}")


def parse_defaults(data: bytes, where: str) -> FleetDefaults:
    """Read such a file; the usual where it states nothing. Raises BadInput with file and key."""
    if all(not line or line.startswith(b"#") for line in map(bytes.strip, data.splitlines())):
        return FleetDefaults()
    try:
        return FleetDefaults.model_validate(load(data, where=where))
    except ValidationError as error:
        lines = [f"{where}: {dotted(each['loc'])}: {each['msg']}" for each in error.errors(include_url=False)]
        raise BadInput("\n".join([*lines, f"{where}: all that it can say, with its usual values: {USUAL}"])) from error


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
