"""Deployments are shown beside what they may have caused: change events at PagerDuty, which page nobody, and events at
Datadog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.dead_letters import bury
from monitoring_assets.alerting.fuse import Service
from monitoring_assets.alerting.gauges import Gauges, common_tags
from monitoring_assets.alerting.outbox import Pager
from monitoring_assets.fleet import Member
from resources.datadog import News
from resources.delivery import Later, Refused
from resources.object_store import ObjectStore
from resources.pagerduty import Change

LATELY = timedelta(days=1)
"""What was deployed longer ago is no news."""
LATELY_AT_DATADOG = timedelta(hours=17)
"""Datadog takes nothing that is older than 18 hours."""

Message = TypeVar("Message")


@dataclass(frozen=True)
class Audience(Generic[Message]):
    """Who is told of what was deployed ``lately``: a part of a path, and the name under which it is reported."""

    path: str
    name: str
    service: Service[Message]
    message: Callable[[Member, About], Message]
    lately: timedelta


def pagerduty(pager: Pager, env: str, dagit: str) -> Audience[Change]:
    """PagerDuty, or the outbox."""
    return Audience("pagerduty", "deployments", pager, lambda member, about: _change(member, about, env, dagit), LATELY)


def datadog(service: Gauges, env: str, dagit: str) -> Audience[News]:
    """Datadog."""
    return Audience(
        "datadog", "Datadog", service, lambda member, about: _news(member, about, env, dagit), LATELY_AT_DATADOG
    )


def announce(
    store: ObjectStore, audience: Audience[Message], deployed: Iterable[tuple[Member, About]], now: datetime
) -> Mapping[str, str]:
    """Tell of versions that were deployed of late; why some could not be told of yet.

    Once each. One may be told twice when a publisher is killed, or two are at it, which does no harm. Raises
    InfrastructureError when the store cannot be reached.
    """
    recent = {
        member.name: (member, about) for member, about in deployed if abs(now - member.deployed_at) < audience.lately
    }
    told = set()
    for info in store.list(layout.announcements(audience.path)):
        model, version = info.key.split("/")[-2:]
        told.add((model, version))
        # Not because it is not in the fleet: that may be a part of it that could not be read.
        if (model, version) not in recent and info.last_modified < now - 2 * LATELY:
            store.delete(info.key)
    for name in sorted(recent.keys() - told):
        delivery = audience.service.send(audience.message(*recent[name]))
        if isinstance(delivery, Later):
            return {audience.name: delivery.reason}
        if isinstance(delivery, Refused):
            bury(store, name, f"deployment {audience.path}", {"action": "announce", "to": audience.path}, delivery)
        store.put(layout.announced(audience.path, *name), b"")
    return {}


def _change(member: Member, about: About, env: str, dagit: str) -> Change:
    return Change(
        summary=_sentence(about),
        source=f"scorewatch/{env}",
        timestamp=member.deployed_at,
        details=_details(member, about, env),
        links=about.pages(dagit),
    )


def _news(member: Member, about: About, env: str, dagit: str) -> News:
    lines = [f"{name}: {value}" for name, value in _details(member, about, env).items()]
    links = [f"{text}: {url}" for url, text in about.pages(dagit)]
    return News(
        title=f"{about.model} {about.version} was deployed",
        text="\n".join([_sentence(about), "", *lines, *links]),
        at=member.deployed_at,
        tags=common_tags(about, env) | {"scorewatch": "deployment"},
        key=f"scorewatch/{env}/{about.model}/{about.version}/deployment",
    )


def _sentence(about: About) -> str:
    role, tier = about.policy.role, about.policy.tier
    return f"{about.model} {about.version} was deployed: {role}, tier {tier}, of {about.owner}"


def _details(member: Member, about: About, env: str) -> dict[str, str | int]:
    return {
        "model": about.model,
        "version": about.version,
        "role": about.policy.role,
        "tier": about.policy.tier,
        "owner": about.owner,
        "environment": env,
        "manifest": member.digest,
    }
