"""The way of the data through a version's assets, and the results that it leaves. No Dagster here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from monitoring_assets.assets import distribution, features, scores
from monitoring_assets.assets.history import Distributions
from monitoring_assets.assets.outcome import Outcome, skipped
from monitoring_assets.fleet_defaults import DefaultsFile
from monitoring_assets.results import Result, Trigger, write_result
from monitoring_assets.version import CHECKS, CSI, DISTRIBUTION, FEATURES, PSI, SCORES, ModelVersion
from resources.at_once import at_once

ORDER = (FEATURES, SCORES, DISTRIBUTION, PSI, CSI)
UPSTREAM = {SCORES: FEATURES, DISTRIBUTION: SCORES, PSI: DISTRIBUTION, CSI: DISTRIBUTION}
CHUNK = 32
SMALL = 20_000
"""Rows of a partition that several may be worked on at once of: of larger ones one fills the processors, and memory is
for one."""


@dataclass(frozen=True)
class Recorded:
    """An outcome and the result that was written of it."""

    outcome: Outcome
    result: Result


def run(
    version: ModelVersion, assets: Collection[str], partitions: Sequence[str], *, trigger: Trigger, force: bool = False
) -> Iterator[list[Recorded]]:
    """Materialise ``assets`` for ``partitions`` (oldest first), asset after asset; yields as results are written.

    A partition that is missing or blocked gets its results and does not stop the others. It leaves
    ``insufficient_data`` for all that comes after, also when that was not asked for: where stages are run one by one,
    nobody else would.
    """
    distributions = Distributions(version)
    grace = DefaultsFile(version.store).read().grace_hours.of(version.calendar.every) if trigger == "arrival" else None
    done: dict[str, dict[str, Outcome]] = {asset: {} for asset in ORDER}
    written: dict[str, Result] = {}
    for asset in ORDER:
        if asset in assets:
            made = _materialise(version, asset, partitions, done, distributions, force=force)
        else:
            made = iter([_behind(asset, done)])
        for outcomes in made:
            done[asset] |= {outcome.partition: outcome for outcome in outcomes}
            yield at_once(
                lambda each: record(version, each, trigger, grace, _arrival(done, each.partition), written), outcomes
            )


def _materialise(
    version: ModelVersion,
    asset: str,
    partitions: Sequence[str],
    done: dict[str, dict[str, Outcome]],
    distributions: Distributions,
    *,
    force: bool,
) -> Iterator[list[Outcome]]:
    upstream = done[UPSTREAM[asset]] if asset in UPSTREAM else {}
    if asset == FEATURES:
        for chunk in _chunks(partitions):
            # One after the other: each is compared with the rows of the one before.
            yield [features.materialise(version, partition, force=force) for partition in chunk]
    elif asset == SCORES:
        prepared = scores.prepare(version)
        for chunk in _chunks(partitions):
            yield _each(partial(scores.materialise, version, prepared=prepared, force=force), chunk, upstream)
    elif asset == DISTRIBUTION:
        from monitoring_assets.assets import quality  # noqa: PLC0415

        count = partial(distribution.materialise, version, distributions=distributions, force=force)
        counted = _each(count, partitions, upstream)
        yield quality.judge(version, counted, distributions)
    else:
        from monitoring_assets.assets import drift  # noqa: PLC0415

        yield drift.materialise(version, "psi" if asset == PSI else "csi", partitions, upstream, distributions)


def _each(
    materialise: Callable[..., Outcome], partitions: Sequence[str], upstream: Mapping[str, Outcome]
) -> list[Outcome]:
    """Outcomes of partitions, each made from its upstream outcome; several at once of small ones, which is waiting."""
    work = ((partition, upstream.get(partition)) for partition in partitions)
    if all(partition in upstream and upstream[partition].rows <= SMALL for partition in partitions):
        return at_once(lambda each: materialise(partition=each[0], upstream=each[1]), work)
    return [materialise(partition=partition, upstream=outcome) for partition, outcome in work]


def _chunks(partitions: Sequence[str]) -> Iterator[Sequence[str]]:
    """Few enough that a killed run has little to record again, enough that recording them is cheap."""
    return (partitions[start : start + CHUNK] for start in range(0, len(partitions), CHUNK))


def _behind(asset: str, done: dict[str, dict[str, Outcome]]) -> list[Outcome]:
    """What the asset would be of partitions that ended before it, had it been asked for."""
    if asset not in UPSTREAM:
        return []
    upstream = UPSTREAM[asset]
    stopped = {
        partition
        for outcomes in done.values()
        for partition, outcome in outcomes.items()
        if outcome.state in ("missing", "blocked")
    }
    return [
        skipped(asset, partition, CHECKS[asset], outcome, upstream)
        for partition, outcome in done[upstream].items()
        if partition in stopped and not outcome.usable
    ]


def _arrival(done: dict[str, dict[str, Outcome]], partition: str) -> datetime | None:
    rows = done[FEATURES].get(partition)
    return rows.arrived_at if rows is not None else None


def record(
    version: ModelVersion,
    outcome: Outcome,
    trigger: Trigger,
    grace: timedelta | None,
    arrived_at: datetime | None,
    written: dict[str, Result],
) -> Recorded:
    """Write the result of an outcome; ``arrived_at`` is when the data came, where no stored features tell.

    ``written`` is that of `write_result`. ``grace``: that of the version's partitions; None for what is no arrival, and
    pages nobody.
    """
    now = version.clock()
    result = Result(
        model=version.manifest.model,
        version=version.manifest.version,
        partition=outcome.partition,
        kind=outcome.kind,
        asset=outcome.asset,
        status=outcome.status,
        reason=outcome.reason,
        recorded_at=now,
        trigger=trigger,
        live=grace is not None and _live(version, outcome.partition, now, grace, arrived_at),
        inputs=outcome.inputs,
        metrics=outcome.metrics,
    )
    return Recorded(outcome, write_result(version.store, result, version.calendar.encode(outcome.partition), written))


def _live(version: ModelVersion, partition: str, now: datetime, grace: timedelta, arrived_at: datetime | None) -> bool:
    _, end = version.calendar.window(partition)
    if now < end:
        return False
    if arrived_at is None and (rows := version.current(FEATURES, partition)) is not None:
        arrived_at = datetime.fromisoformat(rows.measured["arrived_at"])
    due = max(end, arrived_at) if arrived_at is not None else end
    return version.is_live(partition, due=due, now=now, grace=grace)
