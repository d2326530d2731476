"""UCI's Taiwan credit cards (I-Cheng Yeh, 2016; CC BY 4.0): six real months side by side, not in the repository.

Column n of PAY_n, BILL_AMTn and PAY_AMTn counts the months backwards: 6 is April 2005, 1 (PAY_0) is September. Month 6
is the reference, so the published series runs forward in time from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from monitoring_assets.stability.binning import NumericBins, numeric_bins
from monitoring_assets.stability.psi import FloatArray, IntArray, decompose, psi

FILE = Path(__file__).parents[3] / "shared" / "data" / "taiwan" / "UCI_Credit_Card.csv"
PAYMENTS_AGAINST_MONTH_6 = {6: 0.0, 5: 0.0012, 4: 0.0020, 3: 0.0231, 2: 0.1100, 1: 0.1327}
PAY_0_BY_VALUE, PAY_0_BY_DECILES = 0.926, 0.147


@pytest.fixture(scope="module")
def cards() -> pl.DataFrame:
    if not FILE.is_file():
        pytest.skip(f"the Taiwan data is not in the repository and not at {FILE}")
    return pl.read_csv(FILE, infer_schema_length=None)


def decile_counts(values: FloatArray, reference: FloatArray, side: str) -> IntArray:
    edges = np.unique(np.quantile(reference, np.arange(1, 10) / 10))
    return np.bincount(np.searchsorted(edges, values, side=side), minlength=len(edges) + 1)


def floats(cards: pl.DataFrame, name: str) -> FloatArray:
    return cards[name].cast(pl.Float64).to_numpy()


@pytest.mark.parametrize(("month", "published"), PAYMENTS_AGAINST_MONTH_6.items())
def test_payments_of_a_month_have_their_published_psi_against_month_6(
    cards: pl.DataFrame, plain_psi: Callable[[Sequence[int], Sequence[int]], float], month: int, published: float
) -> None:
    reference, current = floats(cards, "PAY_AMT6"), floats(cards, f"PAY_AMT{month}")
    # Zero is the lowest decile and a quarter of the rows: only bins closed on the left give the published digits.
    now, then = (decile_counts(values, reference, side="right") for values in (current, reference))
    assert float(psi(now, then).value) == pytest.approx(published, abs=5e-5)
    assert plain_psi(now, then) == pytest.approx(published, abs=5e-5)


def test_the_changed_coding_of_pay_0_shows_by_value(
    cards: pl.DataFrame, bin_positions: Callable[[NumericBins, FloatArray], IntArray]
) -> None:
    reference, current = floats(cards, "PAY_6"), floats(cards, "PAY_0")
    bins = numeric_bins(reference, len(reference), specials=())
    width = len(bins.labels())
    now, then = (np.bincount(bin_positions(bins, values), minlength=width) for values in (current, reference))
    assert float(psi(now, then).value) == pytest.approx(PAY_0_BY_VALUE, abs=1e-3)
    # The value 1 was not in use in month 6; it is nearly all of the shift.
    assert now[bins.kinds().index("unseen")] == (current == 1).sum() == 3_688
    parts = decompose(now, then, bins.kinds())
    assert parts.unseen > 0.85
    assert parts.within_valid < 0.1


def test_plain_deciles_hide_most_of_the_changed_coding_of_pay_0(cards: pl.DataFrame) -> None:
    reference, current = floats(cards, "PAY_6"), floats(cards, "PAY_0")
    now, then = (decile_counts(values, reference, side="left") for values in (current, reference))
    assert float(psi(now, then).value) == pytest.approx(PAY_0_BY_DECILES, abs=1e-3)
