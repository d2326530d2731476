"""Versions that are gone from the registry all at once: a folder that was moved, rather than their owners' decision."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.fleet import Fleet, Scan
from monitoring_assets.version import Clock
from resources.object_store import ObjectStore

HANDFUL = 5
"""Versions that may go at once, whatever is left; but never the last one."""
ACCEPTED_AFTER = timedelta(hours=1)


class Missing(BaseModel):
    """How many of the ``active`` versions are ``gone`` since then; ``empty``: nothing at all is left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gone: int
    active: int
    empty: bool
    since: datetime

    def text(self, registry: str, store: str) -> str:
        """What is wrong, and what to do."""
        confirm = (
            f"remove {store}/{layout.FLEET}, and the registry is believed"
            if self.empty
            else f"wait: the registry is believed at {self.since + ACCEPTED_AFTER:%H:%M} UTC"
        )
        return (
            f"{self.gone} of {self.active} active versions are gone from {registry} at once: is this the right place, "
            f"and is it mounted? They stay monitored. If they are to go, {confirm}. "
            "What is `status: retired` before it is removed is no surprise."
        )


class Doubts:
    """Whether to believe what the registry says, from one look to the next; the store remembers."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self.missing: Missing | None = None
        self._asked = False

    def believed(self, known: Fleet, found: Scan) -> Scan:
        """What was found; with those that are missing as they were, while that is hard to believe."""
        if not self._asked:
            self.missing, self._asked = read_missing(self._store), True
        there = {each.name for each in found.fleet.registered}
        active = list(known.members)
        gone = {each.name for each in active} - there
        empty = not found.fleet.registered and not found.left
        doubtful = bool(gone) and (empty or (len(gone) > HANDFUL and 2 * len(gone) > len(active)))
        since = self.missing.since if self.missing else self._clock()
        if not doubtful or (not empty and self._clock() >= since + ACCEPTED_AFTER):
            self._remember(None)
            return found
        self._remember(Missing(gone=len(gone), active=len(active), empty=empty, since=since))
        kept = [each for each in known.registered if each.name in gone]
        everyone = sorted([*found.fleet.registered, *kept], key=lambda each: each.name)
        return Scan(Fleet(registered=tuple(everyone)), found.left)

    def _remember(self, missing: Missing | None) -> None:
        if missing != self.missing:
            self._store.put(layout.fleet_missing(), missing.model_dump_json().encode() if missing else b"")
            self.missing = missing


def read_missing(store: ObjectStore) -> Missing | None:
    """What is hard to believe of the registry now, if anything is."""
    blob = store.get(layout.fleet_missing())
    try:
        return Missing.model_validate_json(blob.data) if blob and blob.data else None
    except ValidationError:
        # Of another release, which says it again.
        return None
