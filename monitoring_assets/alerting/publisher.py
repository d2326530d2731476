"""A round of the publisher: every version that has something to tell, each for itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from monitoring_assets import layout
from monitoring_assets.alerting import deployments, gauges
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.dead_letters import dead_letters
from monitoring_assets.alerting.fuse import Fuse
from monitoring_assets.alerting.outbox import Outbox, Pager
from monitoring_assets.alerting.overview import versions_with_alerts
from monitoring_assets.alerting.policies_seen import Policies
from monitoring_assets.alerting.policy import Policy
from monitoring_assets.alerting.reconcile import Reconciled, Reconciler, Unsettled
from monitoring_assets.alerting.silences import Quiet, in_force, silences
from monitoring_assets.alerting.state import StateFile
from monitoring_assets.alerting.storms import Weather
from monitoring_assets.fleet import Fleet, Member, Name
from monitoring_assets.fleet_defaults import DefaultsFile, FleetPolicy
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.manifest import Manifest
from monitoring_assets.past.markers import markers
from monitoring_assets.version import Clock
from resources.at_once import at_once
from resources.datadog import Datadog, Gauge
from resources.delivery import Accepted, Later
from resources.errors import ScorewatchError
from resources.object_store import ObjectStore
from resources.pagerduty import PagerDuty
from resources.settings import Settings

LASTS = 3
"""Events in a row that did not arrive, after which PagerDuty is left alone until the next round."""
EVERY = timedelta(minutes=5)
"""Between two gauges of how a version stands."""

UNKNOWN = "the registry holds it, or cannot be asked, and the fleet's snapshot has no word of it yet"

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Round:
    """What a round did: results taken in, events sent, and by version what could not be done yet."""

    results: int = 0
    sent: int = 0
    waiting: Mapping[str, str] = field(default_factory=dict)


def publish_version(settings: Settings, manifest: Manifest, clock: Clock) -> Reconciled:
    """Publish what there is of one version: what the stage that wrote its results does. Raises ScorewatchError."""
    store = settings.open_store()
    about = About.of(manifest, DefaultsFile(store).read().policy)
    silenced = in_force(silences(store).get(manifest.model), clock())
    return _reconciler(settings, clock).reconcile(about, silenced=silenced)


def publish(settings: Settings, clock: Clock, *, refused: bool = False) -> Round:
    """Publish every version that has a marker, whose silence is over, or whose policy is another one now; with
    ``refused`` also those of which PagerDuty refused something. A version that fails keeps no other back.

    Raises InfrastructureError when the store cannot be listed.
    """
    store, now = settings.open_store(), clock()
    fleet, quiet, policies = FleetFile(store).read(), Quiet(store, now), Policies(store)
    reconciler = _reconciler(settings, clock)
    weather = Weather(store, reconciler.pager, clock, settings.env, settings.dagit_url)
    named = {(each.model, each.version) for each in markers(store, layout.PENDING)}
    stated = set(versions_with_alerts(store))
    abouts = _abouts(fleet, named | stated, DefaultsFile(store).read().policy, settings.open_registry())
    called = named | weather.released() | policies.changed({name: abouts[name] for name in stated & abouts.keys()})
    if refused:
        called |= {(letter.model, letter.version) for letter in dead_letters(store)}
    wanted = {
        name: about
        for name, about in abouts.items()
        # A version that went leaves its episodes behind, and nothing else that would bring anybody here.
        if name in called or name[0] in quiet.over or (name in stated and not about.monitored)
    }
    # Whoever is to be woken is, before anything waits for Datadog.
    told = _each(lambda about: reconciler.tell(about, silenced=about.model in quiet.silent, refused=refused), wanted)
    waiting = {name: found for name, found in told.items() if isinstance(found, Reconciled)}
    unsettled = {name: found for name, found in told.items() if isinstance(found, Unsettled)}
    policies.seen({name: wanted[name] for name in unsettled})
    quiet.end(
        {name[0] for name, found in waiting.items() if found.waiting} | {name[0] for name in stated - abouts.keys()}
    )
    sent, stormy = weather.look(waiting.keys())
    standing = {name: about for name, about in abouts.items() if about.monitored and name in stated.union(wanted)}
    unknown = {" ".join(name): UNKNOWN for name in called - abouts.keys()} if fleet.registered else {}
    undelivered = sum(bool(each.waiting) for each in waiting.values())
    unshown = _show_all(reconciler, [(each, abouts[each.name]) for each in fleet.members], standing, undelivered, now)
    return _summed(waiting | _each(reconciler.settle, unsettled), sent, {**unknown, **stormy, **unshown})


def _show_all(
    reconciler: Reconciler,
    deployed: Sequence[tuple[Member, About]],
    standing: Mapping[Name, About],
    undelivered: int,
    now: datetime,
) -> dict[str, str]:
    """Tell of deployments and of how things stand, before the gauges of partitions, of which there may be so many that
    Datadog has enough for a while; what could not be told.
    """
    store, env, dagit = reconciler.store, reconciler.env, reconciler.dagit
    problems = {**deployments.announce(store, deployments.pagerduty(reconciler.pager, env, dagit), deployed, now)}
    problems |= _show(reconciler, standing, undelivered)
    if reconciler.datadog is not None:
        problems |= deployments.announce(store, deployments.datadog(reconciler.datadog, env, dagit), deployed, now)
    return problems


def _each(work: Callable[[Given], Found], given: Mapping[Name, Given]) -> dict[Name, Found | Reconciled]:
    """Do the work for every version, several at a time; one whose work fails waits."""

    def one(name: Name) -> Found | Reconciled:
        try:
            return work(given[name])
        except ScorewatchError as error:
            return Reconciled(waiting=str(error))
        except Exception as error:
            # A bug of ours about one version out of thousands: the others must be heard all the same.
            logging.getLogger(__name__).exception("publishing %s %s", *name)
            return Reconciled(waiting=f"a bug of Scorewatch, please report it: {type(error).__name__}")

    return dict(zip(given, at_once(one, given), strict=True))


def resolve_again(settings: Settings, clock: Clock) -> int:
    """Resolve the incidents of episodes that were closed of late once more, in case a late trigger opened one again.

    How many. Raises InfrastructureError when the store cannot be reached, or an answer is missing.
    """
    reconciler = _reconciler(settings, clock)
    named = versions_with_alerts(settings.open_store())
    return sum(at_once(lambda name: reconciler.resolve_again(*name), named))


def _show(reconciler: Reconciler, standing: Mapping[Name, About], undelivered: int) -> dict[str, str]:
    """Tell Datadog that the publisher is alive and, when it is time, how versions stand; what could not be told."""
    if reconciler.datadog is None:
        return {}
    store, env, at = reconciler.store, reconciler.env, reconciler.clock()
    found = gauges.vitals(env, sum(1 for _ in store.list(layout.DEAD_LETTERS)), undelivered, at)
    problems = {}
    turn = _has_turn(store, at)
    if turn:

        def stand(about: About) -> list[Gauge]:
            return list(gauges.now(about, StateFile(store, about.model, about.version).read(), env, at))

        for name, each in _each(stand, standing).items():
            if isinstance(each, Reconciled):
                problems[" ".join(name)] = each.waiting
            else:
                found += each
    delivery = reconciler.datadog.send(found)
    if turn and isinstance(delivery, Later):
        store.delete(layout.versions_sent())
    return problems if isinstance(delivery, Accepted) else problems | {"Datadog": delivery.reason}


def _has_turn(store: ObjectStore, at: datetime) -> bool:
    """Whether it is time to send how versions stand, and no other publisher does."""
    key = layout.versions_sent()
    blob = store.get(key)
    try:
        last = datetime.fromisoformat(blob.data.decode()) if blob else None
    except ValueError:
        last = None
    # A clock that was put back must not mean silence until it has caught up.
    if last is not None and abs(at - last) < EVERY:
        return False
    return store.compare_and_swap(key, at.isoformat().encode(), blob.etag if blob else None) is not None


def _summed(done: Mapping[Name, Reconciled], sent: int, problems: Mapping[str, str]) -> Round:
    results, told = (sum(getattr(each, name) for each in done.values()) for name in ("results", "sent"))
    waiting = {" ".join(name): each.waiting for name, each in done.items() if each.waiting}
    return Round(results, sent + told, {**problems, **waiting})


def _abouts(fleet: Fleet, named: Iterable[Name], policy: FleetPolicy, registry: ObjectStore) -> dict[Name, About]:
    """Every version of the fleet, and those with results that are in it no more."""
    if not fleet.registered:
        # Nobody has looked at the registry yet, so nobody knows whom to tell.
        return {}
    found = {each.name: About.of(each.member.manifest, policy) for each in fleet.registered if each.member}
    quarantined = {each.name: About(*each.name, Policy()) for each in fleet.registered if not each.member}
    missing = [name for name in named if name not in found and name not in quarantined]
    gone = dict(zip(missing, at_once(lambda name: _is_gone(name, registry), missing), strict=True))
    unmonitored = {name: About(*name, Policy(), monitored=False) for name in missing if gone[name]}
    return found | quarantined | unmonitored


def _is_gone(name: Name, registry: ObjectStore) -> bool:
    # The snapshot does not say so: a part of it may be unreadable, or its scan may have had no time for the version.
    try:
        return registry.head(f"{layout.registry_folder(*name)}/{layout.MANIFEST_FILE}") is None
    except ScorewatchError as error:
        logging.getLogger(__name__).warning("nobody knows whether %s %s is gone: %s", *name, error)
        return False


def _reconciler(settings: Settings, clock: Clock) -> Reconciler:
    store = settings.open_store()
    key = settings.pagerduty_key
    pager: Pager = Fuse(PagerDuty(key, url=settings.pagerduty_url), lasts=LASTS) if key else Outbox(store, clock)
    datadog = settings.datadog_key and Datadog(
        settings.datadog_key, site=settings.datadog_site, url=settings.datadog_url
    )
    return Reconciler(store, pager, clock, settings.env, settings.dagit_url, datadog=Fuse(datadog) if datadog else None)
