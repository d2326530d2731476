from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets.stability.psi import SHARE_FLOOR, contributions, decompose, merge_bins, psi, sampling_part

Counts = list[int]
PlainPsi = Callable[[Sequence[int], Sequence[int]], float]
KINDS = ("valid", "null", "special", "unseen")

property_test = settings(deadline=None, max_examples=150)


@st.composite
def two_samples(draw: st.DrawFn, bins: tuple[int, int] = (1, 25)) -> tuple[Counts, Counts]:
    """Current and reference counts of the same bins, at least a row on either side."""
    size = draw(st.integers(*bins))
    count = st.one_of(st.just(0), st.integers(0, 30), st.integers(0, 100_000))
    current, reference = (draw(st.lists(count, min_size=size, max_size=size)) for _ in range(2))
    for sample in (current, reference):
        if sum(sample) == 0:
            sample[draw(st.integers(0, size - 1))] = draw(st.integers(1, 1000))
    return current, reference


# Properties


@property_test
@given(two_samples())
def test_psi_is_never_negative_and_net_psi_never_above_it(samples: tuple[Counts, Counts]) -> None:
    result = psi(*samples)
    assert result.value >= 0
    assert 0 <= result.net <= result.value


@property_test
@given(two_samples())
def test_psi_is_symmetric(samples: tuple[Counts, Counts]) -> None:
    current, reference = samples
    there, back = psi(current, reference), psi(reference, current)
    assert float(there.value) == pytest.approx(float(back.value), rel=1e-12, abs=1e-12)
    assert float(there.net) == pytest.approx(float(back.net), rel=1e-12, abs=1e-12)


@property_test
@given(two_samples(), st.randoms(use_true_random=False))
def test_the_order_of_the_bins_does_not_matter(samples: tuple[Counts, Counts], chance: Random) -> None:
    pairs = list(zip(*samples, strict=True))
    chance.shuffle(pairs)
    shuffled = psi([a for a, _ in pairs], [e for _, e in pairs])
    assert float(shuffled.value) == pytest.approx(float(psi(*samples).value), rel=1e-12, abs=1e-12)


@property_test
@given(two_samples(), st.integers(0, 25))
def test_a_bin_that_is_empty_on_both_sides_changes_nothing(samples: tuple[Counts, Counts], at: int) -> None:
    wider = [[*sample[:at], 0, *sample[at:]] for sample in samples]
    plain, with_empty = psi(*samples), psi(*wider)
    assert float(with_empty.value) == pytest.approx(float(plain.value), rel=1e-12, abs=1e-12)
    assert float(with_empty.net) == pytest.approx(float(plain.net), rel=1e-12, abs=1e-12)
    assert with_empty.bins == plain.bins


@property_test
@given(two_samples())
def test_a_sample_has_no_psi_against_itself_nor_against_a_multiple_of_itself(samples: tuple[Counts, Counts]) -> None:
    current, _ = samples
    assert psi(current, current).value == 0
    assert float(psi(current, [3 * count for count in current]).value) == pytest.approx(0, abs=1e-12)


@property_test
@given(two_samples())
def test_an_independent_psi_agrees(plain_psi: PlainPsi, samples: tuple[Counts, Counts]) -> None:
    assert float(psi(*samples).value) == pytest.approx(plain_psi(*samples), rel=1e-12, abs=1e-12)


@property_test
@given(two_samples())
def test_the_contributions_of_the_bins_add_up_to_the_psi(samples: tuple[Counts, Counts]) -> None:
    parts = contributions(*samples)
    assert (parts >= 0).all()
    assert float(parts.sum()) == pytest.approx(float(psi(*samples).value), rel=1e-12, abs=1e-12)


@property_test
@given(two_samples(bins=(3, 12)), st.data())
def test_merging_bins_never_raises_the_psi_of_full_bins(samples: tuple[Counts, Counts], data: st.DataObject) -> None:
    # Only where no share is at the floor: the floor gives rows to bins that have none.
    current, reference = (np.array(sample) + 1_000 for sample in samples)
    groups = np.array([data.draw(st.integers(0, 2)) for _ in current])
    groups[:3] = [0, 1, 2]
    merged = psi(merge_bins(current, groups), merge_bins(reference, groups))
    assert merged.value <= psi(current, reference).value + 1e-12


@property_test
@given(two_samples(bins=(1, 12)), st.data())
def test_the_split_by_kind_adds_up_to_the_psi(samples: tuple[Counts, Counts], data: st.DataObject) -> None:
    current, reference = (np.array(sample) for sample in samples)
    kinds = tuple(data.draw(st.sampled_from(KINDS)) for _ in current)
    parts = decompose(current, reference, kinds)
    assert min(parts.valid, parts.null, parts.special, parts.unseen, parts.within_valid) >= 0
    total = parts.valid + parts.null + parts.special + parts.unseen
    assert total == pytest.approx(float(psi(current, reference).value), rel=1e-12, abs=1e-12)


# Values worked out by hand


