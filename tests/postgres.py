"""A real PostgreSQL for tests: the one that SCOREWATCH_TEST_POSTGRES_URL names, or one that the test run starts.

It is started as an unprivileged user, keeps its files in a temporary folder, and listens on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from urllib.parse import urlsplit, urlunsplit

import pytest

GIVEN = "SCOREWATCH_TEST_POSTGRES_URL"
USER = "scorewatch"
DRIVER = "postgresql+psycopg2"
PATH = {"PATH": "/usr/bin:/bin"}
CLEAR_AWAY = 'cat >/dev/null; "$0" "$@" --mode immediate stop >/dev/null 2>&1; exec rm -r "$FOLDER"'


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a server's database in which others can be created, with a user and a password."""
    if given := os.environ.get(GIVEN):
        yield given
        return
    binaries = _binaries()
    if binaries is None:
        pytest.skip(f"PostgreSQL is not installed (Debian: apt-get install postgresql), and {GIVEN} is not set")
    with _server(binaries) as url:
        yield url


@pytest.fixture
def new_database(postgres: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database and returns its address; it is dropped afterwards."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test_{secrets.token_hex(6)}")
        _execute(postgres, f"CREATE DATABASE {made[-1]}")
        return urlunsplit(urlsplit(postgres)._replace(path=f"/{made[-1]}"))

    yield make
    for name in made:
        _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    """Address of an empty database."""
    return new_database()


def _execute(url: str, statement: str) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


def _binaries() -> Path | None:
    """Folder of initdb and pg_ctl: on the PATH, or where Debian has them, the newest release first."""
    if (found := shutil.which("initdb")) and shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    debian = [each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(debian, key=lambda folder: int(folder.parent.name), default=None)


@contextmanager
def _server(binaries: Path) -> Iterator[str]:
    password = secrets.token_hex(12)
    # Not below pytest's own folder, which nobody but this user can enter.
    folder = Path(tempfile.mkdtemp(prefix="scorewatch-postgres-"))
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    (folder / "password").write_text(password)
    if user is not None:
        for each in (folder, folder / "password"):
            shutil.chown(each, user)

    def call(*command: str) -> None:
        with (folder / "log").open("ab") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, cwd=folder, user=user, env={"LC_ALL": "C"}, check=False, timeout=120
            )
        assert done.returncode == 0, (folder / "log").read_text()

    data = folder / "data"
    port = _free_port()
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    control = (str(binaries / "pg_ctl"), "--pgdata", str(data), "--wait", "--silent")
    # Sees its input end however the test run does, also when it is killed.
    keeper = subprocess.Popen(
        ["sh", "-c", CLEAR_AWAY, *control], cwd="/", env={"FOLDER": str(folder)} | PATH, user=user, stdin=PIPE
    )
    try:
        call(
            *(str(binaries / "initdb"), "--pgdata", str(data), "--username", USER, "--encoding", "UTF8"),
            *("--auth", "scram-sha-256", "--pwfile", str(folder / "password"), "--no-sync"),
        )
        call(*control, "--options", options, "start")
        yield f"{DRIVER}://{USER}:{password}@127.0.0.1:{port}/postgres"
    finally:
        keeper.communicate(timeout=60)
    assert keeper.returncode == 0, f"{folder} is left"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
