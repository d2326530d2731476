"""Telling PagerDuty what it does not know yet of one version's episodes, one stored step after another."""

from __future__ import annotations

from dataclasses import dataclass

from monitoring_assets.alerting import messages
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.dashboards import model_dashboard
from monitoring_assets.alerting.dead_letters import bury, unbury
from monitoring_assets.alerting.outbox import Pager
from monitoring_assets.alerting.policy import Severity
from monitoring_assets.alerting.state import Closed, StateFile, Told
from monitoring_assets.alerting.storms import Breaches
from monitoring_assets.alerting.worst import worst_columns
from monitoring_assets.version import Clock
from resources.delivery import Accepted, Delivery, Later, Refused
from resources.object_store import ObjectStore
from resources.pagerduty import Event


@dataclass(frozen=True)
class Heard:
    """How many messages were sent; ``waiting`` says why others could not be yet."""

    sent: int = 0
    waiting: str = ""


@dataclass(frozen=True)
class Teller:
    """Tells of one version at a time. Links lead to ``dagit``, and to ``dashboards`` where Datadog is told anything."""

    store: ObjectStore
    pager: Pager
    clock: Clock
    env: str
    dagit: str
    dashboards: bool = False

    def tell(self, file: StateFile, about: About, *, silenced: bool, refused: bool = False) -> Heard:
        """Resolve what is over, then page for what is open, in this order; what was ``refused`` too, if that is asked
        for. Raises Overtaken.
        """
        sent, waiting = 0, ""
        while (told := next(iter(file.state.closing), None)) is not None:
            delivery = self._resolve(file, about, told)
            if isinstance(delivery, Later):
                return Heard(sent, delivery.reason)
            sent += isinstance(delivery, Accepted)
        for told in file.state.open.values():
            page = about.policy.pages(told.severity)
            if page is None or told.told in (page, "critical") or silenced or (told.refused == page and not refused):
                continue
            verdict = "page" if told.known else self._verdict(file, about, told)
            if verdict == "wait":
                waiting = "other models breach with it; in some minutes it is a storm, or pages"
            if verdict == "page":
                delivery = self._page(file, about, file.state.open[told.track], page)
                if isinstance(delivery, Later):
                    return Heard(sent, delivery.reason)
                sent += isinstance(delivery, Accepted)
        return Heard(sent, waiting)

    def _resolve(self, file: StateFile, about: About, told: Told) -> Delivery | None:
        state, delivery, closed = file.state, None, file.state.closed
        if told.registered:
            Breaches(self.store, self.clock).forget(about, told)
        if told.known:
            delivery = self._send(about, told, messages.resolve(told))
            closed = (*closed, Closed(key=told.key, resolved_at=self.clock()))
        if not isinstance(delivery, Later):
            file.write(state.model_copy(update={"closing": state.closing[1:], "closed": closed}))
        return delivery

    def _verdict(self, file: StateFile, about: About, told: Told) -> str:
        breaches = Breaches(self.store, self.clock)
        told = breaches.counted(told)
        # Stored first: whoever finds the episode over forgets what was registered.
        _put(file, told)
        breaches.register(about, told)
        return breaches.verdict(about, told)

    def _page(self, file: StateFile, about: About, told: Told, page: Severity) -> Delivery:
        _put(file, told.model_copy(update={"trying": True}))
        worst = worst_columns(self.store, about, told)
        dashboard = model_dashboard(self.store) if self.dashboards else None
        event = messages.trigger(about, told, page, worst, self.env, self.dagit, dashboard)
        delivery = self._send(about, told, event)
        if isinstance(delivery, Accepted):
            if told.buried:
                unbury(self.store, (about.model, about.version), _identity(told, "trigger"))
            _put(file, told.model_copy(update={"told": page, "refused": None, "buried": False, "trying": False}))
        if isinstance(delivery, Refused):
            _put(file, told.model_copy(update={"refused": page, "buried": True, "trying": False}))
        return delivery

    def _send(self, about: About, told: Told, event: Event) -> Delivery:
        delivery = self.pager.send(event)
        if isinstance(delivery, Refused):
            letter = {"action": event.action, "episode": told.model_dump(mode="json")}
            bury(self.store, (about.model, about.version), _identity(told, event.action), letter, delivery)
        return delivery


def _identity(told: Told, action: str) -> str:
    return f"{told.key} {action}"


def _put(file: StateFile, told: Told) -> None:
    file.write(file.state.model_copy(update={"open": file.state.open | {told.track: told}}))
