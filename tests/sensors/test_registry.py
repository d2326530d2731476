"""The registry sensor on a real registry and a real instance: what is stored, who is told, what Dagit shows."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from monitoring_assets.fleet import Shard, shard_of
from monitoring_assets.sensors import registry as module
from monitoring_assets.sensors import reloader
from monitoring_assets.sensors.registry import CHECK, REGISTRY, registry_sensor
from monitoring_assets.sensors.reloading import Servers, latest_states, state_key
from tests.processes import command_line


class Desk:
    """Ticks of one sensor, one after the other, and the locations that were told to load again."""

    def __init__(self, lender: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lender, self.instance = lender, instance
        self.unreachable: set[str] = set()
        self.told: list[str] = []
        self.cursor: str | None = None
        self.restart()
        monkeypatch.setattr(module, "Servers", lambda _: self)
        for name in ("EVERY_S", "RETRY_S"):
            monkeypatch.setattr(reloader, name, 0)

    def reload(self, name: str, _: float) -> str:
        self.told.append(name)
        return "nobody is there" if name in self.unreachable else ""

    def restart(self) -> None:
        """As after a crash of the code server: the cursor is all that is left."""
        self.sensor = registry_sensor(self.lender.settings, self.lender.clock)

    def tick(self) -> Any:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        self.told.clear()
        found = self.sensor.evaluate_tick(context)
        self.cursor = found.cursor
        return found

    def check(self, found: Any) -> dg.AssetCheckEvaluation:
        [evaluation] = [each for each in found.asset_events if isinstance(each, dg.AssetCheckEvaluation)]
        assert (evaluation.asset_key, evaluation.check_name) == (REGISTRY, CHECK)
        return evaluation

    def shard(self, number: int, shards: int) -> Shard:
        """What a location is built from."""
        storage, key = self.instance.defs_state_storage, state_key(number, shards)
        path = self.lender.folder.parent / "state"
        storage.download_state_to_path(key, storage.get_latest_version(key), path)
        return Shard.model_validate_json(path.read_bytes())


@pytest.fixture
def instance(tmp_path: Any) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as found:
        yield found


@pytest.fixture
def desk(lender: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(lender, instance, monkeypatch)


def deploy(lender: Any, model: str = "ke-nano-loan", version: str = "1.0.0", **changes: Any) -> None:
    document = lender.manifest(model=model, version=version, precomputed=True, **changes)
    lender.deploy_manifest(yaml.safe_dump(document).encode(), model, version)


def names(shard: Shard) -> list[tuple[str, str]]:
    return [(each.manifest.model, each.manifest.version) for each in shard.members]


def test_a_version_that_appears_is_what_its_location_is_told_to_load(desk: Desk) -> None:
    assert desk.tick().asset_events[0].metadata["active versions"].value == 0
    deploy(desk.lender)
    found = desk.tick()
    assert desk.told == ["models"]
    assert names(desk.shard(0, 1)) == [("ke-nano-loan", "1.0.0")]
    assert desk.check(found).passed
    assert found.asset_events[0].metadata["active versions"].value == 1


def test_a_tick_that_finds_nothing_new_stores_tells_and_reports_nothing(desk: Desk) -> None:
    deploy(desk.lender)
    desk.tick()
    before, cursor = desk.lender.listed(), desk.cursor
    for again in (desk.tick, desk.restart, desk.tick):
        found = again()
    assert (desk.told, found.asset_events, found.cursor) == ([], [], cursor)
    assert found.skip_message == "nothing changed in the registry"
    assert desk.lender.listed() == before


def test_only_the_shard_that_changed_is_told(lender: Any, instance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lender.settings = lender.settings.model_copy(update={"shards": 4})
    desk = Desk(lender, instance, monkeypatch)
    for number in range(12):
        deploy(lender, model=f"model-{number}")
    desk.tick()
    assert desk.told == [f"models-{number}" for number in range(4)]
    assert sorted(name for number in range(4) for name in names(desk.shard(number, 4))) == sorted(
        (f"model-{number}", "1.0.0") for number in range(12)
    )
    for change in ({"owner": "somebody@lender.example"}, {"status": "retired"}):
        deploy(lender, model="model-7", **change)
        desk.tick()
        assert desk.told == [f"models-{shard_of('model-7', '1.0.0', 4)}"]
    assert ("model-7", "1.0.0") not in names(desk.shard(shard_of("model-7", "1.0.0", 4), 4))


def test_a_location_that_could_not_be_reached_is_told_again_and_the_others_are_not(
    lender: Any, instance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender.settings = lender.settings.model_copy(update={"shards": 2})
    desk = Desk(lender, instance, monkeypatch)
    desk.unreachable.add("models-1")
    desk.tick()
    found = desk.tick()
    assert desk.told == ["models-1"]
    check = desk.check(found)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert check.description == "not loaded, and served as it was before or not at all: models-1"
    [row] = check.metadata["not loaded because"].records
    assert row.data == {"location": "models-1", "reason": "nobody is there"}
    assert desk.tick().skip_message == "still to be reloaded: models-1"
    desk.unreachable.clear()
    assert desk.check(desk.tick()).passed
    assert desk.told == ["models-1"]
    desk.tick()
    assert desk.told == []


def test_a_tick_that_died_after_the_fleet_was_written_is_made_up_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.tick()
    deploy(desk.lender)
    with monkeypatch.context() as patch:
        patch.setattr(module, "publish_states", _killed)
        with pytest.raises(MemoryError, match="killed here"):
            desk.tick()
    desk.restart()
    desk.tick()
    assert names(desk.shard(0, 1)) == [("ke-nano-loan", "1.0.0")]
    assert desk.told == ["models"]


def _killed(*_: Any) -> None:
    raise MemoryError("killed here")


def test_a_version_that_is_kept_back_fails_the_check_with_its_message_until_it_is_corrected(desk: Desk) -> None:
    deploy(desk.lender)
    deploy(desk.lender, model="zm-payroll", tier=9)
    found = desk.check(desk.tick())
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.ERROR
    assert found.description == "kept back: zm-payroll 1.0.0"
    [row] = found.metadata["kept back because"].records
    assert (row.data["model"], row.data["stage"]) == ("zm-payroll", "manifest")
    assert "zm-payroll/1.0.0/model.yaml: tier" in row.data["reason"]
    assert names(desk.shard(0, 1)) == [("ke-nano-loan", "1.0.0")]
    assert desk.tick().asset_events == [], "Dagit is told once"
    deploy(desk.lender, model="zm-payroll")
    assert desk.check(desk.tick()).passed


def test_a_location_with_more_versions_than_it_loads_well_is_a_warning(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_LIMIT", 2)
    for number in range(3):
        deploy(desk.lender, model=f"model-{number}")
    found = desk.check(desk.tick())
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == "more than 2 versions in models: raise SCOREWATCH_SHARDS"


def test_the_state_of_a_shard_does_not_change_with_what_is_not_in_it(desk: Desk) -> None:
    deploy(desk.lender)
    desk.tick()
    before = latest_states(desk.instance, 1)
    deploy(desk.lender, model="zm-payroll", tier=9)
    desk.tick()
    assert latest_states(desk.instance, 1) == before
    assert desk.told == []


@pytest.mark.parametrize(
    "workspace", ["", "load_from: []", "load_from: [{python_module: {module_name: m, location_name: models}}]"]
)
def test_a_server_that_no_workspace_names_cannot_be_told(tmp_path: Any, workspace: str, caplog: Any) -> None:
    path = tmp_path / "workspace.yaml"
    path.write_text(workspace)
    assert "SCOREWATCH_WORKSPACE" in Servers(path).reload("models", 5)
    assert "SCOREWATCH_WORKSPACE" in caplog.text
    assert (Servers(path).states(), Servers(path).problems()) == ({}, {})


def test_a_server_that_is_gone_is_not_reached_and_counts_as_absent(tmp_path: Any) -> None:
    path = tmp_path / "workspace.yaml"
    entry = {"grpc_server": {"location_name": "models", "socket": str(tmp_path / "nobody.sock")}}
    path.write_text(json.dumps({"load_from": [entry]}))
    assert "its code server could not be reached" in Servers(path).reload("models", 5)
    assert Servers(path).states() == {"models": "absent"}
    assert list(Servers(path).problems()) == ["models"]


def test_a_server_that_never_answers_is_silent_and_costs_no_more_than_the_limit(tmp_path: Any) -> None:
    path, sock = tmp_path / "workspace.yaml", socket.socket(socket.AF_UNIX)
    with sock, tempfile.TemporaryDirectory() as short:
        sock.bind(f"{short}/mute.sock")
        sock.listen()
        entry = {"grpc_server": {"location_name": "models", "socket": f"{short}/mute.sock"}}
        path.write_text(json.dumps({"load_from": [entry]}))
        assert Servers(path).states() == {"models": "silent"}
        begun = time.monotonic()
        assert "could not be reached" in Servers(path).reload("models", 1)
        assert time.monotonic() - begun < 10


@contextmanager
def code_server(code: Path, workspace: Path, home: str) -> Iterator[Any]:
    """A real code server of one file, in a workspace where it is called ``models``: its process."""
    log = workspace.with_name("log")
    with tempfile.TemporaryDirectory() as short:
        where = f"{short}/code.sock"
        workspace.write_text(json.dumps({"load_from": [{"grpc_server": {"location_name": "models", "socket": where}}]}))
        command = [sys.executable, "-m", "dagster", "code-server", "start", "--socket", where, "-f", str(code)]
        with log.open("wb") as out:
            environ = {**os.environ, "DAGSTER_HOME": home, "TMPDIR": short}
            server = subprocess.Popen(command, env=environ, stdout=out, stderr=out, start_new_session=True)
        try:
            yield psutil.Process(server.pid)
            assert server.poll() is None, log.read_text()
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            sys.stdout.write(log.read_text())  # shown with what fails


def until(condition: Callable[[], Any], limit: float = 120) -> Any:
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end
    return found


def test_a_server_whose_code_does_not_load_any_more_says_so_and_it_is_not_taken_for_reloaded(
    tmp_path: Any, instance: dg.DagsterInstance
) -> None:
    code, path = tmp_path / "code.py", tmp_path / "workspace.yaml"
    code.write_text("import dagster as dg\ndefs = dg.Definitions()\n")
    with code_server(code, path, instance.root_directory):
        until(lambda: Servers(path).states() == {"models": "well"} and not Servers(path).problems())
        assert Servers(path).reload("models", 60) == ""
        code.write_text("raise ValueError('two ops of one name')\n")
        assert "two ops of one name" in Servers(path).reload("models", 60)
        assert "two ops of one name" in Servers(path).problems()["models"]
        assert Servers(path).states() == {"models": "well"}
        code.write_text("import dagster as dg\ndefs = dg.Definitions()\n")
        assert Servers(path).reload("models", 60) == ""


@pytest.mark.parametrize("had_answered", [True, False])
def test_a_server_without_the_process_that_serves_its_code_is_dead(
    tmp_path: Any, instance: dg.DagsterInstance, had_answered: bool
) -> None:
    code, path = tmp_path / "code.py", tmp_path / "workspace.yaml"
    code.write_text("import dagster as dg\ndefs = dg.Definitions()\n")
    with code_server(code, path, instance.root_directory) as server:
        if had_answered:
            until(lambda: Servers(path).states() == {"models": "well"})
        [inner] = until(lambda: [each for each in server.children() if "grpc" in command_line(each)])
        inner.kill()
        until(lambda: Servers(path).states() == {"models": "dead"})


def test_a_registry_that_seems_to_be_empty_fails_the_check_and_reloads_nothing(desk: Desk) -> None:
    for number in range(3):
        deploy(desk.lender, model=f"model-{number}")
    desk.tick()
    for number in range(3):
        desk.lender.registry.delete(f"model-{number}/1.0.0/model.yaml")
    found = desk.check(desk.tick())
    assert (found.passed, found.severity, desk.told) == (False, dg.AssetCheckSeverity.ERROR, [])
    assert "3 of 3 active versions are gone" in str(found.description)
    assert len(names(desk.shard(0, 1))) == 3


def test_files_beside_a_version_that_nobody_reads_reload_nothing(desk: Desk) -> None:
    deploy(desk.lender)
    desk.tick()
    for number in range(3):
        desk.lender.registry.put("ke-nano-loan/1.0.0/logs/train.log", b"x" * number)
        desk.tick()
        assert desk.told == []
