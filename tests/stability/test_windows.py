from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq

from monitoring_assets.stability.psi import FloatArray, IntArray, psi
from monitoring_assets.stability.significance import alpha, pearson
from monitoring_assets.stability.windows import (
    BREACH,
    NOT_ELIGIBLE,
    OK,
    RECORDED_NET,
    SURVIVAL,
    WARN,
    Column,
    Thresholds,
    WindowVerdicts,
    judge,
    window_sums,
)

LENGTHS = (1, 2, 3, 5, 7, 14, 28)
THRESHOLDS = Thresholds(warn=0.10, critical=0.25)
LEVEL = 1e-4
EVEN = np.full(10, 0.1)
REFERENCE = np.full(10, 5_000)
ROWS = 165

property_test = settings(deadline=None, max_examples=100)
histories = st.tuples(st.integers(1, 40), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(0, 200))
)


def of_psi(target: float) -> FloatArray:
    """Shares of ten bins whose PSI against even shares is ``target``."""
    slope = np.linspace(-1, 1, 10)

    def at(strength: float) -> FloatArray:
        weights = np.exp(strength * slope)
        return weights / weights.sum()

    return at(brentq(lambda s: float(((at(s) - EVEN) * np.log(at(s) / EVEN)).sum()) - target, 0, 10))


def rounded(shares: FloatArray, rows: int) -> IntArray:
    """``rows`` rows in exactly these shares, as far as whole rows can be."""
    return np.rint(shares * rows).astype(np.int64)


def judged(
    counts: IntArray | list[IntArray], lengths: tuple[int, ...] = LENGTHS, dispersion: float = 1.0
) -> WindowVerdicts:
    """The last partition of a history, judged against the even reference."""
    history = np.asarray(counts)
    column = Column(history, REFERENCE, dispersion)
    return judge(column, np.array([len(history) - 1]), lengths, THRESHOLDS, LEVEL)


# Sums


@property_test
@given(histories, st.lists(st.integers(1, 45), min_size=1, max_size=5))
def test_a_window_holds_the_partitions_that_end_at_its_target(history: IntArray, lengths: list[int]) -> None:
    targets = np.arange(len(history))
    sums = window_sums(history, targets, lengths)
    assert sums.shape == (len(history), len(lengths), history.shape[1])
    for target in targets:
        for w, length in enumerate(lengths):
            assert sums[target, w].tolist() == history[max(0, target + 1 - length) : target + 1].sum(axis=0).tolist()


