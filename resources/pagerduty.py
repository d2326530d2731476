"""Events and change events for PagerDuty: made to fit the service's limits, sent once, and what came of it.

The client is imported by the first message, not with this module. It is made anew for each one: there are few, and
nothing stays open between them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from resources.delivery import Accepted, Delivery, Later, judged
from resources.secrets import Secret

if TYPE_CHECKING:
    import ssl

    import httpx2
    from pagerduty import EventsApiV2Client

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | float | bool | None"

TIMEOUT_S = 5

# Of the service: 255 and 1,024 characters. The rest keeps an event far below its 512,000 bytes, in UTF-8.
DEDUP_KEY_LENGTH = 255
TEXT_LENGTH = 1_024
DETAIL_LENGTH = 4_096
DETAILS_BYTES = 32_768
URL_LENGTH = 2_048
LINKS = 20


@dataclass(frozen=True)
class Event:
    """Opens (or updates) the incident of a key, or closes it. Closing takes nothing but the key."""

    action: Literal["trigger", "resolve"]
    dedup_key: str
    summary: str = ""
    severity: Literal["critical", "warning"] = "critical"
    source: str = ""
    timestamp: datetime | None = None
    component: str = ""
    group: str = ""
    class_: str = ""
    details: Mapping[str, JSON] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()
    """URL and text of each."""


@dataclass(frozen=True)
class Change:
    """Something that was changed on purpose, such as a deployment. It is shown beside incidents and pages nobody."""

    summary: str
    source: str
    timestamp: datetime
    details: Mapping[str, JSON] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()


class PagerDuty:
    """The Events API behind a routing key. ``url`` is the service's own or that of a relay."""

    def __init__(self, key: Secret, *, url: str) -> None:
        self._key, self._url = key, url

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # Reading all authorities takes longer than the rest of a message.
        import httpx2  # noqa: PLC0415

        return httpx2.create_ssl_context()

    def send(self, message: Event | Change) -> Delivery:
        """Send a message once, without trying again; whatever is too long arrives cut, and says so.

        An event may be sent again at any time. A change event that is may be shown twice: the service knows no key
        of it.
        """
        import httpx2  # noqa: PLC0415
        import pagerduty  # noqa: PLC0415

        try:
            with _client(self._key, self._url, self._tls) as client:
                _submit(client, message)
        except pagerduty.Error as error:
            if error.response is None:
                return Later(f"PagerDuty did not answer: {type(error.__cause__ or error).__name__}")
            return self._judged(error.response)
        except httpx2.HTTPError as error:
            # Its text and its request hold the event, and with it the key.
            return Later(f"PagerDuty's answer was not understood: {type(error).__name__}")
        return Accepted()

    def _judged(self, answer: httpx2.Response) -> Delivery:
        reason = f"PagerDuty answered {answer.status_code} {answer.reason_phrase}".rstrip()
        if said := _complaints(answer):
            reason = f"{reason}: {_cut(self._key.hidden_in(said), TEXT_LENGTH)}"
        return judged(answer.status_code, reason, answer.headers)


def _client(key: Secret, url: str, tls: ssl.SSLContext) -> EventsApiV2Client:
    import httpx2  # noqa: PLC0415
    import pagerduty  # noqa: PLC0415

    class Unencrypted(httpx2.HTTPTransport):
        """Speaks HTTP where the client, which takes nothing else, says HTTPS."""

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            request.url = request.url.copy_with(scheme="http")
            return super().handle_request(request)

    def refuse_to_wait(answer: httpx2.Response) -> None:
        # The client would sleep and try again, for ever.
        if answer.status_code == httpx2.codes.TOO_MANY_REQUESTS:
            answer.read()
            raise pagerduty.HttpError("too many requests", answer)

    plain = url.startswith("http://")
    client = pagerduty.EventsApiV2Client(
        key.reveal(),
        base_url=f"https://{url.removeprefix('http://')}" if plain else url,
        transport=Unencrypted(verify=tls) if plain else None,
        verify=tls,
        event_hooks={"response": [refuse_to_wait]},
    )
    client.retry = {}
    client.max_network_attempts = 0
    client.timeout = TIMEOUT_S
    return client


def _submit(client: EventsApiV2Client, message: Event | Change) -> None:
    if isinstance(message, Event) and message.action == "resolve":
        client.resolve(_short_key(message.dedup_key))
        return
    fitting, left_out = _links(message.links)
    details = _details(message.details, left_out)
    payload = {
        "summary": _text(message.summary),
        "source": _text(message.source or "scorewatch"),
        "timestamp": message.timestamp.isoformat() if message.timestamp else None,
        "custom_details": details,
    }
    if isinstance(message, Change):
        client.send_change_event(_filled(payload), fitting)
        return
    payload |= {
        "severity": message.severity,
        "component": _text(message.component),
        "group": _text(message.group),
        "class": _text(message.class_),
    }
    more = {"links": fitting} if fitting else {}
    client.send_event("trigger", dedup_key=_short_key(message.dedup_key), payload=_filled(payload), **more)


def _filled(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if value}


def _short_key(key: str) -> str:
    """The key, or its beginning and a digest: two long keys must not become one incident."""
    if len(key) <= DEDUP_KEY_LENGTH:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return f"{key[: DEDUP_KEY_LENGTH - len(digest) - 1]}~{digest}"


def _text(text: str) -> str:
    return _cut(_storable(text), TEXT_LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _links(links: Sequence[tuple[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    """Those that fit, whole because half a URL leads nowhere, and the texts of the others."""
    fitting: list[dict[str, str]] = []
    left_out: list[str] = []
    for url, text in links:
        if len(url) <= URL_LENGTH and len(fitting) < LINKS:
            fitting.append({"href": _storable(url), "text": _text(text)})
        else:
            left_out.append(_text(text))
    return fitting, left_out


def _details(details: Mapping[str, JSON], left_out: Sequence[str]) -> dict[str, Any]:
    """The details in their order, as long as they fit; the last one names what did not, and ``left_out``."""
    kept: dict[str, Any] = {}
    names = list(left_out)
    room = DETAILS_BYTES - 2 * TEXT_LENGTH
    for name, value in details.items():
        one = {_text(name): _plain(value)}
        size = len(json.dumps(one, ensure_ascii=False).encode())
        if size <= room:
            kept |= one
            room -= size
        else:
            names.append(_text(name))
    if names:
        kept["left out for their length"] = _cut(", ".join(names), TEXT_LENGTH // 4)
    return kept


def _plain(value: JSON) -> Any:
    """The same without what JSON or UTF-8 cannot hold, and without texts that fill the screen."""
    if isinstance(value, str):
        return _cut(_storable(value), DETAIL_LENGTH)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {_text(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    return value


def _complaints(answer: httpx2.Response) -> str:
    """What the service says is wrong: nothing but the fields that it documents."""
    try:
        said = answer.json()
    except ValueError:
        return ""
    if not isinstance(said, dict):
        return ""
    errors = said.get("errors")
    parts = [said.get("status"), said.get("message"), *(errors if isinstance(errors, list) else [])]
    return "; ".join(str(part) for part in parts if part)
