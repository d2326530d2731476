"""The JSON in deploy/datadog: taken by the API, about metrics that exist, in the order that was agreed on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from resources.datadog_boards import ENV, NOTIFY, Board, read_boards

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "datadog"
SPECIFICATION = REPOSITORY.parent / "shared" / "specs" / "datadog_v1.subset.json"
BOARDS = {board.name: board for board in read_boards(FOLDER, env="prod")}
DASHBOARDS = [board for board in BOARDS.values() if board.kind == "dashboard"]
MONITORS = [board for board in BOARDS.values() if board.kind == "monitor"]

COMMON = frozenset({"env", "model", "model_version", "team", "tier"})
PUBLISHER = frozenset({"env"})
CATALOGUE = {
    **{
        f"scorewatch.now.{name}": COMMON
        for name in ("state", "psi.max", "features.breached", "result.age_seconds", "sla_seconds")
    },
    **{f"scorewatch.daily.{name}": COMMON for name in ("psi", "psi.raw", "psi.band", "rows")},
    "scorewatch.daily.score.bin": COMMON | {"bin", "population"},
    "scorewatch.daily.csi": COMMON | {"feature"},
    "scorewatch.daily.null_rate": COMMON | {"feature"},
    "scorewatch.publisher.heartbeat": PUBLISHER,
    "scorewatch.publisher.dead_letters": PUBLISHER,
    "scorewatch.publisher.undelivered": PUBLISHER,
}
"""Every metric that is sent, with every tag that it has."""

NEWS = {"deployment": COMMON}
"""Everything that happens and is told: its tag `scorewatch`, with every other tag that it has."""

SELECTION = re.compile(r"(?:avg|max|min|sum):([\w.]+)\{([^}]*)\}(?: by \{([^}]*)\})?")

Selection = tuple[str, list[str], list[str]]
"""A metric, the parts of its scope, the tags that it is grouped by."""


def widgets(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for widget in body["widgets"]:
        yield widget["definition"]
        yield from widgets({"widgets": widget["definition"].get("widgets", [])})


def requests(board: Board) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those about metrics."""
    for widget in widgets(board.body):
        for request in widget.get("requests", []) if widget["type"] != "list_stream" else ():
            yield widget["title"], request


def searches(board: Board) -> Iterator[list[str]]:
    """The words by which widgets look for events."""
    for widget in widgets(board.body):
        for request in widget["requests"] if widget["type"] == "list_stream" else ():
            assert request["query"]["data_source"] == "event_stream"
            yield request["query"]["query_string"].split()


def queries(board: Board) -> Iterator[str]:
    if board.kind == "monitor":
        yield board.body["query"]
    else:
        yield from (query["query"] for _, request in requests(board) for query in request["queries"])


def selections(query: str) -> list[Selection]:
    found = [
        (metric, scope.split(","), groups.split(",") if groups else [])
        for metric, scope, groups in SELECTION.findall(query)
    ]
    assert len(found) == query.count("scorewatch."), f"a part of {query} was not understood"
    return found


def spoilt() -> Iterator[Any]:
    """What the API would refuse."""
    for name, change in {
        "a palette that there is not": lambda body: next(
            request for _, request in requests(Board("dashboard", "", body)) if "conditional_formats" in request
        )["conditional_formats"][0].update(palette="pink"),
        "a widget that there is not": lambda body: body["widgets"][0]["definition"].update(type="heat_grid"),
        "a layout that there is not": lambda body: body.update(layout_type="grid"),
        "a source of events that there is not": lambda body: next(
            widget for widget in widgets(body) if widget["type"] == "list_stream"
        )["requests"][0]["query"].update(data_source="deployments"),
        "no widgets": lambda body: body.pop("widgets"),
    }.items():
        body = deepcopy(BOARDS["dashboard fleet"].body)
        change(body)
        yield pytest.param("Dashboard", body, id=name)
    for name, change in {
        "a type that there is not": lambda body: body.update(type="drift alert"),
        "a threshold that is no number": lambda body: body["options"]["thresholds"].update(critical="much"),
        "no query": lambda body: body.pop("query"),
    }.items():
        body = deepcopy(BOARDS["monitor drift"].body)
        change(body)
        yield pytest.param("Monitor", body, id=name)


def refused_by_specification(schema: str, body: dict[str, Any]) -> list[str]:
    from openapi_schema_validator import OAS30Validator

    if not SPECIFICATION.is_file():
        pytest.skip(f"Datadog's specification is not at hand: {SPECIFICATION}")
    components = json.loads(SPECIFICATION.read_text(encoding="utf-8"))["components"]
    judge = OAS30Validator({"$ref": f"#/components/schemas/{schema}", "components": components})
    return [f"{error.json_path}: {error.message[:200]}" for error in judge.iter_errors(body)]


