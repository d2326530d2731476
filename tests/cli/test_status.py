"""What `scorewatch status` prints; what it knows is tested in tests/test_status.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from monitoring_assets.cli import cli
from monitoring_assets.quarantine import Quarantined, keep_back
from monitoring_assets.refresh import Refresher
from monitoring_assets.results import Metric, write_result
from monitoring_assets.results import Result as CheckResult
from resources.errors import BadInput

NOW = datetime(2026, 1, 20, 5, tzinfo=UTC)
DAY = "2026-01-19"
KEYS = {
    *("model", "version", "state", "partition", "live", "ended_at", "age_s", "overdue", "worst", "kind", "reason"),
    "problem",
}

Status = Callable[..., Result]


@pytest.fixture
def status(lender: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Status:
    """``status(*arguments, **environ)`` runs the verb on the lender's store, at five o'clock."""
    lender.now = NOW
    monkeypatch.setattr("monitoring_assets.onboarding.utc_now", lender.clock)
    environ = {
        "SCOREWATCH_HOME": f"{tmp_path}/home",
        "SCOREWATCH_STORE": lender.settings.store_uri,
        "SCOREWATCH_REGISTRY": lender.settings.registry_uri,
        "SCOREWATCH_ALLOWED_SOURCES": lender.lake_uri,
        "COLUMNS": "100",
    }

    def status(*arguments: str, **more: str) -> Result:
        return CliRunner().invoke(cli, ["status", *arguments], env=environ | more)

    return status


@pytest.fixture
def fleet(lender: Any) -> Any:
    """Versions in most states there are; the one that is ok has a bad update."""

    def deploy(model: str, version: str, **changes: Any) -> None:
        document = lender.manifest(precomputed=True, model=model, version=version, **changes)
        lender.deploy_manifest(yaml.safe_dump(document).encode(), model, version)

    for model, version in (("a-fine", "1"), ("b-moved", "1"), ("b-moved", "2"), ("c-spoilt", "1"), ("d-new", "1")):
        deploy(model, version)
    deploy("b-moved", "3", status="retired")
    refresher = Refresher(lender.settings, lender.clock)
    found = {(each.model, each.version): each for each in refresher.look().fleet.registered}
    write(lender, "a-fine", "psi", "ok", shift("income", "ok", 0.01))
    write(lender, "b-moved", "psi", "breach", shift("[red]incöme\x1b[31m", "breach", 0.31), reason="1 of 1 columns")
    write(lender, "c-spoilt", "quality", "breach", reason="12 duplicate keys")
    write(lender, "c-spoilt", "psi", "insufficient_data", reason="features is blocked")
    reason = "the [bold]artefact[/bold]\x1b]0;owned\x07 is missing\nregister it"
    files = found["b-moved", "2"].files
    broken = Quarantined(model="b-moved", version="2", stage="onboarding", of=files, reason=reason)
    keep_back(lender.store, broken, lender.clock)
    lender.deploy_manifest(b"tier: high", "a-fine", "1")
    refresher.look()
    return lender


def shift(column: str, status: Any, net: float) -> Metric:
    return Metric(metric="psi", column=column, status=status, value=net, net_value=net, threshold=0.1, window=1)


def write(lender: Any, model: str, kind: Any, status: Any, *metrics: Metric, reason: str = "") -> None:
    """A live result of the model's first version."""
    result = CheckResult(
        model=model,
        version="1",
        partition=DAY,
        kind=kind,
        asset="psi" if kind == "psi" else "features",
        status=status,
        reason=reason,
        recorded_at=NOW,
        trigger="arrival",
        live=True,
        metrics=metrics,
    )
    write_result(lender.store, result, DAY)


def test_where_nothing_is_registered_it_says_how_to_register(status: Status, lender: Any, tmp_path: Path) -> None:
    found = status()
    assert (found.exit_code, found.stderr) == (0, "")
    assert lender.settings.registry_uri in found.stdout
    assert "scorewatch register" in found.stdout
    assert list(tmp_path.iterdir()) == [], "it writes nothing"


def test_where_nobody_looked_at_the_registry_it_says_what_does(status: Status, lender: Any) -> None:
    lender.deploy_manifest(yaml.safe_dump(lender.manifest()).encode())
    found = status()
    assert (found.exit_code, found.stderr) == (0, "")
    assert "scorewatch up" in found.stdout
    found = status("--json")
    assert (found.exit_code, json.loads(found.stdout)) == (0, [])
    assert "scorewatch up" in found.stderr
    assert lender.listed() == []


def test_a_model_that_is_not_there_is_an_error_also_where_there_is_none(status: Status, lender: Any) -> None:
    found = status("ke-absent")
    assert isinstance(found.exception, BadInput)
    assert "No version of ke-absent is known. No version is registered in" in str(found.exception)
    lender.deploy_manifest(yaml.safe_dump(lender.manifest()).encode())
    assert "start `scorewatch up`" in str(status("ke-absent", "--json").exception)


