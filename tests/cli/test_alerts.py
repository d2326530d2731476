"""`scorewatch alerts`: what is open, why and since when, and what PagerDuty was or would have been told."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from monitoring_assets.alerting.silences import Silence, put_silence
from tests.cli.conftest import MODEL

NASTY = "[red]incöme\x1b[31m"
STANDING = {"severity", "opened", "at", "through", "since", "why"}
EPISODE_KEYS = STANDING | {"model", "version", "about", "key", "told", "refused", "trying"}


def test_in_an_empty_store_nothing_is_open_and_nothing_is_written(desk: Any) -> None:
    said = desk.run("alerts")
    assert (said.exit_code, said.stdout, said.stderr) == (0, "No episode is open.\n", "")
    said = desk.run("alerts", "--json")
    assert (said.exit_code, said.stderr) == (0, "")
    assert json.loads(said.stdout) == {"episodes": [], "storms": [], "silences": [], "outbox": [], "dead_letters": []}
    assert desk.lender.listed() == []


def test_the_table_has_a_line_an_episode_the_gravest_first_and_then_the_reasons(desk: Any) -> None:
    desk.register("a-warned", "b-broken")
    for day in (1, 2):
        desk.day(day, "warn", model="a-warned")
    desk.day(2, "breach", model="b-broken", column=NASTY)
    desk.run("publish", "--once")
    desk.lender.now += timedelta(hours=3, minutes=5)
    said = desk.run("alerts")
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.startswith("open episodes: 2")
    lines = said.stdout.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows[:2] == [
        ["critical", "b-broken 1", "drift", "3 h 05 min", "2026-01-02", "critical"],
        ["warning", "a-warned 1", "drift", "3 h 05 min", "2026-01-02", "warning"],
    ]
    assert (
        "b-broken 1, drift: 1 of 1 columns at or above 0.25, worst [red]incöme�[31m 1.82; critical at once\n"
        "a-warned 1, drift: 1 of 1 columns at or above 0.1, worst income 0.15; second breach of the last three "
        "partitions\n"
    ) in said.stdout
    assert "\x1b" not in said.stdout
    desk.lender.now += timedelta(days=2)
    assert " 2 d " in desk.run("alerts").stdout


def test_without_a_key_the_outbox_is_shown_the_newest_event_first(desk: Any) -> None:
    desk.register()
    desk.day(1, "breach", column=NASTY)
    desk.run("publish", "--once")
    desk.lender.now += timedelta(days=1)
    for day in (2, 3):
        desk.day(day, "ok")
    desk.run("publish", "--once")
    said = desk.run("alerts")
    assert said.stdout.startswith("No episode is open.\noutbox: what PagerDuty would have been told")
    resolve, trigger = (line for line in said.stdout.splitlines() if line.startswith("│ 2026-02-"))
    assert "2026-02-02 06:00:00" in resolve
    assert "resolve" in resolve
    assert "trigger critical" in trigger
    assert "worst [red]incöme�[31m 1.82" in trigger
    assert "\x1b" not in said.stdout
    events = json.loads(desk.run("alerts", "--json").stdout)["outbox"]
    assert [each["action"] for each in events] == ["resolve", "trigger"]
    assert len({each["dedup_key"] for each in events}) == 1
    assert events[1]["details"]["worst columns"][NASTY]["net psi"] == 1.82


def test_with_a_key_there_is_no_outbox(desk: Any) -> None:
    desk.register()
    desk.day(1, "breach")
    desk.run("publish", "--once")
    said = desk.run("alerts", SCOREWATCH_PAGERDUTY_ROUTING_KEY="0" * 32)
    assert "open episodes: 1" in said.stdout
    assert "outbox" not in said.stdout
    assert "0" * 32 not in said.stdout + said.stderr


def test_a_challengers_episode_is_open_and_nobody_was_told(desk: Any) -> None:
    desk.register(role="challenger")
    desk.day(1, "breach")
    desk.run("publish", "--once")
    found = json.loads(desk.run("alerts", "--json").stdout)
    [episode] = found["episodes"]
    assert set(episode) == EPISODE_KEYS
    assert (episode["about"], episode["severity"], episode["told"]) == ("drift", "critical", None)
    assert found["outbox"] == []
    assert "nobody" in desk.run("alerts").stdout


def test_a_model_narrows_it_to_what_is_about_it(desk: Any) -> None:
    desk.register("a-loan", "a-loan-two", "c-fine")
    for model in ("a-loan", "a-loan-two"):
        desk.day(1, "breach", model=model)
    desk.run("publish", "--once")
    for model in ("a-loan", "a-loan-two"):
        put_silence(
            desk.lender.store, Silence(model=model, until=desk.lender.now + timedelta(hours=1), reason="payday")
        )
    found = json.loads(desk.run("alerts", "a-loan", "--json").stdout)
    assert [each["model"] for each in found["episodes"]] == ["a-loan"]
    assert [each["model"] for each in found["silences"]] == ["a-loan"]
    assert [each["details"]["model"] for each in found["outbox"]] == ["a-loan"]
    assert desk.run("alerts", "c-fine").stdout == "No episode is open.\n"


def test_a_model_that_nobody_knows_is_said_to_be_unknown(desk: Any) -> None:
    desk.register()
    said = desk.run("alerts", "ke-nano-laon")
    assert (said.exit_code, said.stdout) == (2, "")
    assert f"No model ke-nano-laon is registered in {desk.lender.settings.registry_uri}" in said.stderr


def test_silences_are_shown_while_they_last(desk: Any) -> None:
    until = desk.lender.now + timedelta(hours=1)
    put_silence(desk.lender.store, Silence(model="a-loan", until=until, reason="[bold]payday\x1b[2J"))
    put_silence(desk.lender.store, Silence(model="b-loan", until=desk.lender.now, reason="over"))
    assert desk.run("alerts").stdout == (
        "No episode is open.\na-loan is silent until 2026-02-01 07:00 UTC: [bold]payday�[2J\n"
    )
    [silence] = json.loads(desk.run("alerts", "--json").stdout)["silences"]
    assert (silence["model"], silence["reason"]) == ("a-loan", "[bold]payday\x1b[2J")


def test_a_damaged_state_is_named_with_what_to_do(desk: Any) -> None:
    desk.lender.store.put("alerts/a-loan/1.json", b"{]")
    said = desk.run("alerts")
    assert said.exit_code == 75
    assert "alerts/a-loan/1.json cannot be read as the state of alerts" in said.stderr
    assert "Restore an earlier version" in said.stderr


def test_what_a_service_refused_for_good_is_told_until_somebody_deletes_it(desk: Any, recorder: Any) -> None:
    desk.register()
    desk.day(1, "breach")
    wrong = recorder.environ | {"SCOREWATCH_PAGERDUTY_ROUTING_KEY": "x" * 32}
    assert desk.run("publish", "--once", **{name: wrong[name] for name in wrong if "PAGERDUTY" in name}).exit_code == 0
    said = desk.run("alerts").stdout
    assert f"refused for good, {MODEL} 1: PagerDuty answered 400" in said
    assert "x" * 32 not in said
    [letter] = json.loads(desk.run("alerts", "--json").stdout)["dead_letters"]
    desk.lender.store.delete(letter["key"])
    assert "refused" not in desk.run("alerts").stdout


def test_a_storm_is_told_beside_the_episodes_that_it_holds_back(desk: Any) -> None:
    models = [f"model-{number:02d}" for number in range(12)]
    desk.register(*models)
    for model in models:
        desk.day(1, "breach", model=model)
    desk.run("publish", "--once")
    said = desk.run("alerts").stdout
    assert "storm: 12 models breach on " in said
    [storm] = json.loads(desk.run("alerts", "model-03", "--json").stdout)["storms"]
    assert (storm["models"], storm["told"]) == (models, True)
