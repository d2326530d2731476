"""What became of a message to another service, and what its answers mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# A service that wants to be left alone for longer is asked again after this, in seconds.
LONGEST_WAIT_S = 3_600.0


@dataclass(frozen=True)
class Accepted:
    """The service has the message."""


@dataclass(frozen=True)
class Refused:
    """The service will never take the message; sending it again cannot help."""

    reason: str
    """Status and error messages of the service, never a key."""


@dataclass(frozen=True)
class Later:
    """The message did not arrive, or nobody knows whether it did; send it again."""

    reason: str
    after_s: float | None = None
    """How many seconds the service wants to be left alone; None if it did not say."""


UNWELCOME = {401, 403, 404, 407}
"""Answers about who asks, and by which way: another key or proxy mends them, and the message is not at fault."""

Delivery = Accepted | Refused | Later


def judged(status: int, reason: str, headers: Mapping[str, str]) -> Refused | Later:
    """What an answer means that is no acceptance; below 400 something else than the service gave it."""
    if status < 400:
        reason = f"{reason}, but not as the service does. Is something in between?"
    if 400 <= status < 500 and status not in {*UNWELCOME, 408, 429}:
        return Refused(reason)
    return Later(reason, wait_in(headers))


def wait_in(headers: Mapping[str, str]) -> float | None:
    """The seconds in X-Ratelimit-Reset or Retry-After, at most an hour; None without a number in either."""
    stated = {name.lower(): value for name, value in headers.items()}
    for name in ("x-ratelimit-reset", "retry-after"):
        try:
            seconds = float(stated.get(name, ""))
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return min(seconds, LONGEST_WAIT_S)
    return None
