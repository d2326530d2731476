"""Dagster's storage in a real PostgreSQL: who may create it, and when it can be used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import make_url, text

from monitoring_assets import postgres as module
from monitoring_assets.instance import migrate_instance, open_instance, prepare_instance
from monitoring_assets.postgres import connected, migrating, missing
from resources.errors import BadInput, InfrastructureError
from resources.secrets import Secret
from resources.settings import Settings
from tests.postgres import _binaries

CANARY = "canary-of-a-password"


@pytest.fixture
def settings(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of an installation whose database is empty."""
    for name in ("DAGSTER_HOME", "SCOREWATCH_POSTGRES_URL"):
        monkeypatch.setenv(name, "")  # opening an instance sets them, and this puts them back
    monkeypatch.setenv("SCOREWATCH_HOME", str(tmp_path))
    return Settings.from_environment({"SCOREWATCH_HOME": str(tmp_path), "SCOREWATCH_POSTGRES_URL": database}, tmp_path)


KILLED = """
import os, signal, sys
from tests.postgres import _binaries, _server
with _server(_binaries()) as url:
    print(url, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_test_run_that_is_killed_leaves_no_server_behind() -> None:
    if _binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environ, stdout=subprocess.PIPE, text=True, check=False)
    server = urlsplit(killed.stdout.strip())
    assert server.port is not None
    end = time.monotonic() + 60
    while _listens(server.port):
        assert time.monotonic() < end, f"still there: {server.port}"
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def execute(url: Secret, statement: str) -> None:
    with connected(url) as connection:
        connection.execute(text(statement))


def test_nobody_creates_tables_by_opening_the_instance_and_the_message_says_what_does(settings: Settings) -> None:
    assert missing(settings.postgres_url) == module.CLOSED
    with pytest.raises(InfrastructureError, match="Run scorewatch storage migrate"), open_instance(settings):
        pytest.fail("an empty database was opened")
    with connected(settings.postgres_url) as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0


def test_a_migrated_database_is_used_and_migrating_it_again_keeps_what_is_in_it(settings: Settings) -> None:
    migrate_instance(settings)
    with open_instance(settings) as instance:
        instance.run_storage.set_cursor_values({"kept": "value"})
        assert "Postgres" in type(instance.event_log_storage).__name__
        assert type(instance.defs_state_storage).__name__ == "StoreState"
    migrate_instance(settings)
    assert missing(settings.postgres_url) is None
    with open_instance(settings) as instance:
        assert instance.run_storage.get_cursor_values({"kept"}) == {"kept": "value"}
    password = urlsplit(settings.postgres_url.reveal()).password
    assert password not in (settings.dagster_home / "dagster.yaml").read_text()


def test_several_that_migrate_an_empty_database_at_once_do_it_one_after_the_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    inside, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(3)
    failed: list[BaseException] = []

    def migrate() -> None:
        nonlocal inside, most
        together.wait(30)
        try:
            with migrating(settings.postgres_url):
                with lock:
                    inside += 1
                    most = max(most, inside)
                assert missing(settings.postgres_url) == "a migration is under way"
                with lock:
                    inside -= 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (failed, most) == ([], 1)
    assert missing(settings.postgres_url) is None


def test_while_somebody_migrates_others_wait_and_do_not_start_but_not_for_ever(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with migrating(settings.postgres_url):
        assert missing(settings.postgres_url) == "a migration is under way"
        monkeypatch.setattr(module, "PATIENCE_S", 0.0)
        with pytest.raises(InfrastructureError, match="Another migration"), migrating(settings.postgres_url):
            pytest.fail("two at once")
    assert missing(settings.postgres_url) is None


@pytest.mark.parametrize("lost", ["runs", "event_logs", "jobs"])
def test_a_migration_that_was_killed_half_way_is_seen_and_the_next_one_completes_it(
    settings: Settings, lost: str
) -> None:
    migrate_instance(settings)
    execute(settings.postgres_url, f"DROP TABLE {lost} CASCADE")
    assert missing(settings.postgres_url) == module.CLOSED
    migrate_instance(settings)
    assert missing(settings.postgres_url) is None


def test_tables_of_an_older_release_keep_everybody_waiting_and_those_of_a_newer_one_nobody(settings: Settings) -> None:
    migrate_instance(settings)
    execute(settings.postgres_url, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert missing(settings.postgres_url) is None
    # Dagster's last but many.
    execute(settings.postgres_url, "UPDATE alembic_version SET version_num = '6860f830e40c'")
    assert missing(settings.postgres_url) == module.CLOSED
    migrate_instance(settings)
    assert missing(settings.postgres_url) is None


@pytest.mark.parametrize("change", [{"password": CANARY}, {"port": 1}, {"database": "nowhere"}])
def test_a_database_that_cannot_be_used_is_named_by_host_and_port_without_a_password(
    settings: Settings, change: dict[str, object]
) -> None:
    url = make_url(settings.postgres_url.reveal()).set(**change)
    with pytest.raises(InfrastructureError) as raised:
        missing(Secret(url.render_as_string(hide_password=False)))
    assert f"{url.host}:{url.port}" in str(raised.value)
    assert str(url.password) not in str(raised.value)
    assert CANARY not in str(raised.value)


def test_an_instance_that_is_kept_elsewhere_is_not_taken_for_the_database_s(settings: Settings, tmp_path: Path) -> None:
    prepare_instance(Settings.from_environment({"SCOREWATCH_HOME": str(tmp_path)}, tmp_path))
    with pytest.raises(BadInput, match=r"dagster\.yaml keeps Dagster's storage elsewhere"):
        prepare_instance(settings)


def test_an_address_that_came_from_a_file_reaches_the_processes_of_dagster(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text(database)
    for name in ("DAGSTER_HOME", "SCOREWATCH_POSTGRES_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SCOREWATCH_POSTGRES_URL_FILE", str(tmp_path / "url"))
    prepare_instance(Settings.from_environment({**os.environ, "SCOREWATCH_HOME": str(tmp_path)}, tmp_path))
    assert os.environ["SCOREWATCH_POSTGRES_URL"] == database
    again = Settings.from_environment({**os.environ, "SCOREWATCH_HOME": str(tmp_path)}, tmp_path)
    assert again.postgres_url == Secret(database)
