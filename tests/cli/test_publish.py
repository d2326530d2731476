"""`scorewatch publish`: PagerDuty, or the outbox, is brought to what the results ask for."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from monitoring_assets import layout
from monitoring_assets.alerting.silences import silences
from monitoring_assets.cli import publish as verb
from tests.recorders import Recorder, unreachable


def outbox(desk: Any) -> list[str]:
    """The actions in the outbox, the oldest first."""
    events = json.loads(desk.run("alerts", "--json").stdout)["outbox"]
    return [each["action"] for each in reversed(events)]


def test_in_an_empty_store_there_is_nothing_to_publish(desk: Any) -> None:
    said = desk.run("publish", "--once")
    assert (said.exit_code, said.stdout, said.stderr) == (0, "0 results, 0 events sent\n", "")
    assert desk.lender.listed() == []


def test_a_breach_goes_to_the_outbox_once(desk: Any) -> None:
    desk.register()
    desk.day(1, "breach")
    said = desk.run("publish", "--once", "--json")
    assert (said.exit_code, said.stderr) == (0, "")
    assert json.loads(said.stdout) == {"results": 1, "sent": 1, "waiting": {}}
    assert desk.run("publish", "--once").stdout == "0 results, 0 events sent\n"
    assert outbox(desk) == ["trigger"]


def test_with_a_key_the_breach_goes_to_pagerduty_and_its_end_too(desk: Any, recorder: Recorder) -> None:
    desk.register()
    desk.day(1, "breach")
    desk.run("publish", "--once", **recorder.environ)
    [page] = recorder.pagerduty.pages
    assert page.payload["severity"] == "critical"
    assert page.payload["summary"].startswith("ke-nano-loan 1: drift critical on 2026-01-01: 1 of 1 columns")
    for day in (2, 3):
        desk.day(day, "ok")
    desk.run("publish", "--once", **recorder.environ)
    assert page.resolved
    assert desk.lender.listed(layout.OUTBOX) == []


def test_a_silence_holds_the_trigger_back_until_it_is_ended(desk: Any) -> None:
    desk.register()
    desk.run("silence", "ke-nano-loan", "--until", "4h", "--reason", "payday")
    desk.day(1, "breach")
    assert desk.run("publish", "--once").stdout == "1 results, 0 events sent\n"
    [episode] = json.loads(desk.run("alerts", "--json").stdout)["episodes"]
    assert (episode["severity"], episode["told"]) == ("critical", None)
    said = desk.run("silence", "ke-nano-loan", "--end")
    assert (said.exit_code, said.stdout) == (0, "ke-nano-loan is heard again.\n")
    assert desk.run("publish", "--once").stdout == "0 results, 1 events sent\n"
    assert outbox(desk) == ["trigger"]
    assert silences(desk.lender.store) == {}


def test_what_still_fires_when_a_silence_runs_out_is_told_then(desk: Any) -> None:
    desk.register("a-firing", "b-over")
    for model in ("a-firing", "b-over"):
        desk.run("silence", model, "--until", "4h", "--reason", "payday")
        desk.day(1, "breach", model=model)
    desk.run("publish", "--once")
    for day in (2, 3):
        desk.day(day, "ok", model="b-over")
    desk.lender.now += timedelta(hours=4)
    desk.run("publish", "--once")
    events = json.loads(desk.run("alerts", "--json").stdout)["outbox"]
    assert [(each["action"], each["details"]["model"]) for each in events] == [("trigger", "a-firing")]


def test_a_silence_keeps_no_resolve_back(desk: Any) -> None:
    desk.register()
    desk.day(1, "breach")
    desk.run("publish", "--once")
    desk.run("silence", "ke-nano-loan", "--until", "4h", "--reason", "payday")
    for day in (2, 3):
        desk.day(day, "ok")
    desk.run("publish", "--once")
    assert sorted(outbox(desk)) == ["resolve", "trigger"]


def test_while_pagerduty_is_down_it_says_who_waits_and_ends_with_75(desk: Any, recorder: Recorder) -> None:
    desk.register("a-broken", "b-broken", "c-fine")
    for model, state in (("a-broken", "breach"), ("b-broken", "breach"), ("c-fine", "ok")):
        desk.day(1, state, model=model)
    recorder.pagerduty.faults.lasting = unreachable()
    said = desk.run("publish", "--once", **recorder.environ)
    assert said.exit_code == 75
    assert [line.partition(":")[0] for line in said.stderr.splitlines()] == ["a-broken 1", "b-broken 1"]
    said = desk.run("publish", "--once", "--json", **recorder.environ)
    assert said.exit_code == 75
    assert set(json.loads(said.stdout)["waiting"]) == {"a-broken 1", "b-broken 1"}
    assert "trying" in desk.run("alerts", **recorder.environ).stdout
    recorder.pagerduty.faults.lasting = None
    assert desk.run("publish", "--once", **recorder.environ).exit_code == 0
    assert len(recorder.pagerduty.pages) == 2
    key = recorder.environ["SCOREWATCH_PAGERDUTY_ROUTING_KEY"]
    assert all(key.encode() not in desk.lender.store.get(name).data for name in desk.lender.listed())


@pytest.mark.parametrize("broken", [b"policy: {psi: high}", b"policy: [", b"\xff", b"fleet: 1"])
def test_a_broken_fleet_yaml_does_not_stop_publishing(desk: Any, broken: bytes) -> None:
    desk.register()
    desk.lender.store.put(layout.FLEET_DEFAULTS, broken)
    desk.day(1, "breach")
    assert desk.run("publish", "--once").exit_code == 0
    assert outbox(desk) == ["trigger"]


def test_thresholds_of_fleet_yaml_decide_where_manifests_leave_them_open(desk: Any) -> None:
    desk.register("a-usual")
    desk.register("b-own", policy={"csi": {"warn": 0.1, "critical": 0.25}})
    desk.lender.store.put(layout.FLEET_DEFAULTS, b"policy: {csi: {warn: 2, critical: 3}}")
    for model in ("a-usual", "b-own"):
        desk.day(1, "breach", model=model)
    desk.run("publish", "--once")
    assert [each["model"] for each in json.loads(desk.run("alerts", "--json").stdout)["episodes"]] == ["b-own"]


def test_without_once_it_looks_again_until_it_is_interrupted(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.register()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt
        desk.day(1, "breach")

    monkeypatch.setattr(verb.time, "sleep", sleep)
    said = desk.run("publish")
    assert said.exit_code == 130
    assert said.stdout == "0 results, 0 events sent\n1 results, 1 events sent\n"
    assert waits == [verb.EVERY_S] * 2
