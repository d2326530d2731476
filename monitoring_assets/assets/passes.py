"""The order of the work of one run: mostly everything once, and then what lies behind what changed. No Dagster here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from monitoring_assets.assets.drift import look_back
from monitoring_assets.assets.freshness import Freshness
from monitoring_assets.landing import landing
from monitoring_assets.results import Trigger
from monitoring_assets.version import CSI, PSI, ModelVersion

DRIFT = {PSI, CSI}


class Pass(NamedTuple):
    """Some assets of some partitions, oldest first."""

    assets: set[str]
    partitions: Sequence[str]
    trigger: Trigger


def passes(version: ModelVersion, assets: set[str], partitions: Sequence[str], trigger: Trigger) -> Iterator[Pass]:
    """The passes of a run; each is to be finished before the next is asked for.

    Onboarding makes the distributions of a whole window first and judges its newest partition only. Whatever the run,
    psi and csi of later partitions whose windows hold data that changed are judged again; an arrival does not make
    these live.
    """
    if trigger == "onboarding":
        partitions = _newest_window(version, partitions)
        if partitions:
            yield Pass(assets - DRIFT, partitions, trigger)
            yield Pass(assets & DRIFT, partitions[-1:], trigger)
        return
    yield Pass(assets, partitions, trigger)
    behind = Freshness(version).stale_behind(partitions) if assets & DRIFT else []
    if behind:
        yield Pass(assets & DRIFT, behind, "catch-up" if trigger == "arrival" else trigger)


def _newest_window(version: ModelVersion, partitions: Sequence[str]) -> list[str]:
    """Those that have landed of the newest partition that has, and of the longest window that ends with it."""
    now = version.clock()

    def landed(partition: str) -> bool:
        return landing(version, partition).settled(now)

    newest = next(filter(landed, reversed(partitions)), None)
    if newest is None:
        return []
    return [*filter(landed, version.calendar.previous(newest, look_back(version))[:-1]), newest]