def test_two_even_bins_that_become_three_to_one() -> None:
    result = psi([75, 25], [500, 500])
    expected = 0.25 * math.log(1.5) - 0.25 * math.log(0.5)
    assert float(result.value) == pytest.approx(expected, abs=1e-15)
    assert float(result.net) == pytest.approx(expected - (1 / 100 + 1 / 1000), abs=1e-15)
    assert (result.bins, result.rows) == (2, 100)


def test_a_value_the_reference_never_had_counts_from_the_floor() -> None:
    assert SHARE_FLOOR == 1e-4
    a = [0.45, 0.45, 0.10]
    e = [0.5 / 1.0001, 0.5 / 1.0001, 1e-4 / 1.0001]
    expected = sum((now - then) * math.log(now / then) for now, then in zip(a, e, strict=True))
    result = psi([450, 450, 100], [2_000, 2_000, 0])
    assert float(result.value) == pytest.approx(expected, abs=1e-15)
    assert result.bins == 3


def test_the_sampling_part_is_what_two_samples_of_one_population_differ_by_on_average() -> None:
    rng = np.random.default_rng(5)
    bins = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    references, samples = rng.multinomial(5_000, bins, size=3_000), rng.multinomial(1_000, bins, size=3_000)
    values = [float(psi(now, then).value) for now, then in zip(samples, references, strict=True)]
    assert np.mean(values) == pytest.approx(float(sampling_part(8, 1_000, 5_000)), rel=0.05)
    assert float(sampling_part(8, 1_000, 5_000)) == pytest.approx(7 * (1 / 1_000 + 1 / 5_000))


def test_every_sample_may_have_a_reference_of_its_own() -> None:
    current, reference = np.array([[30, 70], [5, 0], [10, 10]]), np.array([[50, 50], [0, 400], [0, 0]])
    together = psi(current, reference)
    alone = [psi(now, then) for now, then in zip(current, reference, strict=True)]
    for name in ("value", "net", "bins", "rows"):
        assert np.array_equal(getattr(together, name), [getattr(each, name) for each in alone], equal_nan=True), name
    assert np.isnan(together.value).tolist() == [False, False, True]


def test_many_samples_at_once_are_judged_as_one_by_one() -> None:
    rng = np.random.default_rng(3)
    samples = rng.multinomial(40, [0.5, 0.3, 0.15, 0.04, 0.01, 0.0], size=(5, 7))
    reference = np.array([500, 300, 0, 40, 10, 0])
    together = psi(samples, reference)
    assert together.value.shape == together.net.shape == together.bins.shape == together.rows.shape == (5, 7)
    for index in np.ndindex(5, 7):
        alone = psi(samples[index], reference)
        for name in ("value", "net", "bins", "rows"):
            assert getattr(together, name)[index] == getattr(alone, name), name


@pytest.mark.parametrize(("current", "reference"), [([0, 0], [5, 5]), ([5, 5], [0, 0]), ([0, 0], [0, 0])])
def test_without_rows_on_either_side_there_is_no_psi(current: Counts, reference: Counts) -> None:
    result = psi(current, reference)
    assert math.isnan(result.value)
    assert math.isnan(result.net)


def test_one_empty_sample_does_not_spoil_the_others() -> None:
    result = psi([[0, 0], [75, 25]], [500, 500])
    assert math.isnan(result.value[0])
    assert result.value[1] == psi([75, 25], [500, 500]).value


# The split and the merge


def test_a_null_jump_is_in_the_null_part_and_not_in_the_shift_within_the_valid_values() -> None:
    kinds = ("valid", "valid", "special", "unseen", "null")
    parts = decompose(np.array([200, 200, 0, 0, 600]), np.array([4_900, 4_900, 0, 0, 200]), kinds)
    assert parts.null > 1
    assert parts.within_valid == 0
    assert (parts.special, parts.unseen) == (0, 0)


def test_a_shift_among_the_valid_values_alone_is_the_same_within_them() -> None:
    parts = decompose(np.array([80, 20, 0]), np.array([50, 50, 0]), ("valid", "valid", "null"))
    assert parts.within_valid == pytest.approx(parts.valid)
    assert parts.within_valid == pytest.approx(0.3 * math.log(4), rel=1e-12)


def test_without_valid_rows_the_shift_within_them_is_zero() -> None:
    assert decompose(np.array([0, 10]), np.array([5, 5]), ("valid", "null")).within_valid == 0


def test_merging_adds_up_the_bins_of_each_group() -> None:
    counts = np.array([[1, 2, 3, 4], [10, 20, 30, 40]])
    assert merge_bins(counts, np.array([0, 2, 1, 2])).tolist() == [[1, 3, 6], [10, 30, 60]]


@property_test
@given(two_samples(bins=(1, 12)), st.data())
def test_merging_loses_no_row(samples: tuple[Counts, Counts], data: st.DataObject) -> None:
    counts = np.array(samples)
    groups = np.array([data.draw(st.integers(0, 5)) for _ in range(counts.shape[1])])
    merged = merge_bins(counts, groups)
    assert merged.sum(axis=1).tolist() == counts.sum(axis=1).tolist()
    assert all((merged[:, group] == counts[:, groups == group].sum(axis=1)).all() for group in range(merged.shape[1]))
