"""Dashboards and monitors at Datadog: made there what the files say, and nothing else of the organisation touched.

Each carries a marker, by which it is found again: a dashboard a word in its description (its tags can name teams only),
a monitor its tags.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resources.errors import BadInput, InfrastructureError

if TYPE_CHECKING:
    from datadog_api_client import ApiClient
    from datadog_api_client.exceptions import ApiException

    from resources.secrets import Secret

Kind = Literal["dashboard", "monitor"]

ENV = "env:prod"
"""What the files write for the environment; read_boards puts the present one there."""
NOTIFY = "@scorewatch-notify"
"""The last line of the messages that are meant for somebody; a handle takes its place."""
PAGE = 100
TIMEOUTS_S = (3, 10)  # to connect, to answer
# The service gives a monitor one of these two types, whichever it was sent with.
METRIC_MONITOR = ("metric alert", "query alert")


@dataclass(frozen=True)
class Board:
    """A dashboard or a monitor as it should be."""

    kind: Kind
    key: str
    """Its name among its kind, which never changes."""
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.kind} {self.key}"

    @property
    def notifies_nobody(self) -> bool:
        """Whether it is meant for somebody, and no handle was given."""
        return _notified(self.body) == NOTIFY


@dataclass(frozen=True)
class Change:
    """What has to be done about one board."""

    board: Board
    id: str | None
    """None: it is not there yet."""
    difference: str
    """A unified diff from what is there; empty: nothing has to be done."""

    @property
    def action(self) -> Literal["create", "update", "none"]:
        """In one word."""
        if self.id is None:
            return "create"
        return "update" if self.difference else "none"


def read_boards(folder: Path, *, env: str) -> list[Board]:
    """The dashboards and monitors in a folder of JSON files (`dashboard-KEY.json`, `monitor-KEY.json`), by name.

    Monitors watch the environment `env`, and each environment has its own. Raises BadInput if there is none.
    """
    kinds: tuple[Kind, ...] = ("dashboard", "monitor")
    found = [
        Board(kind, path.stem.removeprefix(f"{kind}-"), json.loads(text.replace(ENV, f"env:{env}")))
        for kind in kinds
        for path in sorted(folder.glob(f"{kind}-*.json"))
        for text in [path.read_text(encoding="utf-8")]
    ]
    if not found:
        raise BadInput(f"{folder} holds no dashboard and no monitor. Install Scorewatch again, from its repository.")
    return found


def dashboard_address(site: str, which: str) -> str:
    """Where people open a dashboard of an organisation at `site`, by its id."""
    # The first sites have the application beside the API, the others at the site itself.
    host = f"app.{site}" if site.count(".") == 1 else site
    return f"https://{host}/dashboard/{which}"


class DatadogBoards:
    """The dashboards and monitors of one organisation, behind its two keys, at its site or at `url`.

    Every method raises BadInput for what Datadog refuses and InfrastructureError where it does not answer. Nothing is
    tried again here, so that a lost answer makes no second dashboard: calling again finds the first.
    """

    def __init__(self, api_key: Secret, app_key: Secret, *, site: str, url: str | None) -> None:
        self._keys = {"DD-API-KEY": api_key, "DD-APPLICATION-KEY": app_key}
        self._host = url or f"https://api.{site}"

    def compare(self, boards: Sequence[Board], notify: str | None = None) -> list[Change]:
        """What has to be done about each board, in their order; monitors were validated by Datadog. Writes nothing.

        `notify` are the handles that monitors about the monitoring itself notify; without it they keep the ones they
        have. Only what the files state is compared, so that what the service adds makes no difference. Raises BadInput
        as well if two objects carry the same marker.
        """
        dashboards, monitors = self._dashboards(), self._monitors()
        changes = []
        for board in boards:
            marked = dashboards if board.kind == "dashboard" else monitors
            there = _only([each for each in marked if _is(each, board)], board)
            if there is not None and board.kind == "dashboard":
                there = self._call("GET", f"/api/v1/dashboard/{there['id']}", f"read {board.name}")
            change = _change(_addressed(board, there, notify), there)
            if change.action != "none" and board.kind == "monitor":
                which = "" if change.id is None else f"/{change.id}"
                self._call("POST", f"/api/v1/monitor{which}/validate", f"validate {board.name}", change.board.body)
            changes.append(change)
        return changes

    def write(self, change: Change) -> str:
        """Create or update what a change is about; the id that it has then."""
        path, what = f"/api/v1/{change.board.kind}", f"{change.action} {change.board.name}"
        if change.id is None:
            return str(self._call("POST", path, what, change.board.body)["id"])
        if change.difference:
            self._call("PUT", f"{path}/{change.id}", what, change.board.body)
        return change.id

    def _dashboards(self) -> list[dict[str, Any]]:
        """Summaries of all there are: id, title and description."""
        found: list[dict[str, Any]] = []
        for start in range(0, 1_000_000, PAGE):
            query = [("count", PAGE), ("start", start)]
            page = self._call("GET", "/api/v1/dashboard", "list dashboards", query=query)["dashboards"]
            found += page
            if len(page) < PAGE:
                break
        return found

    def _monitors(self) -> list[dict[str, Any]]:
        query = [("monitor_tags", "managed_by:scorewatch")]
        found: list[dict[str, Any]] = self._call("GET", "/api/v1/monitor", "list monitors", query=query)
        return found

    def _call(
        self,
        method: str,
        path: str,
        what: str,
        body: dict[str, Any] | None = None,
        query: list[tuple[str, Any]] | None = None,
    ) -> Any:
        from datadog_api_client.exceptions import ApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        headers = {name: key.reveal() for name, key in self._keys.items()} | {"Accept": "application/json"}
        try:
            with self._client() as client:
                # Undecoded: the client's own types would lose fields that they do not know.
                answer = client.call_api(
                    path,
                    method,
                    query_params=query,
                    header_params=headers,
                    body=body,
                    preload_content=False,
                    request_timeout=TIMEOUTS_S,
                )
                return json.loads(answer.data)
        except ApiException as error:
            raise self._explained(error, what) from None
        except (HTTPError, ValueError) as error:
            # Its text may quote the request, and with it the keys.
            raise InfrastructureError(
                f"Datadog at {self._host} did not answer, or not as it should, to: {what} ({type(error).__name__})."
            ) from None

    def _client(self) -> ApiClient:
        from datadog_api_client import ApiClient, Configuration  # noqa: PLC0415
        from urllib3 import Retry  # noqa: PLC0415

        # Redirects are not followed either: they would carry the keys to wherever they lead.
        return ApiClient(Configuration(host=self._host, retry_policy=Retry(total=False)))  # type: ignore[no-untyped-call]

    def _explained(self, error: ApiException, what: str) -> BadInput | InfrastructureError:
        if not error.status:
            return InfrastructureError(
                f"The encrypted connection to Datadog at {self._host} failed. Asked for: {what}."
            )
        said = f"{error.status} {error.reason}".rstrip()
        if isinstance(error.body, dict) and (errors := error.body.get("errors")):
            said = f"{said}: {self._readable(errors)}"
        told = f"Datadog at {self._host} answered {said}. Asked for: {what}."
        if error.status in (401, 403):
            return BadInput(
                f"{told} DD_API_KEY and DD_APP_KEY have to be keys of an organisation at the site in DD_SITE, and the "
                "application key, if it has scopes, needs those to read and write dashboards and monitors."
            )
        if error.status < 500 and error.status not in (408, 429):
            return BadInput(told)
        return InfrastructureError(f"{told} Try again later: what is done already is found again.")

    def _readable(self, errors: object) -> str:
        text = "; ".join(map(str, errors if isinstance(errors, list) else [errors]))
        for key in self._keys.values():
            text = key.hidden_in(text)
        return text[:1_000]


def _is(there: dict[str, Any], board: Board) -> bool:
    if board.kind == "dashboard":
        return f"scorewatch_dashboard:{board.key}" in (there.get("description") or "").split()
    return set(board.body["tags"]) <= set(there.get("tags") or [])


def _only(found: Sequence[dict[str, Any]], board: Board) -> dict[str, Any] | None:
    if len(found) > 1:
        ids = " and ".join(str(each["id"]) for each in found)
        where = "description" if board.kind == "dashboard" else "tags"
        raise BadInput(
            f"Datadog has {len(found)} of {board.name}, with the ids {ids}; one of them may be a copy. "
            f"Remove what names scorewatch from the {where} of those that are not to be managed, or delete them."
        )
    return found[0] if found else None


def _notified(body: dict[str, Any]) -> str | None:
    """The last line of a message, if that is handles."""
    last = str(body.get("message", "")).rstrip().rpartition("\n")[2]
    return last if last.startswith("@") else None


def _addressed(board: Board, there: dict[str, Any] | None, notify: str | None) -> Board:
    if not board.notifies_nobody:
        return board
    handle = notify or (there and _notified(there)) or NOTIFY
    return replace(board, body=board.body | {"message": board.body["message"].replace(NOTIFY, handle)})


def _change(board: Board, there: dict[str, Any] | None) -> Change:
    if there is None:
        return Change(board, None, _difference({}, board.body, board.name))
    spelt = {"tags": sorted(there.get("tags") or [])}  # as in the files; the service keeps no order
    if there.get("type") in METRIC_MONITOR and board.body.get("type") in METRIC_MONITOR:
        spelt["type"] = board.body["type"]
    return Change(board, str(there["id"]), _difference(_stated(there | spelt, board.body), board.body, board.name))


def _stated(there: Any, wanted: Any) -> Any:
    """Of what is there, the keys that are wanted, at any depth; in a list, everything that is not wanted too."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        return {key: _stated(there[key], value) for key, value in wanted.items() if key in there}
    if isinstance(there, list) and isinstance(wanted, list):
        return [_stated(*pair) for pair in zip(there, wanted, strict=False)] + there[len(wanted) :]
    # 1 and 1.0 are the same to the service, and should not look different here.
    return wanted if there == wanted else there


def _difference(there: dict[str, Any], wanted: dict[str, Any], name: str) -> str:
    before, after = (
        json.dumps(each, indent=2, sort_keys=True, ensure_ascii=False).splitlines() if each else []
        for each in (there, wanted)
    )
    return "\n".join(unified_diff(before, after, f"Datadog: {name}", f"Scorewatch: {name}", lineterm=""))
