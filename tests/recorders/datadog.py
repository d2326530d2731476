"""Datadog's intakes: points by metric, tags and second, and events."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.recorders.faults import Answer, Faults, Request
from tests.recorders.judge import broken_rules

API_KEY = "api-key-of-the-recorder-00000001"

_SERIES, _EVENTS, _VALIDATE = "/api/v2/series", "/api/v1/events", "/api/v1/validate"
_UNPACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}

_PAST, _FUTURE = timedelta(hours=1), timedelta(minutes=10)
_OLDEST_EVENT = timedelta(hours=18)
# They would make a new custom metric of every partition, run and machine.
_UNWANTED_TAGS = ("partition", "run", "attempt", "host")

Tags = tuple[str, ...]


class DatadogRecorder:
    """Keeps the last value of every metric, sorted tags and second. zstd is not spoken.

    With a clock in `now` it drops what is older than an hour or more than ten minutes ahead, as the service does
    without a word, but for the metrics that begin with one of `historical`, and refuses events that are older than 18
    hours. `problems` says what was wrong with a payload that it refused.
    """

    paths = (_SERIES, _EVENTS, _VALIDATE)

    def __init__(self) -> None:
        self.faults = Faults()
        self.requests = 0
        self.problems: list[str] = []
        self.points: dict[tuple[str, Tags, int], float] = {}
        self.events: list[dict[str, Any]] = []
        self.batches: list[int] = []
        """The number of series in each request that was accepted."""
        self.dropped: list[tuple[str, Tags, int]] = []
        self.now: Callable[[], datetime] | None = None
        self.historical: tuple[str, ...] = ("scorewatch.daily.",)
        self.largest_batch, self.raw_bytes, self.packed_bytes = 2_000, 5_242_880, 512_000

    def series(self, metric: str) -> dict[Tags, dict[int, float]]:
        """The points of a metric: by their tags, then by their second."""
        found: dict[Tags, dict[int, float]] = {}
        for (name, tags, second), value in self.points.items():
            if name == metric:
                found.setdefault(tags, {})[second] = value
        return found

    def take(self, request: Request) -> Answer:
        """Do what a request asks for, and answer it."""
        if request.headers.get("DD-API-KEY") != API_KEY:
            return Answer(403, {"errors": ["Forbidden"]})
        if request.path == _VALIDATE:
            return Answer(200, {"valid": True})
        try:
            raw = _UNPACK[request.headers.get("Content-Encoding", "")](request.content)
            body = json.loads(raw, parse_constant=_no_number)
        except (KeyError, OSError, EOFError, ValueError, zlib.error):
            return self._invalid(["The payload cannot be read."])
        return self._event(body) if request.path == _EVENTS else self._series(request, len(raw), body)

    def _series(self, request: Request, raw: int, body: Any) -> Answer:
        problems = _misfits(body) or broken_rules("datadog_v2", request.path, body) or _mistakes(body)
        if problems:
            return self._invalid(problems)
        if len(request.content) > self.packed_bytes or raw > self.raw_bytes or len(body["series"]) > self.largest_batch:
            return Answer(413, {"errors": ["Payload too large"]})
        self.batches.append(len(body["series"]))
        for series in body["series"]:
            self._keep(series)
        return Answer(202, {"errors": []})

    def _event(self, body: Any) -> Answer:
        problems = _misfits_event(body) or broken_rules("datadog_v1", _EVENTS, body)
        if not problems and self.now is not None:
            age = self.now() - datetime.fromtimestamp(body["date_happened"], self.now().tzinfo)
            problems = ["date_happened: too old"] if age > _OLDEST_EVENT else []
        if problems:
            return self._invalid(problems)
        self.events.append(body)
        return Answer(202, {"status": "ok", "event": {"id": len(self.events), "title": body["title"]}})

    def _keep(self, series: dict[str, Any]) -> None:
        tags = tuple(sorted(series.get("tags", [])))
        for point in series["points"]:
            at = (series["metric"], tags, point["timestamp"])
            if self._taken(series["metric"], point["timestamp"]):
                self.points[at] = point["value"]
            else:
                self.dropped.append(at)

    def _taken(self, metric: str, second: int) -> bool:
        if self.now is None:
            return True
        age = self.now() - datetime.fromtimestamp(second, self.now().tzinfo)
        return age >= -_FUTURE and (age <= _PAST or metric.startswith(self.historical))

    def _invalid(self, problems: list[str]) -> Answer:
        self.problems += problems
        return Answer(400, {"errors": problems})


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _misfits(body: Any) -> list[str]:
    from datadog_api_client.v2.model.metric_payload import MetricPayload

    return _misfits_of(MetricPayload, body)


def _misfits_event(body: Any) -> list[str]:
    from datadog_api_client.v1.model.event_create_request import EventCreateRequest

    unknown = body.keys() - EventCreateRequest.attribute_map if isinstance(body, dict) else ()
    return _misfits_of(EventCreateRequest, body) or [f"{name} is no part of an event" for name in unknown]


def _misfits_of(model: type, body: Any) -> list[str]:
    """What the official client's own model of the payload does not take."""
    from datadog_api_client import Configuration
    from datadog_api_client.exceptions import OpenApiException
    from datadog_api_client.model_utils import validate_and_convert_types

    try:
        read = validate_and_convert_types(body, (model,), ["body"], True, True, configuration=Configuration())
    except (OpenApiException, TypeError) as error:  # the latter for what is missing
        return [str(error)[:500]]
    # What does not fit further down is kept as it came, and marked.
    return ["A part does not fit its model."] if read._unparsed else []


def _mistakes(body: dict[str, Any]) -> list[str]:
    found = []
    for series in body["series"]:
        if not series["points"] or not all({"timestamp", "value"} <= point.keys() for point in series["points"]):
            found.append(f"{series['metric']}: a point without a time or a value")
        unwanted = [tag for tag in series.get("tags", []) if tag.partition(":")[0] in _UNWANTED_TAGS]
        if unwanted or "resources" in series:
            found.append(f"{series['metric']}: {unwanted or 'resources'}: a series for every partition, run or machine")
    return found
