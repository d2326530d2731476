"""Storms: many models breach on one partition because of something upstream of all of them, and one page is enough.

Whoever is about to page for an episode registers it, under the partition that made it worth a page. The first few
models page. Those that come after them wait a little, in case it is a storm; once it is one, a single incident of the
fleet pages and theirs are held back. When it is over, what still fires pages for itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.dead_letters import bury
from monitoring_assets.alerting.outbox import Pager
from monitoring_assets.alerting.overview import versions_with_alerts
from monitoring_assets.alerting.state import Told
from monitoring_assets.fleet import Name
from monitoring_assets.version import Clock
from resources.delivery import Accepted, Delivery, Later, Refused
from resources.object_store import ObjectStore
from resources.pagerduty import Event

ALONE = 3
"""Models that page for themselves before anybody waits."""
HOLD = timedelta(minutes=10)
"""How long the page of another one waits for a storm."""
LEAST, SHARE = 10, 0.05
"""More than so many models, and more than this share of them, are a storm."""

SHOWN = 50
"""Models in the details of an incident."""

Verdict = Literal["page", "wait", "held"]

_DAY = f"{layout.REGISTRY_PARTITION}-"


class Storm(BaseModel):
    """One storm, by the partition (its encoded key) that made the episodes worth a page; of versions as a whole, by the
    day that they broke on.

    ``models`` of ``fleet`` breached when it began. ``told``: its page was accepted. ``over``: what was held back is
    looked at once more, because the storm is over or because its page was refused for good.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str
    since: datetime
    models: tuple[str, ...]
    fleet: int
    told: bool = False
    over: bool = False

    @property
    def what(self) -> str:
        """What its models did, in words."""
        day = self.partition.removeprefix(_DAY)
        return f"breach on {day}" if day == self.partition else f"are kept back as a whole since {day}"


@dataclass(frozen=True)
class Breach:
    """A registered episode."""

    partition: str
    model: str
    version: str
    track: str
    put_at: datetime

    @property
    def name(self) -> Name:
        """Model and version."""
        return self.model, self.version


def limit(models: int) -> int:
    """The number of models, of a fleet of so many, that are not a storm yet."""
    return max(LEAST, math.floor(SHARE * models))


