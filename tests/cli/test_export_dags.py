"""`scorewatch export-dags`."""

from __future__ import annotations

import json
from typing import Any

SLUG = "a_loan__1"


def test_it_says_which_dags_there_are_now_and_what_did_not_change(desk: Any) -> None:
    desk.register("a-loan", "b-loan")
    said = desk.run("export-dags")
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.splitlines() == ["2 new, 0 changed, 0 gone, 0 as before", f"new: {SLUG}", "new: b_loan__1"]
    assert desk.run("export-dags").stdout == "0 new, 0 changed, 0 gone, 2 as before\n"
    found = json.loads(desk.run("export-dags", "--json").stdout)
    assert (found["unchanged"], found["refused"], len(found["set"])) == (2, {}, 64)


def test_the_other_orchestrator_takes_over_only_when_it_is_told_to(desk: Any) -> None:
    desk.register("a-loan")
    assert desk.run("export-dags").exit_code == 0
    said = desk.run("export-dags", SCOREWATCH_ORCHESTRATOR="airflow")
    assert (said.exit_code, said.stdout) == (2, "")
    assert "dagster schedules the versions in" in said.stderr
    said = desk.run("export-dags", "--take-over", SCOREWATCH_ORCHESTRATOR="airflow")
    assert (said.exit_code, said.stdout.splitlines()[1]) == (0, f"changed: {SLUG}")
