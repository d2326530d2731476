"""What PagerDuty is told: enough to act upon without opening a laptop twice."""

from __future__ import annotations

from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.dashboards import chosen
from monitoring_assets.alerting.episodes import NAMES
from monitoring_assets.alerting.policy import Severity
from monitoring_assets.alerting.state import Told
from monitoring_assets.results import Metric
from resources.pagerduty import JSON, Event

WORST = 20
"""Columns in the details of an event."""


def dedup_key(env: str, about: About, episode: str, opened: str) -> str:
    """Key of an episode's incident. It holds the partition that opened it: a late resolve closes no newer incident."""
    return f"scorewatch/{env}/{about.model}/{about.version}/{episode}/{opened}"


def trigger(
    about: About,
    told: Told,
    severity: Severity,
    worst: tuple[Metric, ...],
    env: str,
    dagit: str,
    dashboard: str | None = None,
) -> Event:
    """Opens the incident of an episode, or makes it graver. ``dashboard`` is the address of that of any one model."""
    episode = "pipeline" if told.track == "registry" else told.track
    details: dict[str, JSON] = {
        "model": about.model,
        "version": about.version,
        "tier": about.policy.tier,
        "owner": about.owner,
        "environment": env,
        "partition": told.at,
        "episode": episode,
        "why": told.why,
    }
    if worst:
        details["worst columns"] = {str(each.column): _numbers(each) for each in worst[:WORST]}
    return Event(
        action="trigger",
        dedup_key=told.key,
        summary=f"{about.model} {about.version}: {episode} {NAMES[told.severity]} on {told.at}: {told.why}",
        severity=severity,
        source=f"scorewatch/{env}",
        timestamp=told.since,
        component=f"{about.model} {about.version}",
        group=about.owner,
        class_=episode,
        details=details,
        links=about.pages(dagit, dashboard and chosen(dashboard, about, env)),
    )


def resolve(told: Told) -> Event:
    """Closes the incident of an episode."""
    return Event(action="resolve", dedup_key=told.key)


def _numbers(metric: Metric) -> JSON:
    """Of one column: its PSI, what of it is more than chance, over how many partitions and rows, and the nulls."""
    found = {
        "psi": metric.value,
        "net psi": metric.net_value,
        "threshold": metric.threshold,
        "no-drift band": metric.band,
        "partitions": metric.window,
        "rows": metric.n,
        "nulls": metric.null_share,
        "nulls in the reference": metric.reference_null_share,
        "note": metric.note,
    }
    return {name: _short(value) for name, value in found.items() if value is not None}


def _short(value: float | str) -> float | str:
    return float(f"{value:.4g}") if isinstance(value, float) else value
