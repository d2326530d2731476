"""One look at the registry: the fleet as it is now, and who is kept back from it."""

from __future__ import annotations

from dataclasses import dataclass

from monitoring_assets.fleet import Fleet, FleetFile, Registered, scan
from monitoring_assets.quarantine import Quarantined, keep_back, kept_back, release
from monitoring_assets.version import Clock
from resources.settings import Settings


@dataclass(frozen=True)
class Refreshed:
    """The fleet (the same object while nothing changes), and how many changed manifests are still to be read."""

    fleet: Fleet
    left: int


class Refresher:
    """Looks again and again, and remembers what it saw."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._store = settings.open_store()
        self._file = FleetFile(self._store)
        self._first = True

    def look(self) -> Refreshed:
        """List the registry; write the fleet and its quarantine if they changed. Doing it twice changes nothing.

        Raises InfrastructureError when registry or store cannot be reached.
        """
        known = self._file.read()
        # What was refused before may be allowed since: settings and release can be others than those of then.
        found = scan(self._settings, known, doubtful=self._first)
        changed = found.fleet != known
        by_name = {(each.model, each.version): each for each in found.fleet.registered}
        if changed or self._first:
            # Before the fleet is written: a look that dies in between does it once more.
            self._manifests(by_name)
        self._onboarding(by_name)
        if changed:
            self._file.write(found.fleet)
        self._first = False
        return Refreshed(found.fleet if changed else known, found.left)

    def _manifests(self, by_name: dict[tuple[str, str], Registered]) -> None:
        marked = {(each.model, each.version): each for each in kept_back(self._store, "manifest")}
        for name, entry in by_name.items():
            if entry.problem:
                bad = Quarantined(
                    model=entry.model,
                    version=entry.version,
                    stage="manifest",
                    of=entry.fingerprint,
                    reason=entry.problem,
                )
                if marked.pop(name, None) != bad:
                    keep_back(self._store, bad, self._clock)
        for gone in marked.values():
            release(self._store, gone, self._clock)

    def _onboarding(self, by_name: dict[tuple[str, str], Registered]) -> None:
        """Another artefact, reference or manifest deserves another try."""
        for marker in kept_back(self._store, "onboarding"):
            entry = by_name.get((marker.model, marker.version))
            if entry is None or entry.files != marker.of:
                release(self._store, marker, self._clock)
