"""`scorewatch datadog apply` against a server that keeps dashboards and monitors as Datadog's API does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from monitoring_assets.alerting.dashboards import model_dashboard
from monitoring_assets.cli.datadog import command
from resources.datadog_boards import dashboard_address
from resources.errors import BadInput, InfrastructureError
from resources.object_store import LocalStore
from resources.settings import Settings

API_KEY, APP_KEY = "an-api-key-d41d8cd98f00b204", "an-application-key-e9800998ecf8427e"
MONITORS = {"age-of-results", "dead-letters", "drift", "heartbeat", "undelivered"}
PLACEHOLDER = "@scorewatch-notify"

Body = dict[str, Any]
Apply = Callable[..., Result]


class FakeDatadog:
    """Both kinds by id, with the fields that the service adds and the spellings that it prefers."""

    def __init__(self) -> None:
        self.dashboards: dict[str, Body] = {}
        self.monitors: dict[str, Body] = {}
        self.asked: list[tuple[str, str]] = []
        self.refused_query: str | None = None
        self.answers: dict[tuple[str, str], tuple[int, Body]] = {}
        """What to answer instead, once it is done, by method and path."""
        self.location = ""
        self.url = ""
        self._ids = count(1)

    @property
    def written(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.asked if method != "GET" and not path.endswith("/validate")]

    def add_dashboard(self, body: Body) -> Body:
        return self._keep_dashboard(f"abc-def-{next(self._ids):03}", body)

    def add_monitor(self, body: Body) -> Body:
        return self._keep_monitor(str(1000 + next(self._ids)), body)

    def monitor(self, key: str) -> Body:
        (found,) = [each for each in self.monitors.values() if f"scorewatch_monitor:{key}" in each["tags"]]
        return found

    def dashboard(self, key: str) -> Body:
        marker = f"scorewatch_dashboard:{key}"
        (found,) = [each for each in self.dashboards.values() if marker in each["description"].split()]
        return found

    def answer(self, method: str, url: str, body: Body) -> tuple[int, Any]:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        self.asked.append((method, path))
        found = self._handle(method, path, {name: values[0] for name, values in query.items()}, body)
        return self.answers.get((method, path), found)

    def _handle(self, method: str, path: str, query: dict[str, str], body: Body) -> tuple[int, Any]:
        kind, *rest = path.removeprefix("/api/v1/").split("/")
        kinds = {"dashboard": self._handle_dashboard, "monitor": self._handle_monitor}
        found = kinds[kind]([method, *rest], query, body) if kind in kinds else None
        return found or (404, {"errors": [f"{path} not found"]})

    def _handle_dashboard(self, asked: list[str], query: dict[str, str], body: Body) -> tuple[int, Any] | None:
        match asked:
            case ["GET"]:
                start, size = int(query["start"]), int(query["count"])
                fields = ("id", "title", "description", "author_handle", "created_at", "url", "layout_type")
                summaries = [{name: each.get(name) for name in fields} for each in self.dashboards.values()]
                return 200, {"dashboards": summaries[start : start + size]}
            case ["POST"]:
                return 200, self.add_dashboard(body)
            case ["GET", which] if which in self.dashboards:
                return 200, self.dashboards[which]
            case ["PUT", which] if which in self.dashboards:
                return 200, self._keep_dashboard(which, body)
        return None

    def _handle_monitor(self, asked: list[str], query: dict[str, str], body: Body) -> tuple[int, Any] | None:
        match asked:
            case ["GET"]:
                wanted = set(query["monitor_tags"].split(","))
                return 200, [each for each in self.monitors.values() if wanted <= set(each["tags"])]
            case ["POST", "validate"]:
                return self._validated(body, [*self.monitors])
            case ["POST", which, "validate"] if which in self.monitors:
                return self._validated(body, [each for each in self.monitors if each != which])
            case ["POST"]:
                return 200, self.add_monitor(body)
            case ["PUT", which] if which in self.monitors:
                return 200, self._keep_monitor(which, body)
        return None

    def _validated(self, body: Body, others: list[str]) -> tuple[int, Body]:
        if body["query"] == self.refused_query:
            return 400, {"errors": ["The value provided for parameter 'query' is invalid"]}
        for which in others:
            if (body["name"], body["query"]) == (self.monitors[which]["name"], self.monitors[which]["query"]):
                return 400, {"errors": [f"Duplicate of an existing monitor_id:{which}"]}
        return 200, {}

    def _keep_dashboard(self, which: str, body: Body) -> Body:
        kept = deepcopy(body) | {"id": which, "url": f"/dashboard/{which}", "author_handle": "me@bank.ke"}
        kept |= {"created_at": "2026-01-01T00:00:00Z", "notify_list": None, "restricted_roles": []}
        for variable in kept.get("template_variables", []):
            variable |= {"available_values": [], "default": variable["defaults"][0]}
        self._number_widgets(kept["widgets"])
        self.dashboards[which] = kept
        return kept

    def _number_widgets(self, widgets: list[Body]) -> None:
        for widget in widgets:
            widget["id"] = next(self._ids)
            self._number_widgets(widget["definition"].get("widgets", []))

    def _keep_monitor(self, which: str, body: Body) -> Body:
        kept = deepcopy(body) | {"id": int(which), "overall_state": "No Data", "creator": {"email": "me@bank.ke"}}
        kept |= {"multi": " by {" in body["query"], "priority": None, "tags": list(reversed(body["tags"]))}
        if " - " not in body["query"]:
            kept["type"] = "metric alert"
        kept["options"] |= {"notify_audit": False, "silenced": {}, "new_host_delay": 300}
        kept["options"]["thresholds"] = {name: float(value) for name, value in body["options"]["thresholds"].items()}
        self.monitors[which] = kept
        return kept


@pytest.fixture
def datadog() -> Iterator[FakeDatadog]:
    fake = FakeDatadog()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else {}
            keys = (self.headers["DD-API-KEY"], self.headers["DD-APPLICATION-KEY"])
            allowed = keys == (API_KEY, APP_KEY)
            status, found = fake.answer(self.command, self.path, body) if allowed else (403, {"errors": ["Forbidden"]})
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if fake.location:
                self.send_header("Location", fake.location)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def apply(datadog: FakeDatadog, tmp_path: Path) -> Apply:
    """``apply(*arguments, **environ)`` runs the verb with both keys, in the environment `prod`."""
    environ = {"DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY, "SCOREWATCH_DATADOG_URL": datadog.url}

    def apply(*arguments: str, **more: str) -> Result:
        settings = Settings.from_environment({"SCOREWATCH_ENV": "prod"} | environ | more, tmp_path)
        return CliRunner().invoke(command, ["apply", *arguments], obj=settings)

    return apply


def test_the_first_time_everything_is_created_and_monitors_are_validated_before(
    apply: Apply, datadog: FakeDatadog
) -> None:
    done = apply()

    assert done.exit_code == 0, done.output
    assert done.stdout.count(": created") == 7
    assert {each["title"] for each in datadog.dashboards.values()} == {"Scorewatch: fleet", "Scorewatch: model"}
    assert len(datadog.monitors) == len(MONITORS)
    validated = [at for at, (_, path) in enumerate(datadog.asked) if path == "/api/v1/monitor/validate"]
    assert len(validated) == len(MONITORS)
    assert max(validated) < datadog.asked.index(datadog.written[0])


def test_the_second_time_nothing_is_written(apply: Apply, datadog: FakeDatadog) -> None:
    apply()
    datadog.asked.clear()
    again = apply()

    assert again.stdout.count(": nothing to change") == 7
    assert datadog.written == []


def test_what_differs_is_updated_in_place_and_nothing_else_is_written(apply: Apply, datadog: FakeDatadog) -> None:
    apply()
    heartbeat, fleet = datadog.monitor("heartbeat"), datadog.dashboard("fleet")
    wanted = deepcopy((heartbeat["query"], fleet["widgets"]))
    heartbeat["query"] = heartbeat["query"].replace("last_15m", "last_4h")
    fleet["widgets"][0]["definition"]["title"] = "changed by hand"
    fleet["widgets"].append({"id": 1, "definition": {"type": "note", "content": "added by hand"}})
    datadog.asked.clear()
    done = apply()

    assert "monitor heartbeat: updated" in done.stdout
    assert datadog.written == [
        ("PUT", f"/api/v1/dashboard/{fleet['id']}"),
        ("PUT", f"/api/v1/monitor/{heartbeat['id']}"),
    ]
    assert ("POST", f"/api/v1/monitor/{heartbeat['id']}/validate") in datadog.asked
    titles = [each["definition"]["title"] for each in datadog.dashboard("fleet")["widgets"]]
    assert titles == [each["definition"]["title"] for each in wanted[1]]
    assert datadog.monitor("heartbeat")["query"] == wanted[0]
    assert len(datadog.dashboards) + len(datadog.monitors) == 7


def test_a_dry_run_shows_the_difference_and_writes_nothing(apply: Apply, datadog: FakeDatadog) -> None:
    empty = apply("--dry-run")
    assert empty.stdout.count(": would be created") == 7
    assert (datadog.dashboards, datadog.monitors) == ({}, {})

    apply()
    datadog.monitor("dead-letters")["query"] += "0"
    datadog.asked.clear()
    changed = apply("--dry-run")

    lines = changed.stdout.splitlines()
    assert "--- Datadog: monitor dead-letters" in lines
    assert '-  "query": "max(last_15m):max:scorewatch.publisher.dead_letters{env:prod} > 00",' in lines
    assert '+  "query": "max(last_15m):max:scorewatch.publisher.dead_letters{env:prod} > 0",' in lines
    assert sum(line.startswith(("-", "+")) for line in lines) == 4
    assert changed.stdout.count(": nothing to change") == 6
    assert datadog.written == []


def test_what_is_not_ours_is_left_alone_however_much_there_is(apply: Apply, datadog: FakeDatadog) -> None:
    for _ in range(250):
        datadog.add_dashboard({"title": "Scorewatch: fleet", "description": None, "widgets": []})
    options = {"thresholds": {"critical": 1}}
    query = "max(last_15m):max:scorewatch.publisher.heartbeat{env:test} < 1"
    tags = ["scorewatch_monitor:heartbeat", "env:test", "managed_by:scorewatch"]
    datadog.add_monitor({"name": "theirs", "query": query, "tags": [], "options": options, "type": "query alert"})
    datadog.add_monitor({"name": "of test", "query": query, "tags": tags, "options": options, "type": "query alert"})
    before = deepcopy((datadog.dashboards, datadog.monitors))
    apply()
    datadog.asked.clear()
    again = apply()

    assert again.stdout.count(": nothing to change") == 7
    assert datadog.written == []
    assert {which: datadog.dashboards[which] for which in before[0]} == before[0]
    assert {which: datadog.monitors[which] for which in before[1]} == before[1]


@pytest.mark.parametrize(
    ("site", "host"),
    [
        ("datadoghq.com", "app.datadoghq.com"),
        ("datadoghq.eu", "app.datadoghq.eu"),
        ("us3.datadoghq.com", "us3.datadoghq.com"),
        ("ap1.datadoghq.com", "ap1.datadoghq.com"),
        ("ddog-gov.com", "app.ddog-gov.com"),
    ],
)
def test_a_dashboard_is_opened_where_people_of_the_site_do(site: str, host: str) -> None:
    assert dashboard_address(site, "abc-def-001") == f"https://{host}/dashboard/abc-def-001"


def test_where_the_dashboards_are_is_kept_for_incidents(apply: Apply, datadog: FakeDatadog, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    environ = {"SCOREWATCH_STORE": store.uri, "DD_SITE": "datadoghq.eu"}
    apply("--dry-run", **environ)
    assert model_dashboard(store) is None

    done = apply(**environ)
    there = f"https://app.datadoghq.eu/dashboard/{datadog.dashboard('model')['id']}"
    assert model_dashboard(store) == there
    assert f"incidents link to the dashboard of their model: {store.uri}/publisher/dashboards.json" in done.stdout

    store.delete("publisher/dashboards.json")
    assert apply("--json", **environ).exit_code == 0
    assert model_dashboard(store) == there, "also where nothing had to be changed"


def test_a_copy_that_carries_the_marker_too_is_reported_before_anything_is_written(
    apply: Apply, datadog: FakeDatadog
) -> None:
    apply()
    original = datadog.dashboard("model")
    copy = datadog.add_dashboard(original | {"title": "Scorewatch: model (cloned)"})
    datadog.monitor("drift")["query"] += "0"
    datadog.asked.clear()
    done = apply()

    assert isinstance(done.exception, BadInput)
    assert original["id"] in str(done.exception)
    assert copy["id"] in str(done.exception)
    assert datadog.written == []


def test_a_monitor_that_datadog_does_not_validate_stops_everything(apply: Apply, datadog: FakeDatadog) -> None:
    datadog.refused_query = "max(last_15m):max:scorewatch.publisher.heartbeat{env:prod} < 1"
    done = apply()

    assert isinstance(done.exception, BadInput)
    assert "400" in str(done.exception)
    assert "'query' is invalid" in str(done.exception)
    assert "validate monitor heartbeat" in str(done.exception)
    assert datadog.written == []


@pytest.mark.parametrize(
    ("unset", "named"),
    [
        (("DD_API_KEY", "DD_APP_KEY"), "DD_API_KEY and DD_APP_KEY must be set"),
        (("DD_APP_KEY",), "DD_APP_KEY must be set"),
    ],
)
def test_without_keys_it_says_which_variables_to_set(
    apply: Apply, datadog: FakeDatadog, unset: tuple[str, ...], named: str
) -> None:
    done = apply("--dry-run", **dict.fromkeys(unset, ""))

    assert isinstance(done.exception, BadInput)
    assert str(done.exception).startswith(named)
    assert "DD_APP_KEY_FILE" in str(done.exception)
    assert datadog.asked == []


def test_keys_that_datadog_does_not_take_are_bad_input_and_never_shown(apply: Apply, datadog: FakeDatadog) -> None:
    done = apply(DD_APP_KEY="a-wrong-key-0123456789")

    assert isinstance(done.exception, BadInput)
    assert "403" in str(done.exception)
    assert "DD_APP_KEY" in str(done.exception)
    assert "DD_SITE" in str(done.exception)
    assert "a-wrong-key" not in str(done.exception) + done.output
    assert API_KEY not in str(done.exception) + done.output


def test_a_key_that_an_answer_quotes_is_hidden(apply: Apply, datadog: FakeDatadog) -> None:
    datadog.answers["GET", "/api/v1/monitor"] = (400, {"errors": [f"no such thing for {API_KEY} and {APP_KEY}"]})
    done = apply()

    assert "no such thing for *** and ***" in str(done.exception)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_lost_answer_makes_no_second_dashboard(apply: Apply, datadog: FakeDatadog, status: int) -> None:
    datadog.answers["POST", "/api/v1/dashboard"] = (status, {"errors": ["try later"]})
    done = apply()
    assert isinstance(done.exception, InfrastructureError)
    assert datadog.written == [("POST", "/api/v1/dashboard")]

    datadog.answers.clear()
    assert apply().exit_code == 0
    assert len(datadog.dashboards) == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_no_answer_at_all_is_infrastructure_trouble(apply: Apply, datadog: FakeDatadog, url: str) -> None:
    url = url.format(port=urlsplit(datadog.url).port)
    done = apply(SCOREWATCH_DATADOG_URL=url)

    assert isinstance(done.exception, InfrastructureError)
    assert url in str(done.exception)


def test_keys_are_not_carried_to_where_an_answer_redirects(apply: Apply, datadog: FakeDatadog) -> None:
    datadog.answers["GET", "/api/v1/dashboard"] = (302, {})
    datadog.location = f"{datadog.url}/elsewhere"
    done = apply()

    assert isinstance(done.exception, BadInput)
    assert "302" in str(done.exception)
    assert [path for _, path in datadog.asked] == ["/api/v1/dashboard"]


def test_a_handle_is_set_once_and_kept(apply: Apply, datadog: FakeDatadog) -> None:
    first = apply()
    assert "nobody is notified" in first.stderr
    assert "monitor heartbeat" in first.stderr
    assert "drift" not in first.stderr
    assert PLACEHOLDER in datadog.monitor("heartbeat")["message"]

    second = apply("--notify", "@slack-risk  @me@bank.ke")
    assert second.stderr == ""
    for key in MONITORS - {"drift"}:
        assert datadog.monitor(key)["message"].endswith("\n\n@slack-risk @me@bank.ke")
    assert "@" not in datadog.monitor("drift")["message"]

    datadog.asked.clear()
    third = apply()
    assert third.stdout.count(": nothing to change") == 7
    assert third.stderr == ""
    assert datadog.written == []


@pytest.mark.parametrize("handle", ["slack-risk", "@", "", "@risk and others"])
def test_what_is_no_handle_is_refused(apply: Apply, datadog: FakeDatadog, handle: str) -> None:
    done = apply("--notify", handle)

    assert isinstance(done.exception, BadInput)
    assert "--notify" in str(done.exception)
    assert datadog.asked == []


def test_each_environment_has_monitors_of_its_own_and_all_share_the_dashboards(
    apply: Apply, datadog: FakeDatadog
) -> None:
    apply()
    apply(SCOREWATCH_ENV="staging")

    assert len(datadog.dashboards) == 2
    assert len(datadog.monitors) == 2 * len(MONITORS)
    of_staging = [each for each in datadog.monitors.values() if "env:staging" in each["tags"]]
    assert len(of_staging) == len(MONITORS)
    assert all("{env:staging}" in each["query"] and "(env:staging)" in each["name"] for each in of_staging)
    assert "prod" not in json.dumps(of_staging)


def test_json_says_the_same_in_one_object(apply: Apply, datadog: FakeDatadog) -> None:
    planned = json.loads(apply("--dry-run", "--json").stdout)
    assert planned["dry_run"] is True
    assert {each["action"] for each in planned["objects"]} == {"create"}
    assert {each["id"] for each in planned["objects"]} == {None}

    done = json.loads(apply("--json").stdout)["objects"]
    assert {(each["kind"], each["key"]) for each in done} == {
        *(("monitor", key) for key in MONITORS),
        ("dashboard", "fleet"),
        ("dashboard", "model"),
    }
    assert {each["id"] for each in done} == {*datadog.dashboards, *datadog.monitors}

    datadog.monitor("drift")["name"] = "renamed"
    (changed,) = [each for each in json.loads(apply("--json").stdout)["objects"] if each["action"] != "none"]
    assert (changed["key"], changed["action"]) == ("drift", "update")
    assert '-  "name": "renamed",' in changed["difference"].splitlines()
