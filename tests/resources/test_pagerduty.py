from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from resources import pagerduty
from resources.delivery import Accepted, Delivery, Later, Refused
from resources.pagerduty import Change, Event, PagerDuty
from resources.secrets import Secret
from tests.recorders import ROUTING_KEY, Answer, Fault, Recorder, answer_lost, failing, held, unreachable

KEY = "scorewatch/test/ke-nano-loan/1.0.0/drift/2026-05-04"
TRIGGER = Event("trigger", KEY, "PSI of the score is 0.31", source="ke-nano-loan 1.0.0")
RESOLVE = Event("resolve", KEY)
AT = datetime(2026, 5, 4, 12, tzinfo=UTC)
CHANGE = Change("1.0.0 of ke-nano-loan was deployed", "ke-nano-loan", AT)


@pytest.fixture
def service(recorder: Recorder) -> PagerDuty:
    return PagerDuty(Secret(ROUTING_KEY), url=recorder.url)


def sent(recorder: Recorder) -> dict[str, Any]:
    """The one event that opened the one page."""
    (page,) = recorder.pagerduty.pages
    (event,) = page.triggers
    return event


def test_a_trigger_opens_an_incident_and_a_resolve_closes_it(recorder: Recorder, service: PagerDuty) -> None:
    assert [service.send(event) for event in (TRIGGER, TRIGGER, RESOLVE)] == [Accepted()] * 3
    (page,) = recorder.pagerduty.pages_of(KEY)
    assert (len(page.triggers), page.resolved) == (2, True)


def test_an_event_arrives_with_all_it_says(recorder: Recorder, service: PagerDuty) -> None:
    details = {"worst": [{"column": "income", "psi": 0.31}], "rows": 400, "share": 0.5, "late": False, "note": None}
    links = (("https://dagit.example/runs/1", "Dagit"), ("https://wiki.example/runbook", "Runbook"))
    event = Event(
        "trigger", KEY, "PSI is 0.31", "warning", "ke-nano-loan", AT, "score", "tier 1", "drift", details, links
    )
    assert service.send(event) == Accepted()
    assert sent(recorder) == {
        "event_action": "trigger",
        "dedup_key": KEY,
        "payload": {
            "summary": "PSI is 0.31",
            "severity": "warning",
            "source": "ke-nano-loan",
            "timestamp": "2026-05-04T12:00:00+00:00",
            "component": "score",
            "group": "tier 1",
            "class": "drift",
            "custom_details": details,
        },
        "links": [
            {"href": "https://dagit.example/runs/1", "text": "Dagit"},
            {"href": "https://wiki.example/runbook", "text": "Runbook"},
        ],
    }


def test_a_resolve_says_nothing_but_its_key(recorder: Recorder, service: PagerDuty) -> None:
    assert service.send(Event("resolve", KEY, "recovered", details={"psi": 0.1})) == Accepted()
    assert recorder.pagerduty.resolves == [KEY]


def test_a_change_event_pages_nobody(recorder: Recorder, service: PagerDuty) -> None:
    change = Change("deployed", "ke-nano-loan", AT, {"version": "1.0.0"}, (("https://dagit.example", "Dagit"),))
    assert service.send(change) == Accepted()
    assert recorder.pagerduty.changes == [
        {
            "payload": {
                "summary": "deployed",
                "source": "ke-nano-loan",
                "timestamp": "2026-05-04T12:00:00+00:00",
                "custom_details": {"version": "1.0.0"},
            },
            "links": [{"href": "https://dagit.example", "text": "Dagit"}],
        }
    ]
    assert recorder.pagerduty.pages == []


def test_what_is_too_long_arrives_cut_and_says_so(recorder: Recorder, service: PagerDuty) -> None:
    details = {"error": "e" * 9_000, "first": ["f" * 4_000] * 4, "second": ["s" * 4_000] * 4, "rows": 400}
    links = (("https://a.example/" + "x" * 3_000, "Dashboard"), *(("https://a.example", f"{n}") for n in range(21)))
    event = Event("trigger", KEY, "s" * 1_025, source="o" * 2_000, component="ü" * 1_024, details=details, links=links)
    assert service.send(event) == Accepted()
    payload = sent(recorder)["payload"]
    assert payload["summary"] == "s" * 1_023 + "…"
    assert payload["source"] == "o" * 1_023 + "…"
    assert payload["component"] == "ü" * 1_024
    assert payload["custom_details"] == {
        "error": "e" * 4_095 + "…",
        "first": details["first"],
        "rows": 400,
        "left out for their length": "Dashboard, 20, second",
    }
    assert [link["text"] for link in sent(recorder)["links"]] == [str(number) for number in range(20)]


def test_the_largest_event_that_can_be_made_is_taken(recorder: Recorder, service: PagerDuty) -> None:
    control = "\x01"  # six bytes of JSON each
    details = {f"{number}{control * 2_000}": [control * 5_000] * 3 for number in range(300)} | {"n": list(range(5_000))}
    links = tuple((f"https://a.example/{control * 2_000}", control * 2_000) for _ in range(100))
    long = control * 5_000
    assert (
        service.send(Event("trigger", KEY, long, "critical", long, AT, long, long, long, details, links)) == Accepted()
    )
    custom = sent(recorder)["payload"]["custom_details"]
    assert len(json.dumps(custom, ensure_ascii=False).encode()) <= 32_768
    assert custom["left out for their length"].endswith("…")


def test_long_keys_stay_different_and_a_resolve_finds_its_own(recorder: Recorder, service: PagerDuty) -> None:
    first, second = "k" * 300 + "1", "k" * 300 + "2"
    for event in (Event("trigger", first, "a"), Event("trigger", second, "b"), Event("resolve", first)):
        assert service.send(event) == Accepted()
    closed, still_open = recorder.pagerduty.pages
    assert (closed.resolved, still_open.resolved) == (True, False)
    assert closed.payload["summary"] == "a"
    assert len(closed.dedup_key) == 255
    assert closed.dedup_key.startswith("k" * 200)


