"""A round of the publisher: every version that has something to tell, each for itself."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.outbox import Outbox
from monitoring_assets.alerting.overview import versions_with_alerts
from monitoring_assets.alerting.policies import FleetPolicy, fleet_defaults
from monitoring_assets.alerting.policy import Policy
from monitoring_assets.alerting.reconcile import Pager, Reconciled, Reconciler
from monitoring_assets.alerting.silences import end_silence, in_force, silences
from monitoring_assets.fleet import Fleet, Name
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.manifest import Manifest
from monitoring_assets.past.markers import markers
from monitoring_assets.version import Clock
from resources.errors import BadInput, ScorewatchError
from resources.pagerduty import PagerDuty
from resources.settings import Settings

THREADS = 8


@dataclass(frozen=True)
class Round:
    """What a round did: results taken in, events sent, and by version what could not be done yet."""

    results: int = 0
    sent: int = 0
    waiting: Mapping[str, str] = field(default_factory=dict)


def publish_version(settings: Settings, manifest: Manifest, clock: Clock) -> Reconciled:
    """Publish what there is of one version: what the stage that wrote its results does. Raises ScorewatchError."""
    store = settings.open_store()
    about = About.of(manifest, _policy(settings))
    silenced = in_force(silences(store).get(manifest.model), clock())
    return _reconciler(settings, clock).reconcile(about, silenced=silenced)


def publish(settings: Settings, clock: Clock) -> Round:
    """Publish every version that has a marker, or whose silence is over. A version that fails keeps no other back.

    Raises InfrastructureError when the store cannot be listed.
    """
    store, now = settings.open_store(), clock()
    fleet = FleetFile(store).read()
    silent = silences(store)
    over = {model for model, silence in silent.items() if not in_force(silence, now)}
    named = {(each.model, each.version) for each in markers(store, layout.PENDING)}
    stated = set(versions_with_alerts(store))
    abouts = _abouts(fleet, named | stated, _policy(settings))
    wanted = {
        name: about
        for name, about in abouts.items()
        # A version that went leaves its episodes behind, and nothing else that would bring anybody here.
        if name in named or name[0] in over or (name in stated and not about.monitored)
    }
    reconciler = _reconciler(settings, clock)

    def one(about: About) -> Reconciled:
        silenced = about.model in silent and about.model not in over
        try:
            return reconciler.reconcile(about, silenced=silenced)
        except ScorewatchError as error:
            return Reconciled(waiting=str(error))
        except Exception as error:
            # A bug of ours about one version out of thousands: the others must be heard all the same.
            logging.getLogger(__name__).exception("publishing %s %s", about.model, about.version)
            return Reconciled(waiting=f"a bug of Scorewatch, please report it: {type(error).__name__}")

    with ThreadPoolExecutor(THREADS) as threads:
        done = dict(zip(wanted, threads.map(one, wanted.values()), strict=True))
    for model in over:
        if not any(found.waiting for name, found in done.items() if name[0] == model):
            end_silence(store, model)
    return _summed(done)


def resolve_again(settings: Settings, clock: Clock) -> int:
    """Resolve the incidents of episodes that were closed of late once more, in case a late trigger opened one again.

    How many. Raises InfrastructureError when the store cannot be reached, or an answer is missing.
    """
    reconciler = _reconciler(settings, clock)
    with ThreadPoolExecutor(THREADS) as threads:
        return sum(
            threads.map(lambda name: reconciler.resolve_again(*name), versions_with_alerts(settings.open_store()))
        )


def _summed(done: Mapping[Name, Reconciled]) -> Round:
    results, sent = (sum(getattr(each, name) for each in done.values()) for name in ("results", "sent"))
    return Round(results, sent, {" ".join(name): each.waiting for name, each in done.items() if each.waiting})


def _abouts(fleet: Fleet, named: Iterable[Name], policy: FleetPolicy) -> dict[Name, About]:
    """Every version of the fleet, and those with results that are in it no more."""
    if not fleet.registered:
        # Nobody has looked at the registry yet, so nobody knows whom to tell.
        return {}
    found = {each.name: About.of(each.member.manifest, policy) for each in fleet.registered if each.member}
    quarantined = {each.name: About(*each.name, Policy()) for each in fleet.registered if not each.member}
    gone: Collection[Name] = {name for name in named if name not in found and name not in quarantined}
    unmonitored = {name: About(*name, Policy(), monitored=False) for name in gone}
    return found | quarantined | unmonitored


def _policy(settings: Settings) -> FleetPolicy:
    try:
        return fleet_defaults(settings.open_store()).policy
    except BadInput as error:
        # A typing error in it must not be what keeps everybody asleep.
        logging.getLogger(__name__).warning("the usual policy is used: %s", error)
        return FleetPolicy()


def _reconciler(settings: Settings, clock: Clock) -> Reconciler:
    store = settings.open_store()
    key = settings.pagerduty_key
    pager: Pager = PagerDuty(key, url=settings.pagerduty_url) if key else Outbox(store, clock)
    return Reconciler(store, pager, clock, settings.env, settings.dagit_url)
