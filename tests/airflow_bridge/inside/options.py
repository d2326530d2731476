"""What the bridge reads of Airflow's configuration. Called by test_config.py."""

from __future__ import annotations

from typing import Any

from airflow_bridge.config import Config


def read() -> dict[str, Any]:
    return Config.read().model_dump(mode="json")
