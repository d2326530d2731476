"""Episodes: what opens, raises and closes them, partition after partition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring_assets.alerting.episodes import GRAVE, NONE, TICKET, WARNING, Memory, Rules, Seen, follow
from monitoring_assets.alerting.levels import CLEAR, CRITICAL, HOLD, SILENT, WARN

LETTERS = {".": CLEAR, "-": HOLD, "w": WARN, "C": CRITICAL, " ": SILENT}
SHOWN = "_tWC"


USUAL = Rules()


def course(levels: str, rules: Rules = USUAL) -> str:
    """The severity after each partition."""
    memory, found = Memory(), ""
    for letter in levels:
        memory, _ = follow(rules, memory, [Seen(LETTERS[letter])])
        found += SHOWN[memory.severity]
    return found


@pytest.mark.parametrize(
    ("levels", "severities"),
    [
        ("....C...", "____CC__"),
        ("..w.....", "________"),
        ("..ww....", "___WW___"),
        ("..w.w...", "____WW__"),
        ("..w..w..", "________"),
        ("..w w...", "____WW__"),
        ("..w-w-..", "____WWW_"),
        ("..w-w--..", "____WWWW_"),
        ("..wwC...", "___WCC__"),
        ("..C-----", "__CCCCCC"),
        ("..C.w...", "__CCCC__"),
        ("..C. . .", "__CCC___"),
        ("..C    .", "__CCCCCC"),
        ("..C..wwC", "__CC___C"),
        ("..C..www", "__CC____"),
        ("..C..wwww", "__CC____W"),
        ("..CwCwCw", "__CCCCCC"),
    ],
)
def test_a_course_of_levels_has_one_course_of_severities(levels: str, severities: str) -> None:
    assert course(levels) == severities


def test_a_change_says_by_which_rule() -> None:
    _, changes = follow(Rules(), Memory(), [Seen(level) for level in (CLEAR, WARN, HOLD, WARN, CRITICAL, CLEAR, CLEAR)])
    assert [(each.position, each.before, each.after, each.rule) for each in changes] == [
        (3, NONE, WARNING, "second breach of the last three partitions"),
        (4, WARNING, GRAVE, "critical at once"),
        (6, GRAVE, NONE, "clear for 2 partitions"),
    ]


def test_rules_of_facts_open_and_close_at_once() -> None:
    assert course(".w.w.C.", Rules(warnings=1, among=1, calm=1, cooldown=0)) == "_W_W_C_"


LEVELS = st.text(alphabet="".join(LETTERS), max_size=60)


@given(LEVELS, st.integers(0, 60))
def test_going_on_from_a_memory_is_the_same_as_going_on_without_a_stop(levels: str, cut: int) -> None:
    seen = [Seen(LETTERS[letter]) for letter in levels]
    memory, changes = follow(Rules(week=7), Memory(), seen)
    first, before = follow(Rules(week=7), Memory(), seen[:cut])
    second, after = follow(Rules(week=7), first, seen[cut:])
    assert second == memory
    found = [(each.position, each.after) for each in before] + [(each.position + cut, each.after) for each in after]
    assert found == [(each.position, each.after) for each in changes] or cut > len(levels)


@given(LEVELS)
def test_partitions_that_say_nothing_change_nothing(levels: str) -> None:
    said = course(levels)
    assert course(levels.replace(" ", "")) == "".join(
        severity for severity, level in zip(said, levels, strict=True) if level != " "
    )


@given(LEVELS)
def test_a_warning_needs_two_breaches_and_nothing_opens_without_one(levels: str) -> None:
    severities = course(levels)
    for position in range(len(levels)):
        opened = severities[position] != "_" and (position == 0 or severities[position - 1] == "_")
        if opened:
            window = levels[: position + 1].replace(" ", "")[-3:]
            assert window[-1] == "C" or (window[-1] == "w" and sum(each in "wC" for each in window) >= 2)


def z_course(shifts: list[float], weekly: list[float] | None = None) -> list[int]:
    memory, found = Memory(), []
    for number, shift in enumerate(shifts):
        seen = Seen(CLEAR, shift, weekly[number] if weekly else math.nan)
        memory, _ = follow(Rules(week=7), memory, [seen])
        found.append(memory.severity)
    return found


def test_a_small_shift_that_lasts_becomes_a_ticket_and_never_more() -> None:
    # Odds × 1.26 are .23 on the log-odds scale; at 165 rows and a standard deviation of 1 that is a z of 2.97.
    severities = z_course(np.random.default_rng(1).normal(2.97, 1, 30).tolist())
    assert severities.index(TICKET) + 1 <= 5
    assert set(severities[5:]) == {TICKET}
    assert set(z_course([-each for each in [2.97] * 10])) == {NONE, TICKET}


def test_without_a_shift_a_ticket_takes_years() -> None:
    draws, runs = np.random.default_rng(2), []
    for _ in range(40):
        memory, length = Memory(), 0
        while not memory.sustained and length < 40_000:
            memory, _ = follow(Rules(week=7), memory, [Seen(CLEAR, float(draws.normal()))])
            length += 1
        runs.append(length)
    assert 5_000 < sum(runs) / len(runs) < 16_000


def test_the_ticket_closes_when_the_shift_is_over() -> None:
    severities = z_course([3.0] * 20 + [0.0] * 20)
    assert severities[19] == TICKET
    assert severities[-1] == NONE
    assert sorted(set(severities[19:]), reverse=True) == [TICKET, NONE]
    assert severities[19:].index(NONE) < 10


def test_four_disjoint_weeks_of_a_small_psi_are_a_ticket() -> None:
    quiet, small = [0.0] * 60, [0.01] * 20 + [0.06] * 40
    severities = z_course(quiet, small)
    assert severities.index(TICKET) == 20 + 21
    assert z_course(quiet, [0.049] * 60) == [NONE] * 60
    gap = [0.06] * 14 + [0.04] * 7 + [0.06] * 21
    assert z_course(quiet, gap + [0.0] * 18) == [NONE] * 60


def test_a_sustained_shift_neither_raises_nor_keeps_open_what_pages() -> None:
    memory = Memory()
    for level in (CLEAR, CRITICAL, CLEAR, CLEAR):
        memory, changes = follow(Rules(week=7), memory, [Seen(level, 20.0)])
    assert [(each.before, each.after) for each in changes] == [(GRAVE, TICKET)]
