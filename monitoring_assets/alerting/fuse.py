"""A service for one round of the publisher: once it does not take anything, nobody waits for it again."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from resources.delivery import Delivery, Later

Message_contra = TypeVar("Message_contra", contravariant=True)


class Service(Protocol[Message_contra]):
    """Takes messages of a kind."""

    def send(self, message: Message_contra, /) -> Delivery:
        """Send a message once."""


class Fuse(Generic[Message_contra]):
    """The service, until ``lasts`` messages in a row did not arrive, or it asked to be left alone for a while.

    Where some message may be the only one that it does not take, more than one has to fail: those behind it would never
    be sent.
    """

    def __init__(self, service: Service[Message_contra], *, lasts: int = 1) -> None:
        self._service, self._lasts = service, lasts
        self._failed = 0
        self._blown: Later | None = None
        self._lock = threading.Lock()

    def send(self, message: Message_contra, /) -> Delivery:
        """Send a message, or say Later at once."""
        if self._blown is not None:
            return self._blown
        delivery = self._service.send(message)
        with self._lock:
            if not isinstance(delivery, Later):
                self._failed = 0
                return delivery
            self._failed += 1
            if self._failed >= self._lasts or delivery.after_s is not None:
                self._blown = delivery
        return delivery
