"""Bringing PagerDuty to what the results of a version ask for, however often it is run, killed or run twice at once.

It looks at states, not at events: what the results say now is compared with what PagerDuty was told. What is about to
be said is stored before it is, so that whoever comes after a killed publisher knows that it may have been heard; saying
it again is harmless, because the key of an episode's incident stays the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from monitoring_assets import layout
from monitoring_assets.alerting import gauges
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.dead_letters import bury
from monitoring_assets.alerting.findings import find
from monitoring_assets.alerting.levels import CLEAR, SILENT
from monitoring_assets.alerting.outbox import Pager
from monitoring_assets.alerting.state import AlertState, Overtaken, Row, StateFile
from monitoring_assets.alerting.telling import Teller
from monitoring_assets.alerting.wanted import Planner, raised_by, with_rows
from monitoring_assets.past.markers import Marker, markers
from monitoring_assets.past.rows import to_frame, to_line
from monitoring_assets.results import Result
from monitoring_assets.version import Clock
from resources.at_once import at_once
from resources.datadog import Gauge
from resources.delivery import Later, Refused
from resources.errors import InfrastructureError
from resources.object_store import ObjectStore
from resources.pagerduty import Event

FORGOTTEN = timedelta(days=7)
"""How long a resolved episode is remembered (and its incident resolved once more a day), and a marker waits for its
result."""
LOOK = 100
"""Partitions that a look takes in, the newest ones, and more than a state keeps: of a version whose whole past was
backfilled there may be thousands."""


@dataclass(frozen=True)
class Reconciled:
    """What a look did. ``waiting`` says why a message could not be delivered yet; ``overtaken``: another publisher is
    at the same version.
    """

    results: int = 0
    sent: int = 0
    waiting: str = ""
    overtaken: bool = False


@dataclass(frozen=True)
class Unsettled:
    """A look after which PagerDuty knows all that it should, with what is left of it: ``gauges`` to send, and then the
    markers ``marked`` to settle whose results are ``known``.
    """

    about: About
    sent: int
    marked: Sequence[Marker]
    known: Container[tuple[str, str, int]]
    gauges: Sequence[Gauge]


@dataclass(frozen=True)
class Reconciler:
    """Reconciles versions one by one. ``dagit`` is where links lead to; without ``datadog`` no gauge is sent."""

    store: ObjectStore
    pager: Pager
    clock: Clock
    env: str
    dagit: str
    datadog: gauges.Gauges | None = None

    def reconcile(self, about: About, *, silenced: bool = False, refused: bool = False) -> Reconciled:
        """`tell`, then `settle`. Raises InfrastructureError when the store cannot be reached."""
        told = self.tell(about, silenced=silenced, refused=refused)
        return self.settle(told) if isinstance(told, Unsettled) else told

    def tell(self, about: About, *, silenced: bool = False, refused: bool = False) -> Unsettled | Reconciled:
        """Take in the results of a version that have a marker, of its newest `LOOK` partitions that have any, and tell
        PagerDuty what it does not know yet.

        Reconciled if that could not be done: the markers stay.

        While a version is ``silenced`` nothing is triggered; resolving goes on. ``refused``: what PagerDuty refused is
        sent again. Raises InfrastructureError when the
        store cannot be reached.
        """
        marked = _newest(markers(self.store, layout.PENDING, f"{about.model}/{about.version}/"))
        folders = {(each.partition, each.kind) for each in marked}
        file = StateFile(self.store, about.model, about.version)
        before = file.read()
        wanted = sorted(folders | _judged_otherwise(before, about))
        read = dict(zip(wanted, at_once(lambda folder: self._attempts(about, *folder), wanted), strict=True))
        try:
            judged = {(each.partition, each.kind) for attempts in read.values() for each in attempts}
            live = _live(attempts for folder, attempts in read.items() if folder in folders)
            rows = list(_rows(about, read.values()))
            state = _without_old(with_rows(before, judged, rows), self.clock())
            news = {"newest": gauges.newest_of(state.newest, live), "policy": about.policy.digest}
            planner = Planner(about, self.clock(), self.env, raised_by(before, rows))
            file.write(planner.plan(state.model_copy(update=news)))
            teller = Teller(
                self.store, self.pager, self.clock, self.env, self.dagit, dashboards=self.datadog is not None
            )
            heard = teller.tell(file, about, silenced=silenced, refused=refused)
        except Overtaken:
            return Reconciled(overtaken=True)
        if heard.waiting:
            return Reconciled(sent=heard.sent, waiting=heard.waiting)
        if not about.monitored and not file.state.closed:
            file.remove()
        # Only what was read: a result may have come since.
        known = {(*folder, each.attempt) for folder, attempts in read.items() for each in attempts}
        return Unsettled(about, heard.sent, marked, known, gauges.daily(about, live, self.env))

    def settle(self, told: Unsettled) -> Reconciled:
        """Send the gauges, and hand the results over to compaction; they wait for Datadog as long as it is down.

        Raises InfrastructureError when the store cannot be reached.
        """
        if self.datadog is not None and told.gauges:
            match self.datadog.send(told.gauges):
                case Later() as later:
                    return Reconciled(sent=told.sent, waiting=later.reason)
                case Refused() as refused:
                    points = gauges.as_json(told.gauges)
                    name = (told.about.model, told.about.version)
                    bury(self.store, name, json.dumps(points), {"action": "send", "gauges": points}, refused)
        return Reconciled(results=self._settle(told.marked, told.known), sent=told.sent)

    def resolve_again(self, model: str, version: str) -> int:
        """Send the resolves of the last week once more; how many. Raises InfrastructureError without an answer."""
        state = StateFile(self.store, model, version).read()
        still = {told.key for told in (*state.open.values(), *state.closing)}
        again = [each.key for each in state.closed if each.key not in still]
        for key in again:
            match self.pager.send(Event(action="resolve", dedup_key=key)):
                case Later() as later:
                    raise InfrastructureError(f"the incident {key} could not be resolved again: {later.reason}")
        return len(again)

    def _attempts(self, about: About, partition: str, kind: str) -> list[Result]:
        """All attempts of a kind of result, oldest first."""
        found = []
        for info in self.store.list(layout.results(about.model, about.version, partition, kind)):
            blob = self.store.get(info.key)
            try:
                found += [Result.model_validate_json(blob.data)] if blob else []
            except ValidationError as error:
                logging.getLogger(__name__).warning(
                    "%s/%s is no result of this release and alerts nobody: %s", self.store.uri, info.key, error
                )
        return found

    def _settle(self, marked: Sequence[Marker], known: Container[tuple[str, str, int]]) -> int:
        """Hand the results over to compaction; a marker without a result waits for it."""

        def settle(each: Marker) -> bool:
            there = (each.partition, each.kind, each.attempt) in known
            if there:
                where = (each.model, each.version, each.partition, each.kind, each.attempt)
                self.store.put(layout.uncompacted(*where), b"")
            if there or each.put_at < self.clock() - FORGOTTEN:
                self.store.delete(each.key)
            return there

        return sum(at_once(settle, marked))


def _newest(pending: Iterable[Marker]) -> list[Marker]:
    """Those of the newest partitions that have any; of the version as a whole in any case."""
    marked = list(pending)
    partitions = set(sorted({each.partition for each in marked})[-LOOK:])
    return [each for each in marked if each.partition in partitions]


def _live(folders: Iterable[Sequence[Result]]) -> list[Result]:
    """The newest live attempt of every asset, of attempts that are given oldest first."""
    return [
        each
        for attempts in folders
        for each in {attempt.asset: attempt for attempt in attempts if attempt.live}.values()
    ]


def _judged_otherwise(state: AlertState, about: About) -> set[tuple[str, str]]:
    """The folders of the rows that another policy judged than the one that is in force."""
    if not about.monitored or state.policy in ("", about.policy.digest):
        return set()
    return {(layout.encoded(row.partition), row.kind) for row in state.rows}


def _without_old(state: AlertState, now: datetime) -> AlertState:
    closed = tuple(each for each in state.closed if each.resolved_at > now - FORGOTTEN)
    return state.model_copy(update={"closed": closed})


def _rows(about: About, folders: Iterable[Sequence[Result]]) -> Iterator[Row]:
    """What counts of every asset's attempts (oldest first, a sequence a partition and kind): the newest live one,
    unless later ones clear it; where none was live the newest, if it is clear.
    """
    counting = [
        _counting(own)
        for attempts in folders
        for own in ([each for each in attempts if each.asset == asset] for asset in {each.asset for each in attempts})
    ]
    rows = _judged([each for own in counting for each in own], about)
    for first, *later in counting:
        number = first.attempt if first.live else 0
        found = rows[id(first)]
        for each in later:
            found = {episode: _lower(row, rows[id(each)].get(episode)) for episode, row in found.items()}
        for row in found.values():
            if first.live or row.level == CLEAR:
                yield row.model_copy(update={"attempt": number})


def _counting(attempts: Sequence[Result]) -> Sequence[Result]:
    newest = max((number for number, each in enumerate(attempts) if each.live), default=len(attempts) - 1)
    return attempts[newest:]


def _lower(row: Row, later: Row | None) -> Row:
    """An attempt that is not live may clear, and never raises."""
    return row if later is None or later.level == SILENT or later.level >= row.level else later


def _judged(results: Sequence[Result], about: About) -> dict[int, dict[str, Row]]:
    """The rows of results by the identity of these, and by kind of episode."""
    rows: dict[int, dict[str, Row]] = {id(each): {} for each in results}
    frame = to_frame([to_line(each) for each in results])
    for found in find(frame, {(about.model, about.version): about.policy}).to_dicts():
        result = results[found.pop("row")]
        row = Row(partition=result.partition, kind=result.kind, asset=result.asset, **found)
        rows[id(result)][row.episode] = row
    return rows