def refused_by_client(schema: str, body: dict[str, Any]) -> str | None:
    """Why the client's own types do not take it, or what they do not know of it."""
    from datadog_api_client import ApiClient, Configuration
    from datadog_api_client.exceptions import OpenApiException
    from datadog_api_client.v1.model.dashboard import Dashboard
    from datadog_api_client.v1.model.monitor import Monitor

    with ApiClient(Configuration()) as client:
        model = {"Dashboard": Dashboard, "Monitor": Monitor}[schema]
        try:
            read = client.deserialize(json.dumps(body), (model,), True)
        except (OpenApiException, TypeError) as error:
            return str(error)
    return "a part fits no type of the client" if read._unparsed else next(undeclared(read), None)


def undeclared(read: Any) -> Iterator[str]:
    from datadog_api_client.model_utils import ModelComposed, ModelNormal

    if isinstance(read, list):
        parts = read
    elif isinstance(read, ModelComposed):
        parts = read._composed_instances
    elif isinstance(read, ModelNormal):
        yield from (f"{type(read).__name__} has no {name}" for name in read._data_store.keys() - read.attribute_map)
        parts = list(read._data_store.values())
    else:
        parts = []
    for part in parts:
        yield from undeclared(part)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_the_specification_of_the_api_takes_it(board: Board) -> None:
    assert refused_by_specification(board.kind.title(), board.body) == []


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_the_clients_own_types_take_it_and_know_every_field(board: Board) -> None:
    assert refused_by_client(board.kind.title(), board.body) is None


@pytest.mark.parametrize(("schema", "body"), spoilt())
def test_both_judges_refuse_what_is_wrong(schema: str, body: dict[str, Any]) -> None:
    assert refused_by_client(schema, body)
    assert refused_by_specification(schema, body)


def test_the_client_finds_misspelt_fields_too() -> None:
    body = deepcopy(BOARDS["dashboard fleet"].body)
    body["widgets"][0]["definition"]["widgets"][0]["definition"]["titel"] = "State"

    assert refused_by_client("Dashboard", body) == "QueryValueWidgetDefinition has no titel"


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_metric_is_sent_and_has_every_tag_that_it_is_asked_for(board: Board) -> None:
    variables = {f"${each['name']}": each["prefix"] for each in board.body.get("template_variables", [])}
    found = [selection for query in queries(board) for selection in selections(query)]

    assert found
    for metric, scope, groups in found:
        assert metric in CATALOGUE
        tags = {variables[part] if part.startswith("$") else part.partition(":")[0] for part in scope}
        assert tags | set(groups) <= CATALOGUE[metric], f"{metric} has not all of {tags | set(groups)}"


def test_every_metric_that_is_sent_is_shown() -> None:
    shown = {metric for board in DASHBOARDS for query in queries(board) for metric, _, _ in selections(query)}

    assert shown == set(CATALOGUE)


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_every_widget_can_be_narrowed_by_every_variable_that_its_metrics_have(board: Board) -> None:
    variables = {each["name"] for each in board.body["template_variables"]}

    for metric, scope, _ in (selection for query in queries(board) for selection in selections(query)):
        assert {part[1:] for part in scope if part.startswith("$")} == variables & CATALOGUE[metric], metric


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_the_events_that_are_told_are_shown_and_narrowed_by_every_variable_that_they_have(board: Board) -> None:
    variables = {each["name"]: each["prefix"] for each in board.body["template_variables"]}
    shown = {}
    for kind, *words in searches(board):
        assert all(variables[word.removeprefix("$")] in NEWS["deployment"] for word in words)
        shown[kind.removeprefix("scorewatch:")] = {word.removeprefix("$") for word in words}

    assert shown == {kind: variables.keys() & tags for kind, tags in NEWS.items()}


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_formulas_name_queries_of_their_own_request(board: Board) -> None:
    functions = {"default_zero", "timeshift", "week_before"}

    for title, request in requests(board):
        used = {name for each in request["formulas"] for name in re.findall(r"[a-z_]+", each["formula"])}
        assert used - functions == {query["name"] for query in request["queries"]}, title


def test_the_fleet_is_shown_in_the_order_that_was_agreed_on() -> None:
    sections = [widget["definition"]["title"] for widget in BOARDS["dashboard fleet"].body["widgets"]]

    assert [section.partition(":")[0] for section in sections] == [
        "State by tier",
        "Worst models",
        "CSI by feature",
        "Score bins",
        "Score PSI",
        "Volume and nulls",
        "Deployments",
        "Age of results",
    ]


