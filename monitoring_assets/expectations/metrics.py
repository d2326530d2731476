"""The metrics behind the expectations: each runs one pure function of ``stability`` on the counts of the batch.

This module and ``expectations`` are the only ones with imports of Great Expectations that are not public.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider

from monitoring_assets.expectations.batch import PRESENT, Batch
from monitoring_assets.expectations.parameters import column_profile, to_lists
from monitoring_assets.stability.psi import IntArray, merge_bins
from monitoring_assets.stability.rates import judge_rates, judge_volume
from monitoring_assets.stability.windows import Column, Thresholds, WindowVerdicts, judge

_DOMAIN = ("batch_id", "table", "column", "row_condition", "condition_parser")


class ColumnStability(TableMetricProvider):
    """PSI verdicts of one column over every window, and its counts in the newest target's deciding window."""

    metric_name = "column.stability_verdicts"
    domain_keys = _DOMAIN
    value_keys = ("reference", "lengths", "warn", "critical", "level")

    @metric_value(engine=PandasExecutionEngine)
    def _judge(
        cls,
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        **_: Any,
    ) -> dict[str, Any]:
        batch, name = (
            Batch.of(execution_engine.get_domain_records(metric_domain_kwargs)),
            metric_domain_kwargs["column"],
        )
        column = column_profile(metric_value_kwargs["reference"])
        counts = batch.counts(name, len(column.groups))
        verdicts = judge(
            Column(
                counts=merge_bins(counts, column.group_array),
                reference=merge_bins(column.reference_counts(), column.group_array),
                dispersion=column.dispersion,
            ),
            batch.targets,
            metric_value_kwargs["lengths"],
            Thresholds(metric_value_kwargs["warn"], metric_value_kwargs["critical"]),
            metric_value_kwargs["level"],
        )
        return {"verdicts": to_lists(verdicts), "newest_counts": _newest_counts(counts, batch.targets, verdicts)}


def _newest_counts(counts: IntArray, targets: IntArray, verdicts: WindowVerdicts) -> list[int]:
    length, end = verdicts.lengths[int(verdicts.deciding()[-1])], int(targets[-1]) + 1
    newest: list[int] = counts[max(end - length, 0) : end].sum(axis=0).tolist()
    return newest


class ColumnRates(TableMetricProvider):
    """Verdicts on a column's null, special, unseen and tail rates in the target partitions."""

    metric_name = "column.rate_verdicts"
    domain_keys = _DOMAIN
    value_keys = ("reference", "level", "max_null_rate")

    @metric_value(engine=PandasExecutionEngine)
    def _judge(
        cls,
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        **_: Any,
    ) -> dict[str, Any]:
        batch, name = (
            Batch.of(execution_engine.get_domain_records(metric_domain_kwargs)),
            metric_domain_kwargs["column"],
        )
        column = column_profile(metric_value_kwargs["reference"])
        bins = len(column.groups)
        verdicts = judge_rates(
            column,
            batch.counts(name, bins)[batch.targets],
            batch.tails(name, bins)[batch.targets],
            metric_value_kwargs["level"],
            metric_value_kwargs["max_null_rate"],
        )
        return {"verdicts": to_lists(verdicts)}


class PartitionVolume(TableMetricProvider):
    """Verdicts on the rows of the target partitions against the same weekday of earlier weeks."""

    metric_name = "column.volume_verdicts"
    domain_keys = _DOMAIN
    value_keys = ("history", "level")

    @metric_value(engine=PandasExecutionEngine)
    def _judge(
        cls,
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        **_: Any,
    ) -> dict[str, Any]:
        batch = Batch.of(execution_engine.get_domain_records(metric_domain_kwargs))
        rows = batch.partition_values(metric_domain_kwargs["column"])
        present = batch.partition_values(PRESENT) == 1
        earlier = np.asarray(metric_value_kwargs["history"], dtype=np.int64)
        inside = np.maximum(earlier, 0)
        verdicts = judge_volume(
            rows[batch.targets], rows[inside], present[inside] & (earlier >= 0), metric_value_kwargs["level"]
        )
        return {"verdicts": to_lists(verdicts)}
