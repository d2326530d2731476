"""The open episodes of a fleet, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from monitoring_assets import layout
from monitoring_assets.alerting.episodes import NAMES
from monitoring_assets.alerting.state import StateFile, Told
from monitoring_assets.fleet import Name
from resources.at_once import THREADS
from resources.object_store import ObjectStore


@dataclass(frozen=True)
class Open:
    """An open episode of a version."""

    model: str
    version: str
    told: Told

    @property
    def severity(self) -> str:
        """In words."""
        return NAMES[self.told.severity]

    @property
    def about(self) -> str:
        """The kind of episode."""
        return "pipeline" if self.told.track == "registry" else self.told.track

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        own = {"severity", "track", "registered", "on", "waits_until", "buried"}
        told = self.told.model_dump(mode="json", exclude=own)
        return {"model": self.model, "version": self.version, "about": self.about, "severity": self.severity} | told


def versions_with_alerts(store: ObjectStore) -> list[Name]:
    """The versions of which there is a state of alerts, in the order of their names."""
    names = (info.key.removeprefix(layout.ALERTS).removesuffix(".json") for info in store.list(layout.ALERTS))
    return sorted({(model, version) for model, _, version in (name.partition("/") for name in names)})


def open_episodes(store: ObjectStore, names: Sequence[Name]) -> Iterator[list[Open]]:
    """The open episodes of each version."""

    def one(name: Name) -> list[Open]:
        state = StateFile(store, *name).read()
        return [Open(*name, told) for told in state.open.values()]

    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(one, names)
