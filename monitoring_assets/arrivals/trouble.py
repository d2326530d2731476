"""How a version's lake behaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

SLOW_S = 0.5
"""Seconds of a look that are many."""


@dataclass
class Trouble:
    """With a version's lake: how long a look takes, how often they failed, and until when it is left alone."""

    took_s: float = 0.0
    failed: bool = False
    failures: int = 0
    until: datetime | None = None

    @property
    def slow(self) -> bool:
        """Whether others had better not wait for it."""
        return self.took_s > SLOW_S

    def pauses(self, now: datetime) -> bool:
        """Whether it is left alone."""
        return self.until is not None and self.until > now
