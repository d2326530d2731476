"""What Airflow's side of the bridge is installed with, and what is not there."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.airflow_bridge.conftest import CONSTRAINTS, REPOSITORY, Inside


def test_airflows_environment_has_no_dagster_great_expectations_or_polars(inside: Inside) -> None:
    absent = ("dagster", "great_expectations", "polars", "pandas", "numpy", "onnxruntime", "scipy", "pytest")
    present = ("airflow.sdk", "airflow_bridge.bundle", "airflow_bridge.render", "airflow_bridge.plugin")

    found = inside("rendering.importable", names=[*absent, *present])

    assert found == dict.fromkeys(absent, False) | dict.fromkeys(present, True)


def test_airflow_finds_our_plugin_by_itself(inside: Inside) -> None:
    assert "scorewatch" in inside.airflow("plugins", "--output", "json")


def test_its_constraints_pin_what_is_declared_to_a_version_that_is_allowed() -> None:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines)}

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    assert lines == sorted(lines, key=str.lower)
    extras = project["optional-dependencies"]
    for declared in map(Requirement, [*project["dependencies"], *extras["airflow"], *extras["airflow-server"]]):
        assert pins[canonicalize_name(declared.name)] in declared.specifier
