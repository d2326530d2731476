"""`scorewatch policy backtest`: what would have paged, when and why, by the present policy and by another one."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets import layout
from monitoring_assets.past.compaction import compact

JANUARY = [
    *("ok", "ok", "ok", "ok", "ok"),
    # The 6th pages; the second clear day in a row is the 8th.
    *("breach", "ok", "ok"),
    *("ok", "ok", "ok", "ok"),
    # The 13th alone does not page, the 15th does; the 16th neither raises nor clears, so the 18th is the second.
    *("warn", "ok", "warn", "hold", "ok", "ok"),
    *("ok", "ok", "ok", "ok", "ok", "ok"),
    # Still open at the end.
    *("breach", "breach", "breach", "breach", "breach", "breach"),
]
PAGES = [
    ("2026-01-06", "critical", "2026-01-08", "critical at once"),
    ("2026-01-15", "warning", "2026-01-18", "second breach of the last three partitions"),
    ("2026-01-25", "critical", None, "critical at once"),
]
MONTH = 365.25 / 12


@pytest.fixture
def january(desk: Any) -> Any:
    """Thirty days of one model, none of them live; half of them compacted, as after a publisher."""
    desk.register(tier=2)
    for number, state in enumerate(JANUARY, start=1):
        desk.day(number, state, live=False, trigger="backfill", column="[red]incöme\x1b[31m")
        if number == 15:
            desk.run("publish", "--once")
            compact(desk.lender.store, desk.lender.clock)
    return desk


def replays(desk: Any, *arguments: str) -> dict[str, Any]:
    said = desk.run("policy", "backtest", "--json", *arguments)
    assert (said.exit_code, said.stderr) == (0, "")
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def days(replay: dict[str, Any]) -> list[str]:
    return [each["paged"] for each in replay["pages"]]


def tried(desk: Any, text: str) -> str:
    path = desk.lender.folder.parent / "tried.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_json_has_the_pages_of_the_month_that_were_reckoned_by_hand(january: Any) -> None:
    assert january.lender.listed(layout.HISTORY)
    assert january.lender.listed(layout.PENDING)
    found = replays(january)
    assert set(found) == {"present"}
    present = found["present"]
    assert [(each["paged"], each["page"], each["closed"]) for each in present["pages"]] == [each[:3] for each in PAGES]
    for page, (_, _, _, rule) in zip(present["pages"], PAGES, strict=True):
        assert (page["model"], page["version"], page["kind"]) == ("ke-nano-loan", "1", "drift")
        assert page["why"].startswith("1 of 1 columns at or above ")
        assert page["why"].endswith(rule)
    assert present["episodes"] == 3
    assert present["model_months"] == pytest.approx(30 / MONTH)
    assert present["pages_per_model_month"] == pytest.approx(3 / (30 / MONTH))


def test_the_table_has_a_line_a_page_and_then_the_reasons(january: Any) -> None:
    said = january.run("policy", "backtest")
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.startswith("the present policy: 3 pages in 1.0 model-months, 3.04 a model-month")
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in said.stdout.splitlines()
        if line.startswith("│")
    ]
    assert rows == [[day, "ke-nano-loan 1", "drift", grave, closed or "open"] for day, grave, closed, _ in PAGES]
    assert (
        "2026-01-06 ke-nano-loan 1: 1 of 1 columns at or above 0.25, worst [red]incöme�[31m 1.82; critical at once\n"
    ) in said.stdout
    assert "\x1b" not in said.stdout


def test_another_policy_is_told_beside_the_present_one_with_what_differs(january: Any) -> None:
    path = tried(january, "policy: {csi: {warn: 0.2, critical: 0.5}}")
    found = replays(january, "--policy", path)
    assert days(found["present"]) == ["2026-01-06", "2026-01-15", "2026-01-25"]
    assert days(found["tried"]) == ["2026-01-06", "2026-01-25"]
    said = january.run("policy", "backtest", "--policy", path).stdout
    assert "the tried policy: 2 pages in" in said
    assert said.endswith(
        "pages of the tried policy alone: 0; of the present one alone: 1\n- 2026-01-15 ke-nano-loan 1, drift\n"
    )


def test_a_stricter_policy_has_pages_of_its_own(january: Any) -> None:
    path = tried(january, "policy: {warnings: 1, cooldown: 0, calm: 1}")
    found = replays(january, "--policy", path)
    # The episode of the 13th closes on the 14th.
    assert days(found["tried"]) == ["2026-01-06", "2026-01-13", "2026-01-15", "2026-01-25"]
    assert "policy alone: 1; of the present one alone: 0\n+ 2026-01-13" in (
        january.run("policy", "backtest", "--policy", path).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "pages", "length"),
    [
        (("--since", "2026-01-10", "--until", "2026-01-20"), ["2026-01-15"], 10),
        (("--since", "2026-01-14"), ["2026-01-25"], 17),
        (("--until", "2026-01-06"), [], 5),
        (("--until", "2026-01-07"), ["2026-01-06"], 6),
        (("--since", "2026-01-27"), ["2026-01-27"], 4),
    ],
)
def test_a_period_is_replayed_as_if_there_was_nothing_before(
    january: Any, arguments: tuple[str, ...], pages: list[str], length: int
) -> None:
    present = replays(january, *arguments)["present"]
    assert days(present) == pages
    assert present["model_months"] == pytest.approx(length / MONTH)


def test_without_an_end_it_ends_with_yesterday(january: Any) -> None:
    january.lender.now -= timedelta(days=7)
    assert days(replays(january)["present"]) == ["2026-01-06", "2026-01-15"], "it is the 25th"


def test_of_a_period_without_results_it_says_that_nothing_was_monitored(january: Any) -> None:
    present = replays(january, "--since", "2025-01-01", "--until", "2025-02-01")["present"]
    assert present == {"storms": {}, "pages": [], "episodes": 0, "model_months": 0.0, "pages_per_model_month": None}
    said = january.run("policy", "backtest", "--since", "2025-01-01", "--until", "2025-02-01")
    assert (said.exit_code, said.stdout) == (0, "the present policy: 0 pages in 0.0 model-months\n")


def test_it_sends_and_changes_nothing(january: Any) -> None:
    before = {key: january.lender.store.get(key).data for key in january.lender.listed()}
    replays(january)
    assert {key: january.lender.store.get(key).data for key in january.lender.listed()} == before


def test_a_model_narrows_it_and_a_retired_version_is_left_out(january: Any) -> None:
    january.register("b-loan", tier=3)
    january.register("c-retired", status="retired")
    for model in ("b-loan", "c-retired", "d-unknown"):
        january.day(20, "breach", model=model)
    assert [each["model"] for each in replays(january, "b-loan")["present"]["pages"]] == ["b-loan"]
    assert {each["model"] for each in replays(january)["present"]["pages"]} == {"ke-nano-loan", "b-loan"}
    said = january.run("policy", "backtest", "c-retired")
    assert said.exit_code == 2
    assert "has no active version of c-retired. Models that have one: b-loan, ke-nano-loan." in said.stderr


def test_a_fleet_that_nobody_has_looked_at_is_looked_up(january: Any) -> None:
    for key in january.lender.listed(layout.FLEET):
        january.lender.store.delete(key)
    assert days(replays(january)["present"]) == ["2026-01-06", "2026-01-15", "2026-01-25"]


def test_where_nothing_is_registered_it_says_so(desk: Any) -> None:
    said = desk.run("policy", "backtest")
    assert (said.exit_code, said.stdout) == (2, "")
    assert f"{desk.lender.settings.registry_uri} has no active version. Models that have one: none." in said.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("ke-nano-laon",), "no active version of ke-nano-laon. Models that have one: ke-nano-loan."),
        (("--since", "2026-01-10", "--until", "2026-01-10"), "--since 2026-01-10 is not before --until 2026-01-10"),
        (("--since", "2030-01-01"), "--since 2030-01-01 is not before --until 2026-02-01"),
        (("--since", "yesterday"), "'yesterday' does not match the format"),
        (("--policy", "absent.yaml"), "'absent.yaml' does not exist"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(january: Any, arguments: tuple[str, ...], problem: str) -> None:
    said = january.run("policy", "backtest", *arguments)
    assert (said.exit_code, said.stdout) == (2, "")
    assert problem in " ".join(said.stderr.split())


def test_a_bad_file_is_named_with_its_key(january: Any) -> None:
    path = tried(january, "policy: {csi: {warn: 0.5, critical: 0.2}}")
    said = january.run("policy", "backtest", "--policy", path)
    assert (said.exit_code, said.stdout) == (2, "")
    assert f"{path}: policy.csi" in said.stderr


def test_a_broken_fleet_yaml_is_an_error_here(january: Any, tmp_path: Path) -> None:
    january.lender.store.put(layout.FLEET_DEFAULTS, b"policy: {among: many}")
    said = january.run("policy", "backtest")
    assert (said.exit_code, said.stdout) == (2, "")
    assert f"file://{tmp_path}/store/fleet.yaml: policy.among: " in said.stderr
