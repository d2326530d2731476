from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from monitoring_assets.partitions import Frequency, PartitionCalendar
from monitoring_assets.stability.psi import BoolArray, FloatArray, IntArray, psi
from monitoring_assets.stability.seasons import SeasonVerdicts, judge_seasons
from monitoring_assets.stability.significance import alpha, pearson
from monitoring_assets.stability.windows import BREACH, OK, WARN, Column, Thresholds, WindowVerdicts, judge

WINDOWS = (1, 2, 3, 5, 7, 14, 28)
SHORT = (1, 2, 3, 5)
THRESHOLDS = Thresholds(warn=0.10, critical=0.25)
LEVEL = alpha(100)
START = date(2026, 1, 1)
EVEN = np.full(10, 0.1)
REFERENCE = np.full(10, 5_000)


def tilted(strength: float) -> FloatArray:
    """Even shares of ten bins, tilted: PSI .30 against them at .92, .60 at 1.26."""
    weights = np.exp(strength * np.linspace(-1, 1, 10))
    return np.asarray(weights / weights.sum())


def usual(_: date) -> FloatArray:
    return EVEN


PAYDAY, WEEKEND, SHIFT = tilted(0.92), tilted(1.26), tilted(1.15)


def earlier_of(every: Frequency, start: date, partitions: int) -> IntArray:
    """Positions of the earlier cycles of the first partitions of a calendar."""
    calendar = PartitionCalendar(every, "UTC", start)
    begin, _ = calendar.window(calendar.first_key)
    step = timedelta(hours=1) if every == "hour" else timedelta(days=1)
    keys = [calendar.key_of(begin + step * number) for number in range(partitions)]
    position = {key: number for number, key in enumerate(keys)}
    found = np.full((partitions, 11), -1, dtype=np.int64)
    for number, key in enumerate(keys):
        cycles = [position[each] for each in calendar.earlier_cycles(key)]
        found[number, : len(cycles)] = cycles
    return found


def seasons(counts: IntArray, targets: Sequence[int], asked: BoolArray | None = None, **changes: Any) -> SeasonVerdicts:
    """All short windows of these days (the first is START), or those asked for."""
    wanted = np.ones((len(targets), len(SHORT)), dtype=bool) if asked is None else asked
    column = Column(counts, REFERENCE, changes.pop("dispersion", 1.0))
    earlier = earlier_of("day", START, len(counts))
    return judge_seasons(column, np.asarray(targets), SHORT, wanted, earlier, 28, THRESHOLDS, LEVEL, **changes)


def days(count: int, rows: int, shares: Callable[[date], FloatArray], seed: int = 1) -> IntArray:
    rng = np.random.default_rng(seed)
    return np.array([rng.multinomial(rows, shares(START + timedelta(days=day))) for day in range(count)])


def position(day: date) -> int:
    return (day - START).days


# The baseline


def plain_earlier(day: date) -> set[date]:
    weeks = {day - timedelta(weeks=back) for back in range(1, 9)}
    months = set()
    for back in range(1, 4):
        year, month = (day.year, day.month - back) if day.month > back else (day.year - 1, day.month - back + 12)
        months.add(date(year, month, min(day.day, monthrange(year, month)[1])))
    return {each for each in weeks | months if each >= START}


@pytest.mark.parametrize("length", SHORT)
def test_a_window_is_compared_with_the_sum_of_its_earlier_cycles_each_of_them_once(
    length: int, plain_psi: Callable[[Sequence[int], Sequence[int]], float]
) -> None:
    counts = days(200, 1_000, usual, seed=length)
    target = 199
    window = [START + timedelta(days=target - back) for back in range(length)]
    pooled = set().union(*map(plain_earlier, window))
    baseline = sum(counts[position(day)] for day in pooled)
    current = counts[target + 1 - length : target + 1].sum(axis=0)
    net = max(0.0, plain_psi(current, baseline) - 9 * (1 / current.sum() + 1 / baseline.sum()))
    found = seasons(counts, [target], dispersion=1.5)
    assert found.net[0, SHORT.index(length)] == pytest.approx(net)
    assert not found.significant[0, SHORT.index(length)]


def test_an_earlier_cycle_of_two_days_of_a_window_counts_once() -> None:
    # The 26th of April less five weeks is the 22nd of March, and so is the 22nd of April less a month.
    assert plain_earlier(date(2026, 4, 26)) & plain_earlier(date(2026, 4, 22)) == {date(2026, 3, 22)}
    counts = np.zeros((position(date(2026, 4, 26)) + 1, 10), dtype=np.int64)
    for day in (date(2026, 4, 26), date(2026, 4, 22), date(2026, 3, 22)):
        counts[position(day)] = np.arange(50, 150, 10)
    baseline, current = np.arange(50, 150, 10), 2 * np.arange(50, 150, 10)
    found = seasons(counts, [len(counts) - 1])
    assert found.net[0, 3] == psi(current, baseline).net
    counts[position(date(2026, 3, 22))] *= 9
    assert seasons(counts, [len(counts) - 1]).net[0, 3] == psi(current, 9 * baseline).net


