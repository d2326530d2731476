"""The command with Dagster's storage in a real PostgreSQL: the same in the store as with SQLite, and no password."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring import execute_run_monitoring_iteration
from sqlalchemy import inspect, make_url, text

from monitoring_assets.heartbeats import EXTERNAL_TAG
from monitoring_assets.instance import migrate_instance, open_instance
from monitoring_assets.leases import Leases
from monitoring_assets.postgres import connected
from monitoring_assets.version import CHECKS
from resources.secrets import Secret
from resources.settings import Settings

DAYS = [f"2025-03-{day:02d}" for day in range(1, 6)]
CANARY = "canary-of-a-password"
ONE_DAY = ("run", "small", "1.0.0", "--partition", DAYS[0], "--trigger", "backfill", "--json")


@pytest.fixture
def url(database: str) -> Iterator[str]:
    """Address of an empty database for a user of its own, whose password nothing else contains."""
    server, user = make_url(database), f"canary_of_{make_url(database).database}"
    own = Secret(database)
    with connected(own) as connection:
        connection.execute(text(f"CREATE ROLE {user} LOGIN PASSWORD '{CANARY}'"))
        connection.execute(text(f"ALTER DATABASE {server.database} OWNER TO {user}"))
        connection.execute(text(f"ALTER SCHEMA public OWNER TO {user}"))
    yield server.set(username=user, password=CANARY).render_as_string(hide_password=False)
    with connected(own) as connection:
        connection.execute(text(f"ALTER DATABASE {server.database} OWNER TO {server.username}"))
        connection.execute(text(f"REASSIGN OWNED BY {user} TO {server.username}"))
        connection.execute(text(f"DROP OWNED BY {user}"))
        connection.execute(text(f"DROP ROLE {user}"))


def test_stages_a_run_and_a_backfill_on_postgres_leave_what_they_leave_on_sqlite_and_the_password_nowhere(
    new_machine: Callable[[], Any], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, plain = new_machine(), new_machine()
    said: list[str] = []

    def start(*arguments: str, **environ: str) -> Any:
        return machine.start(*arguments, **{"SCOREWATCH_POSTGRES_URL": url} | environ)

    def finish(process: Any, expected: int = 0) -> tuple[str, str]:
        code, out, err = process.finish(120)
        said.extend((out, err))
        assert code == expected, err
        return out, err

    too_early, impatient = start(*ONE_DAY), start("storage", "wait", "--limit", "0")
    assert "Run scorewatch storage migrate once" in finish(too_early, 75)[1]
    assert "Does scorewatch storage migrate run?" in finish(impatient, 75)[1]
    for process in [start("storage", "wait"), start("storage", "migrate"), start("storage", "migrate")]:
        finish(process)
    wrong = make_url(url).set(password=f"{CANARY}-of-yesterday").render_as_string(hide_password=False)
    err = finish(start(*ONE_DAY, SCOREWATCH_POSTGRES_URL=wrong), 75)[1]
    assert "127.0.0.1:" in err
    assert "Traceback" not in err

    stage = ("1.0.0", "--partition", DAYS[0], "--stage", "features", "--trigger", "backfill", "--json")
    for process in [start("run", model, *stage) for model in ("small", "other")]:
        assert json.loads(finish(process)[0])[0]["state"] == "materialised"
    for arguments in (("run", "small", *stage), ONE_DAY, ("backfill", "small", "1.0.0", "--to", DAYS[-1], "--json")):
        # That one has made the features already.
        processes = [plain.start(*arguments)] + ([] if arguments[2:] == stage else [start(*arguments)])
        for process in processes:
            finish(process)
    assert machine.contents("small") == plain.contents("small")

    monkeypatch.setenv("SCOREWATCH_POSTGRES_URL", url)
    monkeypatch.setenv("SCOREWATCH_HOME", str(machine.home))
    assert machine.recorded("small") == {asset: set(DAYS) for asset in CHECKS}
    assert machine.recorded("other")["features"] == {DAYS[0]}
    assert set(machine.run_statuses()) == {"SUCCESS"}
    rows = "".join(stored(url))
    assert rows.count(EXTERNAL_TAG) > 3, "the database was not read"
    files = b"".join(content(machine.home.parent))
    assert b"ke" in files
    for everything in (*said, rows):
        assert CANARY not in everything
    assert CANARY.encode() not in files
    assert not (machine.home / "dagster" / "history").exists(), "nothing is in SQLite"


def test_a_run_that_waits_for_another_process_is_let_alone_and_one_that_is_killed_ends_failed(
    machine: Any, url: str, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    monkeypatch.setenv("SCOREWATCH_POSTGRES_URL", url)
    monkeypatch.setenv("SCOREWATCH_HOME", str(machine.home))
    monkeypatch.setenv("DAGSTER_HOME", "")  # opening an instance sets it, and this puts it back
    settings = Settings.from_environment(os.environ, machine.home)
    migrate_instance(settings)
    leases = Leases(settings.open_store(), "small", "1.0.0", lambda: datetime.now(UTC))
    with open_instance(settings) as instance, leases.hold("features", DAYS[0]):
        process = machine.start(*ONE_DAY, SCOREWATCH_POSTGRES_URL=url)
        eventually(lambda: machine.run_statuses() == ["STARTED"], "the run is under way")
        monitor(instance)
        assert machine.run_statuses() == ["STARTED"]
        process.popen.kill()
        process.finish()
        monitor(instance)
        assert machine.run_statuses() == ["FAILURE"]


def monitor(instance: DagsterInstance) -> None:
    """What Dagster's daemon does every few seconds."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
        assert not any(execute_run_monitoring_iteration(workspace, logging.getLogger("monitoring")))


def stored(url: str) -> Iterator[str]:
    """Every row of every table as text; what Dagster compresses in its own words."""
    with connected(Secret(url)) as connection:
        for table in inspect(connection).get_table_names():
            for row in connection.execute(text(f"SELECT * FROM {table}")):  # noqa: S608 - the database's own names
                for value in row:
                    yield (
                        zlib.decompress(bytes(value)).decode() if isinstance(value, memoryview | bytes) else str(value)
                    )


def content(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes()
