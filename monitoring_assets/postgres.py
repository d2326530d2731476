"""Dagster's storage in Postgres: creating and migrating its tables, and knowing whether they are there.

Processes that open an instance create no tables (`should_autocreate_tables: false`): several at once would get into
each other's way. One command does, and holds a lock of the database meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from resources.errors import InfrastructureError
from resources.secrets import Secret

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK = int.from_bytes(b"score")
"""The advisory lock of whoever migrates."""
CONNECT_S = 10
PATIENCE_S = 600.0
POLL_S = 0.5
CLOSED = "the tables of Dagster's storage are not there, or of an older release"


@contextmanager
def migrating(url: Secret) -> Iterator[None]:
    """Be the one who migrates; whoever comes second waits. The tables are created first, if there are none.

    Raises InfrastructureError, without the password, when the database cannot be reached, or another migration lasts
    for `PATIENCE_S`.
    """
    from dagster_postgres import DagsterPostgresStorage  # noqa: PLC0415
    from sqlalchemy import text  # noqa: PLC0415

    end = time.monotonic() + PATIENCE_S
    with connected(url) as connection:
        # It is asked for again and again: CREATE INDEX CONCURRENTLY waits for every statement that is under way, also
        # for one that waits for this lock. The lock goes with the connection, even when the process is killed.
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
            if time.monotonic() > end:
                raise InfrastructureError(
                    f"Another migration of Dagster's database is under way for {PATIENCE_S:.0f} seconds. Look at what "
                    "it does (pg_stat_activity), then try again."
                )
            time.sleep(POLL_S)
        DagsterPostgresStorage(url.reveal())
        yield
        # A connection that is closed keeps its locks for as long as the database takes to notice.
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})


def missing(url: Secret) -> str | None:
    """What keeps Dagster's storage from being used: tables that are not there yet, or a migration under way; None when
    it can be. A newer release's tables are no obstacle: they are there first when a deployment is upgraded.

    Raises InfrastructureError, without the password, when the database cannot be reached.
    """
    from sqlalchemy import inspect, text  # noqa: PLC0415

    with connected(url) as connection:
        if not connection.scalar(text("SELECT pg_try_advisory_lock_shared(:lock)"), {"lock": LOCK}):
            return "a migration is under way"
        if not _tables() <= set(inspect(connection).get_table_names()):
            return CLOSED
        return None if _revised(connection) else CLOSED


def _tables() -> set[str]:
    from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata  # noqa: PLC0415
    from dagster._core.storage.runs.schema import RunStorageSqlMetadata  # noqa: PLC0415
    from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata  # noqa: PLC0415

    parts = (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
    return {name for part in parts for name in part.tables}


def _revised(connection: Connection) -> bool:
    """Whether the tables have the revision of the installed release, or one that it does not know."""
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from dagster_postgres import storage  # noqa: PLC0415
    from dagster_postgres.utils import pg_alembic_config  # noqa: PLC0415

    scripts = ScriptDirectory.from_config(pg_alembic_config(storage.__file__))
    known = {each.revision for each in scripts.walk_revisions()}
    found = MigrationContext.configure(connection).get_current_revision()
    return found is not None and (found == scripts.get_current_head() or found not in known)


@contextmanager
def connected(url: Secret) -> Iterator[Connection]:
    """A connection in autocommit mode. Raises InfrastructureError that names host and port, and no password."""
    from sqlalchemy import create_engine, exc  # noqa: PLC0415

    engine = create_engine(
        url.reveal(), isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": CONNECT_S}, hide_parameters=True
    )
    try:
        with engine.connect() as connection:
            yield connection
    except exc.DBAPIError as error:
        address = urlsplit(url.reveal())
        # The driver's own words name host, port, user and database.
        said = url.hidden_in(" ".join(str(error.orig).split()))
        if address.password:
            said = Secret(address.password).hidden_in(said)
        raise InfrastructureError(
            f"Dagster's database at {address.hostname}:{address.port or 5432} could not be used: {said}"
        ) from None
    finally:
        engine.dispose()
