"""`scorewatch register`."""

from __future__ import annotations

from pathlib import Path

import click

from monitoring_assets.cli.output import echo_json, working
from resources.settings import Settings


@click.command("register")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_obj
def command(settings: Settings, folder: Path, as_json: bool) -> None:
    """Deploy the model version in FOLDER: validate, upload artefact and reference, and the manifest last.

    The manifest's presence is the deployment. A version is never overwritten: registering the same bytes again does
    nothing, other bytes under the same version are refused. Where `scorewatch up` runs, the version's group, its
    reference and its first partitions follow by themselves; `scorewatch status` shows them.
    """
    from monitoring_assets.deployment import register

    with working(f"checking and uploading {folder}"):
        manifest, created = register(folder, settings)
    if as_json:
        echo_json({"model": manifest.model, "version": manifest.version, "registered": created})
        return
    if created:
        click.secho(f"registered {manifest.model} {manifest.version} in {settings.registry_uri}", fg="green")
    else:
        click.echo(f"{manifest.model} {manifest.version} is registered already, with these same files")
    click.echo(
        "  where `scorewatch up` runs, it is onboarded and monitored by itself; without it: "
        f"scorewatch backfill {manifest.model} {manifest.version}"
    )
