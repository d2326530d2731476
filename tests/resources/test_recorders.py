from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.recorders import (
    API_KEY,
    ROUTING_KEY,
    Recorder,
    answer_lost,
    failing,
    held,
    specification,
    unreachable,
)

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SECOND = int(NOW.timestamp())


def call(recorder: Recorder, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and body of an answer; a body of bytes is sent as it is."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(recorder.url + path, data, named)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def event(action: str = "trigger", key: str = "k", **changes: Any) -> dict[str, Any]:
    payload = {"summary": "psi 0.31", "source": "ke-nano-loan", "severity": "critical", "timestamp": NOW.isoformat()}
    body = {"routing_key": ROUTING_KEY, "event_action": action, "dedup_key": key, "payload": payload}
    return body | changes


def gauges(*points: tuple[int, float], metric: str = "scorewatch.now.state", **changes: Any) -> dict[str, Any]:
    stamped = [{"timestamp": at, "value": value} for at, value in points]
    return {"series": [{"metric": metric, "type": 3, "points": stamped, "tags": ["env:test", "model:a"]} | changes]}


def submit(recorder: Recorder, body: Any, key: str = API_KEY, **headers: str) -> tuple[int, Any]:
    return call(recorder, "/api/v2/series", body, DD_API_KEY=key, **headers)


def test_a_trigger_on_an_open_key_pages_nobody_and_after_a_resolve_it_pages_again(recorder: Recorder) -> None:
    for action in ("trigger", "trigger", "acknowledge", "trigger", "resolve", "trigger"):
        assert call(recorder, "/v2/enqueue", event(action)) == (
            202,
            {"status": "success", "message": "Event processed", "dedup_key": "k"},
        )
    first, second = recorder.pagerduty.pages_of("k")
    assert (len(first.triggers), first.resolved) == (3, True)
    assert (len(second.triggers), second.resolved) == (1, False)
    assert recorder.pagerduty.open == {"k": second}


def test_a_resolve_closes_its_own_key_only(recorder: Recorder) -> None:
    call(recorder, "/v2/enqueue", event(key="a"))
    call(recorder, "/v2/enqueue", event("resolve", "b"))
    assert list(recorder.pagerduty.open) == ["a"]
    assert recorder.pagerduty.resolves == ["b"]


def test_an_open_incident_shows_its_last_trigger(recorder: Recorder) -> None:
    call(recorder, "/v2/enqueue", event())
    worse = event()["payload"] | {"summary": "psi 0.9"}
    call(recorder, "/v2/enqueue", event(payload=worse))
    assert [page.payload["summary"] for page in recorder.pagerduty.pages] == ["psi 0.9"]


def test_a_change_event_opens_nothing(recorder: Recorder) -> None:
    body = {"routing_key": ROUTING_KEY, "payload": {"summary": "version 2 deployed"}}
    assert call(recorder, "/v2/change/enqueue", body)[0] == 202
    assert recorder.pagerduty.changes == [{"payload": {"summary": "version 2 deployed"}}]
    assert recorder.pagerduty.pages == []


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v2/enqueue", b"{", "JSON"),
        ("/v2/enqueue", [], "object|routing_key"),
        ("/v2/enqueue", event("open"), "event_action|'open' is not one of"),
        ("/v2/enqueue", event(key=""), "dedup_key"),
        ("/v2/enqueue", event(key="k" * 256), "dedup_key"),
        (
            "/v2/enqueue",
            event(payload={"summary": "s", "source": "s", "severity": "bad"}),
            "severity|'bad' is not one of",
        ),
        ("/v2/enqueue", event(payload={"summary": "s", "source": "", "severity": "info"}), "source"),
        ("/v2/enqueue", event(payload={"summary": "s" * 1025, "source": "s", "severity": "info"}), "1024"),
        ("/v2/enqueue", event(payload=event()["payload"] | {"timestamp": "2026-05-04T12:00:00"}), "offset|date-time"),
        ("/v2/enqueue", event(links=[{"text": "no URL"}]), "href|links"),
        ("/v2/change/enqueue", {"routing_key": ROUTING_KEY}, "payload"),
    ],
)
def test_pagerduty_refuses_a_malformed_event_and_says_why(recorder: Recorder, path: str, body: Any, said: str) -> None:
    status, answer = call(recorder, path, body)
    assert status == 400
    assert recorder.problems == answer["errors"]
    assert re.search(said, str(answer["errors"]))
    assert recorder.pagerduty.pages == recorder.pagerduty.changes == []
    recorder.pagerduty.problems.clear()


