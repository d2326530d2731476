"""Fleets of 50 to 3,000 model versions on S3: what the sensors' ticks, a new version and loading a location cost.

Each figure is of a process of its own. Seconds are on the wall, and hold the work of the S3 server (`benchmarks.s3`),
which shares the machine; CPU seconds are of the measured process alone. No code server is up, so that no tick holds the
reload of a location: the locations count as told of their state, and a new version's is found to be unreachable.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.fleet_store import DAYS, model_name
from benchmarks.measure import Usage, measured
from benchmarks.s3 import serving

FLEETS = 50, 300, 1_000, 3_000
SHARD_LIMIT = 300


def run() -> dict[str, float]:
    """Seconds and GiB by size of the fleet, and what adding a version costs in the largest against the smallest."""
    figures: dict[str, float] = {}
    for versions in FLEETS:
        measures = _of_fleet(versions)
        figures |= {f"{name}_{versions}": figure for name, figure in measures.items()}
    small, large = FLEETS[0], FLEETS[-1]
    for name in ("onboarding.add_one", "onboarding.add_one_beyond_tick"):
        figures[f"{name}_ratio_{large}_{small}"] = figures[f"{name}_s_{large}"] / figures[f"{name}_s_{small}"]
    return figures


def _of_fleet(versions: int) -> dict[str, float]:
    shards = math.ceil(versions / SHARD_LIMIT)
    with (
        tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as home,
        serving("benchmarks.fleet_store", str(versions)) as s3,
    ):
        environment = s3 | {"SCOREWATCH_HOME": home, "SCOREWATCH_SHARDS": str(shards)}
        control = _child("control", environment)
        arrivals = _child("arrivals", environment)
        figures = json.loads(control.output) | json.loads(arrivals.output) | {"fleet.control_gib": control.peak_gib}
        if versions == SHARD_LIMIT:
            whole = _child("load", environment)
            one = _child("load", environment | {"SCOREWATCH_ONLY": f"{model_name(0)}/1.0.0"})
    return figures


def _child(work: str, environment: dict[str, str]) -> Usage:
    return measured([sys.executable, "-m", "benchmarks.fleet_work", work], environment)
