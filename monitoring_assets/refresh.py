"""One look at the registry: the fleet as it is now, and who is kept back from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from monitoring_assets.fleet import Fleet, Name, Registered, Scan, scan
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.missing import Doubts, Missing
from monitoring_assets.quarantine import Markers, Quarantined, keep_back, release
from monitoring_assets.version import Clock
from resources.at_once import at_once
from resources.settings import Settings


@dataclass(frozen=True)
class Refreshed:
    """The fleet (the same object while nothing changes), and how many changed manifests are still to be read.

    It is not ``complete`` while a version is missing because of that. ``missing`` are those who are hard to miss.
    """

    fleet: Fleet
    left: int = 0
    complete: bool = True
    missing: Missing | None = None


class Refresher:
    """Looks again and again, and remembers what it saw."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._store = settings.open_store()
        self._file = FleetFile(self._store)
        self._doubts = Doubts(self._store, clock)
        self.markers = Markers(self._store)
        self._left: Collection[Name] | None = None
        self._unread: set[Name] = set()

    def look(self) -> Refreshed:
        """List the registry; write the fleet and its quarantine if they changed. Doing it twice changes nothing.

        Raises InfrastructureError when registry or store cannot be reached.
        """
        known = self._file.read()
        # What was refused before may be allowed since: settings and release can be others than those of then.
        again = {each.name for each in known.registered if each.problem} if self._left is None else self._left
        found = self._doubts.believed(known, scan(self._settings, known, again=again, clock=self._clock))
        changed = found.fleet != known
        if changed or self._left is None or self._unread:
            # Before the fleet is written: a look that dies in between does it once more.
            self._manifests(found)
        self._versions(found)
        self._unread = {each.name for each in found.fleet.registered if each.problem and not each.fingerprint}
        if changed:
            self._file.write(found.fleet)
        self._left = found.left
        return Refreshed(found.fleet if changed else known, len(found.left), found.complete, self._doubts.missing)

    def _manifests(self, found: Scan) -> None:
        marked = {(each.model, each.version): each for each in self.markers.of("manifest")}
        # What could not be read is a finding when that happens twice: stores have their moments.
        problems = [each for each in found.fleet.registered if each.problem]
        bad = {each.name: _finding(each) for each in problems if each.fingerprint or each.name in self._unread}
        # One that is still to be read may well be as bad as it was.
        well = [each for name, each in marked.items() if name not in bad and name not in found.left]
        news = [each for name, each in bad.items() if each != marked.get(name)]
        at_once(lambda each: release(self._store, each, self._clock), well)
        at_once(lambda each: keep_back(self._store, each, self._clock), news)

    def _versions(self, found: Scan) -> None:
        """Another artefact, reference or manifest deserves another try."""
        files = {each.name: each.files for each in found.fleet.registered}
        for marker in self.markers.of("onboarding", "definitions"):
            name = (marker.model, marker.version)
            if files.get(name) != marker.of and name not in found.left:
                release(self._store, marker, self._clock)


def _finding(entry: Registered) -> Quarantined:
    return Quarantined(
        model=entry.model, version=entry.version, stage="manifest", of=entry.fingerprint, reason=entry.problem
    )
