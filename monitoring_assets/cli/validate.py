"""`scorewatch validate`."""

from __future__ import annotations

from pathlib import Path

import click

from monitoring_assets.cli.output import echo_json, working
from resources.settings import Settings


@click.command("validate")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_obj
def command(settings: Settings, folder: Path, as_json: bool) -> None:
    """Check FOLDER (model.yaml, the reference, the artefact) as onboarding would, without uploading anything.

    The manifest is parsed, the reference binned and, for ONNX, scored: what passes here onboards.
    """
    from monitoring_assets.deployment import check_folder

    with working(f"checking {folder}"):
        manifest, profile = check_folder(folder, settings)
    facts = {
        "model": manifest.model,
        "version": manifest.version,
        "reference_rows": profile.rows,
        "columns": len(profile.columns),
        "canary_rows": len(profile.canary.scores) if profile.canary else 0,
    }
    if as_json:
        echo_json(facts)
        return
    click.secho(f"{manifest.model} {manifest.version} is valid", fg="green")
    click.echo(f"  reference: {profile.rows} rows ({profile.sample}), {len(profile.features)} features")
    click.echo(f"  next: scorewatch register {folder}")