def test_one_model_is_shown_in_the_same_order_chosen_by_environment_model_and_version() -> None:
    body = BOARDS["dashboard model"].body

    assert [each["name"] for each in body["template_variables"]] == ["env", "model", "model_version"]
    assert [widget["definition"]["title"] for widget in body["widgets"]] == [
        "State",
        "CSI by feature",
        "Score bins",
        "Score PSI",
        "Volume and nulls",
        "Deployments",
        "Age of results",
    ]


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_widgets_lie_beside_each_other_in_twelve_columns(board: Board) -> None:
    def check(laid: list[dict[str, Any]], height: float) -> None:
        cells = []
        for at in (widget["layout"] for widget in laid):
            assert at["x"] + at["width"] <= 12
            assert at["y"] + at["height"] <= height
            cells += [
                (x, y) for x in range(at["x"], at["x"] + at["width"]) for y in range(at["y"], at["y"] + at["height"])
            ]
        assert len(cells) == len(set(cells)), "two widgets lie on each other"

    check(board.body["widgets"], float("inf"))
    for group in board.body["widgets"]:
        # Its title takes a row.
        check(group["definition"]["widgets"], group["layout"]["height"] - 1)


def test_csi_is_a_grid_and_no_heatmap() -> None:
    csi = [
        widget["type"]
        for board in DASHBOARDS
        for widget in widgets(board.body)
        if "scorewatch.daily.csi" in json.dumps(widget.get("requests", ""))
    ]

    assert csi.count("query_table") == len(DASHBOARDS)
    assert "heatmap" not in csi


def test_there_is_a_monitor_for_each_way_of_falling_silent_and_one_for_drift() -> None:
    assert {board.key for board in MONITORS} == {"age-of-results", "dead-letters", "drift", "heartbeat", "undelivered"}


@pytest.mark.parametrize("board", MONITORS, ids=lambda board: board.name)
def test_only_the_monitoring_itself_notifies_somebody(board: Board) -> None:
    handles = re.findall(r"@\S+", json.dumps(board.body))

    assert handles == ([] if board.key == "drift" else [f'{NOTIFY}",'])
    assert board.notifies_nobody == (board.key != "drift")


def test_a_missing_heartbeat_is_noticed_whatever_groups_there_were() -> None:
    body = BOARDS["monitor heartbeat"].body

    assert body["options"]["on_missing_data"] == "show_and_notify_no_data"
    assert [groups for _, _, groups in selections(body["query"])] == [[]]
    others = [board.body["options"]["on_missing_data"] for board in MONITORS if board.key != "heartbeat"]
    # A group that goes, as with a retired version, is no news; and it does not count as recovered.
    assert others == ["show_no_data"] * 4


def test_results_are_late_by_model_version() -> None:
    query = BOARDS["monitor age-of-results"].body["query"]

    assert [(metric, groups[:2]) for metric, _, groups in selections(query)] == [
        ("scorewatch.now.result.age_seconds", ["model", "model_version"]),
        ("scorewatch.now.sla_seconds", ["model", "model_version"]),
    ]


@pytest.mark.parametrize("board", MONITORS, ids=lambda board: board.name)
def test_a_monitors_query_ends_with_its_threshold_and_watches_one_environment(board: Board) -> None:
    query = board.body["query"]

    assert float(query.split()[-1]) == board.body["options"]["thresholds"]["critical"]
    assert all(scope == [ENV] for _, scope, _ in selections(query))
    assert ENV in board.body["name"]


@pytest.mark.parametrize("board", MONITORS, ids=lambda board: board.name)
def test_a_message_names_only_tags_that_a_notification_has(board: Board) -> None:
    # A notification has the tags that it is sent by: of what else the query is grouped by, there may be several.
    _, _, groups = selections(board.body["query"])[0]
    notified = board.body["options"].get("notify_by", groups)

    assert set(notified) <= set(groups)
    assert set(re.findall(r"\{\{(\w+)\.name\}\}", board.body["message"])) <= set(notified)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_each_carries_the_marker_that_it_is_found_by(board: Board) -> None:
    if board.kind == "dashboard":
        assert f"scorewatch_dashboard:{board.key}" in board.body["description"].split()
        # The service takes no other tags of a dashboard than teams.
        assert "tags" not in board.body
    else:
        assert board.body["tags"] == [ENV, "managed_by:scorewatch", f"scorewatch_monitor:{board.key}"]


def test_an_environment_takes_the_place_of_the_one_in_the_files() -> None:
    monitors = [board.body for board in read_boards(FOLDER, env="ke-test") if board.kind == "monitor"]

    assert all("{env:ke-test}" in body["query"] and "env:ke-test" in body["tags"] for body in monitors)
    assert ENV not in json.dumps(monitors)
