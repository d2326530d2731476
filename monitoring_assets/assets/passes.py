"""The order of the work of one run: mostly everything once, and then what lies behind what changed. No Dagster here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
        now = version.clock()
        partitions = [each for each in partitions if landing(version, each).settled(now)]
        if partitions:
            yield Pass(assets - DRIFT, partitions, trigger)
            yield Pass(assets & DRIFT, partitions[-1:], trigger)
        return
    yield Pass(assets, partitions, trigger)
    behind = Freshness(version).stale_behind(partitions) if assets & DRIFT else []
    if behind:
        yield Pass(assets & DRIFT, behind, "catch-up" if trigger == "arrival" else trigger)
