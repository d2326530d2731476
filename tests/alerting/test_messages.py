"""What an incident says: the columns that moved, by how much and why one may think so, and where to look."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from monitoring_assets import layout
from monitoring_assets.alerting.dashboards import keep, model_dashboard
from monitoring_assets.alerting.messages import trigger
from monitoring_assets.alerting.policy import Limits, Policy
from monitoring_assets.alerting.state import Told
from monitoring_assets.alerting.worst import worst_columns
from monitoring_assets.results import Metric
from resources.object_store import LocalStore
from resources.pagerduty import Event, PagerDuty
from resources.secrets import Secret
from tests.alerting.conftest import MODEL, USUAL, VERSION, Scene, shift
from tests.recorders import ROUTING_KEY, Recorder

TOLD = Told(
    track="drift",
    key=f"scorewatch/test/{MODEL}/{VERSION}/drift/2026-01-02",
    opened="2026-01-02",
    at="2026-01-03",
    since=datetime(2026, 1, 4, 6, tzinfo=UTC),
    severity=2,
    why="2 of 9 columns at or above 0.25",
)
BOARD = "https://app.datadoghq.eu/dashboard/abc-def-ghi"


def incident(*worst: Metric, dashboard: str | None = None) -> Event:
    return trigger(USUAL, TOLD, "critical", worst, "test", "http://dagit", dashboard)


def columns(event: Event) -> Any:
    return event.details["worst columns"]


def test_a_column_has_its_size_the_size_without_drift_and_its_nulls() -> None:
    nulls = {"null_share": 0.5, "reference_null_share": 1 / 48, "note": "of the PSI null 0.300"}
    metric = shift("income", 0.3104592, value=0.3204592, window=3, threshold=0.25, band=0.0412345, **nulls)
    assert columns(incident(metric)) == {
        "income": {
            "psi": 0.3205,
            "net psi": 0.3105,
            "threshold": 0.25,
            "no-drift band": 0.04123,
            "partitions": 3,
            "rows": 900,
            "nulls": 0.5,
            "nulls in the reference": 0.02083,
            "note": "of the PSI null 0.300",
        }
    }


def test_what_a_result_from_before_does_not_say_is_left_out_and_a_zero_is_not() -> None:
    found = columns(incident(shift("income", 0.3), shift("age", 0.26, null_share=0.0, reference_null_share=0.0)))
    assert set(found["income"]) == {"psi", "net psi", "threshold", "partitions", "rows"}
    assert (found["age"]["nulls"], found["age"]["nulls in the reference"]) == (0.0, 0.0)


def test_twenty_columns_with_the_longest_names_reach_pagerduty_whole(recorder: Recorder) -> None:
    full = {"band": 1 / 3, "null_share": 1 / 3, "reference_null_share": 1 / 7, "note": "of the PSI null 0.300; " * 12}
    worst = [shift(f"{number:02d}{'ü' * 198}", 1 / 3 + number, value=2 / 3, **full) for number in range(30)]
    PagerDuty(Secret(ROUTING_KEY), url=recorder.url).send(incident(*worst))
    [page] = recorder.pagerduty.pages
    details = page.payload["custom_details"]
    assert list(details["worst columns"]) == [each.column for each in worst[:20]]
    assert all(len(column) == 9 for column in details["worst columns"].values())
    assert len(json.dumps(details, ensure_ascii=False).encode()) < 32_768


def test_an_incident_leads_to_dagit_to_the_dashboard_with_its_version_chosen_and_to_the_runbook() -> None:
    dagit, board, runbook = incident(dashboard=BOARD).links
    assert dagit == (f"http://dagit/assets/{MODEL}/{VERSION}/csi?view=checks", "checks in Dagit")
    assert runbook == ("https://wiki/x", "runbook")
    url, text = board
    assert (text, url.partition("?")[0]) == ("dashboard at Datadog", BOARD)
    chosen = {"tpl_var_env": ["test"], "tpl_var_model": [MODEL], "tpl_var_model_version": [VERSION]}
    assert parse_qs(urlsplit(url).query, strict_parsing=True) == chosen


def test_the_variables_in_the_link_are_those_of_the_dashboard() -> None:
    from monitoring_assets.cli.datadog import FOLDER

    body = json.loads((FOLDER / "dashboard-model.json").read_text(encoding="utf-8"))
    url, _ = incident(dashboard=BOARD).links[1]
    assert set(parse_qs(urlsplit(url).query)) == {f"tpl_var_{each['name']}" for each in body["template_variables"]}


def test_without_a_dashboard_there_is_no_link_to_one() -> None:
    assert [text for _, text in incident().links] == ["checks in Dagit", "runbook"]


def test_the_dashboard_is_the_one_that_was_kept_last(store: LocalStore) -> None:
    assert model_dashboard(store) is None
    keep(store, {"model": f"{BOARD}-old", "fleet": "https://app.datadoghq.eu/dashboard/xyz"})
    assert keep(store, {"model": BOARD}) == f"{store.uri}/{layout.dashboards()}"
    assert model_dashboard(store) == BOARD
    keep(store, {"fleet": BOARD})
    assert model_dashboard(store) is None


@pytest.mark.parametrize("spoilt", [b"", b"{", b"[]", b'{"model": 7}'])
def test_a_spoilt_address_costs_the_link_and_not_the_page(
    store: LocalStore, spoilt: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(layout.dashboards(), spoilt)
    with caplog.at_level(logging.WARNING):
        assert model_dashboard(store) is None
    assert "run scorewatch datadog apply" in caplog.text


def test_the_worst_columns_are_those_of_both_kinds_that_moved_the_largest_first(scene: Scene) -> None:
    segment = shift("region", 0.9, segment="product=card")
    deciding, longer = shift("income", 0.3, window=1), shift("income", 0.8, window=7)
    scene.day(3, "breach", metrics=(deciding, longer, shift("age", 0.4), shift("calm", 0.01), segment))
    score = shift("score", 0.35, metric="psi", band=0.02)
    rate = Metric(metric="approval_rate", column="score", net_value=0.5, status="warn")
    scene.day(3, "breach", kind="psi", asset="psi", metrics=(score, rate))
    scene.day(2, "breach", metrics=(shift("yesterday", 2.0),))
    found = worst_columns(scene.store, USUAL, TOLD)
    assert [each.model_copy(update={"threshold": 0.1}) for each in found] == [shift("age", 0.4), score, deciding]
    assert {each.threshold for each in found} == {0.25}


def test_the_worst_columns_are_those_that_reach_the_thresholds_of_the_policy_whatever_the_manifest_says(
    scene: Scene,
) -> None:
    scene.day(
        3,
        "ok",
        metrics=(
            shift("above", 0.09),
            shift("between", 0.06),
            shift("without evidence", 0.09, significant=False),
            shift("one bad day", 0.09, window=3, net_without_worst=0.01),
            shift("payday", 0.09, season_net_value=0.01, season_significant=False),
            shift("too few", 0.09).model_copy(update={"status": "insufficient_data"}),
            shift("calm", 0.04),
            shift("later window", 0.06),
            shift("later window", 0.2, window=7),
        ),
    )
    scene.day(3, "ok", kind="psi", asset="psi", metrics=(shift("score", 0.09, metric="psi"),))
    lower = replace(USUAL, policy=Policy(tier=2, csi=Limits(warn=0.05, critical=0.08)))
    found = worst_columns(scene.store, lower, TOLD)
    assert [(each.column, each.net_value, each.threshold) for each in found] == [
        ("later window", 0.2, 0.08),
        ("above", 0.09, 0.08),
        ("between", 0.06, 0.05),
    ]
    assert worst_columns(scene.store, USUAL, TOLD) == (shift("later window", 0.2, window=7),)


def test_a_page_by_a_lower_threshold_of_the_fleet_names_its_columns(scene: Scene) -> None:
    scene.about = replace(USUAL, policy=Policy(tier=2, csi=Limits(warn=0.04, critical=0.08)))
    scene.day(3, "hold")
    scene.look()
    [page] = scene.pager.pages
    assert columns(page)["car_value"]["threshold"] == 0.08
    assert set(columns(page)) == {"car_value", "salary_range"}


def test_the_worst_columns_are_those_of_the_newest_attempt_and_of_an_hour_too(scene: Scene) -> None:
    scene.day(3, "breach")
    scene.day(3, "warn", metrics=(shift("corrected", 0.2),), live=False, trigger="catch-up")
    assert [each.column for each in worst_columns(scene.store, USUAL, TOLD)] == ["corrected"]
    hour = TOLD.model_copy(update={"at": "2026-01-03-05:00"})
    assert worst_columns(scene.store, USUAL, hour) == ()
    usual = {"kind": "csi", "asset": "csi", "trigger": "arrival", "live": True}
    scene.write("2026-01-03-05-00", "breach", metrics=(shift("by the hour", 0.5),), **usual)
    assert [each.column for each in worst_columns(scene.store, USUAL, hour)] == ["by the hour"]


@pytest.mark.parametrize("track", ["quality", "performance", "pipeline", "registry"])
def test_other_episodes_have_no_worst_columns(scene: Scene, track: Any) -> None:
    scene.day(3, "breach")
    assert worst_columns(scene.store, USUAL, TOLD.model_copy(update={"track": track})) == ()
    assert "worst columns" not in incident().details
