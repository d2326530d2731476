from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets.stability.binning import (
    CategoricalBins,
    NumericBins,
    numeric_bins,
    psi_groups,
    tail_limits,
)
from monitoring_assets.stability.psi import FloatArray, IntArray, merge_bins, psi

Positions = Callable[[NumericBins, FloatArray], IntArray]
property_test = settings(deadline=None, max_examples=150)

values_with_ties = st.lists(
    st.one_of(
        st.sampled_from([0.0, -1.0, 1e6]),
        st.integers(-40, 40).map(float),
        st.floats(allow_nan=False, allow_infinity=True),
    ),
    max_size=300,
)


def counted(positions: Positions, bins: NumericBins, values: FloatArray) -> IntArray:
    return np.bincount(positions(bins, values), minlength=len(bins.labels()))


# Numeric columns


def test_up_to_twenty_values_have_a_bin_each_and_one_for_unseen_values() -> None:
    values = np.repeat(np.arange(20.0), 5)
    bins = numeric_bins(values, 100, specials=[-999.0])
    assert bins == NumericBins(tuple(range(20)), (), (-999.0,), unseen=True)
    assert bins.labels() == (*map(str, range(20)), "-999", "unseen", "null")
    assert bins.kinds() == ("valid",) * 20 + ("special", "unseen", "null")


def test_from_twenty_one_values_on_there_are_deciles_and_nothing_is_unseen() -> None:
    bins = numeric_bins(np.repeat(np.arange(1.0, 22.0), 10), 210, specials=[])
    assert bins.points == ()
    assert bins.edges == (3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0)
    assert bins.labels()[:2] == ("≤ 3", "(3, 5]")
    assert bins.labels()[-2:] == ("> 19", "null")
    assert bins.kinds() == ("valid",) * 10 + ("null",)


def test_ranges_are_closed_on_the_right_and_open_at_the_ends(bin_positions: Positions) -> None:
    bins = NumericBins((), (10.0, 20.0), (), unseen=False)
    values = np.array([-np.inf, 10.0, np.nextafter(10.0, 11.0), 20.0, np.nextafter(20.0, 21.0), np.inf, np.nan])
    assert bins.labels() == ("≤ 10", "(10, 20]", "> 20", "null")
    assert bin_positions(bins, values).tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_a_value_with_five_percent_of_the_rows_has_a_bin_of_its_own() -> None:
    spread = np.arange(1.0, 901.0)
    values = np.concatenate([spread, np.zeros(50), np.full(49, -1.0)])
    bins = numeric_bins(values, 1_000, specials=[])
    assert bins.points == (0.0,)
    assert len(bins.edges) == 9


def test_five_percent_is_of_all_rows_with_nulls_among_them() -> None:
    values = np.concatenate([np.arange(1.0, 101.0), np.zeros(50)])
    assert numeric_bins(values, 1_000, specials=[]).points == (0.0,)
    assert numeric_bins(values, 1_001, specials=[]).points == ()


def test_deciles_are_of_the_rows_that_no_own_value_took() -> None:
    values = np.concatenate([np.arange(1.0, 101.0), np.zeros(900)])
    bins = numeric_bins(values, 1_000, specials=[])
    assert bins.points == (0.0,)
    assert bins.edges == tuple(np.arange(10.0, 100.0, 10.0))


def test_sixty_percent_zeros_that_turn_into_minus_one_are_seen(bin_positions: Positions) -> None:
    rng = np.random.default_rng(7)
    before = np.where(rng.random(20_000) < 0.6, 0.0, rng.lognormal(8, 1, 20_000))
    after = np.where(before == 0, -1.0, before)
    deciles = np.unique(np.quantile(before, np.arange(1, 10) / 10))
    plain = [np.bincount(np.searchsorted(deciles, values), minlength=len(deciles) + 1) for values in (after, before)]
    assert psi(*plain).value == 0
    bins = numeric_bins(before, len(before), specials=[])
    own = [counted(bin_positions, bins, values) for values in (after, before)]
    assert psi(*own).value > 5


def test_a_cap_too_rare_for_a_bin_of_its_own_leaves_no_range_empty(bin_positions: Positions) -> None:
    values = np.concatenate([np.zeros(900), np.arange(1.0, 61.0), np.full(40, 99.0)])
    bins = numeric_bins(values, 1_000, specials=[])
    assert bins.points == (0.0,)
    assert max(bins.edges) < 99.0
    assert (counted(bin_positions, bins, values)[:-1] > 0).all()


def test_infinities_are_no_edges_and_fall_into_the_open_ends(bin_positions: Positions) -> None:
    values = np.concatenate([np.zeros(900), np.arange(1.0, 41.0), np.full(30, -np.inf), np.full(30, np.inf)])
    bins = numeric_bins(values, 1_000, specials=[])
    assert np.isfinite(bins.edges).all()
    ranges = counted(bin_positions, bins, values)[1:-1]
    assert ranges[0] >= 30
    assert ranges[-1] >= 30


def test_a_constant_column_is_one_value_and_everything_else_is_unseen() -> None:
    bins = numeric_bins(np.full(100, 3.5), 100, specials=[])
    assert bins.labels() == ("3.5", "unseen", "null")


def test_a_column_of_nulls_has_bins_too() -> None:
    bins = numeric_bins(np.empty(0), 100, specials=[-1.0])
    assert bins.labels() == ("-1", "unseen", "null")
    assert bins.kinds() == ("special", "unseen", "null")


def test_special_values_are_in_ascending_order() -> None:
    assert numeric_bins(np.arange(50.0), 50, specials=[9e9, -1.0]).specials == (-1.0, 9e9)


