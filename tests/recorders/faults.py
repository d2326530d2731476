"""What a service is asked and answers, and what may go wrong on the way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """What a service is asked; the names of the headers in any case."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Answer:
    """Status, body (sent as JSON) and headers of an answer."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """What happens to one request: it takes effect or not, waits for `held`, and is answered with `answer`, or as the
    service does. The connection ends without an answer if it is `lost`, or if there is none.
    """

    answer: Answer | None = None
    takes_effect: bool = False
    held: threading.Event | None = None
    lost: bool = False


def failing(status: int, body: Any = None, **headers: str) -> Fault:
    """An answer of this status instead of an effect; `Retry_After="3"` is the header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(Answer(status, {"errors": ["a fault of the test"]} if body is None else body, named))


def answer_lost() -> Fault:
    """The request takes effect, the connection ends before its answer."""
    return Fault(takes_effect=True, lost=True)


def unreachable() -> Fault:
    """The connection ends before the request takes effect."""
    return Fault()


def held(until: threading.Event | None = None, *, takes_effect: bool = True) -> Fault:
    """The answer waits until this is set, or until the recorder stops: longer than any client."""
    return Fault(held=until or threading.Event(), takes_effect=takes_effect)


class Faults:
    """Each of `queue` happens to one request, in their order; then `lasting` to all, if there is one."""

    def __init__(self) -> None:
        self.queue: deque[Fault] = deque()
        self.lasting: Fault | None = None

    def add(self, *faults: Fault) -> None:
        self.queue.extend(faults)

    def next(self) -> Fault | None:
        return self.queue.popleft() if self.queue else self.lasting
