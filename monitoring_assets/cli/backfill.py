"""`scorewatch backfill`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from monitoring_assets.cli.output import echo_json, error_console, table, working
from monitoring_assets.cli.run import STAGES, exit_code
from resources.errors import BadInput
from resources.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress

    from monitoring_assets.assets.pipeline import Recorded
    from monitoring_assets.version import ModelVersion


@click.command("backfill")
@click.argument("model")
@click.argument("version")
@click.option("--from", "first", metavar="KEY", help="First partition.  [default: the manifest's start]")
@click.option("--to", "last", metavar="KEY", help="Last partition.  [default: the newest complete one]")
@click.option("--manifest-digest", metavar="SHA256", help="Run with this onboarded manifest, not the registry's.")
@click.option("--force", is_flag=True, help="Do everything again, also what is done already.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option("-v", "--verbose", is_flag=True, help="Dagster's log on standard error.")
@click.pass_obj
def command(
    settings: Settings,
    model: str,
    version: str,
    first: str | None,
    last: str | None,
    manifest_digest: str | None,
    force: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """Materialise a range of partitions of MODEL VERSION as one run, all stages.

    Partitions that are done are skipped; a bad one gets its result and the others go on. Later partitions whose
    windows hold a partition that changed are judged again. Its results are never live: a backfill pages nobody.
    """
    from monitoring_assets.cli.execution import open_version

    with working(f"onboarding {model} {version}"):
        found = open_version(settings, model, version, manifest_digest)
    partitions = _range(found, first, last)
    recorded = backfill(found, partitions, force=force, verbose=verbose)
    _print(found, partitions, recorded, as_json)
    return exit_code(recorded, missing=0)


def backfill(version: ModelVersion, partitions: list[str], *, force: bool, verbose: bool = False) -> list[Recorded]:
    """Materialise what is not done of ``partitions``, and judge again what lies behind it; with a progress bar."""
    from monitoring_assets.assets.freshness import Freshness
    from monitoring_assets.cli.execution import execute
    from monitoring_assets.heartbeats import end_killed_runs
    from monitoring_assets.instance import open_instance, unrecorded

    with open_instance(version.settings) as instance, _progress() as progress:
        task = progress.add_task(f"{version.name}: looking for work", total=None)
        end_killed_runs(instance, version)
        undone = set(partitions) if force else set(Freshness(version).stale(partitions))
        undone |= unrecorded(instance, version, partitions)
        recorded: list[Recorded] = []
        for assets, wanted in ((STAGES["all"], sorted(undone)), (("psi", "csi"), None)):
            keys = Freshness(version).stale_behind(partitions) if wanted is None else wanted
            if keys:
                progress.update(task, total=len(keys) * len(assets), completed=0)

                def advance(batch: list[Recorded]) -> None:
                    progress.update(
                        task,
                        advance=len(batch),
                        description=f"{version.name}: {batch[-1].outcome.asset}" if batch else None,
                    )

                recorded += execute(
                    version,
                    instance,
                    assets,
                    keys,
                    trigger="backfill",
                    force=force,
                    on_recorded=advance,
                    verbose=verbose,
                )
        progress.update(task, total=1, completed=1, description=f"{version.name}: done")
    return recorded


def _range(version: ModelVersion, first: str | None, last: str | None) -> list[str]:
    newest = version.calendar.latest_complete(version.clock())
    if newest is None:
        raise BadInput(f"{version.name} has no complete partition yet; its first is {version.calendar.first_key}.")
    if last is not None and last > newest:
        version.calendar.validate(last)
        raise BadInput(f"--to {last} is not complete yet; the newest complete partition is {newest}.")
    partitions = version.calendar.keys(first or version.calendar.first_key, last or newest)
    if not partitions:
        raise BadInput(f"--from {first} is after --to {last or newest}.")
    return partitions


def _progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=error_console())


def _print(version: ModelVersion, partitions: list[str], recorded: list[Recorded], as_json: bool) -> None:
    counts = Counter((each.result.kind, each.outcome.asset, each.result.status) for each in recorded)
    blocked = {each.outcome.partition: each.result.reason for each in recorded if each.outcome.state == "blocked"}
    missing = [each.outcome.partition for each in recorded if each.outcome.state == "missing"]
    if as_json:
        echo_json(
            {
                "model": version.manifest.model,
                "version": version.manifest.version,
                "partitions": len(partitions),
                "worked_on": len({each.outcome.partition for each in recorded}),
                "statuses": [
                    {"kind": k, "asset": a, "status": s, "count": n} for (k, a, s), n in sorted(counts.items())
                ],
                "blocked": blocked,
                "missing": missing,
            }
        )
        return
    if not recorded:
        first, last = partitions[0], partitions[-1]
        click.echo(f"{version.name}: {first if first == last else f'{first} to {last}'} is done already")
        return
    rows = [[asset, kind, status, str(count)] for (kind, asset, status), count in sorted(counts.items())]
    table(f"{version.name}, {partitions[0]} to {partitions[-1]}", ("asset", "check", "status", "partitions"), rows)
    if missing:
        click.echo(
            f"no source data: {len(missing)} partitions ({', '.join(missing[:5])}{' …' if len(missing) > 5 else ''})"
        )
    for partition, reason in list(blocked.items())[:10]:
        click.secho(f"blocked {partition}: {reason}", fg="red")
