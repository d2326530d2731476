"""The psi and csi assets: the verdict of Great Expectations over the stored counts, as Parquet and metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from monitoring_assets.assets import season
from monitoring_assets.assets.drift_inputs import Drift, input_digest, look_back
from monitoring_assets.assets.history import Distributions, History
from monitoring_assets.assets.judging import judge_population, thresholds
from monitoring_assets.assets.outcome import Outcome, skipped
from monitoring_assets.assets.score_metrics import ScoreMetrics
from monitoring_assets.assets.window_metrics import WindowMetrics
from monitoring_assets.datasets import Current, data_file, publish, read_current
from monitoring_assets.partitions import windows_for
from monitoring_assets.results import Input, Metric
from monitoring_assets.stability.profile import WHOLE, ColumnProfile, SegmentKey
from monitoring_assets.stability.psi import merge_bins
from monitoring_assets.stability.significance import alpha, no_drift_band
from monitoring_assets.stability.windows import Column, WindowVerdicts, judge
from monitoring_assets.version import DISTRIBUTION, PSI, ModelVersion

MAX_PLOTTED = 20
TABLE_FIELDS = {
    "rows": "rows",
    "bins": "bins",
    "psi": "value",
    "net_psi": "net",
    "p_value": "p_value",
    "net_psi_without_worst": "net_without_worst",
    "level": "level",
}
TABLE_TYPES = {"column": pl.String, "segment": pl.String, "value": pl.String, "window": pl.Int32}


def monitored(version: ModelVersion, kind: Drift) -> tuple[ColumnProfile, ...]:
    """The columns of one kind: the score for psi, the features for csi."""
    return (version.profile.score_column,) if kind == PSI else version.profile.features


def materialise(
    version: ModelVersion,
    kind: Drift,
    partitions: Sequence[str],
    upstream: Mapping[str, Outcome],
    distributions: Distributions,
) -> list[Outcome]:
    """Judge partitions (in order) over all their windows at once; one outcome a partition.

    A partition without a usable distribution gets ``insufficient_data`` with the reason.
    """
    bad = {
        partition: skipped(kind, partition, kind, upstream.get(partition), DISTRIBUTION)
        for partition in partitions
        if distributions.current(partition) is None or not upstream.get(partition, _USABLE).usable
    }
    good = [partition for partition in partitions if partition not in bad]
    judged = dict(zip(good, _judge(version, kind, good, distributions), strict=True)) if good else {}
    return [bad.get(partition) or judged[partition] for partition in partitions]


_USABLE = Outcome(DISTRIBUTION, "", "quality", "reused")


def _judge(version: ModelVersion, kind: Drift, targets: Sequence[str], distributions: Distributions) -> list[Outcome]:
    first = version.calendar.previous(targets[0], look_back(version))[0]
    history = distributions.history(version.calendar.keys(first, targets[-1]))
    positions = history.positions(targets)
    columns = monitored(version, kind)
    population = judge_population(version, kind, history, positions)
    verdicts = {(column, WHOLE): found for column, found in population.items()}
    verdicts |= _segments(version, kind, columns, history, positions)
    # The earlier cycles are no inputs: inputs are what the official verdict, the Parquet and its digest are made from,
    # and what a later correction judges again. Seasonal verdicts stand in results alone. They are a function of the
    # inputs and of the earlier cycles stored when the result was made: the same of both give the same result. If an
    # earlier cycle has come or changed since, nothing is judged again for it, and a re-run that finds another season
    # leaves a further attempt, as any other finding does.
    seasons = season.judge(version, kind, targets, population, history, distributions)
    unusable = [
        Metric(metric=kind, column=column.name, status="insufficient_data", note=column.unusable)
        for column in columns
        if column.unusable
    ]
    making, score, outcomes = WindowMetrics(version, kind, history, seasons), ScoreMetrics(version, distributions), []
    for number, partition in enumerate(targets):
        metrics = [
            metric
            for (column, segment), found in verdicts.items()
            for metric in making.of(column, segment, found, number, int(positions[number]))
        ]
        if kind == PSI:
            metrics += score.of(partition)
            metrics += [making.bins(each.name, int(positions[number])) for each in columns if not each.unusable]
        table = _table(verdicts, number)
        inputs = _inputs(version, history, int(positions[number]), distributions)
        current, state = _store(version, kind, partition, inputs, table)
        outcome = Outcome(kind, partition, kind, state, (*unusable, *metrics), inputs, digest=current.digest)
        outcomes.append(
            replace(
                outcome,
                rows=int(history.rows[positions[number]]),
                reason=_reason(outcome),
                plots=_plots(version, kind, verdicts, number),
            )
        )
    return outcomes


def _segments(
    version: ModelVersion, kind: Drift, columns: Sequence[ColumnProfile], history: History, positions: Any
) -> dict[tuple[str, SegmentKey], WindowVerdicts]:
    segments = [key for key in history.bins if key != WHOLE]
    level = alpha(len(version.profile.columns) * max(len(segments), 1))
    lengths = windows_for(version.manifest.partitions.every)
    found = {}
    for segment in segments:
        for column in columns:
            reference = column.reference_counts(segment)
            if column.unusable or column.name == segment[0] or not reference.sum():
                continue
            groups = column.group_array
            counts = merge_bins(history.bins[segment][column.name], groups)
            series = Column(counts, merge_bins(reference, groups), column.dispersion)
            found[column.name, segment] = judge(series, positions, lengths, thresholds(version, kind), level)
    return found


def _table(verdicts: Mapping[tuple[str, SegmentKey], WindowVerdicts], number: int) -> pl.DataFrame:
    """Every window of every column and segment of one partition, as the asset's Parquet."""
    named = [(column, segment, value, len(found.lengths)) for (column, (segment, value)), found in verdicts.items()]
    columns: dict[str, Any] = {
        name: [entry[place] for entry in named for _ in range(entry[3])]
        for place, name in enumerate(("column", "segment", "value"))
    }
    columns["window"] = [length for found in verdicts.values() for length in found.lengths]
    for name, field in TABLE_FIELDS.items():
        parts = [getattr(found, field)[number] for found in verdicts.values()]
        columns[name] = np.concatenate(parts) if parts else []
    return pl.DataFrame(columns, schema_overrides=TABLE_TYPES, nan_to_null=True)


