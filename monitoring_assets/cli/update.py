"""`scorewatch update`."""

from __future__ import annotations

from pathlib import Path

import click

from monitoring_assets.cli.output import echo_json
from resources.settings import Settings


@click.command("update")
@click.argument("manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_obj
def command(settings: Settings, manifest: Path, as_json: bool) -> None:
    """Replace the registered manifest of a version by MANIFEST, a changed model.yaml.

    May change: owner, tier, role, status, policy, source.sla_hours, score.cutoffs (only added at the end), resources,
    links. Everything else makes another model, and so a new version.
    """
    from monitoring_assets.deployment import update

    changed, digest = update(manifest, settings)
    if as_json:
        echo_json({"changed": changed, "manifest_digest": digest})
        return
    click.secho("updated: " + ", ".join(changed) if changed else "nothing changed", fg="green" if changed else None)
