"""Deployments are shown beside incidents, as change events, which page nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.dead_letters import bury
from monitoring_assets.alerting.outbox import Pager
from monitoring_assets.fleet import Member
from resources.delivery import Later, Refused
from resources.object_store import ObjectStore
from resources.pagerduty import Change

NEWS = timedelta(days=1)
"""What was deployed longer ago is none."""


def announce(
    store: ObjectStore, pager: Pager, deployed: Iterable[tuple[Member, About]], env: str, dagit: str, now: datetime
) -> Mapping[str, str]:
    """Tell of versions that were deployed of late; why some could not be told of yet.

    Once each. One may be told twice when a publisher is killed, or two are at it, which does no harm. Raises
    InfrastructureError when the store cannot be reached.
    """
    recent = {member.name: (member, about) for member, about in deployed if abs(now - member.deployed_at) < NEWS}
    told = {tuple(info.key.split("/")[1:]) for info in store.list(layout.ANNOUNCED)}
    for old in told - recent.keys():
        store.delete(layout.announced(*old))
    for name in sorted(recent.keys() - told):
        delivery = pager.send(_change(*recent[name], env, dagit))
        if isinstance(delivery, Later):
            return {"deployments": delivery.reason}
        if isinstance(delivery, Refused):
            bury(store, name, "deployment", {"action": "change"}, delivery)
        store.put(layout.announced(*name), b"")
    return {}


def _change(member: Member, about: About, env: str, dagit: str) -> Change:
    role, tier = about.policy.role, about.policy.tier
    return Change(
        summary=f"{about.model} {about.version} was deployed: {role}, tier {tier}, of {about.owner}",
        source=f"scorewatch/{env}",
        timestamp=member.deployed_at,
        details={
            "model": about.model,
            "version": about.version,
            "role": role,
            "tier": tier,
            "owner": about.owner,
            "environment": env,
            "manifest": member.digest,
        },
        links=about.pages(dagit),
    )
