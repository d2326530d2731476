"""The quality verdict on distributions: what Great Expectations says of rates, volume and what the stages measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from monitoring_assets.assets import judging
from monitoring_assets.assets.history import Distributions
from monitoring_assets.assets.outcome import Outcome
from monitoring_assets.assets.window_metrics import STATUS
from monitoring_assets.expectations.batch import CountHistory
from monitoring_assets.expectations.suite import SCALAR_BOUNDS, SuiteVerdict
from monitoring_assets.results import Metric
from monitoring_assets.stability.profile import WHOLE
from monitoring_assets.stability.psi import IntArray
from monitoring_assets.stability.rates import VOLUME_WARN, RateVerdicts
from monitoring_assets.stability.windows import OK
from monitoring_assets.version import FEATURES, SCORES, ModelVersion
from resources.at_once import at_once

WEEKS_BACK = 8


def judge(version: ModelVersion, outcomes: Sequence[Outcome], distributions: Distributions) -> list[Outcome]:
    """Give the usable ones of distribution ``outcomes`` their quality metrics; the others stay as they are."""
    targets = [outcome.partition for outcome in outcomes if outcome.usable]
    if not targets:
        return list(outcomes)
    batch, positions, weekdays = _batch(version, targets, distributions)
    verdict = judging.judge(version, batch, positions, "quality", weekdays)
    judged = iter(range(len(targets)))
    return [_with_metrics(outcome, verdict, next(judged)) if outcome.usable else outcome for outcome in outcomes]


def _batch(
    version: ModelVersion, targets: Sequence[str], distributions: Distributions
) -> tuple[CountHistory, IntArray, IntArray]:
    """Counts of the targets, and before them the row numbers alone of the weekdays they are compared with."""
    partitions = sorted(
        {*targets, *(each for target in targets for each in version.calendar.same_weekday(target, WEEKS_BACK))}
    )
    rows, present = distributions.rows(partitions)
    positions = np.asarray([partitions.index(target) for target in targets], dtype=np.int64)
    history = distributions.history(targets)
    batch = CountHistory(
        partitions=tuple(partitions),
        present=present,
        counts={name: _spread(counts, positions, len(partitions)) for name, counts in history.bins[WHOLE].items()},
        tails={name: _spread(counts, positions, len(partitions)) for name, counts in history.tails[WHOLE].items()},
        rows=rows,
        measures=measures(version, targets, positions, len(partitions)),
    )
    return batch, positions, weekday_positions(version, targets, partitions)


def weekday_positions(version: ModelVersion, targets: Sequence[str], partitions: Sequence[str]) -> IntArray:
    """Positions in ``partitions`` of the same weekday in the weeks before each target, [T, 8]; -1 for none."""
    position = {partition: number for number, partition in enumerate(partitions)}
    found = np.full((len(targets), WEEKS_BACK), -1, dtype=np.int64)
    for row, target in zip(found, targets, strict=True):
        earlier = [position[each] for each in version.calendar.same_weekday(target, WEEKS_BACK) if each in position]
        row[: len(earlier)] = earlier
    return found


def _spread(counts: IntArray, positions: IntArray, partitions: int) -> IntArray:
    spread = np.zeros((partitions, counts.shape[1]), dtype=np.int64)
    spread[positions] = counts
    return spread


def measures(
    version: ModelVersion, targets: Sequence[str], positions: IntArray, partitions: int
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """What the features and scores stages measured of whole partitions: measure → [P], nan where they did not."""
    found = {name: np.full(partitions, np.nan) for name in SCALAR_BOUNDS}
    for asset in (FEATURES, SCORES):
        stored = at_once(partial(version.current, asset), targets)
        for current, position in zip(stored, positions, strict=True):
            for name in SCALAR_BOUNDS:
                if current is not None and current.measured.get(name) is not None:
                    found[name][position] = float(current.measured[name])
    return found


def _with_metrics(outcome: Outcome, verdict: SuiteVerdict, number: int) -> Outcome:
    metrics = [Metric(metric="rows", value=outcome.rows, n=outcome.rows), *_volume(outcome, verdict, number)]
    null_rates: dict[str, float] = {}
    for column, found in verdict.rates.items():
        if found.rows[number]:
            null_rates[column] = float(found.rate[number, 0])
        moved = np.flatnonzero(found.level[number] > OK)
        metrics.extend(_rate(column, found, number, int(measure)) for measure in moved)
    plots = {"rows": outcome.rows} | ({"null_rate_max": max(null_rates.values())} if null_rates else {})
    judged = replace(outcome, metrics=tuple(metrics), plots=plots)
    return replace(judged, reason=_reason(judged))


def _rate(column: str, found: RateVerdicts, number: int, measure: int) -> Metric:
    return Metric(
        metric=found.measures[measure],
        column=column,
        value=float(found.rate[number, measure]),
        n=int(found.rows[number]),
        p_value=float(found.p_value[number, measure]),
        threshold=float(found.threshold[measure]),
        status=STATUS[int(found.level[number, measure])],
        note=f"{found.reference_rate[measure]:.2%} in the reference",
    )


def _volume(outcome: Outcome, verdict: SuiteVerdict, number: int) -> list[Metric]:
    volume = verdict.volume
    if volume is None or np.isnan(volume.ratio[number]):
        return []
    return [
        Metric(
            metric="volume_ratio",
            value=float(volume.ratio[number]),
            n=outcome.rows,
            p_value=float(volume.p_value[number]),
            threshold=VOLUME_WARN,
            status=STATUS[int(volume.level[number])],
            note="rows over the median of the same weekday in the weeks before",
        )
    ]


def _reason(outcome: Outcome) -> str:
    bad = [metric for metric in outcome.metrics if metric.status in ("warn", "breach")]
    if not bad:
        return ""
    worst = max(bad, key=lambda metric: (metric.status == "breach", metric.value or 0.0))
    where = f" of {worst.column}" if worst.column else ""
    many = f"{len(bad)} measures outside their limits" if len(bad) > 1 else "a measure outside its limits"
    return f"{many}: {worst.metric}{where} is {worst.value:.4g} ({worst.note})"