@property_test
@given(st.lists(st.lists(st.integers(0, 4), max_size=30), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_neither_the_order_of_the_rows_nor_their_split_into_partitions_changes_the_whole(
    partitions: list[list[int]], chance: Random
) -> None:
    rows = [row for partition in partitions for row in partition]
    chance.shuffle(rows)
    history = np.array([np.bincount(np.array(partition, dtype=int), minlength=5) for partition in partitions])
    whole = window_sums(history, np.array([len(partitions) - 1]), [len(partitions)])[0, 0]
    assert whole.tolist() == np.bincount(np.array(rows, dtype=int), minlength=5).tolist()


def test_targets_may_be_any_partitions_in_any_order() -> None:
    history = np.arange(1, 7)[:, None]
    assert window_sums(history, np.array([4, 0]), [1, 3])[..., 0].tolist() == [[5, 12], [1, 1]]


# The verdict of one window


@pytest.mark.parametrize(("shift", "level"), [(0.0, OK), (0.08, OK), (0.15, WARN), (0.35, BREACH)])
def test_a_shift_is_judged_by_its_net_psi(shift: float, level: int) -> None:
    verdict = judged([rounded(of_psi(shift), 2_000)], lengths=(1,))
    assert verdict.worst_level().tolist() == [level]
    assert verdict.net[0, 0] == pytest.approx(max(0, shift - 9 * (1 / 2_000 + 1 / 50_000)), abs=0.002)


def test_a_verdict_carries_the_numbers_it_was_made_from() -> None:
    counts = rounded(of_psi(0.3), 700)
    verdict, index = judged([counts], lengths=(1,)), psi(counts, REFERENCE)
    assert (verdict.value[0, 0], verdict.net[0, 0]) == (index.value, index.net)
    assert (verdict.rows[0, 0], verdict.bins[0, 0]) == (counts.sum(), 10)
    assert verdict.p_value[0, 0] == pearson(counts, REFERENCE).p_value
    assert np.isnan(verdict.net_without_worst[0, 0])


def test_effect_without_evidence_is_no_breach() -> None:
    verdict = judged([rounded(of_psi(0.25), 104)], lengths=(1,))
    assert verdict.net[0, 0] >= THRESHOLDS.warn
    assert verdict.p_value[0, 0] > LEVEL
    assert verdict.worst_level().tolist() == [OK]


def test_evidence_without_effect_is_no_breach() -> None:
    verdict = judged([rounded(of_psi(0.02), 100_000)], lengths=(1,))
    assert verdict.p_value[0, 0] < 1e-12
    assert verdict.worst_level().tolist() == [OK]


def test_a_reference_that_varies_from_day_to_day_asks_for_more_evidence() -> None:
    counts = [rounded(of_psi(0.3), 300)]
    assert judged(counts, lengths=(1,)).worst_level().tolist() == [BREACH]
    assert judged(counts, lengths=(1,), dispersion=4.0).worst_level().tolist() == [OK]


# Rows


@pytest.mark.parametrize(("rows", "level"), [(90, NOT_ELIGIBLE), (100, OK)])
def test_a_window_needs_ten_rows_for_every_bin(rows: int, level: int) -> None:
    assert judged([rounded(EVEN, rows)], lengths=(1,)).worst_level().tolist() == [level]


def test_bins_that_nobody_uses_ask_for_no_rows() -> None:
    counts = np.append(rounded(EVEN, 100), [0, 0])
    column = Column(counts[None, :], np.append(REFERENCE, [0, 0]))
    assert judge(column, np.array([0]), (1,), THRESHOLDS, LEVEL).worst_level().tolist() == [OK]


def test_insufficient_rows_stay_insufficient_in_every_window() -> None:
    verdict = judged([rounded(of_psi(1.0), 9)] * 8, lengths=(1, 2, 7))
    assert verdict.level.tolist() == [[NOT_ELIGIBLE] * 3]
    assert verdict.worst_level().tolist() == [NOT_ELIGIBLE]


def test_a_small_portfolio_is_judged_in_the_windows_that_have_rows_enough() -> None:
    verdict = judged([rounded(of_psi(0.6), 30)] * 28)
    assert verdict.level[0, :2].tolist() == [NOT_ELIGIBLE, NOT_ELIGIBLE]
    assert verdict.worst_level().tolist() == [BREACH]
    assert verdict.lengths[verdict.deciding()[0]] == 5


def test_an_empty_reference_gives_no_verdict() -> None:
    column = Column(np.array([rounded(EVEN, 1_000)]), np.zeros(10, dtype=int))
    assert judge(column, np.array([0]), LENGTHS, THRESHOLDS, LEVEL).level.tolist() == [[NOT_ELIGIBLE] * 7]


# Several windows


def test_the_shortest_window_at_the_highest_level_decides() -> None:
    clean, shifted = rounded(EVEN, 1_000), rounded(of_psi(0.4), 1_000)
    verdict = judged([clean] * 20 + [shifted] * 3)
    assert verdict.level[0].tolist() == [BREACH, BREACH, BREACH, WARN, OK, OK, OK]
    assert verdict.deciding().tolist() == [0]


def test_a_shift_of_half_the_window_is_diluted() -> None:
    clean, shifted = rounded(EVEN, 1_000), rounded(of_psi(0.4), 1_000)
    verdict = judged([clean, clean, shifted, shifted], lengths=(2, 4))
    assert verdict.net[0, 1] < 0.3 * verdict.net[0, 0]


def test_without_a_breach_the_shortest_eligible_window_decides() -> None:
    verdict = judged([rounded(EVEN, 60)] * 5, lengths=(1, 2, 3))
    assert verdict.level.tolist() == [[NOT_ELIGIBLE, OK, OK]]
    assert verdict.deciding().tolist() == [1]


def test_every_target_is_judged_by_its_own_past_alone() -> None:
    rng = np.random.default_rng(4)
    history = np.concatenate([rng.multinomial(ROWS, EVEN, size=20), rng.multinomial(ROWS, of_psi(0.5), size=10)])
    together = judge(Column(history, REFERENCE), np.arange(30), LENGTHS, THRESHOLDS, LEVEL)
    for target in range(30):
        alone = judged(history[: target + 1])
        assert alone.level[0].tolist() == together.level[target].tolist()
        assert alone.net_without_worst[0] == pytest.approx(together.net_without_worst[target], nan_ok=True)


# Missing partitions


def test_a_missing_partition_takes_nothing_away_from_a_window() -> None:
    shifted, missing = rounded(of_psi(0.5), 150), np.zeros(10, dtype=np.int64)
    whole = judged([shifted, shifted, shifted], lengths=(3,))
    with_gap = judged([shifted, shifted, missing, shifted], lengths=(4,))
    assert with_gap.level.tolist() == whole.level.tolist() == [[BREACH]]
    assert with_gap.net.tolist() == whole.net.tolist()


def test_a_missing_target_has_no_verdict_of_its_own_window() -> None:
    verdict = judged([rounded(of_psi(0.5), 500), np.zeros(10, dtype=np.int64)], lengths=(1, 2))
    assert verdict.level[0, 0] == NOT_ELIGIBLE
    assert (verdict.rows[0, 0], verdict.p_value[0, 0]) == (0, 1)
    assert np.isnan(verdict.value[0, 0])


def test_a_window_of_nothing_but_missing_partitions_has_no_verdict() -> None:
    verdict = judged(np.zeros((30, 10), dtype=np.int64))
    assert verdict.level.tolist() == [[NOT_ELIGIBLE] * 7]


def test_at_the_start_of_the_history_longer_windows_hold_what_there_is() -> None:
    verdict = judged([rounded(of_psi(0.5), 500)] * 2)
    assert verdict.rows[0].tolist() == [rounded(of_psi(0.5), 500).sum() * times for times in (1, 2, 2, 2, 2, 2, 2)]


# Glitches: a breach of several partitions must survive without the worst of them


def test_one_bad_partition_does_not_breach_the_window_around_it() -> None:
    clean, bad = rounded(EVEN, 1_000), rounded(of_psi(5.0), 1_000)
    verdict = judged([bad, clean, clean], lengths=(1, 2, 3))
    assert verdict.net[0, 2] >= THRESHOLDS.critical
    assert verdict.p_value[0, 2] < LEVEL
    assert verdict.net_without_worst[0, 2] < 0.01
    assert verdict.level.tolist() == [[OK, OK, OK]]


def test_a_single_partition_in_a_longer_window_is_judged_in_its_own() -> None:
    bad, missing = rounded(of_psi(0.5), 1_000), np.zeros(10, dtype=np.int64)
    verdict = judged([missing, missing, bad], lengths=(1, 3))
    assert verdict.level.tolist() == [[BREACH, OK]]


def test_the_worst_partition_is_the_one_whose_absence_leaves_least() -> None:
    history = [rounded(of_psi(shift), 1_000) for shift in (0.2, 0.9, 0.4)]
    verdict = judged(history, lengths=(3,))
    left = [psi(np.sum(history[:at] + history[at + 1 :], axis=0), REFERENCE).net for at in range(3)]
    assert verdict.net_without_worst[0, 0] == min(left) == left[1]


@pytest.mark.parametrize(("rest", "level"), [(0.19, WARN), (0.22, BREACH)])
def test_four_fifths_of_the_threshold_must_be_left_without_the_worst_partition(rest: float, level: int) -> None:
    assert SURVIVAL == 0.8
    verdict = judged([rounded(of_psi(shift), 5_000) for shift in (rest, 0.6)], lengths=(2,))
    assert verdict.net[0, 0] >= THRESHOLDS.critical
    assert verdict.level.tolist() == [[level]]


def test_what_is_left_without_the_worst_partition_is_there_for_lower_thresholds_too() -> None:
    history = np.array([rounded(of_psi(shift), 5_000) for shift in (0.03, 0.09, 0.05)])
    verdict = judged(history, lengths=(1, 3))
    assert verdict.level.tolist() == [[OK, OK]]
    assert verdict.net_without_worst[0, 1] == psi(history[0] + history[2], REFERENCE).net
    lower = judge(Column(history, REFERENCE), np.array([2]), (1, 3), Thresholds(0.02, 0.05), LEVEL)
    assert lower.net_without_worst[0, 1] == verdict.net_without_worst[0, 1]
    assert lower.level[0, 1] == WARN


def test_no_policy_can_breach_in_a_window_that_has_not_moved() -> None:
    rng, lowest = np.random.default_rng(12), Thresholds(RECORDED_NET, RECORDED_NET)
    shares = [of_psi(shift) for shift in rng.uniform(0, 0.2, 60)]
    column = Column(np.array([rng.multinomial(400, each) for each in shares]), REFERENCE)
    verdict = judge(column, np.arange(60), LENGTHS, lowest, LEVEL)
    assert 0 < verdict.moved().mean() < 1
    assert not (verdict.level > OK)[~verdict.moved()].any()
    assert np.isnan(verdict.net_without_worst).tolist() == (~verdict.moved() | (np.array(LENGTHS) == 1)).tolist()


def test_evidence_is_told_whatever_the_effect() -> None:
    verdict = judged([rounded(of_psi(0.02), 100_000)], lengths=(1,))
    assert (verdict.significant.tolist(), verdict.level.tolist()) == ([[True]], [[OK]])
    verdict = judged([rounded(of_psi(0.25), 104)], lengths=(1,))
    assert (verdict.significant.tolist(), verdict.level.tolist()) == ([[False]], [[OK]])


def with_nulls(rows: IntArray, nulls: int) -> IntArray:
    return np.append(rows, nulls)


def test_a_day_with_sixty_percent_nulls_breaches_on_its_day_and_lets_go_within_two() -> None:
    rng = np.random.default_rng(60)
    reference, bad_day, targets = np.append(REFERENCE, 0), 30, np.arange(30, 62)
    days_open = []
    for _ in range(200):
        history = np.array([with_nulls(day, 0) for day in rng.multinomial(ROWS, EVEN, size=62)])
        usual = judge(Column(history.copy(), reference), targets, LENGTHS, THRESHOLDS, alpha(100)).worst_level()
        nulls = int(rng.binomial(ROWS, 0.6))
        history[bad_day] = with_nulls(rng.multinomial(ROWS - nulls, EVEN), nulls)
        verdict = judge(Column(history, reference), targets, LENGTHS, THRESHOLDS, alpha(100))
        assert verdict.worst_level()[0] == BREACH
        assert verdict.lengths[verdict.deciding()[0]] == 1
        # Chance makes a day of its own breach once in a while; the glitch adds nothing to that.
        added = np.flatnonzero(verdict.worst_level() > usual)
        days_open.append(int(added.max()) + 1)
    assert max(days_open) <= 2
    assert np.mean(np.array(days_open) == 1) > 0.95


# The table of the conventions, 165 rows a day


def first_days(shift: float, rows: int, simulations: int) -> FloatArray:
    """The day of the first breach after the shift, 1 for the first, inf where there is none in four weeks."""
    rng = np.random.default_rng(int(shift * 1_000) + rows)
    found = np.full(simulations, np.inf)
    for at in range(simulations):
        clean, shifted = rng.multinomial(rows, EVEN, size=28), rng.multinomial(rows, of_psi(shift), size=28)
        column = Column(np.concatenate([clean, shifted]), rng.multinomial(50_000, EVEN))
        level = judge(column, np.arange(28, 56), LENGTHS, THRESHOLDS, alpha(100)).worst_level()
        breached = np.flatnonzero(level == BREACH)
        if breached.size:
            found[at] = breached[0] + 1
    return found


def test_a_psi_of_a_quarter_is_found_on_the_first_day_every_other_time() -> None:
    days = first_days(0.25, ROWS, 300)
    assert (days == 1).mean() == pytest.approx(0.53, abs=0.12)
    assert np.median(days) == 1
    assert np.quantile(days, 0.9) <= 5


def test_a_psi_of_four_tenths_is_found_on_the_first_day() -> None:
    assert (first_days(0.40, ROWS, 300) == 1).mean() >= 0.9


def test_fifty_rows_a_day_find_a_psi_of_a_quarter_within_days() -> None:
    assert np.median(first_days(0.25, 50, 200)) <= 5


def test_a_population_that_does_not_move_pages_nobody() -> None:
    rng = np.random.default_rng(1)
    columns, months, pages = 100, 20, 0
    for _ in range(columns * months):
        column = Column(rng.multinomial(ROWS, EVEN, size=58), rng.multinomial(50_000, EVEN))
        level = judge(column, np.arange(28, 58), LENGTHS, THRESHOLDS, alpha(columns)).worst_level()
        two_of_three = np.convolve(level >= WARN, [1, 1, 1]) >= 2
        pages += bool((level == BREACH).any() or two_of_three.any())
    # At the .0014 a model-month of the conventions, even one page in 20 months is a 3 % chance.
    assert pages <= 1
