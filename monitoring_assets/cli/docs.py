"""`scorewatch docs`."""

from __future__ import annotations

from pathlib import Path

import click

from monitoring_assets.cli.output import echo_json, working
from resources.errors import BadInput
from resources.settings import Settings


@click.command("docs")
@click.argument("model")
@click.argument("version")
@click.option("--partition", metavar="KEY", help="Which partition.  [default: the newest one with a distribution]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder.  [default: HOME/docs/…]")
@click.option("--manifest-digest", metavar="SHA256", help="With this onboarded manifest, not the registry's.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_obj
def command(
    settings: Settings,
    model: str,
    version: str,
    partition: str | None,
    out: Path | None,
    manifest_digest: str | None,
    as_json: bool,
) -> None:
    """Build Great Expectations' Data Docs of one partition of MODEL VERSION: every expectation, with its bins.

    The pages load nothing from anywhere and hold no script; names from the data are escaped.
    """
    from monitoring_assets.assets.data_docs import build
    from monitoring_assets.cli.execution import open_version
    from monitoring_assets.version import DISTRIBUTION

    found = open_version(settings, model, version, manifest_digest)
    if partition is None:
        counted = found.materialised(DISTRIBUTION)
        if not counted:
            raise BadInput(f"{found.name} has no distribution yet; run `scorewatch backfill {model} {version}` first.")
        partition = counted[-1]
    found.calendar.validate(partition)
    folder = out or settings.home / "docs" / model / version / found.calendar.encode(partition)
    with working(f"building the docs of {partition}"):
        index = build(found, partition, folder)
    if as_json:
        echo_json({"partition": partition, "index": str(index)})
    else:
        click.echo(f"{found.name}, {partition}: {index.resolve().as_uri()}")
