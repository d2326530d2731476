"""A version's policy: its thresholds, the rules of each kind of episode, and what of it may wake somebody."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from monitoring_assets.alerting.episodes import GRAVE, TICKET, WARNING, Kind, Rules

VERSION = 1
"""Of the rules as a whole. Another one means that the same results may decide otherwise."""

WEEK: dict[str, int] = {"hour": 168, "day": 7, "week": 1, "month": 0}
"""Partitions in a week; months have no disjoint weeks."""

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Limits:
    """Net PSI from which a shift is a warning, and from which it is critical."""

    warn: float = 0.10
    critical: float = 0.25


@dataclass(frozen=True)
class Policy:
    """What decides for one model version.

    Only champions page; of tier 3 only what is critical does. For tier 1 small sustained shifts of the score are
    looked for too, which make tickets.
    """

    psi: Limits = Limits()
    csi: Limits = Limits()
    tier: int = 1
    role: str = "champion"
    every: str = "day"
    warnings: int = 2
    among: int = 3
    calm: int = 2
    cooldown: int = 3

    @property
    def digest(self) -> str:
        """Changes with anything that may decide otherwise."""
        return hashlib.sha256(json.dumps([VERSION, asdict(self)], sort_keys=True).encode()).hexdigest()[:16]

    def rules(self, kind: Kind) -> Rules:
        """The rules of a kind of episode."""
        if kind == "pipeline":
            # Data that did not come until its SLA, or a version that nobody monitors, is a fact and no estimate.
            return Rules(warnings=1, among=1, calm=1, cooldown=0)
        week = WEEK[self.every] if kind == "drift" and self.tier == 1 else 0
        return Rules(self.warnings, self.among, self.calm, self.cooldown, week)

    def pages(self, severity: int) -> Severity | None:
        """How PagerDuty is told of an episode's severity; None if it is not."""
        if self.role != "champion" or severity <= TICKET or (severity == WARNING and self.tier >= 3):
            return None
        return "critical" if severity == GRAVE else "warning"
