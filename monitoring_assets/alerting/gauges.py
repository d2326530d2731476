"""The gauges that Datadog is sent: of every partition once, of every version as it stands, and of the publisher.

``scorewatch.daily.*`` are stamped at the end of their partition, ``scorewatch.now.*`` with the time they are sent at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.episodes import GRAVE, NONE
from monitoring_assets.alerting.fuse import Service
from monitoring_assets.alerting.levels import CRITICAL, SILENT
from monitoring_assets.alerting.state import AlertState, Newest
from monitoring_assets.results import Metric, Result
from monitoring_assets.version import FEATURES
from resources.datadog import Gauge, News
from resources.errors import BadInput

DRIFT = ("psi", "csi")
TIER_WITH_FEATURES = 1
"""Of other tiers no gauge has a feature: every one of them is a custom metric that is paid for."""


Gauges = Service[Sequence[Gauge] | News]
"""Takes gauges, as Datadog does, which may be sent again without harm, and news, which should not."""


def daily(about: About, results: Iterable[Result], env: str) -> list[Gauge]:
    """What results say of their partitions. A result about a version as a whole says nothing of one."""
    return [
        Gauge(f"scorewatch.daily.{name}", value, end, common_tags(about, env) | more)
        for result in results
        if (end := _end(about, result.partition)) is not None
        for name, more, value in _figures(result)
        if value is not None and ("feature" not in more or about.policy.tier == TIER_WITH_FEATURES)
    ]


def now(about: About, state: AlertState, env: str, at: datetime) -> Iterator[Gauge]:
    """How a version stands. Of the newest partition only what is known of it, and nothing without a live result."""
    worst = max((told.severity for told in state.open.values()), default=NONE)
    found = {"state": 0.0 if worst == NONE else 2.0 if worst == GRAVE else 1.0}
    newest = state.newest
    if newest is not None:
        found |= {"psi.max": max(newest.nets.values())} if newest.nets else {}
        rows = [row for row in state.rows if (row.partition, row.kind) == (newest.partition, "csi")]
        if any(row.level != SILENT for row in rows):
            found["features.breached"] = float(sum(row.reached or 0 for row in rows if row.level == CRITICAL))
        found |= _ages(about, newest.partition, at)
    for name, value in found.items():
        yield Gauge(f"scorewatch.now.{name}", value, at, common_tags(about, env))


def vitals(env: str, dead_letters: int, undelivered: int, at: datetime) -> list[Gauge]:
    """That the publisher is alive, how many messages it gave up, and of how many versions it could not tell yet."""
    found = {"heartbeat": 1.0, "dead_letters": float(dead_letters), "undelivered": float(undelivered)}
    return [Gauge(f"scorewatch.publisher.{name}", value, at, {"env": env}) for name, value in found.items()]


def common_tags(about: About, env: str) -> dict[str, str]:
    """The tags of whatever is about a version."""
    version = {"model": about.model, "model_version": about.version}
    return {"env": env, **version, "team": about.owner, "tier": str(about.policy.tier)}


def as_json(gauges: Iterable[Gauge]) -> list[dict[str, Any]]:
    """Gauges for a dead letter."""
    return [dataclasses.asdict(each) | {"at": each.at.isoformat()} for each in gauges]


def newest_of(known: Newest | None, results: Iterable[Result]) -> Newest | None:
    """The newest partition that was judged, and its largest net PSI, now that these live results came."""
    for result in results:
        if result.kind in DRIFT and (known is None or result.partition >= known.partition):
            nets = known.nets if known is not None and result.partition == known.partition else {}
            others = {kind: net for kind, net in nets.items() if kind != result.kind}
            found = [each.net_value for each in _deciding(result).values() if each.net_value is not None]
            known = Newest(partition=result.partition, nets=others | ({result.kind: max(found)} if found else {}))
    return known


def _end(about: About, partition: str) -> datetime | None:
    try:
        return about.calendar.window(partition)[1] if about.calendar else None
    except BadInput:
        return None


def _ages(about: About, partition: str, at: datetime) -> Mapping[str, float]:
    """How old the newest partition's end is, and how old it may be: until the next one is overdue."""
    end = _end(about, partition)
    if about.calendar is None or end is None:
        return {}
    following = about.calendar.window(about.calendar.key_of(end))[1]
    allowed = following - end + about.sla
    return {"result.age_seconds": (at - end).total_seconds(), "sla_seconds": allowed.total_seconds()}


def _figures(result: Result) -> Iterator[tuple[str, dict[str, str], float | None]]:
    """Name, further tags and value."""
    for column, metric in _deciding(result).items():
        yield result.kind, {"feature": column} if result.kind == "csi" else {}, metric.net_value
    for each in result.metrics:
        if each.segment is not None:
            continue
        if (result.kind, each.metric, each.window) == ("psi", "psi", 1):
            yield "psi.raw", {}, each.value
            yield "psi.band", {}, each.band
        for population, counts in (("reference", each.reference_counts), ("current", each.counts)):
            yield from _shares(population, counts or ())
        if (result.kind, result.asset, each.metric) == ("quality", FEATURES, "rows"):
            yield "rows", {}, each.value
        if (result.kind, each.metric) == ("quality", "null_rate"):
            yield "null_rate", {"feature": each.column or ""}, each.value


def _shares(population: str, counts: Sequence[int]) -> Iterator[tuple[str, dict[str, str], float]]:
    rows = sum(counts)
    for number, count in enumerate(counts if rows else ()):
        yield "score.bin", {"bin": f"{number:02d}", "population": population}, count / rows


def _deciding(result: Result) -> dict[str, Metric]:
    """The metrics of a drift result that decide, by column: the first of each is that of its deciding window."""
    found: dict[str, Metric] = {}
    for each in result.metrics if result.kind in DRIFT else ():
        if each.metric == result.kind and each.segment is None and each.column is not None:
            found.setdefault(each.column, each)
    return found
