"""Telling Dagster about partitions: materialisations with metadata, and one check evaluation a partition.

A run over a range of partitions cannot return check results (Dagster 1.13: a returned one has no partition, a second
one raises), so evaluations are reported as events. The parts of Dagster that are not public are in this module only,
and a test reads the statuses back through GraphQL.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.events import DagsterEvent
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._utils.interrupts import capture_interrupts, pop_captured_interrupt

from monitoring_assets.assets.pipeline import Recorded
from monitoring_assets.results import SEVERITY, Metric, Result
from monitoring_assets.version import ModelVersion

MAX_ROWS = 20
GRAVE = ("breach", "error")


def asset_key(model: str, version: str, asset: str) -> dg.AssetKey:
    """Key of an asset of a model version."""
    return dg.AssetKey([model, version, asset])


def evaluated_partitions(instance: dg.DagsterInstance, key: dg.AssetKey, check: str) -> set[str]:
    """The asset's partitions whose newest materialisation is the one that the check's newest evaluation judged."""
    infos = instance.event_log_storage.get_asset_check_partition_info([dg.AssetCheckKey(key, check)])
    return {
        info.partition_key
        for info in infos
        if info.partition_key is not None
        and info.latest_target_materialization_storage_id is not None
        and info.latest_target_materialization_storage_id == info.latest_materialization_storage_id
    }


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold an interrupt back until an event is stored.

    One that lands while Dagster takes the lock of its SQLite storage leaves that locked, and recording the end of the
    run then waits for ever.
    """
    with capture_interrupts():
        yield
        interrupted = pop_captured_interrupt()
    if interrupted:
        raise dg.DagsterExecutionInterruptedError


class Reporter:
    """Reports what one run recorded, asset by asset."""

    def __init__(self, context: dg.AssetExecutionContext, model: str, version: str) -> None:
        self._context = context
        self._model, self._version = model, version

    def report(self, recorded: Sequence[Recorded]) -> None:
        """Report a batch of one asset's partitions: materialisations first, then the evaluations that target them."""
        for each in recorded:
            if each.outcome.usable:
                with _undisturbed():
                    self._context.log_event(self._materialisation(each))
        with _undisturbed():
            targets = self._targets(recorded)
        for each in recorded:
            with _undisturbed():
                self._evaluate(each, targets.get(each.outcome.partition))

    def _key(self, recorded: Recorded) -> dg.AssetKey:
        return asset_key(self._model, self._version, recorded.outcome.asset)

    def _materialisation(self, recorded: Recorded) -> dg.AssetMaterialization:
        outcome = recorded.outcome
        metadata = {
            "status": outcome.status,
            "dagster/partition_row_count": outcome.rows,
            "digest": outcome.digest,
            **outcome.plots,
        }
        tags = {"dagster/data_version": outcome.digest[:32]} if outcome.digest else None
        return dg.AssetMaterialization(self._key(recorded), partition=outcome.partition, metadata=metadata, tags=tags)

    def _targets(self, recorded: Iterable[Recorded]) -> dict[str, int]:
        usable = [each for each in recorded if each.outcome.usable]
        if not usable:
            return {}
        log = self._context.instance.event_log_storage
        partitions = {each.outcome.partition for each in usable}
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        return dict(log.get_latest_storage_id_by_partition(self._key(usable[0]), kind, partitions))

    def _evaluate(self, recorded: Recorded, storage_id: int | None) -> None:
        result, run_id = recorded.result, self._context.run.run_id
        target = storage_id and AssetCheckEvaluationTargetMaterializationData(
            storage_id=storage_id, run_id=run_id, timestamp=time.time()
        )
        evaluation = AssetCheckEvaluation(
            asset_key=self._key(recorded),
            check_name=result.kind,
            passed=result.status == "ok",
            metadata=check_metadata(result, recorded.outcome.plots),
            severity=dg.AssetCheckSeverity.ERROR if result.status in GRAVE else dg.AssetCheckSeverity.WARN,
            description=f"{result.status}: {result.reason}" if result.reason else result.status,
            partition=result.partition,
            target_materialization_data=target or None,
        )
        event = DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
            job_name=self._context.job_name,
            step_key=self._context.op_execution_context.op.name,
            event_specific_data=evaluation,
            message=f"{result.kind} of {result.partition}: {result.status}",
        )
        self._context.instance.report_dagster_event(event, run_id=run_id)


