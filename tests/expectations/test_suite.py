from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitoring_assets.expectations.batch import CountHistory, to_frame
from monitoring_assets.stability.profile import ReferenceProfile
from monitoring_assets.stability.psi import merge_bins
from monitoring_assets.stability.rates import judge_rates, judge_volume
from monitoring_assets.stability.windows import BREACH, NOT_ELIGIBLE, OK, WARN, Column, Thresholds, judge

LENGTHS = (1, 2, 3, 5, 7, 14, 28)
LEVEL = 1e-5
KINDS = {"psi", "csi", "quality"}
Drawn = Callable[..., CountHistory]


def same(left: Any, right: Any) -> None:
    for field in fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


def weekdays(targets: np.ndarray, weeks: int = 8) -> np.ndarray:
    earlier = targets[:, None] - 7 * np.arange(1, weeks + 1)
    return np.where(earlier >= 0, earlier, -1)


def move(history: CountHistory, column: str, source: int, sink: int, share: float, days: slice) -> None:
    """Move a share of the rows of one bin into another."""
    counts = history.counts[column]
    moved = (counts[days, source] * share).astype(np.int64)
    counts[days, source] -= moved
    counts[days, sink] += moved


def lose(history: CountHistory, day: int) -> None:
    for table in (*history.counts.values(), *history.tails.values()):
        table[day] = 0
    history.rows[day] = 0
    history.present[day] = False


