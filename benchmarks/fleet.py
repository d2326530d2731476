"""Fleets of 50 to 3,000 model versions on S3: what the sensors' ticks, a new version and loading a location cost.

Each piece is measured in a process of its own (`benchmarks.fleet_work`), over a fleet that `benchmarks.fleet_store`
makes. Wall seconds hold the work of the S3 server, which shares the machine; CPU seconds are of the measured process
alone. No code server is up: locations count as told of their state, and that of a new version as out of reach, so that
no tick holds a reload. Beside a tick stands the number of its requests to S3, for machines that are further from it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from math import ceil
from statistics import median

from benchmarks.fleet_store import VERSION, model_name
from benchmarks.measure import Usage, measured
from benchmarks.s3 import serving

FLEETS = 50, 300, 1_000, 3_000
SHARD = 300
LOADS = 3

Figures = dict[str, float]


def run() -> Figures:
    """Seconds, requests and GiB by size of the fleet, and what adding a version costs in the largest one against the
    smallest: the whole tick that finds it, and what that takes beyond a tick that finds nothing.
    """
    figures: Figures = {}
    for versions in FLEETS:
        figures |= _fleet(versions)
    small, large = FLEETS[0], FLEETS[-1]
    for name in ("onboarding.add_one", "onboarding.add_one_beyond_tick"):
        figures[f"{name}_ratio_{large}_{small}"] = figures[f"{name}_s_{large}"] / figures[f"{name}_s_{small}"]
    return figures


def _fleet(versions: int) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as home,
        serving("benchmarks.fleet_store", str(versions)) as s3,
    ):
        environment = s3 | {"SCOREWATCH_HOME": home, "SCOREWATCH_SHARDS": str(ceil(versions / SHARD))}
        control, arrivals = (_child(work, environment) for work in ("control", "arrivals"))
        loads = _loads(environment) if versions == SHARD else {}
    figures: Figures = json.loads(control.output) | json.loads(arrivals.output)
    figures["fleet.control_gib"] = control.peak_gib
    return {f"{name}_{versions}": figure for name, figure in figures.items()} | loads


def _loads(environment: dict[str, str]) -> Figures:
    """Loading the whole location as its code server does, and one version of it as a run's process does."""
    only = environment | {"SCOREWATCH_ONLY": f"{model_name(0)}/{VERSION}"}
    whole, one = ([_child("load", each) for _ in range(LOADS)] for each in (environment, only))
    return {
        f"fleet.load_s_{SHARD}": median(each.wall_s for each in whole),
        f"fleet.load_cpu_s_{SHARD}": median(each.cpu_s for each in whole),
        f"fleet.load_gib_{SHARD}": median(each.peak_gib for each in whole),
        "fleet.load_one_s": median(each.wall_s for each in one),
        "fleet.load_one_cpu_s": median(each.cpu_s for each in one),
    }


def _child(work: str, environment: dict[str, str]) -> Usage:
    return measured([sys.executable, "-m", "benchmarks.fleet_work", work], environment)
