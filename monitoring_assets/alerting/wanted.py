"""From what was seen of a version to the episodes that should be open now. Pure: no clock of its own, no store."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

import polars as pl

from monitoring_assets import layout
from monitoring_assets.alerting import findings
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.episodes import NONE, Change, Memory, Rules, Seen, follow
from monitoring_assets.alerting.messages import dedup_key
from monitoring_assets.alerting.state import AlertState, Past, Row, Told, Track

KEPT = 35
"""Partitions of a track whose findings are kept, so that one that is corrected is judged again."""


def plan(state: AlertState, about: About, now: datetime, env: str) -> AlertState:
    """The state with the episodes that its rows ask for; what is over is to be closed."""
    if not about.monitored:
        for track, told in state.open.items():
            state = _closed(state, track, told)
        return state.model_copy(update={"rows": (), "past": {}})
    for track in get_args(Track):
        standing = _standing(state, track, about)
        if standing is not None:
            state = _trimmed(_planned(state, track, standing, about, now, env), track, standing)
    return state


@dataclass(frozen=True)
class _Standing:
    """A track as it stands: its partitions with what was found in them, and what the rules make of it."""

    rules: Rules
    before: Memory
    partitions: Sequence[str]
    found: Sequence[dict[str, Any]]
    seen: Sequence[Seen]
    memory: Memory
    changes: Sequence[Change]

    def why(self, change: Change) -> str:
        return f"{findings.why(self.found[change.position])}; {change.rule}".removeprefix("; ")

    def opening(self) -> Change | None:
        """The last change that opened an episode."""
        return next((each for each in reversed(self.changes) if each.before == NONE), None)

    def raising(self) -> Change | None:
        """The last change that made an episode graver."""
        return next((each for each in reversed(self.changes) if each.after > each.before), None)

    def closed_after(self, partition: str) -> bool:
        """Whether an episode was closed after a partition."""
        return any(each.after == NONE and self.partitions[each.position] > partition for each in self.changes)


def track_of(row: Row) -> Track:
    """The track that a row belongs to."""
    return "registry" if row.partition == layout.REGISTRY_PARTITION else row.episode


def _standing(state: AlertState, track: Track, about: About) -> _Standing | None:
    rows = [row.model_dump() for row in state.rows if track_of(row) == track]
    if not rows:
        return None
    kind = "pipeline" if track == "registry" else track
    names = dict.fromkeys([*findings.VERSION, "partition"], pl.String) | findings.FOUND
    table = pl.DataFrame([{"model": "", "version": ""} | row for row in rows], schema={**names, "row": pl.UInt32})
    found = findings.together(table).to_dicts()
    seen = [Seen(each["level"], _number(each["shift"]), _number(each["weekly"])) for each in found]
    rules = about.policy.rules(kind)
    before = state.past[track].memory if track in state.past else Memory()
    memory, changes = follow(rules, before, seen)
    return _Standing(rules, before, [each["partition"] for each in found], found, seen, memory, changes)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _planned(state: AlertState, track: Track, standing: _Standing, about: About, now: datetime, env: str) -> AlertState:
    current, severity = state.open.get(track), standing.memory.severity
    opening = standing.opening()
    opened = standing.partitions[opening.position] if opening else None
    over = severity == NONE or (
        opened is not None and current is not None and opened > current.opened and standing.closed_after(current.opened)
    )
    if current is not None and over:
        state = _closed(state, track, current)
        current = None
    if severity == NONE:
        return state
    raising = standing.raising()
    at = standing.partitions[raising.position] if raising else (opened or standing.partitions[0])
    why = standing.why(raising) if raising else ""
    if current is None:
        opened = opened or at
        kind = "pipeline" if track == "registry" else track
        key = dedup_key(env, about, kind, opened)
        new = Told(track=track, key=key, opened=opened, at=at, since=now, severity=severity, why=why)
        return _with_open(state, track, new)
    if severity > current.severity:
        return _with_open(state, track, current.model_copy(update={"severity": severity, "at": at, "why": why}))
    if severity < current.severity and about.policy.pages(severity) is None and (current.known or current.registered):
        # What is left of it is nothing that anybody is woken for.
        state = _closed(state, track, current)
        current = current.model_copy(update={"registered": False, "told": None, "trying": False})
    return _with_open(state, track, current.model_copy(update={"severity": severity}))


def _closed(state: AlertState, track: Track, told: Told) -> AlertState:
    others = {name: each for name, each in state.open.items() if name != track}
    closing = (*state.closing, told) if told.known or told.registered else state.closing
    return state.model_copy(update={"open": others, "closing": closing})


def _with_open(state: AlertState, track: Track, told: Told) -> AlertState:
    return state.model_copy(update={"open": state.open | {track: told}})


def _trimmed(state: AlertState, track: Track, standing: _Standing) -> AlertState:
    """Fold what is older than `KEPT` partitions into what is remembered."""
    old = standing.partitions[:-KEPT]
    if not old:
        return state
    memory, _ = follow(standing.rules, standing.before, standing.seen[: len(old)])
    rows = tuple(row for row in state.rows if track_of(row) != track or row.partition > old[-1])
    past = state.past | {track: Past(through=old[-1], memory=memory)}
    return state.model_copy(update={"rows": rows, "past": past})


def with_rows(state: AlertState, judged: Container[tuple[str, str]], rows: Iterable[Row]) -> AlertState:
    """The state with ``rows`` in the place of what it held of the partitions and kinds that were ``judged`` anew.

    Those of partitions that are not kept any more are left out.
    """
    others = [row for row in state.rows if (row.partition, row.kind) not in judged]
    news = [row for row in rows if (past := state.past.get(track_of(row))) is None or row.partition > past.through]
    return state.model_copy(update={"rows": tuple(sorted((*others, *news), key=_identity))})


def _identity(row: Row) -> tuple[str, str, str, str]:
    return row.partition, row.kind, row.asset, row.episode
