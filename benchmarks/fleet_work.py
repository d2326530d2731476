"""What `benchmarks.fleet` measures, each piece in a process of its own: ``control``, ``arrivals`` or ``load``."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from math import ceil
from operator import sub
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import dagster as dg

from benchmarks.fleet_store import NOW, deployed, model_name
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.instance import open_instance
from monitoring_assets.onboarding import utc_now
from monitoring_assets.refresh import Refresher
from monitoring_assets.sensors.reloading import latest_states
from resources.object_store.s3 import s3_client
from resources.settings import Settings

TICKS = 9
ADDED = 25
EVERY = timedelta(seconds=5)
"""What the daemon leaves between two ticks of a sensor."""

Figures = dict[str, float]


class Cost(NamedTuple):
    """Wall seconds, CPU seconds of this process, requests to S3."""

    wall_s: float
    cpu_s: float
    requests: int


class Meter:
    """Measures calls."""

    def __init__(self, settings: Settings) -> None:
        self._sent = 0
        s3_client(settings.s3_endpoint).meta.events.register("before-send.s3", self._count)

    def _count(self, **_: Any) -> None:
        self._sent += 1

    def of(self, work: Callable[[], Any]) -> tuple[Cost, Any]:
        """What a call costs, and what it returns; without the garbage of earlier ones, which takes .2 s of a large
        fleet's process, whichever tick it falls into.
        """
        gc.collect()
        sent, wall, cpu = self._sent, time.perf_counter(), time.process_time()
        result = work()
        return Cost(time.perf_counter() - wall, time.process_time() - cpu, self._sent - sent), result


def control(settings: Settings, instance: dg.DagsterInstance) -> Figures:
    """The first looks; then in turn a tick when nothing changed, and one that finds a new version."""
    from monitoring_assets.definitions.control import defs

    # It says that no code server is there to reload, which is how it should be here.
    logging.getLogger("monitoring_assets.sensors.reloading").setLevel(logging.ERROR)
    meter = Meter(settings)
    first, versions = meter.of(lambda: _look_until_all_are_read(settings))
    repository = defs().get_repository_def()

    def tick(cursor: str) -> tuple[Cost, str, str]:
        cost, done = meter.of(lambda: _tick(repository, "registry", instance, cursor))
        told = {"told": latest_states(instance, settings.shards)}
        return cost, json.dumps(json.loads(done.cursor) | told), done.skip_message

    _, cursor, _ = tick("{}")
    idle, adding = [], []
    for number in range(versions, versions + ADDED):
        cost, cursor, reason = tick(cursor)
        _expect(reason, "nothing changed in the registry")
        idle.append(cost)
        for key, data in deployed(model_name(number)).items():
            settings.open_registry().put(key, data)
        cost, cursor, _ = tick(cursor)
        adding.append(cost)
        _expect(_registered(settings), number + 1)
        # That locations are told again is news to the registry's check.
        _, cursor, _ = tick(cursor)
    _withdraw(settings, range(versions, versions + ADDED))
    tick(cursor)
    _expect(_registered(settings), versions)
    beyond = [Cost(*map(sub, found, nothing)) for found, nothing in zip(adding, idle, strict=True)]
    return {
        **_named("fleet.snapshot", [first]),
        **_named("onboarding.tick", idle),
        **_named("onboarding.add_one", adding),
        **_named("onboarding.add_one_beyond_tick", beyond),
    }


def _look_until_all_are_read(settings: Settings) -> int:
    refresher = Refresher(settings, utc_now)
    while (found := refresher.look()).left:
        pass
    return len(found.fleet.registered)


def _registered(settings: Settings) -> int:
    return len(FleetFile(settings.open_store()).read().registered)


def _withdraw(settings: Settings, numbers: Sequence[int]) -> None:
    for number in numbers:
        for key in deployed(model_name(number)):
            settings.open_registry().delete(key)


def arrivals(settings: Settings, instance: dg.DagsterInstance) -> Figures:
    """A tick of every shard in turn when nothing changed, at the pace of the daemon; the same on the next morning, when
    every version waits for data; and the longest tick before that, in which a process that has just begun takes stock.
    """
    meter = Meter(settings)
    first, idle = _rounds(settings, instance, meter, NOW)
    morning = NOW.replace(hour=0, minute=0, second=0) + timedelta(days=1, hours=1)
    _, waiting = _rounds(settings, instance, meter, morning)
    return {
        **_named("arrivals.tick", idle),
        **_named("arrivals.tick_morning", waiting),
        "arrivals.first_tick_s": max(cost.wall_s for cost in first),
    }


def _rounds(
    settings: Settings, instance: dg.DagsterInstance, meter: Meter, begin: datetime
) -> tuple[list[Cost], list[Cost]]:
    """Ticks in which every shard takes stock, and then rounds of ticks of all shards."""
    from monitoring_assets.arrivals.watch import SURVEYS
    from monitoring_assets.sensors.arrivals import arrivals_sensor

    now = [begin]
    fleet = FleetFile(settings.open_store()).read()
    shards = [fleet.shard(number, settings.shards).members for number in range(settings.shards)]
    sensors = [arrivals_sensor(settings, members, lambda: now[0]) for members in shards]
    repositories = [dg.Definitions(sensors=[sensor]).get_repository_def() for sensor in sensors]

    def round_of_ticks() -> list[Cost]:
        now[0] += EVERY
        ticks = [meter.of(partial(_tick, each, "arrivals", instance, None)) for each in repositories]
        _expect({done.skip_message for _, done in ticks}, {"nothing has landed that is not done"})
        return [cost for cost, _ in ticks]

    surveying = [cost for _ in range(ceil(max(map(len, shards)) / SURVEYS)) for cost in round_of_ticks()]
    return surveying, [Cost(*map(sum, zip(*round_of_ticks(), strict=True))) for _ in range(TICKS)]


def load(settings: Settings, _: dg.DagsterInstance) -> Figures:
    """A `models` location as its code server loads it."""
    from monitoring_assets.definitions.models import defs

    repository = defs().get_repository_def()
    repository.load_all_definitions()
    versions = 1 if settings.only else _registered(settings)
    _expect(len(list(repository.asset_graph.get_all_asset_keys())), versions * 7)
    return {}


def _tick(repository: dg.RepositoryDefinition, sensor: str, instance: dg.DagsterInstance, cursor: str | None) -> Any:
    """Evaluate a sensor as a code server does, which opens the instance for every tick."""
    with dg.SensorEvaluationContext(instance.get_ref(), cursor=cursor, repository_def=repository) as context:
        return repository.get_sensor_def(sensor).evaluate_tick(context)


def _named(name: str, costs: Sequence[Cost]) -> Figures:
    return {
        f"{name}_s": median(cost.wall_s for cost in costs),
        f"{name}_cpu_s": median(cost.cpu_s for cost in costs),
        f"{name}_requests": median(cost.requests for cost in costs),
    }


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise RuntimeError(f"not the fleet that was to be measured: {found!r} and not {expected!r}")


def _main(work: str) -> None:
    settings = Settings.from_environment(os.environ, Path.cwd())
    with open_instance(settings) as instance:
        print(json.dumps({"control": control, "arrivals": arrivals, "load": load}[work](settings, instance)))


if __name__ == "__main__":
    _main(sys.argv[1])
