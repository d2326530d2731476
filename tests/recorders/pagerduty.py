"""PagerDuty's Events API: incidents by their keys, and change events."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.recorders.faults import Answer, Faults, Request
from tests.recorders.judge import broken_rules

ROUTING_KEY = "routing-key-of-the-recorder-0001"

_ENQUEUE, _CHANGE = "/v2/enqueue", "/v2/change/enqueue"
_EVENT_BYTES = 512_000


@dataclass
class Incident:
    """One page: opened by the first of its triggers, which are the bodies without the routing key."""

    dedup_key: str
    triggers: list[dict[str, Any]] = field(default_factory=list)
    resolved: bool = False

    @property
    def payload(self) -> dict[str, Any]:
        """Of the last trigger."""
        return self.triggers[-1]["payload"]


class PagerDutyRecorder:
    """A trigger opens an incident unless its key has an open one; a resolve closes that and ignores unknown keys.

    It is stricter than the service, which cuts a long summary and lets other mistakes pass: `problems` says what was
    wrong with a payload that it refused.
    """

    paths = (_ENQUEUE, _CHANGE)

    def __init__(self) -> None:
        self.faults = Faults()
        self.requests = 0
        self.problems: list[str] = []
        self.pages: list[Incident] = []
        self.resolves: list[str] = []
        """The keys of all resolves, also of those that closed nothing."""
        self.changes: list[dict[str, Any]] = []

    @property
    def open(self) -> dict[str, Incident]:
        """The open incidents by their keys."""
        return {page.dedup_key: page for page in self.pages if not page.resolved}

    def pages_of(self, dedup_key: str) -> list[Incident]:
        return [page for page in self.pages if page.dedup_key == dedup_key]

    def take(self, request: Request) -> Answer:
        """Do what a request asks for, and answer it."""
        if request.method != "POST":
            return Answer(405, {"status": "method not allowed", "message": "Only POST is served."})
        if len(request.content) > _EVENT_BYTES:
            return Answer(413, {"status": "payload too large", "message": f"Limit of {_EVENT_BYTES} bytes."})
        try:
            body = json.loads(request.content)
        except ValueError:
            return self._invalid(["JSON parse error"])
        problems = broken_rules("pagerduty_events_v2", request.path, body) or _mistakes(request.path, body)
        if problems:
            return self._invalid(problems)
        if body.pop("routing_key") != ROUTING_KEY:
            return Answer(400, {"status": "invalid event", "message": "Event object is invalid", "errors": _WRONG_KEY})
        return self._event(body) if request.path == _ENQUEUE else self._change(body)

    def _event(self, body: dict[str, Any]) -> Answer:
        key = body["dedup_key"]
        incident = self.open.get(key)
        if body["event_action"] == "resolve":
            self.resolves.append(key)
            if incident:
                incident.resolved = True
        elif body["event_action"] == "trigger":
            if incident is None:
                incident = Incident(key)
                self.pages.append(incident)
            incident.triggers.append(body)
        return Answer(202, {"status": "success", "message": "Event processed", "dedup_key": key})

    def _change(self, body: dict[str, Any]) -> Answer:
        self.changes.append(body)
        return Answer(202, {"status": "success", "message": "Change event processed"})

    def _invalid(self, problems: list[str]) -> Answer:
        self.problems += problems
        return Answer(400, {"status": "invalid event", "message": "Event object is invalid", "errors": problems})


_WRONG_KEY = ["Invalid routing key"]


def _mistakes(path: str, body: Any) -> list[str]:
    if not isinstance(body, dict) or not isinstance(body.get("routing_key"), str):
        return ["'routing_key' is missing or blank"]
    if path == _CHANGE:
        return _payload_mistakes(body, ("summary",))
    key = body.get("dedup_key")
    # The service would make one up for a trigger, and nobody could resolve that.
    if not isinstance(key, str) or not 0 < len(key) <= 255:
        return ["'dedup_key' is missing, blank or longer than 255 characters"]
    if body.get("event_action") in ("acknowledge", "resolve"):
        return []
    if body.get("event_action") != "trigger":
        return ["'event_action' is none of trigger, acknowledge, resolve"]
    found = _payload_mistakes(body, ("summary", "source", "severity"))
    if not found and body["payload"]["severity"] not in ("critical", "error", "warning", "info"):
        found.append("'payload.severity' is unknown")
    return found


def _payload_mistakes(body: dict[str, Any], needed: tuple[str, ...]) -> list[str]:
    payload = body.get("payload")
    if not isinstance(payload, dict):
        return ["'payload' is missing"]
    found = [f"'payload.{name}' is missing or blank" for name in needed if not payload.get(name)]
    if len(payload.get("summary", "")) > 1_024:
        found.append("'payload.summary' is longer than 1024 characters")
    if "timestamp" in payload and datetime.fromisoformat(payload["timestamp"]).tzinfo is None:
        found.append("'payload.timestamp' has no offset")
    if not all(link.get("href", "").startswith(("http://", "https://")) for link in body.get("links", [])):
        found.append("'links' has one without a URL")
    return found
