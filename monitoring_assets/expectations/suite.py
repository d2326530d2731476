"""The expectation suite of a model version, and the validation of a batch against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import great_expectations as gx
import numpy as np
from great_expectations.core import ExpectationValidationResult
from great_expectations.expectations import (  # type: ignore[attr-defined]  # public, though not in an __all__
    Expectation,
    ExpectColumnValuesToBeBetween,
)

from monitoring_assets.expectations.batch import ROWS, CountHistory, measure_column, refuse_measure_names, to_frame
from monitoring_assets.expectations.expectations import (
    ExpectColumnPsiWithinPolicy,
    ExpectColumnRatesToMatchReference,
    ExpectVolumeToMatchWeekdays,
)
from monitoring_assets.expectations.parameters import column_document, from_lists
from monitoring_assets.problems import shown
from monitoring_assets.stability.profile import ColumnProfile, ReferenceProfile
from monitoring_assets.stability.psi import BoolArray, IntArray
from monitoring_assets.stability.rates import CRITICAL_POINTS, RateVerdicts, VolumeVerdicts
from monitoring_assets.stability.windows import Thresholds, WindowVerdicts
from resources.errors import ScorewatchError

KINDS = frozenset({"psi", "csi", "quality"})

SCALAR_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "duplicate_keys": (None, 0),
    "null_keys": (None, 0),
    "invalid_scores": (None, 0),
    "duplicate_row_excess": (None, CRITICAL_POINTS),
    "repeated_row_excess": (None, CRITICAL_POINTS),
    "canary_difference": (None, 1e-5),
    "artefact_matches": (1, None),
}
"""Measure of a whole partition → smallest and largest value that is no breach."""

_WEEKDAY_HISTORY = "weekday_history"
_PSI, _RATES, _VOLUME, _SCALAR = (
    kind.expectation_type
    for kind in (
        ExpectColumnPsiWithinPolicy,
        ExpectColumnRatesToMatchReference,
        ExpectVolumeToMatchWeekdays,
        ExpectColumnValuesToBeBetween,
    )
)
_Key = tuple[str, str]


class SuiteError(ScorewatchError):
    """The suite is incomplete, or Great Expectations did not give a verdict on everything it was asked."""


@dataclass(frozen=True)
class SuitePolicy:
    """The manifest's policy, resolved: thresholds, window ``lengths`` in partitions, the tests' ``level`` (alpha)."""

    psi: Thresholds
    csi: Thresholds
    lengths: tuple[int, ...]
    level: float
    max_null_rates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteVerdict:
    """Verdicts on T targets: ``psi`` (of the score, and CSI of features) and ``rates`` by column, volume, scalars.

    ``scalars`` is measure → [T], False where its bound is broken; a target without a measurement (nan) is True.
    """

    psi: dict[str, WindowVerdicts]
    rates: dict[str, RateVerdicts]
    volume: VolumeVerdicts | None
    scalars: dict[str, BoolArray]


def build_suite(profile: ReferenceProfile, policy: SuitePolicy) -> gx.ExpectationSuite:
    """One PSI (or CSI) and one rates expectation a column, and those of whole partitions. No PSI if it is unusable."""
    refuse_measure_names(column.name for column in profile.columns)
    return gx.ExpectationSuite(
        name=f"{profile.model}-{profile.version}",
        expectations=[*_column_expectations(profile, policy), *_partition_expectations(policy)],
        meta={"model": profile.model, "version": profile.version, "reference": profile.digest},
    )


def _column_expectations(profile: ReferenceProfile, policy: SuitePolicy) -> Iterator[Expectation]:
    for column in profile.columns:
        reference = column_document(profile, column)
        if not column.unusable:
            thresholds = policy.psi if column.role == "score" else policy.csi
            yield ExpectColumnPsiWithinPolicy(
                column=column.name,
                reference=reference,
                lengths=list(policy.lengths),
                warn=thresholds.warn,
                critical=thresholds.critical,
                level=policy.level,
                meta={"kind": _stability_kind(column), "column": column.name},
            )
        yield ExpectColumnRatesToMatchReference(
            column=column.name,
            reference=reference,
            level=policy.level,
            max_null_rate=policy.max_null_rates.get(column.name),
            meta={"kind": "quality", "column": column.name},
        )


def _partition_expectations(policy: SuitePolicy) -> Iterator[Expectation]:
    yield ExpectVolumeToMatchWeekdays(
        column=ROWS,
        history={"$PARAMETER": _WEEKDAY_HISTORY},
        level=policy.level,
        meta={"kind": "quality", "column": ROWS},
    )
    for measure, (smallest, largest) in SCALAR_BOUNDS.items():
        column = measure_column(measure)
        yield ExpectColumnValuesToBeBetween(
            column=column, min_value=smallest, max_value=largest, meta={"kind": "quality", "column": column}
        )


def _stability_kind(column: ColumnProfile) -> str:
    return "psi" if column.role == "score" else "csi"


def validate(
    suite: gx.ExpectationSuite,
    profile: ReferenceProfile,
    history: CountHistory,
    targets: IntArray,
    kinds: Iterable[str],
    weekday_history: IntArray | None = None,
) -> SuiteVerdict:
    """Judge the partitions ``targets`` [T] of a batch by the suite's expectations of ``kinds``.

    Scalar expectations run for the measures that the history has, volume with ``weekday_history`` [T, H] (row numbers
    of the same weekday's earlier partitions, -1 for none). Raises SuiteError when an expectation is missing from the
    suite or from the results, or raised an exception; BadInput for a feature whose name a measure has.
    """
    chosen = chosen_expectations(suite, profile, history, kinds, weekday_history)
    if not chosen:
        return SuiteVerdict({}, {}, None, {})
    frame = to_frame(history, targets)
    batch = add_counts(gx.get_context(mode="ephemeral")).get_batch(batch_parameters={"dataframe": frame})
    # COMPLETE: only it gives the rows that broke a bound, from which a scalar's verdict per target is read.
    results = batch.validate(
        gx.ExpectationSuite(name=suite.name, expectations=chosen),
        result_format="COMPLETE",
        expectation_parameters=suite_parameters(weekday_history),
    ).results
    refuse_exceptions(profile, results)
    _refuse_gaps(profile, "the validation's results", set(map(_key, chosen)), map(_result_key, results))
    return _verdict(results, len(frame) // len(history.partitions), targets)


def chosen_expectations(
    suite: gx.ExpectationSuite,
    profile: ReferenceProfile,
    history: CountHistory,
    kinds: Iterable[str],
    weekday_history: IntArray | None,
) -> list[Any]:
    """Copies of the suite's expectations of ``kinds`` that this batch can answer; raises SuiteError as ``validate``."""
    if (suite.meta.get("model"), suite.meta.get("version")) != (profile.model, profile.version):
        raise SuiteError(
            f"{profile.model} {profile.version}: the suite {shown(suite.name)} was built for another version; build it "
            "with build_suite from this version's reference profile"
        )
    asked = _asked(profile, history, frozenset(kinds), weekday_history)
    chosen = [expectation for expectation in suite.expectations if _key(expectation) in asked]
    _refuse_gaps(profile, "the suite", asked, map(_key, chosen))
    _refuse_other_bins(profile, history, asked)
    return [expectation.copy(update={"id": None}) for expectation in chosen]


def add_counts(context: Any) -> Any:
    """Make a data context silent and add a batch definition whose batches are frames of counts."""
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("counts").add_dataframe_asset("counts")
    return asset.add_batch_definition_whole_dataframe("counts")


def suite_parameters(weekday_history: IntArray | None) -> dict[str, Any]:
    """Values of the suite's ``$PARAMETER`` references."""
    return {} if weekday_history is None else {_WEEKDAY_HISTORY: weekday_history.tolist()}


def _asked(
    profile: ReferenceProfile, history: CountHistory, kinds: frozenset[str], weekday_history: IntArray | None
) -> set[_Key]:
    """The (expectation type, column) that must be judged, from the profile and the batch, never from the suite."""
    if not kinds or kinds - KINDS:
        raise ValueError(f"kinds must be some of {sorted(KINDS)}, not {sorted(kinds)}")
    asked = {
        (_PSI, column.name) for column in profile.columns if not column.unusable and _stability_kind(column) in kinds
    }
    if "quality" in kinds:
        asked |= {(_RATES, column.name) for column in profile.columns}
        asked |= {(_SCALAR, measure_column(measure)) for measure in history.measures}
        if weekday_history is not None:
            asked.add((_VOLUME, ROWS))
    return asked


def _refuse_gaps(profile: ReferenceProfile, where: str, asked: set[_Key], found: Iterable[_Key]) -> None:
    counted = list(found)
    if len(counted) == len(asked) and set(counted) == asked:
        return
    lacking = ", ".join(f"{kind} on {shown(column)}" for kind, column in sorted(asked - set(counted))[:5])
    raise SuiteError(
        f"{profile.model} {profile.version}: {where} must hold {len(asked)} expectations and has {len(counted)}"
        f"{'; lacking ' + lacking if lacking else ''}. A missing expectation would pass unseen: build the suite again "
        "with build_suite from this version's reference profile"
    )


def _refuse_other_bins(profile: ReferenceProfile, history: CountHistory, asked: set[_Key]) -> None:
    judged = {column for kind, column in asked if kind in {_PSI, _RATES}}
    for column in profile.columns:
        counts = history.counts.get(column.name)
        if column.name in judged and (counts is None or counts.shape[1] != len(column.groups)):
            raise SuiteError(
                f"{profile.model} {profile.version}: column {shown(column.name)} has "
                f"{'no counts' if counts is None else f'counts in {counts.shape[1]} bins'}, its reference profile "
                f"{len(column.groups)} bins; count the partitions again with this version's profile"
            )


def refuse_exceptions(profile: ReferenceProfile, results: Sequence[ExpectationValidationResult]) -> None:
    """Raise SuiteError for an exception that Great Expectations turned into a failed expectation."""
    for result in results:
        info = result.exception_info
        for raised in [info] if "raised_exception" in info else info.values():
            if raised["raised_exception"]:
                kind, column = _result_key(result)
                error = SuiteError(
                    f"{profile.model} {profile.version}: {kind} on column {shown(column)} gave no verdict: "
                    f"{raised['exception_message']}"
                )
                error.add_note(str(raised["exception_traceback"]))
                raise error


def _key(expectation: Expectation) -> _Key:
    return expectation.expectation_type, str(getattr(expectation, "column", ""))


def _result_key(result: ExpectationValidationResult) -> _Key:
    configuration = result.expectation_config
    return ("", "") if configuration is None else (configuration.type, str(configuration.kwargs["column"]))


def _verdict(results: Sequence[ExpectationValidationResult], slots: int, targets: IntArray) -> SuiteVerdict:
    found = {_result_key(result): result.result for result in results}
    verdicts = {key: result["details"]["verdicts"] for key, result in found.items() if key[0] != _SCALAR}
    volume = verdicts.get((_VOLUME, ROWS))
    return SuiteVerdict(
        psi={column: from_lists(WindowVerdicts, lists) for (kind, column), lists in verdicts.items() if kind == _PSI},
        rates={column: from_lists(RateVerdicts, lists) for (kind, column), lists in verdicts.items() if kind == _RATES},
        volume=None if volume is None else from_lists(VolumeVerdicts, volume),
        scalars={
            column.removeprefix(measure_column("")): ~np.isin(targets * slots, result["unexpected_index_list"])
            for (kind, column), result in found.items()
            if kind == _SCALAR
        },
    )