class Breaches:
    """The registered episodes of a store, and which of them may page."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def counted(self, told: Told) -> Told:
        """An episode that would page, with the partition that it counts for: that stays, however grave it becomes."""
        if told.registered:
            return told
        # A version as a whole breaks on no partition: what is upstream of several breaks them on one day.
        on = f"{_DAY}{self._clock():%Y-%m-%d}" if told.track == "registry" else layout.encoded(told.at)
        return told.model_copy(update={"registered": True, "on": on, "waits_until": self._clock() + HOLD})

    def register(self, about: About, told: Told) -> None:
        """Note that an episode would page."""
        self._store.put_if_absent(_key(about, told), b"")

    def forget(self, about: About, told: Told) -> None:
        """It is over."""
        self._store.delete(_key(about, told))

    def verdict(self, about: About, told: Told) -> Verdict:
        """Whether an episode that is registered may page now."""
        partition = _partition(told)
        storm = read_storm(self._store, partition)
        if storm is not None and not storm.over:
            return "held"
        if storm is not None or told.waits_until is None or self._clock() >= told.waits_until:
            return "page"
        found = sorted(registered(self._store, partition), key=lambda each: (each.put_at, each.name))
        first = list(dict.fromkeys(each.model for each in found))[:ALONE]
        if about.model in first:
            return "page"
        models = models_with_alerts(self._store)
        return "wait" if models > limit(models) else "page"


def _key(about: About, told: Told) -> str:
    return layout.breaching(_partition(told), about.model, about.version, told.track)


def _partition(told: Told) -> str:
    # States of before know no other than the one that opened the episode.
    return told.on or layout.encoded(told.opened)


def models_with_alerts(store: ObjectStore) -> int:
    """The number of models that anything was published of."""
    return len({model for model, _ in versions_with_alerts(store)})


def registered(store: ObjectStore, partition: str | None = None) -> list[Breach]:
    """The episodes that count for a partition, or all of them."""
    found = []
    for info in store.list(layout.BREACHING if partition is None else f"{layout.BREACHING}{partition}/"):
        on, model, version, track = info.key.removeprefix(layout.BREACHING).split("/")
        found.append(Breach(on, model, version, track, info.last_modified))
    return found


def read_storm(store: ObjectStore, partition: str) -> Storm | None:
    """The storm of a partition. One that cannot be read is none: whoever it holds back would not be heard."""
    blob = store.get(layout.storm(partition))
    try:
        return Storm.model_validate_json(blob.data) if blob else None
    except ValidationError:
        return None


def storms(store: ObjectStore) -> list[Storm]:
    """All of them, in the order of their partitions."""
    keys = [info.key for info in store.list(layout.STORMS)]
    found = (read_storm(store, key.removeprefix(layout.STORMS).removesuffix(".json")) for key in keys)
    return [storm for storm in found if storm is not None]


@dataclass(frozen=True)
class Weather:
    """Brings the fleet's incidents to what is registered, as often as it is run."""

    store: ObjectStore
    pager: Pager
    clock: Clock
    env: str
    dagit: str

    def released(self) -> set[Name]:
        """The versions that storms which are over held back."""
        over = {storm.partition for storm in storms(self.store) if storm.over}
        return {each.name for each in registered(self.store) if each.partition in over} if over else set()

    def look(self, waiting: Collection[Name]) -> tuple[int, Mapping[str, str]]:
        """Begin and end storms; how many events were sent, and by partition what could not be told yet.

        ``waiting`` are versions that could not be looked at in this round: what holds them back is not forgotten.
        """
        found = registered(self.store)
        known = {storm.partition: storm for storm in storms(self.store)}
        models = models_with_alerts(self.store) if found or known else 0
        sent, problems = 0, {}
        for partition in sorted({each.partition for each in found} | known.keys()):
            breaches = [each for each in found if each.partition == partition]
            delivery = self._follow(known.get(partition), partition, breaches, models, waiting)
            if isinstance(delivery, Later):
                problems[f"the storm of {partition}"] = delivery.reason
            sent += isinstance(delivery, Accepted)
        return sent, problems

    def _follow(
        self,
        storm: Storm | None,
        partition: str,
        breaches: Collection[Breach],
        fleet: int,
        waiting: Collection[Name],
    ) -> Delivery | None:
        models = tuple(sorted({each.model for each in breaches}))
        most = limit(fleet)
        if storm is not None and storm.over and not storm.told:
            # Refused: the same would be again.
            if len(models) <= most // 2:
                self.store.delete(layout.storm(partition))
            return None
        if storm is None or storm.over:
            if len(models) > most:
                new = Storm(partition=partition, since=self.clock(), models=models, fleet=fleet)
                return self._open(new, breaches)
            if storm is not None and not any(each.name in waiting for each in breaches):
                self.store.delete(layout.storm(partition))
            return None
        if len(models) <= most // 2:
            return self._close(storm)
        return None if storm.told else self._open(storm, breaches)

    def _open(self, storm: Storm, breaches: Collection[Breach]) -> Delivery:
        # Stored before it is said: whoever looks meanwhile is held back, and whoever comes after a kill says it again.
        self._put(storm)
        delivery = self._send(storm, self._page(storm, breaches))
        if isinstance(delivery, Accepted):
            self._put(storm.model_copy(update={"told": True}))
        if isinstance(delivery, Refused):
            # Nobody hears of it, so every model speaks for itself.
            self._put(storm.model_copy(update={"over": True}))
        return delivery

    def _close(self, storm: Storm) -> Delivery:
        delivery = self._send(storm, Event(action="resolve", dedup_key=self._dedup_key(storm)))
        if not isinstance(delivery, Later):
            self._put(storm.model_copy(update={"over": True}))
        return delivery

    def _send(self, storm: Storm, event: Event) -> Delivery:
        delivery = self.pager.send(event)
        if isinstance(delivery, Refused):
            letter = {"action": event.action, "storm": storm.model_dump(mode="json")}
            bury(self.store, ("fleet", storm.partition), f"{event.dedup_key} {event.action}", letter, delivery)
        return delivery

    def _put(self, storm: Storm) -> None:
        self.store.put(layout.storm(storm.partition), storm.model_dump_json().encode())

    def _dedup_key(self, storm: Storm) -> str:
        return f"scorewatch/{self.env}/fleet/{storm.partition}"

    def _page(self, storm: Storm, breaches: Iterable[Breach]) -> Event:
        tracks = Counter(each.track for each in breaches)
        what = ", ".join(f"{count} {track}" for track, count in sorted(tracks.items()))
        many = f"{len(storm.models)} of {storm.fleet} models {storm.what}"
        return Event(
            action="trigger",
            dedup_key=self._dedup_key(storm),
            summary=f"fleet: {many} ({what}): look at what they share first; pages of their own are held back",
            severity="critical",
            source=f"scorewatch/{self.env}",
            timestamp=storm.since,
            component="fleet",
            class_="storm",
            details={
                "environment": self.env,
                "partition": storm.partition,
                "episodes": dict(tracks),
                "models": list(storm.models[:SHOWN]),
                "and more": max(0, len(storm.models) - SHOWN),
            },
            links=((self.dagit, "Dagit"),),
        )
