"""`scorewatch status` as people call it, over what a registration, a look at the registry and a backfill leave."""

from __future__ import annotations

import json
from typing import Any

from monitoring_assets.onboarding import utc_now
from monitoring_assets.refresh import Refresher

LAST = "2025-03-05"


def test_the_fleet_is_shown_as_far_as_it_was_looked_at_and_judged(machine: Any) -> None:
    code, out, err = machine.run("status")
    assert (code, err) == (0, "")
    assert "scorewatch up" in out
    Refresher(machine.settings(), utc_now).look()
    code, _, err = machine.backfill("small").finish()
    assert code == 0, err
    contents = machine.contents()

    code, out, err = machine.run("status", "--json")

    assert (code, err) == (0, "")
    found = {each["model"]: each for each in json.loads(out)}
    assert {model: each["state"] for model, each in found.items() if model != "small"} == {
        "other": "onboarding",
        "remote": "onboarding",
    }
    small = found["small"]
    assert (small["partition"], small["live"], small["overdue"]) == (LAST, False, True)
    assert (small["state"], small["worst"]["status"]) == ("breach", "breach")
    assert small["worst"]["column"] in ("income", "score")
    code, out, err = machine.run("status", "small")
    assert (code, err) == (0, "")
    assert f"{LAST} (history)" in out
    assert f"{small['worst']['net_psi']:.3f}" in out
    assert machine.contents() == contents
    code, out, err = machine.run("status", "nobody")
    assert (code, out) == (2, "")
    assert "other, remote, small" in err
