"""Leases: who is at a partition of an asset now, so that two processes seldom do the same work.

They save work and guarantee nothing: what is read is what the pointer of a partition names, and that is swapped.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.version import Clock
from resources.errors import InfrastructureError, ScorewatchError
from resources.object_store import ObjectStore

LASTS = timedelta(seconds=60)
"""A lease that nobody renewed for so long is of a process that is gone; one of this machine need not be waited for."""
RENEWED_S = 20.0
PATIENCE_S = 90.0
"""Longer than a lease of a killed process lasts; whoever is at it still will be for a while."""
POLL_S = 1.0


class Lease(BaseModel):
    """Which process is at it, until when, and which lease it is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    process: int
    since: AwareDatetime
    until: AwareDatetime
    token: str

    @classmethod
    def of_this_process(cls, now: datetime) -> Lease:
        """A new one."""
        host, token = socket.gethostname(), uuid.uuid4().hex
        return cls(host=host, process=os.getpid(), since=now, until=now + LASTS, token=token)

    def renewed(self, now: datetime) -> Lease:
        """The same one for longer."""
        return self.model_copy(update={"until": now + LASTS})

    def stored(self) -> bytes:
        """As it lies in the store."""
        return self.model_dump_json().encode()

    def holds(self, now: datetime) -> bool:
        """Whether it keeps others away."""
        # One from far in the future is of a clock that was wrong.
        return now < self.until <= now + 2 * LASTS and (self.host != socket.gethostname() or alive(self.process))


class Leases:
    """Those of one model version."""

    def __init__(self, store: ObjectStore, model: str, version: str, clock: Clock) -> None:
        self._store, self._model, self._version, self._clock = store, model, version, clock

    @contextmanager
    def hold(self, asset: str, partition: str, *, patience_s: float = PATIENCE_S) -> Iterator[bool]:
        """Be the one at a partition; waits for another one, until it is done or gone, and gives whether it had to.

        Raises InfrastructureError when that takes longer than ``patience_s``: try again later.
        """
        key = layout.lease(asset, self._model, self._version, layout.encoded(partition))
        end = time.monotonic() + patience_s
        waited = False
        while (held := self._taken(key)) is None:
            waited = True
            other = self._read(key)[0]
            if time.monotonic() >= end and other is not None:
                raise InfrastructureError(
                    f"{self._model} {self._version}, {asset} of {partition}: process {other.process} on {other.host} "
                    f"is at it since {other.since:%Y-%m-%d %H:%M:%S} UTC. Run it again when that is done: finished "
                    "work is not done twice."
                )
            time.sleep(POLL_S)
        renewing = Renewal(lambda: self._renewed(key, held))
        try:
            yield waited
        finally:
            renewing.stop()
            self._give_back(key, held)

    def _taken(self, key: str) -> Lease | None:
        """The lease, if nobody else holds it."""
        now = self._clock()
        mine = Lease.of_this_process(now)
        # There is none, nearly always: asking first would be a request more of every asset and partition.
        if self._store.put_if_absent(key, mine.stored()):
            return mine
        found, etag = self._read(key)
        if found is not None and found.holds(now):
            return None
        return mine if self._store.compare_and_swap(key, mine.stored(), etag) is not None else None

    def _give_back(self, key: str, held: Lease) -> None:
        try:
            # Until it runs out, by whatever clock, nobody takes it over: most are given back without another look.
            if self._clock() < held.since + LASTS / 2 or self._is_ours(key, held):
                self._store.delete(key)
        except ScorewatchError as error:
            # It runs out by itself, and must not hide what became of the work.
            logging.getLogger(__name__).warning("a lease could not be given back: %s", error)

    def _is_ours(self, key: str, held: Lease) -> bool:
        found = self._read(key)[0]
        return found is not None and found.token == held.token

    def _renewed(self, key: str, held: Lease) -> bool:
        found, etag = self._read(key)
        if found is None or found.token != held.token:
            return False
        return self._store.compare_and_swap(key, held.renewed(self._clock()).stored(), etag) is not None

    def _read(self, key: str) -> tuple[Lease | None, str | None]:
        return read_lease(self._store, key)


def read_lease(store: ObjectStore, key: str) -> tuple[Lease | None, str | None]:
    """A lease and its etag; one that is damaged is none."""
    blob = store.get(key)
    try:
        return (Lease.model_validate_json(blob.data) if blob else None), (blob.etag if blob else None)
    except ValidationError:
        return None, blob.etag if blob else None


class Renewal:
    """Renews a lease in the background, until it is stopped or the lease is lost: ``renew`` says whether it is ours."""

    def __init__(self, renew: Callable[[], bool]) -> None:
        self._renew, self._stopped = renew, threading.Event()
        self._timer = threading.Timer(RENEWED_S, self._run)
        self._timer.daemon = True
        self._timer.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                if not self._renew():
                    return
            except ScorewatchError as error:
                # The work goes on: what guards it is the swap of its pointer.
                logging.getLogger(__name__).warning("a lease could not be renewed: %s", error)
            self._stopped.wait(RENEWED_S)

    def stop(self) -> None:
        """Nothing is renewed after this."""
        self._stopped.set()
        self._timer.cancel()
        self._timer.join()


def alive(process: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
