"""Gauges and news for Datadog: made to fit its limits, and what came of it. Gauges go in batches, compressed, and are
tried again for a short while; news are sent once.

The client is imported by the first of them, not with this module.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from resources.delivery import UNWELCOME, Accepted, Delivery, Later, Refused, judged
from resources.secrets import Secret

if TYPE_CHECKING:
    from datadog_api_client import Configuration
    from datadog_api_client.exceptions import ApiException
    from datadog_api_client.v1.model.event_create_request import EventCreateRequest
    from datadog_api_client.v2.api.metrics_api import MetricsApi
    from datadog_api_client.v2.model.metric_payload import MetricPayload
    from datadog_api_client.v2.model.metric_series import MetricSeries

# Of the service.
BATCH = 2_000
RAW_BYTES = 5_242_880
COMPRESSED_BYTES = 512_000
TITLE_LENGTH, TEXT_LENGTH, KEY_LENGTH = 100, 4_000, 100
TIMEOUTS_S = (3, 10)  # to connect, to answer

# A request is tried again after these seconds, or after what the service asked for.
WAITS_S = (1.0, 2.0, 4.0)
PATIENCE_S = 30.0

ACCEPTED, TOO_LARGE = 202, 413


@dataclass(frozen=True)
class Gauge:
    """One point. The last one sent of a metric, its tags and a second is the one that counts."""

    metric: str
    value: float
    """Not sent if it is not finite: the service knows no such points."""
    at: datetime
    tags: Mapping[str, str]


@dataclass(frozen=True)
class News:
    """Something that happened, in plain text. ``key``: what is told twice stands together."""

    title: str
    text: str
    at: datetime
    """Not more than 18 hours ago: the service takes nothing older."""
    tags: Mapping[str, str]
    key: str


class Datadog:
    """The intakes of metrics and events behind an API key: those of the site, or of the relay at ``url``."""

    def __init__(
        self,
        api_key: Secret,
        *,
        site: str,
        url: str | None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key, self._host = api_key, url or f"https://api.{site}"
        self._sleep, self._clock = sleep, clock

    def send(self, message: Sequence[Gauge] | News) -> Delivery:
        """Send all gauges, in their order, or news once. Sending gauges again does no harm; news may be shown twice.

        Later: some may not have arrived. Refused: the service will not take some of them, and has the others.
        """
        return self._tell(message) if isinstance(message, News) else self._measure(message)

    def _tell(self, news: News) -> Delivery:
        from datadog_api_client import ApiClient  # noqa: PLC0415
        from datadog_api_client.v1.api.events_api import EventsApi  # noqa: PLC0415

        with ApiClient(_configuration(self._key, self._host)) as client:
            api = EventsApi(client)  # type: ignore[no-untyped-call]
            return self._answered(lambda: api.create_event(_event(news)))[1]

    def _measure(self, gauges: Sequence[Gauge]) -> Delivery:
        from datadog_api_client import ApiClient  # noqa: PLC0415
        from datadog_api_client.v2.api.metrics_api import MetricsApi  # noqa: PLC0415

        refused: Refused | None = None
        until = self._clock() + PATIENCE_S
        with ApiClient(_configuration(self._key, self._host)) as client:
            api = MetricsApi(client)  # type: ignore[no-untyped-call]
            for batch in _batches([_series(gauge) for gauge in gauges if math.isfinite(gauge.value)]):
                match self._send_halving(api, batch, until):
                    case Later() as later:
                        return later
                    case Refused() as found:
                        refused = refused or found
        return refused or Accepted()

    def _send_halving(self, api: MetricsApi, batch: list[MetricSeries], until: float) -> Delivery:
        status, delivery = self._send_patiently(api, batch, until)
        if status != TOO_LARGE or len(batch) == 1:
            return delivery
        middle = len(batch) // 2
        first = self._send_halving(api, batch[:middle], until)
        if isinstance(first, Later):
            return first
        second = self._send_halving(api, batch[middle:], until)
        return first if isinstance(second, Accepted) else second

    def _send_patiently(self, api: MetricsApi, batch: list[MetricSeries], until: float) -> tuple[int, Delivery]:
        for planned in WAITS_S:
            status, delivery = self._send_once(api, batch)
            if not isinstance(delivery, Later) or status < 400 or status in UNWELCOME:
                return status, delivery
            wait = planned if delivery.after_s is None else delivery.after_s
            if self._clock() + wait > until:
                return status, delivery
            self._sleep(wait)
        return self._send_once(api, batch)

    def _send_once(self, api: MetricsApi, batch: list[MetricSeries]) -> tuple[int, Delivery]:
        from datadog_api_client.v2.model.metric_content_encoding import MetricContentEncoding  # noqa: PLC0415

        return self._answered(lambda: api.submit_metrics(_payload(batch), content_encoding=MetricContentEncoding.GZIP))

    def _answered(self, ask: Callable[[], Any]) -> tuple[int, Delivery]:
        """The status of the answer, 0 without one, and what it means."""
        from datadog_api_client.exceptions import ApiException, OpenApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            answer = ask()
        except ApiException as error:
            return self._judged(error)
        except (HTTPError, OpenApiException, ValueError) as error:
            # Its text may quote the request, and with it the key.
            return 0, Later(f"Datadog did not answer, or not as it should: {type(error).__name__}")
        if errors := answer.get("errors"):
            return ACCEPTED, Refused(self._key.hidden_in(f"Datadog took it with errors: {errors}"[:1_000]))
        return ACCEPTED, Accepted()

    def _judged(self, error: ApiException) -> tuple[int, Delivery]:
        if not error.status:
            return 0, Later("Datadog did not answer: the encrypted connection failed.")
        reason = f"Datadog answered {error.status} {error.reason}".rstrip()
        if isinstance(error.body, dict) and (errors := error.body.get("errors")):
            reason = f"{reason}: {str(errors)[:1_000]}"
        return error.status, judged(error.status, self._key.hidden_in(reason), error.headers)


def _configuration(key: Secret, host: str) -> Configuration:
    from datadog_api_client import Configuration  # noqa: PLC0415
    from urllib3 import Retry  # noqa: PLC0415

    return Configuration(  # type: ignore[no-untyped-call]
        host=host,
        api_key={"apiKeyAuth": key.reveal()},
        request_timeout=TIMEOUTS_S,
        # None of the client's: they sleep as long as the service says, and carry the key to wherever it redirects.
        retry_policy=Retry(total=False),
    )


def _series(gauge: Gauge) -> MetricSeries:
    from datadog_api_client.v2.model.metric_intake_type import MetricIntakeType  # noqa: PLC0415
    from datadog_api_client.v2.model.metric_point import MetricPoint  # noqa: PLC0415
    from datadog_api_client.v2.model.metric_series import MetricSeries  # noqa: PLC0415

    return MetricSeries(
        metric=gauge.metric,
        type=MetricIntakeType.GAUGE,
        points=[MetricPoint(timestamp=int(gauge.at.timestamp()), value=float(gauge.value))],
        tags=_tags(gauge.tags),
    )


def _event(news: News) -> EventCreateRequest:
    from datadog_api_client.v1.model.event_create_request import EventCreateRequest  # noqa: PLC0415

    return EventCreateRequest(
        title=_cut(news.title, TITLE_LENGTH),
        text=_cut(news.text, TEXT_LENGTH),
        date_happened=int(news.at.timestamp()),
        tags=_tags(news.tags),
        aggregation_key=_short_key(news.key),
    )


def _tags(tags: Mapping[str, str]) -> list[str]:
    return [f"{name}:{value}" for name, value in tags.items()]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _short_key(key: str) -> str:
    """The key, or its beginning and a digest: the news of two long keys must not stand together."""
    if len(key) <= KEY_LENGTH:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return f"{key[: KEY_LENGTH - len(digest) - 1]}~{digest}"


def _payload(batch: list[MetricSeries]) -> MetricPayload:
    from datadog_api_client.v2.model.metric_payload import MetricPayload  # noqa: PLC0415

    return MetricPayload(series=batch)


def _batches(series: list[MetricSeries]) -> Iterator[list[MetricSeries]]:
    for start in range(0, len(series), BATCH):
        yield from _fitting(series[start : start + BATCH])


def _fitting(batch: list[MetricSeries]) -> Iterator[list[MetricSeries]]:
    """The batch, halved as long as it is too large for one request; what is too large alone the service may refuse."""
    body = json.dumps(_payload(batch).to_dict()).encode()  # type: ignore[no-untyped-call]
    if len(batch) == 1 or (len(body) <= RAW_BYTES and len(gzip.compress(body, 6)) <= COMPRESSED_BYTES):
        yield batch
        return
    middle = len(batch) // 2
    yield from _fitting(batch[:middle])
    yield from _fitting(batch[middle:])