def test_a_registry_that_seems_to_be_empty_is_told_beside_the_table(status: Status, lender: Any) -> None:
    lender.deploy_manifest(yaml.safe_dump(lender.manifest()).encode())
    refresher = Refresher(lender.settings, lender.clock)
    refresher.look()
    lender.registry.delete("ke-nano-loan/1.0.0/model.yaml")
    refresher.look()
    found = status()
    assert found.exit_code == 0
    assert "1 of 1 active versions are gone" in found.stderr
    assert "ke-nano-loan 1.0.0" in found.stdout


@pytest.mark.usefixtures("fleet")
def test_the_table_has_a_line_a_version_the_gravest_first_and_then_the_reasons(status: Status) -> None:
    found = status()
    assert (found.exit_code, found.stderr) == (0, "")
    title, *lines = found.stdout.splitlines()
    assert title.strip() == "6 versions: 1 quarantined, 2 breach, 1 onboarding, 1 ok, 1 retired"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows == [
        ["b-moved 2", "quarantined", "", "", "", ""],
        ["b-moved 1", "breach", DAY, "[red]incöme�[31m", "0.310", "5 h"],
        ["c-spoilt 1", "breach", DAY, "", "", "5 h"],
        ["d-new 1", "onboarding", "", "", "", ""],
        ["a-fine 1", "ok", DAY, "income", "0.010", "5 h"],
        ["b-moved 3", "retired", "", "", "", ""],
    ]
    explained = found.stdout.partition("┘\n")[2]
    assert explained.startswith(
        "b-moved 2: quarantined: the [bold]artefact[/bold]�]0;owned� is missing\n  register it\n"
        "c-spoilt 1: breach: 12 duplicate keys\n"
        "a-fine 1: its newest manifest is not used: "
    )
    assert "a-fine/1/model.yaml: " in explained
    assert "b-moved 1" not in explained, "its row says it all"
    assert "\x1b" not in found.stdout


@pytest.mark.usefixtures("fleet")
def test_json_is_one_list_with_the_same_keys_for_every_version_and_whole_reasons(status: Status) -> None:
    found = status("--json")
    assert (found.exit_code, found.stderr) == (0, "")
    versions = json.loads(found.stdout)
    assert [set(each) for each in versions] == [KEYS] * 6
    assert [(each["model"], each["version"], each["state"]) for each in versions] == [
        ("b-moved", "2", "quarantined"),
        ("b-moved", "1", "breach"),
        ("c-spoilt", "1", "breach"),
        ("d-new", "1", "onboarding"),
        ("a-fine", "1", "ok"),
        ("b-moved", "3", "retired"),
    ]
    kept_back, moved, *_ = versions
    assert kept_back["reason"] == "the [bold]artefact[/bold]\x1b]0;owned\x07 is missing\nregister it"
    assert (moved["kind"], moved["live"], moved["overdue"]) == ("psi", True, False)
    assert (moved["ended_at"], moved["age_s"]) == ("2026-01-20T00:00:00Z", 5 * 3600)
    assert moved["worst"] == {
        "column": "[red]incöme\x1b[31m",
        "kind": "psi",
        "status": "breach",
        "psi": 0.31,
        "net_psi": 0.31,
        "threshold": 0.1,
        "window": 1,
    }


@pytest.mark.usefixtures("fleet")
def test_a_model_narrows_it_to_its_versions(status: Status) -> None:
    assert [each["version"] for each in json.loads(status("b-moved", "--json").stdout)] == ["2", "1", "3"]
    assert "1 version: 1 ok" in status("a-fine").stdout
    unknown = status("c-absent")
    assert isinstance(unknown.exception, BadInput)
    assert "c-absent" in str(unknown.exception)
    assert "a-fine, b-moved, c-spoilt, d-new" in str(unknown.exception)


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(("terminal", "shown"), [("1", True), ("", False)])
def test_what_takes_long_shows_its_progress_on_a_terminal_and_keeps_standard_output_clean(
    status: Status, monkeypatch: pytest.MonkeyPatch, terminal: str, shown: bool
) -> None:
    quick = status("--json", TTY_COMPATIBLE=terminal, TERM="xterm")
    monkeypatch.setattr("monitoring_assets.cli.output.QUIET_S", 0.0)
    slow = status("--json", TTY_COMPATIBLE=terminal, TERM="xterm")
    assert quick.stderr == ""
    assert ("reading results" in slow.stderr) is shown
    assert len(json.loads(slow.stdout)) == len(json.loads(quick.stdout)) == 6


@pytest.mark.usefixtures("fleet")
def test_a_partition_that_was_never_live_is_marked(status: Status, fleet: Any) -> None:
    key = f"results/a-fine/1/{DAY}/psi/0001.json"
    data = json.loads(fleet.store.get(key).data) | {"live": False, "trigger": "backfill"}
    fleet.store.put(key, json.dumps(data).encode())
    assert f"{DAY} (history)" in status("a-fine", COLUMNS="200").stdout


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (timedelta(0), "0 min"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=1), "1 h"),
        (timedelta(hours=47, minutes=59), "47 h"),
        (timedelta(days=2), "2 d"),
        (timedelta(days=2500), "2500 d"),
    ],
)
def test_an_age_is_said_in_the_unit_that_fits(age: timedelta, said: str) -> None:
    from monitoring_assets.cli.status import _age

    assert _age(int(age.total_seconds())) == said
