from __future__ import annotations

import math

import numpy as np
import pytest

from monitoring_assets.stability.psi import IntArray
from monitoring_assets.stability.score_shift import (
    CellMoments,
    approval_shift,
    cell_values,
    moments,
    standardised_shift,
)
from monitoring_assets.stability.significance import pearson

CELLS = 10_000


def cells_of(scores: np.ndarray) -> IntArray:
    return np.bincount(np.minimum((scores * CELLS).astype(int), CELLS - 1), minlength=CELLS)


def test_a_probability_counts_as_the_log_odds_of_its_cell_s_middle() -> None:
    values = cell_values(0.0, 1.0, CELLS, probability=True)
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(math.log(0.00005 / 0.99995))
    assert values[-1] == pytest.approx(-values[0])
    assert (np.diff(values) > 0).all()


def test_points_count_as_they_are() -> None:
    assert cell_values(300.0, 850.0, 11, probability=False).tolist() == [325.0 + 50 * cell for cell in range(11)]


def test_the_moments_of_the_cells_are_those_of_the_scores() -> None:
    scores = np.random.default_rng(1).beta(2, 8, 50_000)
    logits = np.log(scores / (1 - scores))
    found = moments(cell_values(0.0, 1.0, CELLS, probability=True), cells_of(scores))
    assert found is not None
    assert found.rows == 50_000
    assert found.mean == pytest.approx(logits.mean(), abs=1e-4)
    assert found.variance == pytest.approx(logits.var(), rel=1e-3)


def test_no_rows_have_no_moments() -> None:
    assert moments(np.array([1.0, 2.0]), np.array([0, 0])) is None


def test_z_is_written_as_the_formula_says() -> None:
    z = standardised_shift(CellMoments(400, -1.0, 3.0), CellMoments(50_000, -1.2, 2.0), 1.44)
    assert z == pytest.approx(0.2 / math.sqrt(1.44 * 2.0 * (1 / 400 + 1 / 50_000)))
    assert standardised_shift(CellMoments(400, -1.0, 3.0), CellMoments(50_000, -1.2, 2.0), 0.5) == pytest.approx(
        1.2 * z
    )


def test_z_is_standard_normal_without_drift_and_four_times_as_large_a_shift_of_a_fifth_of_the_odds() -> None:
    rng, values = np.random.default_rng(2), cell_values(0.0, 1.0, CELLS, probability=True)

    def z_of(shift: float) -> list[float]:
        reference = moments(values, cells_of(1 / (1 + np.exp(-rng.normal(-2, 1, 50_000)))))
        now = (moments(values, cells_of(1 / (1 + np.exp(-rng.normal(-2 + shift, 1, 400))))) for _ in range(100))
        return [standardised_shift(each, reference, 1.0) for each in now]  # type: ignore[arg-type,misc]

    still = [z for _ in range(5) for z in z_of(0.0)]
    assert np.mean(still) == pytest.approx(0, abs=0.2)
    assert np.std(still) == pytest.approx(1, abs=0.1)
    assert np.mean(z_of(math.log(1.22))) == pytest.approx(0.2 * math.sqrt(400), abs=0.4)


def test_a_reference_whose_scores_are_all_alike_gives_no_z() -> None:
    assert standardised_shift(CellMoments(400, -1.0, 0.0), CellMoments(50_000, -1.2, 0.0), 1.0) is None


def test_an_approval_rate_is_tested_as_psi_is() -> None:
    found = approval_shift(300, 400, 40_000, 50_000, 1.3)
    assert (found.rate, found.reference_rate) == (0.75, 0.8)
    assert found.difference == pytest.approx(-0.05)
    assert found.p_value == float(pearson([300, 100], [40_000, 10_000], 1.3).p_value)


def test_approving_everybody_as_ever_is_no_evidence() -> None:
    assert approval_shift(400, 400, 50_000, 50_000, 1.0).p_value == 1.0
