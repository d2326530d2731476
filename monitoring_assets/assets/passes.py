"""The order of the work of one run: mostly everything once, and then what lies behind what changed. No Dagster here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from monitoring_assets import layout
from monitoring_assets.assets.drift_inputs import look_back
from monitoring_assets.assets.freshness import Freshness
from monitoring_assets.landing import landing
from monitoring_assets.results import Trigger
from monitoring_assets.version import CSI, DISTRIBUTION, PSI, ModelVersion
from resources.at_once import at_once

DRIFT = {PSI, CSI}


class Pass(NamedTuple):
    """Some assets of some partitions, oldest first."""

    assets: set[str]
    partitions: Sequence[str]
    trigger: Trigger


def passes(version: ModelVersion, assets: set[str], partitions: Sequence[str], trigger: Trigger) -> Iterator[Pass]:
    """The passes of a run; each is to be finished before the next is asked for.

    Onboarding makes the distributions of a whole window first and judges its newest partition only; that of a model
    with a container of its own freezes the reference. Whatever the run, psi and csi of later partitions whose windows
    hold data that changed are judged again; an arrival does not make these live. Until that is done, markers in the
    store say that it is to be done, in case the run is killed.
    """
    if trigger == "onboarding" and version.manifest.score.image:
        # Its own container scores one partition, which a run of that partition is for: they come as history.
        return
    if trigger == "onboarding":
        partitions = _newest_window(version, partitions)
        if partitions:
            yield Pass(assets - DRIFT, partitions, trigger)
            yield Pass(assets & DRIFT, partitions[-1:], trigger)
        return
    if not assets & DRIFT:
        yield Pass(assets, partitions, trigger)
        return
    markers = _mark(version, partitions) if DISTRIBUTION in assets else []
    yield Pass(assets, partitions, trigger)
    behind = Freshness(version).stale_behind(partitions)
    if behind:
        yield Pass(assets & DRIFT, behind, "catch-up" if trigger == "arrival" else trigger)
    at_once(version.store.delete, markers)


def _mark(version: ModelVersion, partitions: Sequence[str]) -> list[str]:
    """Leave a marker for each partition that others than these are judged by; all markers of ``partitions``."""
    name, own = (version.manifest.model, version.manifest.version), set(partitions)
    keys = {each: layout.rejudge(*name, version.calendar.encode(each)) for each in partitions}
    found = {info.key for info in version.store.list(layout.rejudges(*name))}
    wanted = {keys[each] for each, judged in Freshness(version).reach(partitions).items() if not own.issuperset(judged)}
    at_once(lambda key: version.store.put(key, b""), sorted(wanted - found))
    return sorted(wanted | found.intersection(keys.values()))


def _newest_window(version: ModelVersion, partitions: Sequence[str]) -> list[str]:
    """Those that have landed of the newest partition that has, and of the longest window that ends with it."""
    now = version.clock()

    def landed(partition: str) -> bool:
        return landing(version, partition).settled(now)

    # Airflow runs one partition, and means all that its windows hold.
    longest = max(len(partitions), look_back(version))
    candidates = version.calendar.previous(partitions[-1], longest) if partitions else []
    newest = next(filter(landed, reversed(candidates)), None)
    if newest is None:
        return []
    before = version.calendar.previous(newest, look_back(version))[:-1]
    return [*itertools.compress(before, at_once(landed, before)), newest]
