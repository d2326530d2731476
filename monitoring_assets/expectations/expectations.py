"""The custom expectations: PSI and CSI within policy, rates like the reference's, volume like the weekday's.

Each fails on a breach in any target partition and carries its complete verdicts in ``result.details``, so that what
is stored is built from what Great Expectations decided. A warning passes: severity is one value per expectation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape
from typing import Any, ClassVar

import numpy as np
from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from great_expectations.core.result_format import ResultFormat
from great_expectations.execution_engine.execution_engine import ExecutionEngine
from great_expectations.expectations.expectation import ColumnAggregateExpectation
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration, parse_result_format
from great_expectations.render.components import (
    CollapseContent,
    LegacyDiagnosticRendererType,
    LegacyRendererType,
    RenderedStringTemplateContent,
    RenderedTableContent,
)
from great_expectations.render.renderer.renderer import renderer
from great_expectations.validator.metric_configuration import MetricConfiguration
from great_expectations.validator.validator import ValidationDependencies

from monitoring_assets.expectations.metrics import ColumnRates, ColumnStability, PartitionVolume
from monitoring_assets.expectations.parameters import column_profile, from_lists
from monitoring_assets.stability.psi import FloatArray, IntArray
from monitoring_assets.stability.rates import RateVerdicts, VolumeVerdicts
from monitoring_assets.stability.windows import BREACH, NOT_ELIGIBLE, OK, WARN, WindowVerdicts

LEVEL_NAMES = {NOT_ELIGIBLE: "insufficient data", OK: "ok", WARN: "warn", BREACH: "breach"}
Details = dict[str, Any]


class _VerdictExpectation(ColumnAggregateExpectation, ABC):
    """One metric that returns verdicts; success is that no target partition is at the critical level."""

    def get_validation_dependencies(
        self,
        execution_engine: ExecutionEngine[Any] | None = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> ValidationDependencies:
        """Name the metric and its parameters.

        The inherited way rebuilds the configuration some forty times, four fifths of the time per expectation.
        """
        (metric,) = self.metric_dependencies
        configuration = MetricConfiguration(
            metric_name=metric,
            metric_domain_kwargs={"batch_id": self.batch_id, "column": self.column},
            metric_value_kwargs={key: getattr(self, key) for key in self.success_keys},
        )
        result_format = (runtime_configuration or {}).get("result_format", ResultFormat.BASIC)
        return ValidationDependencies({metric: configuration}, parse_result_format(result_format))

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,
        execution_engine: ExecutionEngine[Any] | None = None,
    ) -> dict[str, Any]:
        (metric,) = self.metric_dependencies
        details: Details = metrics[metric]
        observed, breached = self._observe(details)
        return {"success": not breached, "result": {"observed_value": observed, "details": details}}

    @classmethod
    @abstractmethod
    def _observe(cls, details: Details) -> tuple[str, bool]:
        """What was seen in the newest target partition, in words, and whether any target is at BREACH."""

    @classmethod
    @abstractmethod
    def _statement(cls) -> str:
        """The expectation in words, with ``$name`` for its parameters."""

    @classmethod
    def _bin_table(cls, configuration: ExpectationConfiguration, details: Details) -> tuple[list[str], list[list[str]]]:
        """Header and rows, as plain text, of the table that Data Docs show below the statement."""
        return [], []

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)
    def _prescriptive_renderer(
        cls,
        configuration: ExpectationConfiguration | None = None,
        result: ExpectationValidationResult | None = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> list[RenderedStringTemplateContent]:
        kwargs = configuration.kwargs if configuration else {}
        shown = {key: _parameter(value) for key, value in kwargs.items() if not isinstance(value, dict)}
        template = {"template": cls._statement(), "params": {"max_null_rate": "no limit", **shown}}
        return [RenderedStringTemplateContent(content_block_type="string_template", string_template=template)]

    @classmethod
    @renderer(renderer_type=LegacyDiagnosticRendererType.OBSERVED_VALUE)
    def _diagnostic_observed_value_renderer(
        cls,
        configuration: ExpectationConfiguration | None = None,
        result: ExpectationValidationResult | None = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> str:
        return escape(str(result.result["observed_value"])) if result else "--"

    @classmethod
    @renderer(renderer_type=LegacyDiagnosticRendererType.UNEXPECTED_TABLE)
    def _diagnostic_unexpected_table_renderer(
        cls,
        configuration: ExpectationConfiguration | None = None,
        result: ExpectationValidationResult | None = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> list[RenderedTableContent | CollapseContent] | None:
        if result is None or result.expectation_config is None:
            return None
        header, rows = cls._bin_table(result.expectation_config, result.result["details"])
        if not rows:
            return None
        # Cells go to the page as they are, and labels are categories of the customer's data.
        table = [[escape(cell) for cell in row] for row in rows]
        return [
            RenderedTableContent(
                content_block_type="table",
                table=table,
                header_row=header,
                styling={"body": {"classes": ["table-bordered", "table-sm", "mt-3"]}},
            )
        ]


class ExpectColumnPsiWithinPolicy(_VerdictExpectation):
    """Expect that no window's net PSI breaches the critical threshold with evidence, in any target partition."""

    reference: dict[str, Any]
    lengths: list[int]
    warn: float
    critical: float
    level: float

    metric_dependencies: ClassVar[tuple[str, ...]] = (ColumnStability.metric_name,)
    success_keys: ClassVar[tuple[str, ...]] = ColumnStability.value_keys

    @classmethod
    def _observe(cls, details: Details) -> tuple[str, bool]:
        verdicts = from_lists(WindowVerdicts, details["verdicts"])
        window = int(verdicts.deciding()[-1])
        level = LEVEL_NAMES[int(verdicts.level[-1, window])]
        net, value, p_value = (part[-1, window] for part in (verdicts.net, verdicts.value, verdicts.p_value))
        words = (
            level
            if np.isnan(value)
            else (
                f"{level}: net PSI {net:.4f}, PSI {value:.4f}, p {p_value:.2g}, "
                f"{verdicts.rows[-1, window]:,} rows in a window of {verdicts.lengths[window]}"
            )
        )
        return words, bool((verdicts.level == BREACH).any())

    @classmethod
    def _statement(cls) -> str:
        return (
            "net PSI below $critical (a warning from $warn) in every window of $lengths partitions, "
            "unless p is $level or more"
        )

    @classmethod
    def _bin_table(cls, configuration: ExpectationConfiguration, details: Details) -> tuple[list[str], list[list[str]]]:
        column = column_profile(configuration.kwargs["reference"])
        reference, newest = column.reference_counts(), np.asarray(details["newest_counts"])
        rows = [
            [label, _percent(then), _percent(now)]
            for label, then, now in zip(column.bins.labels(), _shares(reference), _shares(newest), strict=True)
        ]
        return ["Bin", "Reference", "Current"], rows