def check_metadata(result: Result, plots: dict[str, float]) -> dict[str, dg.MetadataValue]:
    """An evaluation's metadata: numbers to plot, and the worst metrics as a table."""
    metadata: dict[str, dg.MetadataValue] = {
        name: dg.MetadataValue.float(float(value)) for name, value in plots.items() if not name.startswith("csi of")
    }
    metadata["status"] = dg.MetadataValue.text(result.status)
    metadata["result"] = dg.MetadataValue.text(f"attempt {result.attempt}, digest {result.digest[:12]}")
    rows = [metric for metric in result.metrics if metric.column is not None and metric.counts is None]
    if rows:
        metadata["worst columns"] = _table(rows)
    segments = [metric for metric in result.metrics if metric.segment is not None]
    if segments:
        metadata["segments that moved"] = dg.MetadataValue.int(len({metric.segment for metric in segments}))
    return metadata


def _table(metrics: list[Metric]) -> dg.MetadataValue:
    # The window that decides comes first among a column's metrics.
    deciding: dict[tuple[str | None, str | None, str], Metric] = {}
    for metric in metrics:
        deciding.setdefault((metric.column, metric.segment, metric.metric), metric)
    worst = sorted(
        deciding.values(),
        key=lambda each: (SEVERITY.index(each.status), each.net_value or each.value or 0.0),
        reverse=True,
    )
    records = [
        dg.TableRecord(
            {
                "column": metric.column or "",
                "segment": metric.segment or "",
                "metric": metric.metric,
                "value": _shown(metric.value),
                "net": _shown(metric.net_value),
                "window": str(metric.window or ""),
                "rows": str(metric.n if metric.n is not None else ""),
                "p": _shown(metric.p_value),
                "status": metric.status,
                "note": (metric.note or "")[:200],
            }
        )
        for metric in worst[:MAX_ROWS]
    ]
    return dg.MetadataValue.table(records)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


@contextmanager
def held_open(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Keep a connection to SQLite's event log open while a run writes to it; nothing for other storages.

    Dagster opens a connection for every event, and SQLite syncs and deletes its write-ahead log whenever the last
    connection closes: half of the time of a backfill, and most of it waiting for the disk.
    """
    storage = instance.event_log_storage
    connections = []
    try:
        if isinstance(storage, SqliteEventLogStorage):
            for shard in (run_id, "index"):
                path = Path(storage.path_for_shard(shard))
                if path.exists():
                    connections.append(sqlite3.connect(path))
                    connections[-1].execute("SELECT 1 FROM sqlite_master").fetchone()
        yield
    finally:
        for connection in connections:
            connection.close()


def report_reference(instance: dg.DagsterInstance, version: ModelVersion) -> None:
    """Record the frozen reference as materialised, once for each digest, so that lineage starts from something."""
    key = asset_key(version.manifest.model, version.manifest.version, "reference")
    latest = instance.get_latest_materialization_event(key)
    known = latest.asset_materialization.tags if latest and latest.asset_materialization else {}
    data_version = version.reference_digest[:32]
    if (known or {}).get("dagster/data_version") != data_version:
        metadata = reference_metadata(version)
        tags = {"dagster/data_version": data_version}
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata, tags=tags))


def reference_metadata(version: ModelVersion) -> dict[str, Any]:
    """What Dagit shows of a frozen reference."""
    profile = version.profile
    return {
        "digest": version.reference_digest,
        "rows": profile.rows,
        "sample": profile.sample,
        "columns": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "column": column.name,
                        "role": column.role,
                        "stored as": column.physical,
                        "bins": len(column.groups),
                        "dispersion": round(column.dispersion, 3),
                    }
                )
                for column in profile.columns[:200]
            ]
        ),
    }