def test_evidence_is_pearson_s_at_the_column_s_level_and_dispersion() -> None:
    counts = days(15, 2_000, lambda day: tilted(0.35) if day == START + timedelta(days=14) else EVEN)
    p_value = float(pearson(counts[14], counts[0] + counts[7]).p_value)
    assert p_value < LEVEL
    assert seasons(counts, [14]).significant[0, 0]
    assert float(pearson(counts[14], counts[0] + counts[7], 4.0).p_value) > LEVEL
    assert not seasons(counts, [14], dispersion=4.0).significant[0, 0]


def test_a_target_is_judged_by_its_own_past_alone() -> None:
    counts = days(120, 500, lambda day: SHIFT if day.day in (14, 15, 16) or day >= date(2026, 4, 10) else EVEN)
    together = seasons(counts, range(30, 120))
    assert (~np.isnan(together.net)).any(axis=0).all()
    for target in range(30, 120):
        alone = seasons(counts[: target + 1], [target])
        assert np.array_equal(alone.net[0], together.net[target - 30], equal_nan=True)
        assert alone.significant[0].tolist() == together.significant[target - 30].tolist()


def test_only_the_windows_that_were_asked_for_are_judged() -> None:
    asked = np.zeros((2, 4), dtype=bool)
    asked[1, 2] = True
    found = seasons(days(40, 500, usual), [38, 39], asked)
    assert np.argwhere(~np.isnan(found.net)).tolist() == [[1, 2]]


def test_hours_are_compared_with_the_same_hours() -> None:
    hours, start = 24 * 40, date(2026, 1, 5)
    rng = np.random.default_rng(5)
    night = np.arange(hours) % 24 < 6
    counts = np.array([rng.multinomial(2_000, SHIFT if dark else EVEN) for dark in night])
    column, lengths, targets = Column(counts, REFERENCE), (1, 24), np.arange(hours - 24, hours)
    official = judge(column, targets, lengths, THRESHOLDS, LEVEL)
    found = judge_seasons(
        column,
        targets,
        lengths,
        np.ones((24, 2), dtype=bool),
        earlier_of("hour", start, hours),
        168,
        THRESHOLDS,
        LEVEL,
    )
    assert (official.level[:, 0] == BREACH).tolist() == night[:24].tolist()
    assert (found.net < 0.02).all()
    assert not found.significant.any()


# Where the rule is off


def test_without_a_week_behind_it_a_day_has_no_season() -> None:
    found = seasons(days(12, 500, usual), range(12))
    assert np.isnan(found.net[:7]).all()
    assert not found.significant[:7].any()
    assert not np.isnan(found.net[7:, 0]).any()
    assert np.isnan(found.net[:, 3]).tolist() == [True] * 11 + [False], "five days need the week before each of them"


def test_every_day_of_a_window_that_has_rows_needs_an_earlier_cycle_with_rows() -> None:
    counts = days(12, 500, usual)
    counts[3] = 0
    found = seasons(counts, [10, 11])
    assert np.isnan(found.net[0]).all(), "the tenth day has none"
    assert np.isnan(found.net[1]).tolist() == [False, True, True, True]
    counts[10] = 0
    assert np.isnan(seasons(counts, [11]).net[0]).tolist() == [False] * 4, "a day without rows needs none"


def test_a_baseline_of_a_few_rows_is_none() -> None:
    counts = days(8, 500, usual)
    counts[0] = 9
    assert np.isnan(seasons(counts, [7]).net[0, 0])
    counts[0] = 10
    assert not np.isnan(seasons(counts, [7]).net[0, 0])


# The unbroken run of breached partitions


def baseline_net(counts: IntArray, target: int, cycles: Sequence[int]) -> float:
    return float(psi(counts[target], counts[list(cycles)].sum(axis=0)).net)


@pytest.mark.parametrize("gap", [[], [85, 86], [68]], ids=["every day", "days without data", "a day of the baseline"])
def test_a_shift_that_lasts_is_not_measured_against_itself(gap: list[int]) -> None:
    counts = days(90, 2_000, lambda day: SHIFT if position(day) >= 70 else EVEN)
    counts[gap] = 0
    found = seasons(counts, [89])
    # 82 and 75 lie in the run of 70 to 89; 58 and 30 are the last of February and the 31st of January.
    assert found.net[0, 0] == pytest.approx(baseline_net(counts, 89, [30, 33, 40, 47, 54, 58, 61, 68]))
    assert found.significant[0].all()
    assert (found.net[0] >= THRESHOLDS.critical).all()


