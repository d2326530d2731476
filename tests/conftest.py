"""What several test directories share: the public car-loan data, and the definitions written down a second time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from monitoring_assets.demo.car_loan import CarLoan
    from monitoring_assets.stability.binning import NumericBins
    from monitoring_assets.stability.psi import FloatArray, IntArray

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def car_loan_data() -> CarLoan:
    """NannyML's car-loan files, from SCOREWATCH_DEMO_CACHE or the repository's own (git-ignored) cache."""
    from monitoring_assets.demo.car_loan import fetch
    from resources.errors import InfrastructureError

    given = os.environ.get("SCOREWATCH_DEMO_CACHE")
    try:
        return fetch(Path(given) if given else REPOSITORY / ".cache" / "car-loan")
    except InfrastructureError as error:
        pytest.skip(f"the car-loan data is not at hand: {error}")


@pytest.fixture(scope="session")
def plain_psi() -> Callable[[Sequence[int], Sequence[int]], float]:
    """The PSI of two lists of counts, in plain Python and term by term."""

    def shares(counts: list[int]) -> list[float]:
        floored = [max(count / sum(counts), 1e-4) for count in counts]
        return [share / sum(floored) for share in floored]

    def psi(current: Sequence[int], reference: Sequence[int]) -> float:
        used = [(int(a), int(e)) for a, e in zip(current, reference, strict=True) if a > 0 or e > 0]
        now, then = shares([a for a, _ in used]), shares([e for _, e in used])
        return sum((a - e) * math.log(a / e) for a, e in zip(now, then, strict=True))

    return psi


@pytest.fixture(scope="session")
def bin_positions() -> Callable[[NumericBins, FloatArray], IntArray]:
    """The bin that every value (nan is null) falls into, by the written definition of the bins."""

    def positions(bins: NumericBins, values: FloatArray) -> IntArray:
        kinds = bins.kinds()
        if bins.unseen:
            found = np.full(len(values), kinds.index("unseen"))
        else:
            found = len(bins.points) + np.searchsorted(np.asarray(bins.edges), values, side="left")
        for at, point in enumerate(bins.points):
            found[values == point] = at
        for at, special in enumerate(bins.specials, start=kinds.count("valid")):
            found[values == special] = at
        found[np.isnan(values)] = kinds.index("null")
        return found

    return positions
