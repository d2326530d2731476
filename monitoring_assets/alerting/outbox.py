"""Where events go that no service is configured for: into the store, for `scorewatch alerts` to show."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.alerting.fuse import Service
from monitoring_assets.version import Clock
from resources.delivery import Accepted, Delivery
from resources.object_store import ObjectStore
from resources.pagerduty import Change, Event

Pager = Service[Event | Change]
"""Takes events: PagerDuty, or the outbox where there is none."""


class Sent(BaseModel):
    """An event in the outbox, and when it was put there."""

    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)

    at: datetime
    action: Literal["trigger", "resolve", "change"] = "change"
    dedup_key: str = ""
    severity: str = ""
    summary: str
    details: dict[str, Any]
    links: tuple[tuple[str, str], ...]


class Outbox:
    """Takes events as PagerDuty does, and keeps them."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def send(self, message: Event | Change) -> Delivery:
        """Keep an event, under the time of now."""
        sent = Sent.model_validate({**vars(message), "at": self._clock()})
        data = sent.model_dump_json().encode()
        name = f"{sent.at:%Y%m%dT%H%M%S.%fZ}-{hashlib.sha256(data).hexdigest()[:8]}"
        self._store.put(layout.outbox(name), data)
        return Accepted()


def newest(store: ObjectStore, count: int) -> Iterator[Sent]:
    """The newest events of the outbox, the newest first."""
    keys = sorted((info.key for info in store.list(layout.OUTBOX)), reverse=True)
    for key in islice(keys, count):
        blob = store.get(key)
        try:
            if blob is not None:
                yield Sent.model_validate_json(blob.data)
        except ValidationError as error:
            logging.getLogger(__name__).warning("%s/%s is no event: %s", store.uri, key, error)
