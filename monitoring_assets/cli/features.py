"""`scorewatch features`."""

from __future__ import annotations

import os

import click

from monitoring_assets.cli.output import working
from resources.settings import Settings


@click.command("features")
@click.argument("model")
@click.argument("version")
@click.option("--partition", required=True, metavar="KEY", help="The partition's key, such as 2026-01-31.")
@click.option("--to", "place", metavar="URI", help="A file:// URI.  [default: SCOREWATCH_FEATURES_URI]")
@click.option("--manifest-digest", metavar="SHA256", help="With this onboarded manifest, not the registry's.")
@click.pass_obj
def command(
    settings: Settings, model: str, version: str, partition: str, place: str | None, manifest_digest: str | None
) -> None:
    """Write the features of one partition of MODEL VERSION to a Parquet file, for the model's own container.

    They are made if they are not up to date. A partition that is missing or bad gives a file without rows.
    """
    from monitoring_assets.assets.handing_over import hand_over, local_path
    from monitoring_assets.cli.execution import open_version
    from monitoring_assets.scoring import FEATURES_URI
    from resources.errors import BadInput

    place = place or os.environ.get(FEATURES_URI)
    if not place:
        raise BadInput(
            f"It is not known where to write them: give --to file:///folder/name.parquet, or {FEATURES_URI}."
        )
    path = local_path(place)
    with working(f"{model} {version}, {partition}: features"):
        found = open_version(settings, model, version, manifest_digest)
        found.calendar.validate(partition)
        rows = hand_over(found, partition, path)
    click.echo(f"{found.name}, {partition}: {rows} rows at {path}")