def test_pagerduty_refuses_a_wrong_key_and_an_event_that_is_too_large(recorder: Recorder) -> None:
    assert call(recorder, "/v2/enqueue", event(routing_key="of somebody else"))[0] == 400
    assert call(recorder, "/v2/enqueue", event(client="c" * 512_000))[0] == 413
    assert recorder.pagerduty.pages == recorder.problems == []


def test_of_two_points_at_the_same_second_the_last_one_counts(recorder: Recorder) -> None:
    assert submit(recorder, gauges((SECOND, 1.0), (SECOND + 60, 2.0))) == (202, {"errors": []})
    submit(recorder, gauges((SECOND, 3.0), tags=["model:a", "env:test"]))
    assert recorder.datadog.series("scorewatch.now.state") == {("env:test", "model:a"): {SECOND: 3.0, SECOND + 60: 2.0}}


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_datadog_takes_compressed_payloads(recorder: Recorder, encoding: str, pack: Any) -> None:
    packed = pack(json.dumps(gauges((SECOND, 1.0))).encode())
    assert submit(recorder, packed, Content_Encoding=encoding)[0] == 202
    assert len(recorder.datadog.points) == 1


def test_datadog_knows_its_key(recorder: Recorder) -> None:
    assert submit(recorder, gauges((SECOND, 1.0)), key="wrong")[0] == 403
    assert recorder.datadog.points == {}
    assert call(recorder, "/api/v1/validate", DD_API_KEY="wrong")[0] == 403
    assert call(recorder, "/api/v1/validate", DD_API_KEY=API_KEY) == (200, {"valid": True})


def test_datadog_takes_no_payload_above_its_limits(recorder: Recorder) -> None:
    long = gauges((SECOND, 1.0), unit="u" * 5_242_880)
    assert submit(recorder, gzip.compress(json.dumps(long).encode()), Content_Encoding="gzip")[0] == 413
    assert submit(recorder, gauges((SECOND, 1.0), unit="u" * 512_000))[0] == 413
    assert submit(recorder, {"series": gauges((SECOND, 1.0))["series"] * 2_001})[0] == 413
    assert recorder.datadog.points == {}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        {"metrics": []},
        gauges((SECOND, "high")),  # type: ignore[arg-type]
        gauges((SECOND, float("nan"))),
        gauges(),
        gauges((SECOND, 1.0), type=7),
        gauges((SECOND, 1.0), tags=["partition:2026-05-04"]),
        gauges((SECOND, 1.0), resources=[{"type": "host", "name": "pod-1"}]),
    ],
)
def test_datadog_refuses_what_its_models_or_our_rules_do_not_take(recorder: Recorder, body: Any) -> None:
    status, answer = submit(recorder, body)
    assert (status, recorder.problems) == (400, answer["errors"])
    assert answer["errors"]
    recorder.datadog.problems.clear()


def test_with_a_clock_datadog_silently_drops_what_is_not_current_but_for_historical_metrics(recorder: Recorder) -> None:
    recorder.datadog.now = lambda: NOW
    early, current, late = SECOND - 3_601, SECOND - 3_600, SECOND + 601
    assert submit(recorder, gauges((early, 1.0), (current, 2.0), (late, 3.0)))[0] == 202
    assert submit(recorder, gauges((early, 4.0), metric="scorewatch.daily.psi"))[0] == 202
    assert list(recorder.datadog.points.values()) == [2.0, 4.0]
    assert [second for _, _, second in recorder.datadog.dropped] == [early, late]


@pytest.mark.parametrize(
    "changes",
    [{"text": None}, {"tags": "env:test"}, {"text": "x" * 4_001}, {"date_happened": "now"}, {"titel": "misspelt"}],
)
def test_datadog_refuses_an_event_that_its_model_does_not_take(recorder: Recorder, changes: dict[str, Any]) -> None:
    body = {"title": "deployed", "text": "a version", "date_happened": SECOND} | changes
    assert call(recorder, "/api/v1/events", body, DD_API_KEY=API_KEY)[0] == 400
    assert recorder.datadog.events == []
    assert recorder.datadog.problems != []
    recorder.datadog.problems.clear()


