"""A policy replayed over results of the past: which episodes it would have made, and which of them would have paged.

Every partition counts as it stands now, by its newest attempt, whether it was live or not: the question is what the
policy makes of the data, not how late somebody looked at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from monitoring_assets import layout
from monitoring_assets.alerting.episodes import NAMES, SUSTAINED, Change, Kind, Memory, Seen, follow
from monitoring_assets.alerting.findings import VERSION, find, seen, together, why
from monitoring_assets.alerting.policy import Policy, Severity
from monitoring_assets.alerting.storms import limit

Policies = Mapping[tuple[str, str], Policy]
DAYS_A_MONTH = 365.25 / 12


@dataclass(frozen=True)
class Episode:
    """One episode: from the partition that opened it to the one that closed it (None: still open).

    What is left when an incident is resolved, a ticket, is an episode of its own.
    ``paged`` is the partition at which it paged, None if it never did; ``why`` says why it did, or why it opened.
    """

    model: str
    version: str
    kind: Kind
    opened: str
    closed: str | None
    severity: str
    paged: str | None
    page: Severity | None
    why: str


@dataclass(frozen=True)
class Replay:
    """The episodes of a period, the models that were monitored in it, and how long their versions, in model-months."""

    episodes: tuple[Episode, ...]
    models: frozenset[str]
    model_months: float

    @property
    def storms(self) -> Mapping[str, tuple[str, ...]]:
        """By partition the models of which so many would have paged that one page of the fleet stands for theirs.

        Of versions as a whole nothing says on which day they would have.
        """
        found: dict[str, set[str]] = {}
        for each in self.episodes:
            if each.paged not in (None, layout.REGISTRY_PARTITION):
                found.setdefault(each.paged, set()).add(each.model)
        most = limit(len(self.models))
        return {paged: tuple(sorted(found[paged])) for paged in sorted(found) if len(found[paged]) > most}

    @property
    def pages(self) -> tuple[Episode, ...]:
        """The episodes that would have paged for themselves, oldest first."""
        storms = self.storms
        paged = [each for each in self.episodes if each.paged is not None and each.paged not in storms]
        return tuple(sorted(paged, key=lambda each: (each.paged or "", each.model, each.version, each.kind)))

    @property
    def pages_per_model_month(self) -> float:
        """nan before anything was monitored. A storm is one page."""
        return (len(self.pages) + len(self.storms)) / self.model_months if self.model_months else math.nan


def replay(results: pl.DataFrame, policies: Policies) -> Replay:
    """Replay ``policies`` over results (columns as `past.reading` gives them), those of versions that have one."""
    key = [*VERSION, "partition", "kind", "asset"]
    known = pl.DataFrame(
        list(policies), schema=VERSION, orient="row", schema_overrides=dict.fromkeys(VERSION, pl.String)
    )
    about = results.select(*key, "attempt").with_row_index("row").join(known, on=VERSION, how="semi")
    newest = about.sort("attempt").unique(key, keep="last").select("row", *VERSION, "partition", "asset")
    found = find(results, policies).join(newest, on="row")
    episodes = tuple(_episodes(together(found), policies))
    return Replay(episodes, frozenset(newest["model"].unique()), _model_months(newest))


def merged(parts: Iterable[Replay]) -> Replay:
    """Replays of several versions as one."""
    parts = tuple(parts)
    return Replay(
        tuple(each for part in parts for each in part.episodes),
        frozenset[str]().union(*(part.models for part in parts)),
        sum(part.model_months for part in parts),
    )


def _episodes(table: pl.DataFrame, policies: Policies) -> Iterator[Episode]:
    # What is said of a version as a whole stands in no order with its partitions.
    whole = pl.col("partition") == layout.REGISTRY_PARTITION
    key = [*VERSION, "episode", "whole"]
    table = table.with_columns(whole=whole).sort(*key, "partition")
    levels = seen(table)
    start = 0
    for model, version, kind, _, partitions in table.group_by(key, maintain_order=True).len().iter_rows():
        end = start + partitions
        group = table[start:end]
        yield from _of_kind(model, version, kind, group, levels[start:end], policies[model, version])
        start = end


def _of_kind(
    model: str, version: str, kind: Kind, group: pl.DataFrame, levels: Sequence[Seen], policy: Policy
) -> Iterator[Episode]:
    _, changes = follow(policy.rules(kind), Memory(), levels)
    partitions = group["partition"]

    def opened(change: Change, rule: str) -> Episode:
        partition, severity = partitions[change.position], NAMES[change.after]
        return Episode(model, version, kind, partition, None, severity, None, None, reason(change.position, rule))

    def reason(position: int, rule: str) -> str:
        return f"{why(group.row(position, named=True))}; {rule}".removeprefix("; ")

    episode: Episode | None = None
    for change in changes:
        partition, page = partitions[change.position], policy.pages(change.after)
        episode = episode or opened(change, change.rule)
        if change.after < change.before:
            yield replace(episode, closed=partition)
            # What is left is a ticket, if anything, and the next page an incident of its own.
            episode = opened(change, SUSTAINED) if change.after else None
            continue
        if page is not None and episode.paged is None:
            episode = replace(episode, paged=partition, why=reason(change.position, change.rule))
        episode = replace(episode, severity=NAMES[change.after], page=page)
    if episode is not None:
        yield episode


def _model_months(results: pl.DataFrame) -> float:
    """Between the first and the last partition of every version, and one day more."""
    days = results.filter(pl.col("partition") != layout.REGISTRY_PARTITION).select(
        *VERSION, pl.col("partition").str.slice(0, 10).str.to_date(strict=False).alias("day")
    )
    spans = days.group_by(VERSION).agg((pl.col("day").max() - pl.col("day").min()).dt.total_days().alias("days"))
    return float((spans["days"].drop_nulls() + 1).sum()) / DAYS_A_MONTH