def test_verdicts_equal_the_pure_functions_bit_for_bit(
    gx_suite: Any, suite: Any, policy: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    history = drawn(profile, 60)
    move(history, "income", source=9, sink=0, share=0.9, days=slice(50, 60))
    move(history, "region", source=0, sink=4, share=0.6, days=slice(40, 41))
    lose(history, 45)
    targets = np.arange(28, 60)
    earlier = weekdays(targets)
    verdict = gx_suite.validate(suite, profile, history, targets, KINDS, earlier)

    assert list(verdict.psi) == ["income", "region", "score"]
    assert list(verdict.rates) == ["income", "region", "constant", "score"]
    for column in profile.columns:
        counts = history.counts[column.name]
        if not column.unusable:
            groups = column.group_array
            judged = Column(
                merge_bins(counts, groups), merge_bins(column.reference_counts(), groups), column.dispersion
            )
            thresholds = policy.psi if column.role == "score" else policy.csi
            same(verdict.psi[column.name], judge(judged, targets, LENGTHS, thresholds, LEVEL))
        tails = history.tails[column.name][targets]
        limit = policy.max_null_rates.get(column.name)
        same(verdict.rates[column.name], judge_rates(column, counts[targets], tails, LEVEL, limit))
    present = (earlier >= 0) & history.present[earlier]
    same(verdict.volume, judge_volume(history.rows[targets], history.rows[earlier], present, LEVEL))
    levels = np.concatenate([found.level.ravel() for found in verdict.psi.values()])
    assert set(levels) == {NOT_ELIGIBLE, OK, WARN, BREACH}


@pytest.mark.parametrize(("share", "expected"), [(0.0, OK), (0.35, WARN), (0.5, BREACH)])
def test_a_score_is_judged_by_the_policy_of_psi(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn, share: float, expected: int
) -> None:
    history = drawn(profile, 28)
    for source in range(5, 10):
        move(history, "score", source, sink=0, share=share, days=slice(27, 28))
    verdict = gx_suite.validate(suite, profile, history, np.array([27]), {"psi"})
    assert list(verdict.psi) == ["score"]
    assert verdict.psi["score"].level[0, 0] == expected
    assert verdict.rates == {}
    assert verdict.volume is None
    assert verdict.scalars == {}


def test_too_few_rows_are_insufficient_and_no_breach(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    history = drawn(profile, 28, rows=2)
    verdict = gx_suite.validate(suite, profile, history, np.array([27]), {"csi"})
    assert (verdict.psi["income"].level == NOT_ELIGIBLE).all()


@pytest.mark.parametrize(("share", "expected"), [(0.0, OK), (0.4, WARN), (0.8, BREACH)])
def test_a_special_value_that_takes_over_shows_in_its_rate(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn, share: float, expected: int
) -> None:
    history = drawn(profile, 2)
    move(history, "income", source=0, sink=10, share=share, days=slice(1, 2))
    rates = gx_suite.validate(suite, profile, history, np.array([0, 1]), {"quality"}).rates["income"]
    place = rates.measures.index("special_rate -999")
    assert rates.level[:, place].tolist() == [OK, expected]


def test_a_null_rate_above_the_manifests_largest_is_a_breach_below_ten_points(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    history = drawn(profile, 1)
    for column in ("income", "score"):
        move(history, column, source=0, sink=11, share=0.45, days=slice(0, 1))
    rates = gx_suite.validate(suite, profile, history, np.array([0]), {"quality"}).rates
    assert 0.05 < rates["income"].rate[0, 0] < 0.1
    assert rates["income"].level[0, 0] == BREACH
    assert rates["score"].level[0, 0] == WARN


def test_an_empty_partition_is_not_eligible_for_rates(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    history = drawn(profile, 2)
    lose(history, 1)
    rates = gx_suite.validate(suite, profile, history, np.array([0, 1]), {"quality"}).rates["region"]
    assert (rates.level[1] == NOT_ELIGIBLE).all()
    assert np.isnan(rates.rate[1]).all()


@pytest.mark.parametrize(
    ("rows", "weeks", "expected"), [(2_000, 8, OK), (1_300, 8, WARN), (800, 8, BREACH), (800, 2, NOT_ELIGIBLE)]
)
def test_volume_is_judged_against_the_same_weekday(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn, rows: int, weeks: int, expected: int
) -> None:
    history = drawn(profile, 57)
    history.rows[56] = rows
    verdict = gx_suite.validate(suite, profile, history, np.array([56]), {"quality"}, weekdays(np.array([56]), weeks))
    assert verdict.volume.level.tolist() == [expected]


def test_missing_partitions_are_no_history_of_volume(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    history = drawn(profile, 29)
    lose(history, 0)
    lose(history, 7)
    verdict = gx_suite.validate(suite, profile, history, np.array([28]), {"quality"}, weekdays(np.array([28])))
    assert verdict.volume.level.tolist() == [NOT_ELIGIBLE]


@pytest.mark.parametrize(
    ("measure", "good", "bad"),
    [
        ("duplicate_keys", 0.0, 1.0),
        ("null_keys", 0.0, 1.0),
        ("invalid_scores", 0.0, 1.0),
        ("duplicate_row_excess", 0.1, 0.11),
        ("repeated_row_excess", 0.1, 0.11),
        ("canary_difference", 1e-5, 1.1e-5),
        ("canary_difference", 0.0, float("inf")),
        ("artefact_matches", 1.0, 0.0),
    ],
)
def test_a_scalar_is_judged_for_each_target_and_only_there(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn, measure: str, good: float, bad: float
) -> None:
    values = np.array([bad, good, bad, np.nan, good])
    history = replace(drawn(profile, 5), measures={measure: values})
    verdict = gx_suite.validate(suite, profile, history, np.array([1, 2, 3, 4]), {"quality"})
    assert {name: passed.tolist() for name, passed in verdict.scalars.items()} == {measure: [True, False, True, True]}
    sound = gx_suite.validate(suite, profile, history, np.array([1, 4]), {"quality"})
    assert sound.scalars[measure].tolist() == [True, True]


def test_every_measure_of_a_batch_is_judged(gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn) -> None:
    measures = {name: np.zeros(2) for name in gx_suite.SCALAR_BOUNDS}
    verdict = gx_suite.validate(suite, profile, replace(drawn(profile, 2), measures=measures), np.array([1]), KINDS)
    assert {name: bool(passed[0]) for name, passed in verdict.scalars.items()} == {
        name: name != "artefact_matches" for name in measures
    }


def test_a_warning_passes_and_a_breach_fails_as_critical(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    import great_expectations as gx

    history = drawn(profile, 28)
    for source in range(5, 10):
        move(history, "score", source, sink=0, share=0.35, days=slice(27, 28))
    move(history, "region", source=0, sink=4, share=0.9, days=slice(27, 28))
    chosen = gx_suite.chosen_expectations(suite, profile, history, {"psi", "csi"}, None)
    batch = gx_suite.add_counts(gx.get_context(mode="ephemeral")).get_batch(
        {"dataframe": to_frame(history, np.array([27]))}
    )
    result = batch.validate(gx.ExpectationSuite(name="two", expectations=chosen))
    found = {each.expectation_config.kwargs["column"]: each for each in result.results}
    assert {column: each.success for column, each in found.items()} == {"income": True, "region": False, "score": True}
    assert found["score"].result["observed_value"].startswith("warn: net PSI 0.1")
    assert found["region"].result["observed_value"].startswith("breach: net PSI")
    assert found["region"].expectation_config.meta == {"kind": "csi", "column": "region"}
    assert found["score"].expectation_config.meta == {"kind": "psi", "column": "score"}
    assert result.get_max_severity_failure().value == "critical"


def test_an_unusable_column_gets_no_psi(suite: Any, profile: ReferenceProfile) -> None:
    of_constant = [each for each in suite.expectations if each.meta["column"] == "constant"]
    assert [each.expectation_type for each in of_constant] == ["expect_column_rates_to_match_reference"]


def test_nothing_to_judge_gives_no_verdicts(
    gx_suite: Any, policy: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    bare = replace(profile, columns=(profile.columns[2],))
    verdict = gx_suite.validate(gx_suite.build_suite(bare, policy), bare, drawn(bare, 1), np.array([0]), {"psi", "csi"})
    assert verdict == gx_suite.SuiteVerdict({}, {}, None, {})


def test_names_that_mean_something_elsewhere_are_only_names(
    gx_suite: Any, policy: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    names = ("$PARAMETER", "<b>é'\"", "a.b c", "column")
    odd = replace(profile, columns=tuple(replace(profile.columns[0], name=name) for name in names))
    verdict = gx_suite.validate(gx_suite.build_suite(odd, policy), odd, drawn(odd, 28), np.array([27]), {"csi"})
    assert tuple(verdict.psi) == names


def test_a_suite_survives_storage_in_a_file_context(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn, tmp_path: Path
) -> None:
    import great_expectations as gx

    gx.get_context(mode="file", project_root_dir=tmp_path).suites.add(suite)
    stored = gx.get_context(mode="file", project_root_dir=tmp_path).suites.get(suite.name)
    assert stored is not suite
    assert stored.meta["reference"] == profile.digest
    history, targets = drawn(profile, 40), np.arange(35, 40)
    move(history, "income", source=9, sink=0, share=0.9, days=slice(36, 40))
    measured = replace(history, measures={"duplicate_keys": np.eye(40)[38]})
    fresh = gx_suite.build_suite(profile, suite_policy(suite, gx_suite))
    first, second = (
        gx_suite.validate(each, profile, measured, targets, KINDS, weekdays(targets)) for each in (fresh, stored)
    )
    for column, verdicts in first.psi.items():
        same(second.psi[column], verdicts)
    for column, rates in first.rates.items():
        same(second.rates[column], rates)
    same(second.volume, first.volume)
    np.testing.assert_array_equal(second.scalars["duplicate_keys"], [True, True, True, False, True])


def suite_policy(suite: Any, gx_suite: Any) -> Any:
    csi, psi = (next(each for each in suite.expectations if each.meta.get("kind") == kind) for kind in ("csi", "psi"))
    return gx_suite.SuitePolicy(
        psi=Thresholds(psi.warn, psi.critical),
        csi=Thresholds(csi.warn, csi.critical),
        lengths=tuple(csi.lengths),
        level=csi.level,
        max_null_rates={"income": 0.05},
    )


def test_a_validation_is_silent_and_telemetry_is_off(
    gx_suite: Any,
    suite: Any,
    profile: ReferenceProfile,
    drawn: Drawn,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    history = replace(drawn(profile, 28), measures={"duplicate_keys": np.full(28, 3.0)})
    lose(history, 27)
    with caplog.at_level(logging.WARNING):
        gx_suite.validate(suite, profile, history, np.array([20, 27]), KINDS, weekdays(np.array([20, 27])))
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