def test_with_a_clock_datadog_refuses_an_event_that_is_older_than_eighteen_hours(recorder: Recorder) -> None:
    recorder.datadog.now = lambda: NOW
    for age, status in ((18 * 3_600 - 60, 202), (18 * 3_600 + 60, 400)):
        body = {"title": "deployed", "text": "a version", "date_happened": SECOND - age}
        assert call(recorder, "/api/v1/events", body, DD_API_KEY=API_KEY)[0] == status
    assert len(recorder.datadog.events) == 1
    recorder.datadog.problems.clear()


def test_faults_come_one_to_a_request_in_their_order(recorder: Recorder) -> None:
    recorder.pagerduty.faults.add(failing(429, Retry_After="7"), failing(503))
    assert [call(recorder, "/v2/enqueue", event())[0] for _ in range(3)] == [429, 503, 202]
    assert len(recorder.pagerduty.pages) == 1
    assert recorder.pagerduty.requests == 3


def test_a_lasting_fault_follows_the_queue_and_the_other_service_goes_on(recorder: Recorder) -> None:
    recorder.pagerduty.faults.lasting = failing(500)
    recorder.pagerduty.faults.add(failing(429))
    assert [call(recorder, "/v2/enqueue", event())[0] for _ in range(3)] == [429, 500, 500]
    assert submit(recorder, gauges((SECOND, 1.0)))[0] == 202


def test_an_answer_is_lost_after_the_effect_or_the_connection_before_it(recorder: Recorder) -> None:
    recorder.pagerduty.faults.add(unreachable(), answer_lost())
    for pages in (0, 1):
        with pytest.raises(ConnectionError):
            call(recorder, "/v2/enqueue", event())
        assert len(recorder.pagerduty.pages) == pages


def test_an_answer_can_be_held_until_a_test_lets_it_go(recorder: Recorder) -> None:
    released, answers = threading.Event(), []
    recorder.pagerduty.faults.add(held(released))
    client = threading.Thread(target=lambda: answers.append(call(recorder, "/v2/enqueue", event())[0]))
    client.start()
    recorder.wait_until(lambda: recorder.pagerduty.pages)
    assert answers == []
    released.set()
    client.join(30)
    assert answers == [202]


def test_what_is_kept_outlives_a_stop_and_the_port_stays(recorder: Recorder) -> None:
    call(recorder, "/v2/enqueue", event())
    url = recorder.url
    recorder.stop()
    with pytest.raises(urllib.error.URLError, match="refused"):
        call(recorder, "/v2/enqueue", event())
    recorder.start()
    assert recorder.url == url
    call(recorder, "/v2/enqueue", event())
    assert [len(page.triggers) for page in recorder.pagerduty.pages] == [2]


def test_another_process_reaches_the_recorder_with_its_environment(recorder: Recorder) -> None:
    script = (
        "import os; from pathlib import Path; from resources.pagerduty import Event, PagerDuty;"
        "from resources.settings import Settings; s = Settings.from_environment(os.environ, Path.cwd());"
        "print(PagerDuty(s.pagerduty_key, url=s.pagerduty_url).send(Event('trigger', 'k', 'drift')))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=recorder.environ, capture_output=True, text=True)  # noqa: PLW1510
    assert (done.stdout, done.stderr) == ("Accepted()\n", "")
    assert list(recorder.pagerduty.open) == ["k"]


@pytest.mark.parametrize("name", ["pagerduty_events_v2", "datadog_v2", "datadog_v1"])
def test_payloads_are_judged_with_the_services_own_documents(name: str) -> None:
    from tests.recorders.judge import broken_rules

    if specification(name) is None:
        pytest.skip(f"the OpenAPI subset {name} is not at hand: payloads are judged by the clients' models alone")
    path, good, bad = {
        "pagerduty_events_v2": ("/v2/enqueue", event(), event(payload={"summary": 3})),
        "datadog_v1": ("/api/v1/events", {"title": "a", "text": "b"}, {"title": "a", "text": "b", "tags": "c:d"}),
        "datadog_v2": ("/api/v2/series", gauges((SECOND, 1.0)), gauges((SECOND, 1.0), type=9)),
    }[name]
    assert broken_rules(name, path, good) == []
    assert broken_rules(name, path, bad) != []
