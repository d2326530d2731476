from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from resources import datadog
from resources.datadog import Datadog, Gauge, News
from resources.delivery import Accepted, Delivery, Later, Refused
from resources.secrets import Secret
from tests.recorders import API_KEY, Answer, Fault, Recorder, answer_lost, failing, held, unreachable

NOW = datetime(2026, 5, 4, 12, 0, 0, 900_000, tzinfo=UTC)
SECOND = int(NOW.timestamp())
TAGS = {"env": "test", "model": "ke-nano-loan", "model_version": "1.0.0", "team": "risk@lender.example", "tier": "1"}


class Time:
    """A clock that only moves while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.sleeps = 100.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def service(recorder: Recorder, time: Time) -> Datadog:
    return Datadog(Secret(API_KEY), site="datadoghq.com", url=recorder.url, sleep=time.sleep, clock=time.clock)


def gauge(value: float = 1.0, at: datetime = NOW, metric: str = "scorewatch.now.state", **tags: str) -> Gauge:
    return Gauge(metric, value, at, TAGS | tags)


def fleet(count: int) -> list[Gauge]:
    return [gauge(float(number), model=f"m{number:05}") for number in range(count)]


def test_a_gauge_arrives_with_its_tags_and_second(recorder: Recorder, service: Datadog) -> None:
    assert service.send([gauge(2)]) == Accepted()
    tags = ("env:test", "model:ke-nano-loan", "model_version:1.0.0", "team:risk@lender.example", "tier:1")
    assert recorder.datadog.points == {("scorewatch.now.state", tags, SECOND): 2.0}


def test_sending_again_changes_nothing_and_the_last_value_counts(recorder: Recorder, service: Datadog) -> None:
    for value in (1.0, 1.0, 3.0):
        assert service.send([gauge(value), gauge(value, NOW - timedelta(minutes=5))]) == Accepted()
    assert list(recorder.datadog.points.values()) == [3.0, 3.0]


def test_a_value_that_is_no_number_is_not_sent(recorder: Recorder, service: Datadog) -> None:
    assert service.send([gauge(float("nan")), gauge(float("-inf")), gauge(0.5)]) == Accepted()
    assert list(recorder.datadog.points.values()) == [0.5]


def test_nothing_is_not_sent(recorder: Recorder, service: Datadog) -> None:
    assert service.send([]) == service.send([gauge(float("nan"))]) == Accepted()
    assert recorder.datadog.requests == 0


def test_a_fleet_goes_in_batches(recorder: Recorder, service: Datadog) -> None:
    assert service.send(fleet(4_001)) == Accepted()
    assert recorder.datadog.batches == [2_000, 2_000, 1]
    assert len(recorder.datadog.points) == 4_001


def test_a_batch_stays_below_the_limits_in_bytes(recorder: Recorder, service: Datadog) -> None:
    # Either is far more than the service takes at once: 16 MB, and 1 MB that cannot be compressed.
    long = [gauge(model=f"m{number}", feature="x" * 8_000) for number in range(2_000)]
    random = np.random.default_rng(4)
    noisy = [gauge(model=f"n{number}", feature=random.bytes(1_000).hex()) for number in range(1_000)]
    assert service.send(long + noisy) == Accepted()
    assert len(recorder.datadog.points) == 3_000
    assert len(recorder.datadog.batches) > 4
    assert recorder.datadog.requests == len(recorder.datadog.batches)  # none was refused as too large


def test_a_batch_that_is_too_large_is_halved_until_it_fits(recorder: Recorder, service: Datadog) -> None:
    recorder.datadog.largest_batch = 3
    assert service.send(fleet(10)) == Accepted()
    assert recorder.datadog.batches == [2, 3, 2, 3]
    assert sorted(recorder.datadog.points.values()) == list(range(10))


def test_of_two_values_for_one_second_the_later_one_counts_after_halving_too(
    recorder: Recorder, service: Datadog
) -> None:
    recorder.datadog.largest_batch = 1
    assert service.send([gauge(1.0), gauge(2.0), gauge(3.0)]) == Accepted()
    assert list(recorder.datadog.points.values()) == [3.0]


def test_a_single_series_that_is_too_large_is_refused_and_the_others_arrive(
    recorder: Recorder, service: Datadog
) -> None:
    recorder.datadog.raw_bytes = 1_000
    refused = service.send([gauge(1.0), gauge(2.0, feature="x" * 900), gauge(3.0, tier="2")])
    assert refused == Refused("Datadog answered 413 Request Entity Too Large: ['Payload too large']")
    assert sorted(recorder.datadog.points.values()) == [1.0, 3.0]


def test_a_batch_that_is_refused_does_not_hold_the_next_one(recorder: Recorder, service: Datadog) -> None:
    recorder.datadog.faults.add(failing(400))
    assert service.send(fleet(2_001)) == Refused("Datadog answered 400 Bad Request: ['a fault of the test']")
    assert recorder.datadog.batches == [1]


def test_after_a_batch_that_must_wait_none_is_sent(recorder: Recorder, service: Datadog) -> None:
    recorder.datadog.faults.add(failing(400), unreachable())
    assert isinstance(service.send(fleet(6_000)), Later)
    assert recorder.datadog.requests == 2


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_service_is_asked_again_at_growing_intervals(
    recorder: Recorder, service: Datadog, time: Time, status: int
) -> None:
    recorder.datadog.faults.add(*[failing(status)] * 3)
    assert service.send([gauge()]) == Accepted()
    assert time.sleeps == [1, 2, 4]
    assert recorder.datadog.requests == 4


def test_a_busy_service_is_left_after_three_more_attempts(recorder: Recorder, service: Datadog, time: Time) -> None:
    recorder.datadog.faults.lasting = failing(503)
    assert service.send([gauge()]) == Later("Datadog answered 503 Service Unavailable: ['a fault of the test']")
    assert time.sleeps == [1, 2, 4]
    assert recorder.datadog.requests == 4


@pytest.mark.parametrize("name", ["X_Ratelimit_Reset", "x_ratelimit_reset", "Retry_After"])
def test_the_wait_is_what_the_service_asks_for(recorder: Recorder, service: Datadog, time: Time, name: str) -> None:
    recorder.datadog.faults.add(failing(429, **{name: "9"}), failing(429, **{name: "0"}))
    assert service.send([gauge()]) == Accepted()
    assert time.sleeps == [9, 0]


def test_nobody_waits_longer_than_half_a_minute_in_all(recorder: Recorder, service: Datadog, time: Time) -> None:
    recorder.datadog.faults.lasting = failing(429, {}, X_Ratelimit_Reset="12", Retry_After="1")
    assert service.send(fleet(4_000)) == Later("Datadog answered 429 Too Many Requests", 12.0)
    assert time.sleeps == [12, 12]
    recorder.datadog.faults.lasting = failing(429, {}, X_Ratelimit_Reset="31")
    assert service.send([gauge()]) == Later("Datadog answered 429 Too Many Requests", 31.0)
    assert time.sleeps == [12, 12]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (failing(400), Refused("Datadog answered 400 Bad Request: ['a fault of the test']")),
        (failing(403), Later("Datadog answered 403 Forbidden: ['a fault of the test']")),
        (failing(404, b"<html>"), Later("Datadog answered 404 Not Found")),
        (
            Fault(Answer(202, {"errors": ["tag too long"]})),
            Refused("Datadog took it with errors: ['tag too long']"),
        ),
        (
            failing(307, {}, Location="https://elsewhere.example"),
            Later("Datadog answered 307 Temporary Redirect, but not as the service does. Is something in between?"),
        ),
        (failing(502, b"\xff\xfe"), Later("Datadog did not answer, or not as it should: UnicodeDecodeError")),
        (Fault(Answer(202, b"")), Later("Datadog did not answer, or not as it should: ApiTypeError")),
        (Fault(Answer(200, b"<html>")), Later("Datadog did not answer, or not as it should: ApiTypeError")),
        (unreachable(), Later("Datadog did not answer, or not as it should: ProtocolError")),
        (answer_lost(), Later("Datadog did not answer, or not as it should: ProtocolError")),
    ],
)
def test_every_other_fault_says_at_once_whether_to_send_again(
    recorder: Recorder, service: Datadog, time: Time, fault: Fault, expected: Delivery
) -> None:
    recorder.datadog.faults.add(fault)
    assert service.send([gauge()]) == expected
    assert (recorder.datadog.requests, time.sleeps) == (1, [])
    assert service.send([gauge()]) == Accepted()
    assert list(recorder.datadog.points.values()) == [1.0]


def test_a_slow_service_is_left_after_the_limit(
    recorder: Recorder, service: Datadog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert datadog.TIMEOUTS_S == (3, 10)
    monkeypatch.setattr(datadog, "TIMEOUTS_S", (0.2, 0.2))
    recorder.datadog.faults.add(held())
    assert service.send([gauge()]) == Later("Datadog did not answer, or not as it should: ReadTimeoutError")


def test_a_service_that_is_down_is_asked_later(recorder: Recorder, service: Datadog, time: Time) -> None:
    recorder.stop()
    assert service.send([gauge()]) == Later("Datadog did not answer, or not as it should: NewConnectionError")
    assert time.sleeps == []


def test_a_connection_that_cannot_be_encrypted_is_tried_later(recorder: Recorder) -> None:
    service = Datadog(Secret(API_KEY), site="datadoghq.com", url=recorder.url.replace("http:", "https:"))
    assert service.send([gauge()]) == Later("Datadog did not answer: the encrypted connection failed.")


def test_a_wrong_key_is_to_be_mended_and_loses_nothing_whatever_the_environment_says(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_API_KEY", API_KEY)
    monkeypatch.setenv("DD_SITE", "datadoghq.eu")
    wrong = Datadog(Secret("wrong"), site="datadoghq.com", url=recorder.url)
    assert wrong.send([gauge()]) == Later("Datadog answered 403 Forbidden: ['Forbidden']")


@pytest.mark.parametrize("site", ["datadoghq.com", "us5.datadoghq.com", "ddog-gov.com"])
def test_a_site_has_its_own_host(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def nowhere(address: tuple[str, int], *_: Any, **__: Any) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("urllib3.util.connection.create_connection", nowhere)
    assert isinstance(Datadog(Secret(API_KEY), site=site, url=None).send([gauge()]), Later)
    assert asked == [(f"api.{site}", 443)]


NEWS = News("ke-nano-loan 1.0.0 was deployed", "of risk@lender.example", NOW, TAGS, "scorewatch/test/ke-nano-loan")


def test_news_arrive_with_what_they_say_when_it_was_and_their_tags(recorder: Recorder, service: Datadog) -> None:
    assert service.send(NEWS) == Accepted()
    assert recorder.datadog.events == [
        {
            "title": "ke-nano-loan 1.0.0 was deployed",
            "text": "of risk@lender.example",
            "date_happened": SECOND,
            "tags": [f"{name}:{value}" for name, value in TAGS.items()],
            "aggregation_key": "scorewatch/test/ke-nano-loan",
        }
    ]


def test_news_that_are_too_long_arrive_cut_and_two_long_keys_stay_two(recorder: Recorder, service: Datadog) -> None:
    for end in "ab":
        assert service.send(replace(NEWS, title="ü" * 101, text="ü" * 4_001, key="k" * 200 + end)) == Accepted()
    first, second = recorder.datadog.events
    assert (first["title"], first["text"]) == (f"{'ü' * 99}…", f"{'ü' * 3_999}…")
    assert len(first["aggregation_key"]) == 100
    assert first["aggregation_key"] != second["aggregation_key"]


@pytest.mark.parametrize("fault", [failing(503), failing(429, Retry_After="1"), answer_lost()])
def test_news_are_sent_once_whatever_becomes_of_them(
    recorder: Recorder, service: Datadog, time: Time, fault: Fault
) -> None:
    recorder.datadog.faults.add(fault)
    assert isinstance(service.send(NEWS), Later)
    assert (recorder.datadog.requests, time.sleeps) == (1, [])


def test_news_that_are_refused_say_why_without_the_key(recorder: Recorder, service: Datadog) -> None:
    recorder.datadog.faults.add(failing(400, {"errors": [f"not with {API_KEY}"]}))
    refused = service.send(NEWS)
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("Datadog answered 400 Bad Request")
    assert API_KEY not in refused.reason


def test_the_gauges_of_a_thousand_models_are_sent_within_seconds(
    recorder: Recorder, service: Datadog, record_property: Callable[[str, object], None]
) -> None:
    from time import process_time

    before = process_time()
    assert service.send(fleet(5_000)) == Accepted()
    spent = process_time() - before
    record_property("cpu_s", spent)
    assert spent < 10
