from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resources.datadog import Datadog, Gauge
from resources.delivery import Delivery, Later, Refused
from resources.errors import BadInput
from resources.pagerduty import Change, Event, PagerDuty
from resources.secrets import Secret, read_secret
from resources.settings import Settings
from tests.recorders import Answer, Fault, Recorder, answer_lost, failing, unreachable

CANARY = "canary-5f1d0c"
NAME = "SCOREWATCH_PAGERDUTY_ROUTING_KEY"
NOW = datetime(2026, 5, 4, tzinfo=UTC)


def read(cwd: Path = Path("/"), **environ: str) -> Secret | None:
    return read_secret(environ, "KEY", cwd)


def test_a_key_comes_from_its_variable_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"\n {CANARY}\r\n", encoding="utf-8")
    assert read() is None
    assert read(KEY="", KEY_FILE="") is None
    for found in (read(KEY=f"{CANARY}\n"), read(tmp_path, KEY_FILE="key"), read(KEY_FILE=f"{tmp_path}/key", KEY="")):
        assert found is not None
        assert found.reveal() == CANARY


def test_two_sources_of_a_key_are_refused() -> None:
    with pytest.raises(BadInput, match=r"KEY and KEY_FILE are both set. Unset one"):
        read(KEY=CANARY, KEY_FILE="/run/secrets/key")


@pytest.mark.parametrize("content", ["", " \n", f"{CANARY}\nmore", f"{CANARY} more", f"{CANARY}é", CANARY * 20])
def test_what_cannot_be_a_key_is_refused_without_being_shown(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=r"KEY_FILE holds no key. Give one") as refused:
        read(tmp_path, KEY_FILE="key")
    assert CANARY not in shown(refused.value)
    if content:
        with pytest.raises(BadInput, match="KEY holds no key"):
            read(KEY=content)


def test_a_file_that_cannot_be_read_is_refused_without_its_name_which_may_be_the_key(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path, expected in ((CANARY, "No such file"), (".", "Is a directory"), ("binary", "no text"), ("\0", "no text")):
        with pytest.raises(BadInput, match=f"KEY_FILE names .*{expected}") as refused:
            read(tmp_path, KEY_FILE=path)
        assert CANARY not in shown(refused.value)


def test_a_key_is_compared_but_never_shown_or_copied() -> None:
    secret = Secret(CANARY)
    assert secret == Secret(CANARY) != Secret("another")
    assert secret != CANARY
    assert len({secret, Secret(CANARY)}) == 1
    assert f"{secret} {secret!r} {secret!s} {[secret]}" == "*** *** *** [***]"
    assert not hasattr(secret, "__dict__")
    for way in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError) as refused:
            way(secret)
        assert CANARY not in shown(refused.value)


def test_settings_hold_keys_and_show_none() -> None:
    settings = Settings.from_environment({NAME: CANARY, "DD_API_KEY": CANARY, "DD_APP_KEY": CANARY}, Path("/x"))
    held = (settings.pagerduty_key, settings.datadog_key, settings.datadog_app_key)
    assert held == (Secret(CANARY),) * 3
    assert CANARY not in f"{settings} {settings!r} {settings.model_dump()}"
    with pytest.raises(ValueError, match="serialize") as refused:
        settings.model_dump_json()
    assert CANARY not in shown(refused.value)


def test_settings_that_are_refused_show_no_key() -> None:
    with pytest.raises(ValueError, match="extra") as refused:
        Settings(**dict(Settings.from_environment({NAME: CANARY}, Path("/x"))), unknown=1)  # type: ignore[call-arg]
    assert CANARY not in shown(refused.value)


ECHO = {"status": CANARY, "message": f"key {CANARY} is unknown", "errors": [f"no {CANARY}"]}
ANSWERS = [
    *(Answer(status, ECHO) for status in (302, 400, 401, 403, 404, 413, 429, 500, 503)),
    Answer(500, f"<{CANARY}>".encode()),
    Answer(202, ECHO),
    Answer(202, CANARY),
    Answer(200, CANARY.encode(), {"Content-Encoding": "gzip"}),
]


def send_everything(recorder: Recorder) -> list[Delivery]:
    """What becomes of all kinds of messages, sent with the canary for a key."""
    pagerduty = PagerDuty(Secret(CANARY), url=recorder.url)
    datadog = Datadog(Secret(CANARY), site="x", url=recorder.url, sleep=lambda _: None)
    return [
        pagerduty.send(Event("trigger", "k", "drift")),
        pagerduty.send(Event("resolve", "k")),
        pagerduty.send(Change("deployed", "model", NOW)),
        datadog.send([Gauge("scorewatch.now.state", 1, NOW, {"env": "test"})]),
    ]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_service_that_repeats_a_key_does_not_bring_it_to_light(
    recorder: Recorder, answer: Answer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    recorder.pagerduty.faults.lasting = recorder.datadog.faults.lasting = Fault(answer)
    answers = send_everything(recorder)
    assert any(isinstance(each, Later | Refused) for each in answers)
    printed = capfd.readouterr()
    assert CANARY not in f"{answers} {caplog.text} {printed.out} {printed.err}"
    assert CANARY not in "".join(str(vars(record)) for record in caplog.records)


def test_the_clients_log_no_key_even_where_they_log_everything(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    # Datadog's client turns its own logging down, which must not be what keeps the key out of it.
    loggers = ("httpx2", "httpcore2", "pagerduty.api_client", "datadog_api_client.rest", "urllib3.connectionpool")
    for name in ("", *loggers):
        caplog.set_level(logging.DEBUG, name)
    for fault in (None, *map(failing, (302, 400, 401, 403, 429, 500)), unreachable(), answer_lost()):
        recorder.pagerduty.faults.lasting = recorder.datadog.faults.lasting = fault
        send_everything(recorder)
    recorder.stop()
    assert all(isinstance(each, Later) for each in send_everything(recorder))

    assert {"httpx2", "httpcore2.http11", "datadog_api_client.rest"} <= {record.name for record in caplog.records}
    printed = capfd.readouterr()
    assert CANARY not in caplog.text + printed.out + printed.err
    assert CANARY not in "".join(str(vars(record)) for record in caplog.records)


def shown(error: BaseException) -> str:
    """All that a traceback would print, with the causes."""
    return "".join(traceback.format_exception(error))
