"""What the bridge, and Airflow itself, read of Airflow's configuration. Called by test_config.py and test_chart.py."""

from __future__ import annotations

from typing import Any

from airflow.configuration import conf
from airflow.dag_processing.bundles.manager import DagBundlesManager

from airflow_bridge.config import Config


def read() -> dict[str, Any]:
    return Config.read().model_dump(mode="json")


def unknown(options: dict[str, list[str]]) -> list[str]:
    """Of the options by section those that Airflow does not have."""
    known = {section: each["options"] for section, each in conf.configuration_description.items()}
    return [
        f"{section}.{name}" for section in options for name in options[section] if name not in known.get(section, {})
    ]


def bundles() -> dict[str, str]:
    """The classes of the configured bundles by name, made as Airflow makes them: without those that cannot be."""
    return {each.name: type(each).__name__ for each in DagBundlesManager().get_all_dag_bundles()}
