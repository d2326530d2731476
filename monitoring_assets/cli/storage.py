"""`scorewatch storage`."""

from __future__ import annotations

import time

import click

from monitoring_assets.cli.output import working
from resources.errors import BadInput, InfrastructureError
from resources.secrets import Secret
from resources.settings import Settings

POLL_S = 1.0


@click.group("storage")
def command() -> None:
    """Create, migrate and wait for Dagster's storage: Postgres, or SQLite without SCOREWATCH_POSTGRES_URL."""


@command.command("migrate")
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Create Dagster's tables, or bring them to the installed release of Dagster.

    Idempotent, and safe to call twice at once: the second one waits for the first. Needed once before anything else
    uses a database in Postgres, and after every upgrade.
    """
    from monitoring_assets.instance import migrate_instance

    with working("migrating Dagster's storage"):
        migrate_instance(settings)
    click.echo("Dagster's storage is up to date")


@command.command("wait")
@click.option(
    "--limit", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds after which to give up."
)
@click.pass_obj
def wait(settings: Settings, limit: float) -> None:
    """Wait until `scorewatch storage migrate` has been here: what starts beside it is to call this first.

    Ends with 75 when the tables are not there in time, or the database is out of reach all the while.
    """
    if settings.postgres_url is None:
        raise BadInput("SCOREWATCH_POSTGRES_URL is not set: SQLite needs no waiting for.")
    end = time.monotonic() + limit
    while why := _in_the_way(settings.postgres_url):
        if time.monotonic() >= end:
            raise InfrastructureError(f"Waited {limit:.0f} seconds for Dagster's storage. {why}")
        time.sleep(POLL_S)
    click.echo("Dagster's storage is there")


def _in_the_way(url: Secret) -> str | None:
    from monitoring_assets.postgres import missing

    try:
        why = missing(url)
    except InfrastructureError as error:
        return str(error)
    return f"The last that was seen: {why}. Does scorewatch storage migrate run?" if why else None
