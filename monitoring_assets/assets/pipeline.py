"""The way of the data through a version's assets, and the results that it leaves. No Dagster here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from monitoring_assets.assets import distribution, features, scores
from monitoring_assets.assets.history import Distributions
from monitoring_assets.assets.outcome import Outcome, skipped
from monitoring_assets.fleet_defaults import DefaultsFile
from monitoring_assets.results import Result, Trigger, write_result
from monitoring_assets.version import CSI, DISTRIBUTION, FEATURES, PSI, SCORES, ModelVersion

ORDER = (FEATURES, SCORES, DISTRIBUTION, PSI, CSI)
UPSTREAM = {SCORES: FEATURES, DISTRIBUTION: SCORES, PSI: DISTRIBUTION, CSI: DISTRIBUTION}
CHUNK = 32


@dataclass(frozen=True)
class Recorded:
    """An outcome and the result that was written of it."""

    outcome: Outcome
    result: Result


def run(
    version: ModelVersion, assets: Collection[str], partitions: Sequence[str], *, trigger: Trigger, force: bool = False
) -> Iterator[list[Recorded]]:
    """Materialise ``assets`` for ``partitions`` (oldest first), asset after asset; yields as results are written.

    A partition that is missing or blocked gets its results and does not stop the others. A blocked partition leaves
    ``insufficient_data`` for psi and csi even when these were not asked for: nobody else would.
    """
    distributions = Distributions(version)
    grace = DefaultsFile(version.store).read().grace_hours.of(version.calendar.every) if trigger == "arrival" else None
    done: dict[str, dict[str, Outcome]] = {asset: {} for asset in ORDER}
    for asset in ORDER:
        if asset in assets:
            for outcomes in _materialise(version, asset, partitions, done, distributions, force=force):
                done[asset] |= {outcome.partition: outcome for outcome in outcomes}
                yield [
                    record(version, outcome, trigger, grace, _arrival(done, outcome.partition)) for outcome in outcomes
                ]
    for partition, outcome in _blocked(done).items():
        arrived_at = _arrival(done, partition)
        yield [
            record(version, skipped(kind, partition, kind, outcome, outcome.asset), trigger, grace, arrived_at)  # type: ignore[arg-type]
            for kind in (PSI, CSI)
            if kind not in assets
        ]


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
            yield [features.materialise(version, partition, force=force) for partition in chunk]
    elif asset == SCORES:
        prepared = scores.prepare(version)
        for chunk in _chunks(partitions):
            yield [
                scores.materialise(version, partition, upstream.get(partition), prepared, force=force)
                for partition in chunk
            ]
    elif asset == DISTRIBUTION:
        from monitoring_assets.assets import quality  # noqa: PLC0415

        counted = [
            distribution.materialise(version, partition, upstream.get(partition), distributions, force=force)
            for partition in partitions
        ]
        yield quality.judge(version, counted, distributions)
    else:
        from monitoring_assets.assets import drift  # noqa: PLC0415

        yield drift.materialise(version, "psi" if asset == PSI else "csi", partitions, upstream, distributions)


def _chunks(partitions: Sequence[str]) -> Iterator[Sequence[str]]:
    """Few enough that a killed run has little to record again, enough that recording them is cheap."""
    return (partitions[start : start + CHUNK] for start in range(0, len(partitions), CHUNK))


def _blocked(done: dict[str, dict[str, Outcome]]) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for asset in ORDER:
        for partition, outcome in done[asset].items():
            if outcome.state == "blocked":
                found.setdefault(partition, outcome)
    return found


def _arrival(done: dict[str, dict[str, Outcome]], partition: str) -> datetime | None:
    rows = done[FEATURES].get(partition)
    return rows.arrived_at if rows is not None else None


def record(
    version: ModelVersion, outcome: Outcome, trigger: Trigger, grace: timedelta | None, arrived_at: datetime | None
) -> Recorded:
    """Write the result of an outcome; ``arrived_at`` is when the data came, where no stored features tell.

    ``grace``: that of the version's partitions; None for what is no arrival, and pages nobody.
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
    return Recorded(outcome, write_result(version.store, result, version.calendar.encode(outcome.partition)))


def _live(version: ModelVersion, partition: str, now: datetime, grace: timedelta, arrived_at: datetime | None) -> bool:
    _, end = version.calendar.window(partition)
    if now < end:
        return False
    if arrived_at is None and (rows := version.current(FEATURES, partition)) is not None:
        arrived_at = datetime.fromisoformat(rows.measured["arrived_at"])
    due = max(end, arrived_at) if arrived_at is not None else end
    return version.is_live(partition, due=due, now=now, grace=grace)
