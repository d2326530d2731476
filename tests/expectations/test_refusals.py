from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from monitoring_assets.expectations.batch import ROWS, CountHistory
from monitoring_assets.stability.profile import ReferenceProfile
from resources.errors import BadInput

KINDS = {"psi", "csi", "quality"}
Drawn = Callable[..., CountHistory]


def test_a_measure_without_an_expectation_is_refused(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    history = replace(drawn(profile, 2), measures={"moon_phase": np.zeros(2)})
    with pytest.raises(gx_suite.SuiteError, match="moon_phase"):
        gx_suite.validate(suite, profile, history, np.array([1]), {"quality"})


def test_a_suite_without_its_expectations_raises_instead_of_passing(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    history = drawn(profile, 28)
    suite.expectations = [each for each in suite.expectations if each.meta["column"] != "region"]
    message = (
        r"ke-nano-loan 3\.2\.0: the suite must hold 3 expectations and has 2; lacking .*psi_within_policy on 'region'"
    )
    with pytest.raises(gx_suite.SuiteError, match=message):
        gx_suite.validate(suite, profile, history, np.array([27]), {"psi", "csi"})
    suite.expectations = []
    with pytest.raises(gx_suite.SuiteError, match="must hold 3 expectations and has 0"):
        gx_suite.validate(suite, profile, history, np.array([27]), {"psi", "csi"})


def test_the_suite_of_another_version_is_refused(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    newer = replace(profile, version="3.3.0")
    with pytest.raises(gx_suite.SuiteError, match=r"ke-nano-loan 3\.3\.0: the suite 'ke-nano-loan-3\.2\.0'"):
        gx_suite.validate(suite, newer, drawn(profile, 28), np.array([27]), {"psi"})


def test_a_suite_with_an_expectation_twice_raises(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    suite.expectations = [*suite.expectations, suite.expectations[0]]
    with pytest.raises(gx_suite.SuiteError, match="must hold 3 expectations and has 4"):
        gx_suite.validate(suite, profile, drawn(profile, 28), np.array([27]), {"psi", "csi"})


def test_a_result_that_great_expectations_left_out_raises(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = gx_suite.gx.ExpectationSuite
    monkeypatch.setattr(
        gx_suite.gx, "ExpectationSuite", lambda name, expectations: complete(name=name, expectations=expectations[1:])
    )
    with pytest.raises(gx_suite.SuiteError, match=r"results must hold 3 expectations and has 2; lacking .*'income'"):
        gx_suite.validate(suite, profile, drawn(profile, 28), np.array([27]), {"psi", "csi"})


def test_an_exception_in_a_metric_surfaces_with_model_version_and_column(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn
) -> None:
    broken = next(each for each in suite.expectations if each.meta == {"kind": "csi", "column": "region"})
    broken.reference = {**broken.reference, "schema": 99}
    message = r"ke-nano-loan 3\.2\.0: expect_column_psi_within_policy on column 'region' gave no verdict: .*schema"
    with pytest.raises(gx_suite.SuiteError, match=message) as raised:
        gx_suite.validate(suite, profile, drawn(profile, 28), np.array([27]), KINDS)
    assert any("Traceback" in note for note in raised.value.__notes__)


@pytest.mark.parametrize(("bins", "message"), [(None, "has no counts"), (7, "has counts in 7 bins")])
def test_counts_in_other_bins_than_the_reference_are_refused(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn, bins: int | None, message: str
) -> None:
    history = drawn(profile, 28)
    if bins is None:
        del history.counts["income"]
    else:
        history.counts["income"] = history.counts["income"][:, :bins]
    with pytest.raises(gx_suite.SuiteError, match=rf"ke-nano-loan 3\.2\.0: column 'income' {message}.*12 bins"):
        gx_suite.validate(suite, profile, history, np.array([27]), {"csi"})


def test_a_feature_with_the_name_of_a_measure_has_no_suite(
    gx_suite: Any, policy: Any, profile: ReferenceProfile
) -> None:
    clash = replace(profile, columns=(replace(profile.columns[0], name=ROWS),))
    with pytest.raises(BadInput, match="rename the feature"):
        gx_suite.build_suite(clash, policy)


@pytest.mark.parametrize("kinds", [set(), {"psi", "performance"}])
def test_unknown_kinds_are_refused(
    gx_suite: Any, suite: Any, profile: ReferenceProfile, drawn: Drawn, kinds: set[str]
) -> None:
    with pytest.raises(ValueError, match="kinds must be some of"):
        gx_suite.validate(suite, profile, drawn(profile, 1), np.array([0]), kinds)
