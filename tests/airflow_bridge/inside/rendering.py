"""What Airflow makes of plans. Called by test_render.py."""

from __future__ import annotations

import importlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from airflow_bridge import render
from airflow_bridge.config import Config
from airflow_bridge.schema import DagPlan


def serialised(plan: dict[str, Any]) -> str:
    """What Airflow would put into its database. It sorts the fields itself, they come from a set."""
    dag = render.dag(DagPlan.model_validate_json(json.dumps(plan)), Config.read())
    return json.dumps(DagSerialization.to_dict(dag), sort_keys=True)


def load(file: str, dag_id: str | None = None) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.perf_counter()
        dags = render.load(file, dag_id)
    seconds = time.perf_counter() - began
    messages = [str(each.message) for each in caught if "is left out" in str(each.message)]
    return {"dags": sorted(dags), "warnings": messages, "seconds": seconds}


def bag(folder: str) -> dict[str, list[str]]:
    """The tasks of each DAG that Airflow finds in a version's folder."""
    found = DagBag(dag_folder=folder, bundle_path=Path(folder), bundle_name="scorewatch")
    assert found.import_errors == {}
    return {dag_id: sorted(dag.task_ids) for dag_id, dag in found.dags.items()}


def delays(dag_ids: list[str], limit: int) -> list[int]:
    return [render.delay_minutes(dag_id, limit) for dag_id in dag_ids]


def importable(names: list[str]) -> dict[str, bool]:
    found = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            found[name] = False
        else:
            found[name] = True
    return found