@property_test
@given(values_with_ties)
def test_edges_are_finite_values_of_the_reference_and_no_range_is_empty(
    bin_positions: Positions, drawn: list[float]
) -> None:
    values = np.array(drawn, dtype=float)
    bins = numeric_bins(values, len(values), specials=[])
    assert list(bins.edges) == sorted(set(bins.edges))
    assert np.isfinite(bins.edges).all()
    assert set(bins.edges) <= set(drawn)
    valid = np.array(bins.kinds()) == "valid"
    assert (counted(bin_positions, bins, values)[valid] > 0).all()


@property_test
@given(values_with_ties)
def test_every_finite_value_of_the_reference_is_in_one_valid_bin(bin_positions: Positions, drawn: list[float]) -> None:
    values = np.array(drawn, dtype=float)
    bins = numeric_bins(values, len(values), specials=[])
    values = values[np.isfinite(values)]
    assert len(bins.labels()) == len(bins.kinds())
    in_bins = counted(bin_positions, bins, values)
    assert in_bins[np.array(bins.kinds()) == "valid"].sum() == len(values)


@property_test
@given(values_with_ties, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(drawn: list[float], chance: Random) -> None:
    shuffled = list(drawn)
    chance.shuffle(shuffled)
    sorted_bins, shuffled_bins = (
        numeric_bins(np.array(rows, dtype=float), len(rows), specials=[]) for rows in (sorted(drawn), shuffled)
    )
    assert sorted_bins == shuffled_bins


# Categories


def test_categories_keep_their_order_before_special_unseen_and_null() -> None:
    bins = CategoricalBins(("urban", "rural"), ("n/a",))
    assert bins.labels() == ("urban", "rural", "n/a", "unseen", "null")
    assert bins.kinds() == ("valid", "valid", "special", "unseen", "null")


def test_categories_below_one_percent_are_one_group() -> None:
    counts = np.array([600, 9, 380, 5, 6, 0, 0])
    kinds = ("valid",) * 5 + ("unseen", "null")
    groups = psi_groups(counts, kinds, pool=True)
    assert groups.tolist() == [0, 4, 1, 4, 4, 2, 3]
    assert merge_bins(counts, groups).tolist() == [600, 380, 0, 0, 20]


def test_exactly_one_percent_is_not_pooled() -> None:
    assert psi_groups(np.array([970, 10, 10, 10]), ("valid",) * 4, pool=True).tolist() == [0, 1, 2, 3]


def test_a_single_rare_category_is_left_alone() -> None:
    assert psi_groups(np.array([600, 5, 395]), ("valid",) * 3, pool=True).tolist() == [0, 1, 2]


def test_null_special_and_unseen_are_never_pooled() -> None:
    kinds = ("valid", "valid", "valid", "special", "unseen", "null")
    groups = psi_groups(np.array([990, 5, 5, 0, 0, 0]), kinds, pool=True)
    assert groups.tolist() == [0, 4, 4, 1, 2, 3]


def test_numeric_bins_are_not_pooled() -> None:
    kinds = ("valid", "valid", "valid", "null")
    assert psi_groups(np.array([998, 1, 1, 0]), kinds, pool=False).tolist() == [0, 1, 2, 3]


def test_nothing_is_pooled_without_rows() -> None:
    assert psi_groups(np.zeros(3, dtype=int), ("valid", "valid", "null"), pool=True).tolist() == [0, 1, 2]


@property_test
@given(st.lists(st.tuples(st.integers(0, 500), st.sampled_from(["valid", "special", "unseen", "null"])), min_size=1))
def test_groups_partition_the_bins(drawn: list[tuple[int, str]]) -> None:
    counts, kinds = np.array([count for count, _ in drawn]), tuple(kind for _, kind in drawn)
    groups = psi_groups(counts, kinds, pool=True)
    assert groups.shape == counts.shape
    assert set(groups.tolist()) == set(range(int(groups.max()) + 1))
    assert merge_bins(counts, groups).sum() == counts.sum()
    shared = [group for group in set(groups.tolist()) if (groups == group).sum() > 1]
    assert len(shared) <= 1
    for group in shared:
        members = groups == group
        assert {kinds[at] for at in np.flatnonzero(members)} == {"valid"}
        assert (counts[members] < 0.01 * counts.sum()).all()


def test_pooling_makes_false_shifts_of_fifty_categories_rare() -> None:
    rng = np.random.default_rng(50)
    shares = 1 / np.arange(1, 51)
    shares /= shares.sum()
    reference = np.append(rng.multinomial(50_000, shares), [0, 0])
    samples = np.hstack([rng.multinomial(500, shares, size=4_000), np.zeros((4_000, 2), dtype=int)])
    groups = psi_groups(reference, ("valid",) * 50 + ("unseen", "null"), pool=True)
    alone = psi(samples, reference)
    pooled = psi(merge_bins(samples, groups), merge_bins(reference, groups))
    assert (alone.net > 0.1).mean() > 0.01
    assert (pooled.net > 0.1).mean() <= 0.003
    assert (alone.value > 0.1).mean() > 0.5
    assert (pooled.value > 0.1).mean() < 0.02


# Tails


def test_tails_are_the_extremes_and_the_outer_thousandths() -> None:
    assert tail_limits(np.arange(10_000.0)) == (0.0, 9.0, 9_989.0, 9_999.0)


def test_infinities_are_no_limit_of_the_tails() -> None:
    assert tail_limits(np.array([-np.inf, 1.0, 2.0, np.inf, np.nan])) == (1.0, 1.0, 2.0, 2.0)


@pytest.mark.parametrize("values", [[], [np.inf], [np.nan, -np.inf]])
def test_a_column_without_finite_values_has_no_tails(values: list[float]) -> None:
    assert tail_limits(np.array(values, dtype=float)) is None