def _inputs(version: ModelVersion, history: History, position: int, distributions: Distributions) -> tuple[Input, ...]:
    first = max(0, position + 1 - look_back(version))
    used = [
        Input(asset=DISTRIBUTION, partition=partition, digest=current.digest)
        for partition in history.partitions[first : position + 1]
        if (current := distributions.current(partition)) is not None
    ]
    return (*used, Input(asset="reference", partition=None, digest=version.reference_digest))


def _store(
    version: ModelVersion, kind: Drift, partition: str, inputs: tuple[Input, ...], table: pl.DataFrame
) -> tuple[Current, Any]:
    digest = input_digest(kind, inputs)
    path = version.path(kind, partition)
    current, etag = read_current(version.store, path)
    if current is not None and current.input_digest == digest:
        return current, "reused"
    with tempfile.TemporaryDirectory(prefix="scorewatch-") as folder:
        file = Path(folder) / "part-00000.parquet"
        table.write_parquet(file, compression="zstd", statistics=False)
        files = (data_file(file, table.height),)
        done = Current(asset=kind, partition=partition, input_digest=digest, inputs=inputs, files=files)
        return publish(version.store, path, done, [file], etag), "materialised"


def _reason(outcome: Outcome) -> str:
    """One sentence for a person: how many columns, and the worst of them."""
    # The first metric of a column is that of its deciding window.
    whole = [metric for metric in outcome.metrics if metric.segment is None]
    deciding = {metric.column: metric for metric in reversed(whole) if metric.metric == outcome.kind}
    bad = [metric for metric in deciding.values() if metric.status == outcome.status]
    if outcome.status in ("warn", "breach") and bad:
        worst = max(bad, key=lambda metric: metric.net_value or 0.0)
        return (
            f"{len(bad)} of {len(deciding)} columns at or above {worst.threshold:g}: worst {worst.column} with net PSI "
            f"{worst.net_value:.3g} over {worst.window} partition{'s' if worst.window != 1 else ''} ({worst.n} rows)"
        )
    if outcome.status == "ok":
        return ""
    found = (metric.note for metric in (*bad, *whole) if metric.status == outcome.status)
    return next(filter(None, found), "")


def _plots(
    version: ModelVersion, kind: Drift, verdicts: Mapping[tuple[str, SegmentKey], WindowVerdicts], number: int
) -> dict[str, float]:
    """Numbers that Dagit draws over the partitions.

    PSI of the partition alone (of the features, the largest), the net PSI that decides, and for the score the PSI
    that 95 % of such partitions stay below without any drift.
    """
    whole = {column: found for (column, segment), found in verdicts.items() if segment == WHOLE}
    values = {column: float(found.value[number, 0]) for column, found in whole.items() if found.rows[number, 0] > 0}
    nets = [float(found.net[number, found.deciding()[number]]) for found in whole.values()]
    nets = [net for net in nets if np.isfinite(net)]
    plots = {}
    if values:
        plots[f"{kind}_max" if kind != PSI else PSI] = max(values.values())
    if nets:
        plots[f"net_{kind}_max" if kind != PSI else "net_psi"] = max(nets)
    for found in whole.values() if kind == PSI and values else ():
        band = no_drift_band(found.bins[number, 0], found.rows[number, 0], version.profile.rows)
        plots["psi_without_drift_95"] = float(band)
    if kind != PSI and len(values) <= MAX_PLOTTED:
        plots |= {f"csi of {column}": value for column, value in values.items()}
    return plots
