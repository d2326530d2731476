"""From what was seen of a version to the episodes that should be open now. Pure: no clock of its own, no store."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

import polars as pl

from monitoring_assets import layout
from monitoring_assets.alerting import findings
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.episodes import NONE, TICKET, Change, Memory, Rules, Seen, follow
from monitoring_assets.alerting.levels import WARN
from monitoring_assets.alerting.messages import dedup_key
from monitoring_assets.alerting.state import AlertState, Past, Row, Told, Track

KEPT = 35
"""Partitions of a track whose findings are kept, so that one that is corrected is judged again."""


@dataclass(frozen=True)
class Planner:
    """Plans the episodes of a version. ``raised`` are the tracks that a live result raises which was not known before,
    with the newest partition that does: nothing else opens an episode that pages, or makes one graver, whatever
    corrections and backfills do to the past.
    """

    about: About
    now: datetime
    env: str
    raised: Mapping[Track, str]

    def plan(self, state: AlertState) -> AlertState:
        """The state with the episodes that its rows ask for; what is over is to be closed."""
        if not self.about.monitored:
            for track, told in state.open.items():
                state = _closed(state, track, told)
            return state.model_copy(update={"rows": (), "past": {}})
        for track in get_args(Track):
            standing = _standing(state, track, self.about)
            if standing is not None:
                state = _trimmed(self._planned(state, track, standing), track, standing)
        return state

    def _planned(self, state: AlertState, track: Track, standing: _Standing) -> AlertState:
        current, severity = state.open.get(track), standing.memory.severity
        if current is not None and (severity == NONE or standing.is_another(current)):
            state = _closed(state, track, current)
            current = None
        may_grow = severity <= TICKET or track in self.raised
        if severity == NONE or (current is None and not may_grow):
            return state
        if current is None:
            at, why = standing.raised()
            opening = standing.opening()
            opened = standing.partitions[opening.position] if opening else at
            current = Told(track=track, key="", opened=opened, at=at, since=self.now, severity=severity, why=why)
            if self._key(current) in _resolved(state) and track in self.raised:
                # That was over, and what came late says that it is not.
                again = self.raised[track]
                current = current.model_copy(update={"opened": again, "at": again, "why": standing.why(again)})
        elif severity > current.severity and may_grow:
            at, why = standing.raised()
            current = current.model_copy(update={"severity": severity, "at": at, "why": why})
        elif severity < current.severity:
            current = current.model_copy(update={"severity": severity})
        if self.about.policy.pages(current.severity) is None and (current.known or current.registered):
            # What is left of it is nothing that anybody is woken for.
            state = _closed(state, track, current)
            current = current.model_copy(update={"registered": False, "told": None, "trying": False})
        current = current.model_copy(
            update={
                "key": current.key if current.known else self._key(current),
                "through": standing.partitions[-1],
                # What was refused yesterday is tried again with today's news.
                "refused": None if track in self.raised else current.refused,
            }
        )
        return state.model_copy(update={"open": state.open | {track: current}})

    def _key(self, told: Told) -> str:
        return dedup_key(self.env, self.about, "pipeline" if told.track == "registry" else told.track, told.opened)


def _resolved(state: AlertState) -> set[str]:
    """The keys of incidents that are over."""
    return {each.key for each in state.closing} | {each.key for each in state.closed}


def raised_by(state: AlertState, rows: Iterable[Row]) -> dict[Track, str]:
    """The tracks that rows raise by a live attempt which the state does not know; the newest partition that does."""
    known = {_identity(row): row.attempt for row in state.rows}
    fresh = [row for row in rows if row.level >= WARN and row.attempt > known.get(_identity(row), 0)]
    return {track_of(row): row.partition for row in sorted(fresh, key=_identity)}


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

    def opening(self) -> Change | None:
        """The last change that opened an episode."""
        return next((each for each in reversed(self.changes) if each.before == NONE), None)

    def raised(self) -> tuple[str, str]:
        """The partition that made the episode as grave as it is, and why; the oldest where that is not known."""
        change = next((each for each in reversed(self.changes) if each.after > each.before), None)
        if change is None:
            return self.partitions[0], ""
        partition = self.partitions[change.position]
        return partition, f"{self.why(partition)}; {change.rule}".removeprefix("; ")

    def why(self, partition: str) -> str:
        """What was found in a partition."""
        return findings.why(self.found[self.partitions.index(partition)])

    def is_another(self, told: Told) -> bool:
        """Whether the episode that is open now is not the one that was told: that closed, and this one opened after it
        was last seen open. What a correction makes of partitions before that is no reason to tell anybody anew.
        """
        opening = self.opening()
        if opening is None or self.partitions[opening.position] <= max(told.through, told.opened):
            return False
        return any(each.after == NONE and self.partitions[each.position] > told.opened for each in self.changes)


def track_of(row: Row) -> Track:
    """The track that a row belongs to."""
    return "registry" if row.partition == layout.REGISTRY_PARTITION else row.episode


def _standing(state: AlertState, track: Track, about: About) -> _Standing | None:
    rows = [row.model_dump() for row in state.rows if track_of(row) == track]
    if not rows:
        return None
    kind = "pipeline" if track == "registry" else track
    names = dict.fromkeys([*findings.VERSION, "partition", "asset"], pl.String) | findings.FOUND
    table = pl.DataFrame([{"model": "", "version": ""} | row for row in rows], schema={**names, "row": pl.UInt32})
    together = findings.together(table)
    found, seen = together.to_dicts(), findings.seen(together)
    rules = about.policy.rules(kind)
    before = state.past[track].memory if track in state.past else Memory()
    memory, changes = follow(rules, before, seen)
    return _Standing(rules, before, [each["partition"] for each in found], found, seen, memory, changes)


def _closed(state: AlertState, track: Track, told: Told) -> AlertState:
    others = {name: each for name, each in state.open.items() if name != track}
    closing = (*state.closing, told) if told.known or told.registered else state.closing
    return state.model_copy(update={"open": others, "closing": closing})


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
