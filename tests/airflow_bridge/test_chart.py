"""deploy/airflow/values.yaml, as Airflow itself reads what the chart makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_bridge.config import SECTION
from tests.airflow_bridge.conftest import Inside

FILE = Path(__file__).parents[2] / "deploy" / "airflow" / "values.yaml"


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """Filled in: what stands there for the bucket is no name of one."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8").replace("STORE_BUCKET", "the-store"))
    return found


@pytest.fixture
def configured(values: dict[str, Any], start_inside: Callable[..., Inside]) -> Callable[..., Inside]:
    """A process whose Airflow has the options and the bundles of the values; ``bundle`` changes the bundle's."""

    def start(**bundle: Any) -> Inside:
        options = {
            f"AIRFLOW__{section.upper()}__{name.upper()}": value
            for section, own in values["config"].items()
            for name, value in own.items()
        }
        [one] = values["dagProcessor"]["dagBundleConfigList"]
        bundles = json.dumps([{**one, "kwargs": {**one["kwargs"], **bundle}}])
        return start_inside(**options, AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=bundles)

    return start


def test_airflow_has_every_option_beside_our_own(values: dict[str, Any], inside: Inside) -> None:
    options = {section: list(own) for section, own in values["config"].items() if section != SECTION}

    assert inside("options.unknown", options=options) == []
    assert inside("options.unknown", options={"core": ["dags_are_paused"]}) == ["core.dags_are_paused"]


def test_airflow_makes_the_bundle_and_the_bridge_reads_its_options(
    values: dict[str, Any], configured: Callable[..., Inside]
) -> None:
    process = configured()

    assert process("options.bundles") == {"scorewatch": "ScorewatchBundle"}
    assert process("options.read")["image"] == values["config"][SECTION]["image"]


def test_a_bundle_with_an_argument_that_it_does_not_know_would_not_be_made(configured: Callable[..., Inside]) -> None:
    assert configured(store_url="s3://the-store/scorewatch")("options.bundles") == {}
