"""What the publisher knows of a version's alerts: what was seen of late, which episodes are open, what was told.

One object a version, written by compare-and-swap only: who loses a swap has been overtaken by another publisher.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.alerting.episodes import Kind, Memory
from monitoring_assets.alerting.policy import Severity
from resources.errors import InfrastructureError
from resources.object_store import ObjectStore

Track = Literal["drift", "quality", "performance", "pipeline", "registry"]
"""What is followed apart: the kinds of episodes, and of pipeline the version as a whole, which is no partition."""


class _Stored(BaseModel):
    # A week without a measured PSI is nan. What a newer release knows besides is no reason to know nothing.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class Row(_Stored):
    """What counts of one kind of result of one asset of a partition: a row of `findings.find`.

    ``attempt`` is the number of the newest live attempt, 0 if there is none.
    """

    partition: str
    kind: str
    asset: str
    episode: Kind
    attempt: int = 0
    level: int
    reached: int | None = None
    columns: int | None = None
    worst: str | None = None
    net: float | None = None
    threshold: float | None = None
    reason: str | None = None
    shift: float | None = None
    weekly: float | None = None


class Past(_Stored):
    """What is remembered of the partitions up to and with ``through``, which are not in the rows any more."""

    through: str
    memory: Memory


class Told(_Stored):
    """An episode, and what PagerDuty knows of it under ``key``. It grew as grave as it is on the partition ``at``, and
    was still open on ``through``.

    ``registered``: it may count towards a storm, of what broke ``on`` one partition, and waits for that until
    ``waits_until``. ``told`` is the severity that was accepted, ``refused`` the one that is not tried again without
    news, ``buried`` whether a dead letter says so. ``trying`` is set before a message is sent and taken away when its
    answer is known: while it is, nobody can say whether it arrived.
    """

    track: Track
    key: str
    opened: str
    at: str
    through: str = ""
    since: datetime
    severity: int
    why: str
    registered: bool = False
    on: str = ""
    waits_until: datetime | None = None
    told: Severity | None = None
    refused: Severity | None = None
    buried: bool = False
    trying: bool = False

    @property
    def known(self) -> bool:
        """Whether there may be an incident of it."""
        return self.told is not None or self.trying


class Closed(_Stored):
    """An episode that is over, and when its incident was resolved."""

    key: str
    resolved_at: datetime


class Newest(_Stored):
    """The newest partition that was judged live, and by kind (psi, csi) the net PSI of its worst column."""

    partition: str
    nets: dict[str, float] = {}


class AlertState(_Stored):
    """Everything of one version. ``closing`` are episodes that are over, which somebody else still knows of.

    ``policy`` is the digest of the policy that judged the rows.
    """

    policy: str = ""
    rows: tuple[Row, ...] = ()
    past: dict[Track, Past] = {}
    open: dict[Track, Told] = {}
    closing: tuple[Told, ...] = ()
    closed: tuple[Closed, ...] = ()
    newest: Newest | None = None


class Overtaken(Exception):
    """Another publisher wrote the state meanwhile; it goes on from there, so there is nothing left to do here."""


class StateFile:
    """The state of one version in the store."""

    def __init__(self, store: ObjectStore, model: str, version: str) -> None:
        self._store, self._key = store, layout.alerts(model, version)
        self._etag: str | None = None
        self.state = AlertState()

    def read(self) -> AlertState:
        """The state; an empty one before the first. Raises InfrastructureError for one that cannot be read."""
        blob = self._store.get(self._key)
        self._etag, self.state = (blob.etag if blob else None), AlertState()
        if blob is not None:
            try:
                self.state = AlertState.model_validate_json(blob.data)
            except ValidationError as error:
                # Not as if there was none: incidents that are open would be opened again.
                raise InfrastructureError(
                    f"{self._store.uri}/{self._key} cannot be read as the state of alerts: {error.error_count()} "
                    f"faults, the first: {error.errors()[0]['msg']}. Restore an earlier version of it, or delete it: "
                    "episodes that are open are then told once more."
                ) from error
        return self.state

    def write(self, state: AlertState) -> None:
        """Replace it, if it is still the one that was read. Raises Overtaken."""
        if state == self.state and self._etag is not None:
            return
        etag = self._store.compare_and_swap(self._key, state.model_dump_json().encode(), self._etag)
        if etag is None:
            raise Overtaken
        self._etag, self.state = etag, state

    def remove(self) -> None:
        """Forget the version."""
        self._store.delete(self._key)
        self._etag, self.state = None, AlertState()
