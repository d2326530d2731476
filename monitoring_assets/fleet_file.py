"""The fleet as the store keeps it between two looks at the registry."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.fleet import Fleet, Registered, shard_of
from resources.at_once import at_once
from resources.object_store import ObjectStore

PARTS = 32
"""Files that the fleet is kept in."""


class FleetFile:
    """The fleet as it was last seen, in the store.

    It lies there in `PARTS` files, so that one version more costs the same whatever else is registered; one is read
    again only when somebody else wrote it.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._fingerprints: dict[str, str] = {}
        self._parts: dict[str, _Part] = {}
        self._fleet = Fleet()

    def read(self) -> Fleet:
        """The fleet; without a part before its first scan, and when what is stored is of another release."""
        found = self._stored()
        if found != self._fingerprints:
            changed = [key for key, fingerprint in found.items() if fingerprint != self._fingerprints.get(key)]
            self._parts |= zip(changed, at_once(self._read, changed), strict=True)
            self._parts = {key: part for key, part in self._parts.items() if key in found}
            self._fingerprints = found
            registered = (each for part in self._parts.values() for each in part.registered)
            self._fleet = Fleet(registered=tuple(sorted(registered, key=lambda each: each.name)))
        return self._fleet

    def write(self, fleet: Fleet) -> None:
        """Replace it. Two writers do no harm: the next scan of either finds the same."""
        held: dict[str, list[Registered]] = {}
        for each in fleet.registered:
            held.setdefault(layout.fleet_part(shard_of(each.model, each.version, PARTS)), []).append(each)
        parts = {key: _Part(registered=tuple(registered)) for key, registered in held.items()}
        for key in self._parts.keys() - parts.keys():
            self._store.delete(key)
        for key, part in parts.items():
            if part != self._parts.get(key):
                # Not exclude_defaults: what a policy states is not left to the fleet, even where it states a default.
                self._store.put(key, part.model_dump_json(by_alias=True, exclude_unset=True).encode())
        self._fingerprints, self._parts, self._fleet = self._stored(), parts, fleet

    def _stored(self) -> dict[str, str]:
        return {info.key: info.fingerprint for info in self._store.list(layout.FLEET)}

    def _read(self, key: str) -> _Part:
        blob = self._store.get(key)
        try:
            return _Part.model_validate_json(blob.data if blob else b"{}")
        except ValidationError:
            # It only saves reading: the next scan makes it anew from the registry.
            return _Part()


class _Part(BaseModel):
    """The versions of one of the files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registered: tuple[Registered, ...] = ()
