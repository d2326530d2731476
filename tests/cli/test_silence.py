"""`scorewatch silence`: nobody is paged about a model for a while, and everybody can read why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from monitoring_assets.alerting.silences import silences

NOW = "2026-02-01 06:00"


@pytest.mark.parametrize(
    ("until", "moment"),
    [
        ("30m", "2026-02-01T06:30"),
        ("4h", "2026-02-01T10:00"),
        ("2d", "2026-02-03T06:00"),
        ("2026-03-01T09:00+03:00", "2026-03-01T06:00"),
        ("2026-03-01T09:00Z", "2026-03-01T09:00"),
        ("90d", "2026-05-02T06:00"),
    ],
)
def test_a_silence_lasts_as_long_as_it_was_asked_for(desk: Any, until: str, moment: str) -> None:
    desk.register()
    said = desk.run("silence", "ke-nano-loan", "--until", until, "--reason", "payday")
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout == f"ke-nano-loan is silent until {moment.replace('T', ' ')} UTC: payday\n"
    [silence] = silences(desk.lender.store).values()
    assert silence.until == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("until", "problem"),
    [
        ("soon", "--until soon is no time"),
        ("4 h", "--until 4 h is no time"),
        ("-4h", "--until -4h is no time"),
        ("", "needs --until and --reason"),
        ("2026-02-30T09:00Z", "is no time"),
        ("2026-03-01T09:00", "has no time zone. Write time and offset, such as 2026-03-01T09:00:00+03:00."),
        ("2026-03-01", "has no time zone. Write time and offset, such as 2026-03-01T00:00:00+03:00."),
        ("0m", "is not within the next 90 days"),
        ("2026-02-01T08:59+03:00", "is not within the next 90 days"),
        ("91d", "is not within the next 90 days"),
        ("9999d", "is not within the next 90 days"),
        ("9999-12-31T23:59-14:00", "is not within the next 90 days"),
        ("0001-01-01T00:00+14:00", "is not within the next 90 days"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(desk: Any, until: str, problem: str) -> None:
    desk.register()
    said = desk.run("silence", "ke-nano-loan", f"--until={until}", "--reason", "payday")
    assert (said.exit_code, said.stdout) == (2, "")
    assert problem in said.stderr
    assert silences(desk.lender.store) == {}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "Missing argument 'MODEL'"),
        (("ke-nano-loan",), "A silence needs --until and --reason"),
        (("ke-nano-loan", "--until", "4h"), "A silence needs --until and --reason"),
        (("ke-nano-loan", "--until", "4h", "--reason", "  "), "A silence needs --until and --reason"),
        (("ke-nano-laon", "--until", "4h", "--reason", "x"), "No model ke-nano-laon is registered in"),
        (("../ke", "--until", "4h", "--reason", "x"), "No model ../ke is registered in"),
        (("ke-nano-loan", "--end"), "ke-nano-loan is not silent"),
        (("../ke", "--end"), "../ke is not silent"),
        (("ke-nano-loan", "--end", "--until", "4h"), "leave out --until"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(desk: Any, arguments: tuple[str, ...], problem: str) -> None:
    desk.register()
    before = desk.lender.listed()
    said = desk.run("silence", *arguments)
    assert (said.exit_code, said.stdout) == (2, "")
    assert problem in said.stderr
    assert desk.lender.listed() == before


def test_a_model_that_is_unknown_is_answered_with_those_there_are(desk: Any) -> None:
    desk.register("a-loan", "b-loan")
    assert "It has a-loan, b-loan." in desk.run("silence", "c-loan", "--until", "4h", "--reason", "x").stderr


def test_the_reason_is_kept_as_written_and_shown_harmlessly(desk: Any) -> None:
    desk.register()
    said = desk.run("silence", "ke-nano-loan", "--until", "4h", "--reason", "[red]payday\x1b]0;owned\x07")
    assert said.stdout.endswith("UTC: [red]payday�]0;owned�\n")
    assert silences(desk.lender.store)["ke-nano-loan"].reason == "[red]payday\x1b]0;owned\x07"


def test_a_second_silence_takes_the_place_of_the_first(desk: Any) -> None:
    desk.register()
    for until in ("2d", "1h"):
        desk.run("silence", "ke-nano-loan", "--until", until, "--reason", until)
    [silence] = silences(desk.lender.store).values()
    assert (silence.until, silence.reason) == (datetime(2026, 2, 1, 7, tzinfo=UTC), "1h")
