"""From the levels of one partition after another to an episode that opens, grows graver and closes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from monitoring_assets.alerting.levels import CLEAR, CRITICAL, SILENT, WARN

Kind = Literal["drift", "quality", "performance", "pipeline"]
NONE, TICKET, WARNING, GRAVE = 0, 1, 2, 3
"""Severities of an episode: none is open; seen in `scorewatch alerts` and Datadog only; PagerDuty's two."""

SUSTAINED = "small and sustained"
"""The rule that makes tickets."""

NAMES = ("none", "ticket", "warning", "critical")
_ORDINALS = ("", "first", "second", "third", "fourth", "fifth")
_NUMBERS = ("", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Rules:
    """When the levels of a kind open and close an episode.

    A warning opens at ``warnings`` of the last ``among`` partitions, a critical one at once; ``calm`` clear partitions
    in a row close. For ``cooldown`` partitions after that a warning opens nothing. ``week`` is a week's number of
    partitions, for small sustained shifts (`sustained`); 0 leaves these out.
    """

    warnings: int = 2
    among: int = 3
    calm: int = 2
    cooldown: int = 3
    week: int = 0


class Seen(NamedTuple):
    """One partition of one kind: its level, and for sustained shifts of the score its mean and week.

    ``shift`` is the standardised shift of the mean log-odds, ``weekly`` the net PSI of the week that ends with the
    partition; nan where they were not measured. ``raised`` are the assets whose results are at WARN or above, ``clear``
    those whose results are CLEAR.
    """

    level: int
    shift: float = math.nan
    weekly: float = math.nan
    raised: Sequence[str] = ()
    clear: Sequence[str] = ()


@dataclass(frozen=True)
class Memory:
    """What the rules remember of the partitions before: it can be stored and gone on from.

    ``involved`` are the assets that a partition has to say are clear, because they raised the episode, or nearly did.
    """

    severity: int = NONE
    levels: tuple[int, ...] = ()
    calm: int = 0
    closed: int = 1_000
    sustained: bool = False
    up: float = 0.0
    down: float = 0.0
    weeks: tuple[float, ...] = ()
    involved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """An episode opened, grew graver or closed at partition ``position``; ``rule`` says by which rule, in words."""

    position: int
    before: int
    after: int
    rule: str


CUSUM_SLACK = 0.5
CUSUM_LIMIT = 8.0
"""Siegmund's approximation gives an average run of exp(2 k (h + 1.166)) ≈ 9,600 partitions in control."""
WEEKLY_NET = 0.05
WEEKS = 4


def follow(rules: Rules, memory: Memory, seen: Iterable[Seen]) -> tuple[Memory, list[Change]]:
    """Go on from ``memory`` over partitions in their order; the memory after them, and what changed on the way."""
    changes = []
    for position, each in enumerate(seen):
        after, rule = _step(rules, memory, each)
        if after.severity != memory.severity:
            changes.append(Change(position, memory.severity, after.severity, rule))
        memory = after
    return memory, changes


def _step(rules: Rules, memory: Memory, seen: Seen) -> tuple[Memory, str]:
    if rules.week:
        memory = _sustained(rules, memory, seen)
    ticket = TICKET if memory.sustained else NONE
    level = _level(memory, seen)
    involved = tuple(sorted({*memory.involved, *seen.raised})) if seen.raised else memory.involved
    if level == SILENT:
        return replace(memory, severity=max(memory.severity, ticket), involved=involved), SUSTAINED
    levels = (*memory.levels, level)[-rules.among :]
    warned = sum(each >= WARN for each in levels)
    calm = memory.calm + 1 if level == CLEAR else 0
    closed = memory.closed + 1
    severity, rule = memory.severity, ""
    if level == CRITICAL:
        severity, rule = GRAVE, "critical at once"
    elif level == WARN and warned >= rules.warnings and (severity > TICKET or closed > rules.cooldown):
        severity, rule = max(severity, WARNING), _warned(rules, warned)
    elif severity > TICKET and calm >= rules.calm:
        # The levels that opened this one shall not open the next.
        severity, rule, levels, closed, involved = ticket, f"clear for {calm} partitions", (), 0, ()
    elif severity <= TICKET:
        severity, rule = ticket, SUSTAINED if ticket else "the sustained shift is over"
        involved = involved if warned else ()
    return replace(memory, severity=severity, levels=levels, calm=calm, closed=closed, involved=involved), rule


def _level(memory: Memory, seen: Seen) -> int:
    """A partition of which only some assets have reported, or not those that the episode is about, clears nothing."""
    unsaid = memory.involved and seen.level == CLEAR and not set(memory.involved).issubset(seen.clear)
    return SILENT if unsaid else seen.level


def _warned(rules: Rules, warned: int) -> str:
    if rules.among == 1:
        return "at once"
    return f"{_ORDINALS[warned]} breach of the last {_NUMBERS[rules.among]} partitions"


def _sustained(rules: Rules, memory: Memory, seen: Seen) -> Memory:
    """Two-sided CUSUM on the standardised mean log-odds, and the score's net PSI in disjoint weeks."""
    up, down = memory.up, memory.down
    if not math.isnan(seen.shift):
        up = min(max(0.0, up + seen.shift - CUSUM_SLACK), CUSUM_LIMIT)
        down = min(max(0.0, down - seen.shift - CUSUM_SLACK), CUSUM_LIMIT)
    weeks = (*memory.weeks, seen.weekly)[-((WEEKS - 1) * rules.week + 1) :]
    ends = weeks[:: -rules.week]
    weekly = len(ends) == WEEKS and all(net >= WEEKLY_NET for net in ends)
    # Half the limit is eight partitions in control: what is over is over, and does not come and go.
    limit = CUSUM_LIMIT / 2 if memory.sustained else CUSUM_LIMIT
    return replace(memory, up=up, down=down, weeks=weeks, sustained=max(up, down) >= limit or weekly)