def test_what_json_cannot_hold_arrives_as_text(recorder: Recorder, service: PagerDuty) -> None:
    details = {"psi": float("inf"), "rates": (float("nan"), 0.5), "file": "\udcff.parquet", "\udcfe": True}
    assert service.send(Event("trigger", KEY, "\udcff", details=details)) == Accepted()
    payload = sent(recorder)["payload"]
    assert payload["custom_details"] == {"psi": "inf", "rates": ["nan", 0.5], "file": "?.parquet", "?": True}
    assert payload["summary"] == "?"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (failing(429, {"status": "throttled"}), Later("PagerDuty answered 429 Too Many Requests: throttled")),
        (failing(429, Retry_After="7"), Later("PagerDuty answered 429 Too Many Requests: a fault of the test", 7.0)),
        (failing(408), Later("PagerDuty answered 408 Request Timeout: a fault of the test")),
        (failing(500, Retry_After="soon"), Later("PagerDuty answered 500 Internal Server Error: a fault of the test")),
        (failing(502, "<html>"), Later("PagerDuty answered 502 Bad Gateway")),
        (
            failing(503, Retry_After="9e9"),
            Later("PagerDuty answered 503 Service Unavailable: a fault of the test", 3600),
        ),
        (failing(400), Refused("PagerDuty answered 400 Bad Request: a fault of the test")),
        (failing(401), Later("PagerDuty answered 401 Unauthorized: a fault of the test")),
        (failing(403, []), Later("PagerDuty answered 403 Forbidden")),
        (
            failing(302, {}, Location="https://elsewhere.example"),
            Later("PagerDuty answered 302 Found, but not as the service does. Is something in between?"),
        ),
        (unreachable(), Later("PagerDuty did not answer: RemoteProtocolError")),
        (answer_lost(), Later("PagerDuty did not answer: RemoteProtocolError")),
    ],
)
@pytest.mark.parametrize("message", [TRIGGER, RESOLVE, CHANGE], ids=["trigger", "resolve", "change"])
def test_every_fault_says_whether_to_send_again(
    recorder: Recorder, service: PagerDuty, message: Event | Change, fault: Fault, expected: Delivery
) -> None:
    recorder.pagerduty.faults.add(fault)
    assert service.send(message) == expected
    assert recorder.pagerduty.requests == 1, "whether and when to send again is not the client's to decide"
    assert service.send(message) == Accepted()


@pytest.mark.parametrize("answer", [Answer(200, {"hello": "proxy"}), Answer(200, b"<html>"), Answer(202, [])])
def test_a_success_that_is_none_of_pagerduty_is_sent_again(
    recorder: Recorder, service: PagerDuty, answer: Answer
) -> None:
    recorder.pagerduty.faults.add(Fault(answer))
    later = service.send(TRIGGER)
    assert isinstance(later, Later)
    assert "Is something in between?" in later.reason


def test_an_answer_that_cannot_be_decoded_is_sent_again(recorder: Recorder, service: PagerDuty) -> None:
    recorder.pagerduty.faults.add(Fault(Answer(202, b"no gzip", {"Content-Encoding": "gzip"})))
    assert service.send(TRIGGER) == Later("PagerDuty's answer was not understood: DecodingError")


def test_a_slow_service_is_left_after_the_limit_and_asked_again(
    recorder: Recorder, service: PagerDuty, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pagerduty.TIMEOUT_S == 5
    monkeypatch.setattr(pagerduty, "TIMEOUT_S", 0.2)
    recorder.pagerduty.faults.add(held())
    assert service.send(TRIGGER) == Later("PagerDuty did not answer: ReadTimeout")
    assert service.send(TRIGGER) == Accepted()
    assert len(recorder.pagerduty.pages) == 1


def test_a_lost_answer_never_makes_a_second_page(recorder: Recorder, service: PagerDuty) -> None:
    recorder.pagerduty.faults.add(answer_lost(), failing(503), answer_lost())
    answers = [service.send(TRIGGER) for _ in range(4)]
    assert answers[-1] == Accepted()
    assert len(recorder.pagerduty.pages) == 1


def test_a_service_that_is_down_is_asked_later(recorder: Recorder, service: PagerDuty) -> None:
    recorder.stop()
    assert service.send(TRIGGER) == Later("PagerDuty did not answer: ConnectError")


def test_a_wrong_key_is_refused(recorder: Recorder) -> None:
    refused = PagerDuty(Secret("0123456789"), url=recorder.url).send(TRIGGER)
    assert refused == Refused(
        "PagerDuty answered 400 Bad Request: invalid event; Event object is invalid; Invalid routing key"
    )


def test_a_relay_may_be_behind_a_path_and_a_service_is_spoken_to_encrypted(recorder: Recorder) -> None:
    relayed = PagerDuty(Secret(ROUTING_KEY), url=f"{recorder.url}/relay").send(TRIGGER)
    assert relayed == Later("PagerDuty answered 404 Not Found: Not found")
    encrypted = PagerDuty(Secret(ROUTING_KEY), url=recorder.url.replace("http:", "https:")).send(TRIGGER)
    assert encrypted == Later("PagerDuty did not answer: ConnectError")
    assert recorder.pagerduty.requests == 0


def test_threads_share_the_service(recorder: Recorder, service: PagerDuty) -> None:
    answers: list[Delivery] = []
    threads = [threading.Thread(target=lambda: answers.append(service.send(TRIGGER))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [Accepted()] * 8
    assert len(recorder.pagerduty.pages) == 1
