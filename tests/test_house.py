"""What holds of the repository as a whole: who imports whom, what importing costs, what is pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from monitoring_assets import cli
from resources import errors

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("monitoring_assets", "resources")
SCRIPTS = Path(sys.executable).parent
LINE_LIMIT = 320

ORCHESTRATION = ("dagster", "great_expectations")
HEAVY = (*ORCHESTRATION, "numpy", "onnxruntime", "pandas", "polars", "pyarrow", "scipy", "sklearn")
AIRFLOW_SIDE = (
    "resources.errors",
    "resources.lake",
    "resources.object_store",
    "resources.registry",
    "resources.settings",
)

# Follows each audit event outwards from where it happened. An import machinery in between means that somebody else's
# module was being loaded; a frame of ours before that means that we asked for it.
IMPORT_ALL_AND_REPORT = """
import importlib, os, pkgutil, sys

os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # or the first model looks for some in every installed package
packages = sys.argv[1:]
ours = tuple(importlib.import_module(package).__path__[0] + "/" for package in packages)

def report(event, arguments):
    if event == "os.putenv" or not event.startswith(("open", "os.", "shutil.", "socket.", "sqlite3.", "subprocess.")):
        return
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        if frame.f_code.co_filename.startswith(ours):
            print(f"{frame.f_code.co_filename}:{frame.f_lineno} {event} {arguments[:1]}")
            return
        frame = frame.f_back

sys.addaudithook(report)
for package in packages:
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, package + "."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
"""


def run(*command: str | Path, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


def imported(source: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: write absolute imports"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def declared() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # Airflow's side has an environment, and pins, of its own.
    theirs = {"airflow", "airflow-server"}
    extras = {name: needed for name, needed in project["optional-dependencies"].items() if name not in theirs}
    groups = [project["dependencies"], *extras.values()]
    return [Requirement(each) for group in groups for each in group]


def test_the_import_rules_hold() -> None:
    linted = run(SCRIPTS / "lint-imports", "--no-cache", "--no-logo")

    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "0 broken" in linted.stdout


@pytest.mark.parametrize("package", ["stability"])
def test_the_statistics_need_numpy_scipy_and_the_standard_library_only(package: str) -> None:
    allowed = sys.stdlib_module_names | {"numpy", "scipy"}
    found = {
        f"{source.name} imports {name}"
        for source in sources(f"monitoring_assets/{package}")
        for name in imported(source)
        if name.split(".")[0] not in allowed and not name.startswith(f"monitoring_assets.{package}.")
    }

    assert list(sources(f"monitoring_assets/{package}"))
    assert not found


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        pytest.param(AIRFLOW_SIDE, HEAVY, id="what Airflow's image imports"),
        pytest.param(("monitoring_assets.cli", "monitoring_assets.manifest_yaml"), HEAVY, id="the command's help"),
        pytest.param(("monitoring_assets.assets.pipeline",), ORCHESTRATION, id="stages before a verdict"),
    ],
)
def test_light_modules_import_where_heavy_packages_are_not_installed(
    modules: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    # None in sys.modules makes an import fail as if there were no such package.
    hidden = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))"
    found = run(sys.executable, "-c", f"{hidden}; import {', '.join(modules)}")

    assert found.returncode == 0, found.stderr


def test_importing_a_module_reads_writes_and_connects_to_nothing(tmp_path: Path) -> None:
    found = run(sys.executable, "-B", "-c", IMPORT_ALL_AND_REPORT, *PACKAGES, cwd=tmp_path)

    assert found.returncode == 0, found.stderr
    assert found.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_no_module_is_too_long_to_read() -> None:
    lengths = {
        source: len(source.read_text(encoding="utf-8").splitlines()) for source in sources(*PACKAGES, "airflow_bridge")
    }

    assert lengths
    assert {str(source): lines for source, lines in lengths.items() if lines > LINE_LIMIT} == {}


def test_constraints_hold_a_name_and_a_version_a_line_and_nothing_else() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    assert lines == sorted(lines, key=str.lower)


def test_every_declared_dependency_is_pinned_to_a_version_that_is_allowed() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines)}
    needed = declared()

    assert {each.name for each in needed if canonicalize_name(each.name) not in pins} == set()
    assert [str(each) for each in needed if pins[canonicalize_name(each.name)] not in each.specifier] == []


def test_the_base_installation_brings_no_heavy_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}

    assert base == {"boto3", "click", "pydantic", "pyyaml", "rich"}


def test_the_console_script_is_the_command() -> None:
    (script,) = entry_points(group="console_scripts", name="scorewatch")
    shown = run(SCRIPTS / "scorewatch", "--version")

    assert script.load() is cli.main
    assert shown.returncode == 0, shown.stderr
    assert version("scorewatch") in shown.stdout


def test_every_exit_code_is_documented() -> None:
    codes = {str(code) for name, code in vars(errors).items() if name.startswith("EXIT_")}
    page = (REPOSITORY / "docs" / "exit-codes.md").read_text(encoding="utf-8")

    assert set(re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)) == codes