class ExpectColumnRatesToMatchReference(_VerdictExpectation):
    """Expect that no null, special, unseen or tail rate is ten points off, or above the column's largest null rate."""

    reference: dict[str, Any]
    level: float
    max_null_rate: float | None = None

    metric_dependencies: ClassVar[tuple[str, ...]] = (ColumnRates.metric_name,)
    success_keys: ClassVar[tuple[str, ...]] = ColumnRates.value_keys

    @classmethod
    def _observe(cls, details: Details) -> tuple[str, bool]:
        verdicts = from_lists(RateVerdicts, details["verdicts"])
        worst = int(verdicts.level[-1].argmax())
        rate, p_value = verdicts.rate[-1, worst], verdicts.p_value[-1, worst]
        words = (
            f"{LEVEL_NAMES[int(verdicts.level[-1, worst])]}: {verdicts.measures[worst]} {_percent(rate)}, "
            f"reference {_percent(verdicts.reference_rate[worst])}, p {p_value:.2g}"
        )
        return words, bool((verdicts.level == BREACH).any())

    @classmethod
    def _statement(cls) -> str:
        return "null, special, unseen and tail rates like the reference's (p $level; largest null rate: $max_null_rate)"

    @classmethod
    def _bin_table(cls, configuration: ExpectationConfiguration, details: Details) -> tuple[list[str], list[list[str]]]:
        verdicts = from_lists(RateVerdicts, details["verdicts"])
        rows = [
            [measure, _percent(reference), _percent(rate), LEVEL_NAMES[int(level)]]
            for measure, reference, rate, level in zip(
                verdicts.measures, verdicts.reference_rate, verdicts.rate[-1], verdicts.level[-1], strict=True
            )
        ]
        return ["Rate", "Reference", "Current", "Verdict"], rows


class ExpectVolumeToMatchWeekdays(_VerdictExpectation):
    """Expect at least half and at most twice the median rows of the same weekday, where there are three of them.

    ``history`` [T, H] holds row numbers of earlier partitions for each target, -1 for none.
    """

    history: list[list[int]] | dict[str, str]
    level: float

    metric_dependencies: ClassVar[tuple[str, ...]] = (PartitionVolume.metric_name,)
    success_keys: ClassVar[tuple[str, ...]] = PartitionVolume.value_keys

    @classmethod
    def _observe(cls, details: Details) -> tuple[str, bool]:
        verdicts = from_lists(VolumeVerdicts, details["verdicts"])
        level, ratio, p_value = LEVEL_NAMES[int(verdicts.level[-1])], verdicts.ratio[-1], verdicts.p_value[-1]
        words = level if np.isnan(ratio) else f"{level}: {ratio:.2f} of the median, p {p_value:.2g}"
        return words, bool((verdicts.level == BREACH).any())

    @classmethod
    def _statement(cls) -> str:
        return "rows between half and twice the median of the same weekday, unless p is $level or more"


def _parameter(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _shares(counts: IntArray) -> FloatArray:
    total = counts.sum()
    return counts / total if total else np.full(counts.shape, np.nan)


def _percent(share: float) -> str:
    return "--" if np.isnan(share) else f"{share:.2%}"