def test_a_day_that_is_ok_ends_the_run_and_a_glitch_before_it_stays_in_the_baseline() -> None:
    counts = days(90, 2_000, lambda day: SHIFT if position(day) == 82 or position(day) >= 88 else EVEN)
    found = seasons(counts, [89])
    assert found.net[0, 0] == pytest.approx(baseline_net(counts, 89, [30, 33, 40, 47, 54, 58, 61, 68, 75, 82]))


def test_a_window_that_is_ok_leaves_nothing_out() -> None:
    counts = days(90, 2_000, lambda day: SHIFT if 70 <= position(day) < 89 else EVEN)
    found = seasons(counts, [89])
    assert found.net[0, 0] == pytest.approx(baseline_net(counts, 89, [30, 33, 40, 47, 54, 58, 61, 68, 75, 82]))


@pytest.mark.parametrize(("lasts", "off"), [(27, False), (28, True)])
def test_a_shift_that_fills_the_longest_window_has_no_season(lasts: int, off: bool) -> None:
    counts = days(120, 2_000, lambda day: SHIFT if position(day) >= 120 - lasts else EVEN)
    assert np.isnan(seasons(counts, [119]).net[0, 0]) == off


# What it is for


def both(counts: IntArray, targets: IntArray, reference: IntArray = REFERENCE) -> tuple[WindowVerdicts, IntArray]:
    """The official verdicts, and what is left of their levels where the season must breach too [T, W]."""
    column = Column(counts, reference)
    official = judge(column, targets, WINDOWS, THRESHOLDS, LEVEL)
    earlier = earlier_of("day", START, len(counts))
    asked = official.moved()[:, : len(SHORT)]
    season = judge_seasons(column, targets, SHORT, asked, earlier, max(WINDOWS), THRESHOLDS, LEVEL)
    level = np.where(season.significant & (season.net >= THRESHOLDS.warn), WARN, OK)
    level = np.where(season.significant & (season.net >= THRESHOLDS.critical), BREACH, level)
    left = official.level.copy()
    short = left[:, : len(SHORT)]
    short[:] = np.where(np.isnan(season.net), short, np.minimum(short, level))
    return official, left


def paged(level: IntArray) -> BoolArray:
    """Days on which a policy pages: critical at once, warn on two of three."""
    worst = level.max(axis=1)
    return np.asarray((worst == BREACH) | (np.convolve(worst >= WARN, [1, 1, 1])[: len(worst)] >= 2))


def test_the_monthly_payday_of_ten_thousand_rows_a_day_pages_nobody() -> None:
    counts = days(300, 10_000, lambda day: PAYDAY if day.day == 25 else EVEN)
    reference = days(90, 550, lambda day: PAYDAY if day.day == 25 else EVEN, seed=9).sum(axis=0)
    targets = np.arange(60, 300)
    official, left = both(counts, targets, reference)
    paydays = [(START + timedelta(days=int(target))).day == 25 for target in targets]
    assert paged(official.level).tolist() == paydays, "one false page a month without it"
    assert sum(paydays) == 8
    assert official.net[:, WINDOWS.index(7)].max() < 0.07
    assert not paged(left).any()


def test_weekends_of_other_customers_page_nobody() -> None:
    counts = days(250, 10_000, lambda day: WEEKEND if day.weekday() >= 5 else EVEN)
    reference = days(91, 550, lambda day: WEEKEND if day.weekday() >= 5 else EVEN, seed=9).sum(axis=0)
    targets = np.arange(60, 250)
    official, left = both(counts, targets, reference)
    assert paged(official.level).sum() > 50
    assert not paged(left).any()


@pytest.mark.parametrize("rows", [165, 10_000])
def test_a_real_shift_that_lasts_breaches_in_both_verdicts_from_its_first_days_on(rows: int) -> None:
    first, simulations = 150, 40
    found = []
    for seed in range(simulations):
        counts = days(190, rows, lambda day: SHIFT if position(day) >= first else EVEN, seed=seed)
        _, left = both(counts, np.arange(first, 190))
        found.append(left.max(axis=1) == BREACH)
    assert np.mean([each[0] for each in found]) >= 0.9
    assert all(each[:3].any() for each in found)
    assert np.mean(found) > 0.99, "and it goes on for as long as the shift does"


def test_a_real_shift_on_top_of_seasons_is_found() -> None:
    def shares(day: date) -> FloatArray:
        now = WEEKEND if day.weekday() >= 5 else EVEN
        shifted = now * np.exp(1.3 * np.linspace(-1, 1, 10))
        return np.asarray(shifted / shifted.sum()) if position(day) >= 150 else now

    counts = days(160, 10_000, shares)
    _, left = both(counts, np.arange(150, 160))
    assert (left.max(axis=1)[:3] == BREACH).any()
