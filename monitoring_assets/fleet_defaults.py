"""The file `fleet.yaml` in the store's root: what holds of every version whose manifest says nothing else."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Annotated

from pydantic import Field, ValidationError

from monitoring_assets import layout
from monitoring_assets.manifest_sections import EpisodeRules, Part, Thresholds
from monitoring_assets.manifest_wording import dotted
from monitoring_assets.manifest_yaml import load
from monitoring_assets.partitions import Frequency
from resources.errors import BadInput
from resources.object_store import ObjectStore

USUAL = (
    "{policy: {psi: {warn: 0.1, critical: 0.25}, csi: {warn: 0.1, critical: 0.25}, "
    "warnings: 2, among: 3, calm: 2, cooldown: 3}, grace_hours: {hour: 2, day: 24, week: 24, month: 24}}"
)
"""The file that changes nothing, as an example."""

Hours = Annotated[float, Field(gt=0, le=744)]


class FleetPolicy(EpisodeRules):
    """The policy of the whole fleet."""

    psi: Thresholds | None = None
    csi: Thresholds | None = None


class GraceHours(Part):
    """How long after a partition was due a finding may still page somebody, by what partitions there are."""

    hour: Hours = 2
    day: Hours = 24
    week: Hours = 24
    month: Hours = 24

    def of(self, every: Frequency) -> timedelta:
        """That of the partitions of one rhythm."""
        hours: dict[Frequency, float] = {"hour": self.hour, "day": self.day, "week": self.week, "month": self.month}
        return timedelta(hours=hours[every])


class FleetDefaults(Part):
    """The file."""

    policy: FleetPolicy = FleetPolicy()
    grace_hours: GraceHours = GraceHours()


def fleet_defaults(store: ObjectStore) -> FleetDefaults:
    """What the file says; the usual where it is absent. Raises BadInput with file and key."""
    blob = store.get(layout.FLEET_DEFAULTS)
    return FleetDefaults() if blob is None else parse_defaults(blob.data, _where(store))


def parse_defaults(data: bytes, where: str) -> FleetDefaults:
    """Read such a file; the usual where it states nothing. Raises BadInput with file and key."""
    if all(not line or line.startswith(b"#") for line in map(bytes.strip, data.splitlines())):
        return FleetDefaults()
    try:
        return FleetDefaults.model_validate(load(data, where=where))
    except ValidationError as error:
        lines = [f"{where}: {dotted(each['loc'])}: {each['msg']}" for each in error.errors(include_url=False)]
        raise BadInput("\n".join([*lines, f"{where}: all that it can say, with its usual values: {USUAL}"])) from error


class DefaultsFile:
    """The file for those who work on, whatever it says: where it is bad the usual holds, and a warning is logged once.

    A typing error in it must not be what keeps everybody asleep.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._data: bytes | None = None
        self._found = FleetDefaults()

    def read(self) -> FleetDefaults:
        """What it says now. Raises InfrastructureError when the store cannot be reached."""
        blob = self._store.get(layout.FLEET_DEFAULTS)
        data = None if blob is None else blob.data
        if data != self._data:
            self._data, self._found = data, FleetDefaults()
            try:
                self._found = parse_defaults(data or b"", _where(self._store))
            except BadInput as error:
                logging.getLogger(__name__).warning("the usual defaults are used: %s", error)
        return self._found


def _where(store: ObjectStore) -> str:
    return f"{store.uri}/{layout.FLEET_DEFAULTS}"
