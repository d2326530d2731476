"""`scorewatch export-dags`."""

from __future__ import annotations

import click

from monitoring_assets.cli.output import echo_json, plain, working
from resources.errors import EXIT_BAD_INPUT
from resources.settings import Settings

SHOWN = 20


@click.command("export-dags")
@click.option(
    "--take-over",
    is_flag=True,
    help="Have the orchestrator in SCOREWATCH_ORCHESTRATOR schedule from now on, though the other one does.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_obj
def command(settings: Settings, take_over: bool, as_json: bool) -> int:
    """Export every active version as an Airflow DAG: plans in the store, which Airflow's bundle reads.

    Looks at the registry first. Plans that did not change stay as they are; DAGs of retired versions go. Once it was
    run, a sensor of the control location keeps the DAGs up to date. With SCOREWATCH_ORCHESTRATOR=airflow the DAGs run
    when their data has landed; else Dagster schedules, and Airflow shows, backfills and runs by hand.
    """
    from monitoring_assets.exporting import export_fleet
    from monitoring_assets.fleet import Fleet, scan

    with working("exporting DAGs"):
        found = scan(settings, Fleet())
        while not found.complete:
            found = scan(settings, found.fleet)
        done = export_fleet(settings, found.fleet, take_over=take_over)
    if as_json:
        echo_json({**vars(done), "refused": dict(done.refused)})
    else:
        changes = {"new": done.new, "changed": done.changed, "gone": done.gone}
        click.echo(
            ", ".join([*(f"{len(names)} {what}" for what, names in changes.items()), f"{done.unchanged} as before"])
        )
        for what, names in changes.items():
            for name in names[:SHOWN]:
                click.echo(plain(f"{what}: {name}"))
            if len(names) > SHOWN:
                click.echo(f"{what}: and {len(names) - SHOWN} more")
        for name, why in done.refused.items():
            click.secho(plain(f"{name}: {why}"), fg="red", err=True)
    return EXIT_BAD_INPUT if done.refused else 0
