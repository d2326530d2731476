"""`scorewatch demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from monitoring_assets.cli.output import echo_json, error_console, table
from resources.settings import Settings

if TYPE_CHECKING:
    from monitoring_assets.version import ModelVersion

LAST = "2019-08-29"


@click.command("demo")
@click.option("--cache", type=click.Path(path_type=Path), help="Keep the downloaded data here.  [default: HOME/demo]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_obj
def command(settings: Settings, cache: Path | None, as_json: bool) -> None:
    """Monitor two models over ten months of public car-loan applications, and say what was found.

    Takes NannyML's data out of its wheel (checksummed), trains a model and exports it to ONNX, registers it and one
    with precomputed scores, and materialises every day. A second run continues where the first one stopped.
    """
    from monitoring_assets.cli.backfill import backfill
    from monitoring_assets.demo import car_loan
    from monitoring_assets.deployment import register
    from monitoring_assets.onboarding import onboard

    say = error_console().print
    folder = cache or settings.home / "demo"
    data = car_loan.fetch(folder / "cache", progress=lambda line: say(line, markup=False))
    lake = car_loan.write_lake(data, folder / "lake", progress=lambda line: say(line, markup=False))
    found = []
    for model in car_loan.write_model_folders(
        data, lake, folder / "models", progress=lambda line: say(line, markup=False)
    ):
        manifest, _ = register(model, settings)
        version = onboard(settings, manifest.model, manifest.version)
        partitions = version.calendar.keys(version.calendar.first_key, LAST)
        backfill(version, partitions, force=False)
        found.append(first_breaches(version, partitions))
    if as_json:
        echo_json(found)
        return
    _print(found)


def first_breaches(version: ModelVersion, partitions: list[str]) -> dict[str, object]:
    """Per column, the first day at warn and at breach with the net PSI that decided it, from the results."""
    from monitoring_assets.reading import newest_results

    columns: dict[str, dict[str, object]] = {}
    for kind in ("psi", "csi"):
        for result in newest_results(version, partitions, kind):
            for metric in result.metrics:
                if metric.status in ("warn", "breach") and metric.segment is None and metric.column:
                    first = columns.setdefault(metric.column, {"kind": kind})
                    first.setdefault(metric.status, result.partition)
                    if metric.status == "breach":
                        first.setdefault("warn", result.partition)
                    first.setdefault(f"psi at {metric.status}", metric.value)
                    first.setdefault(f"window at {metric.status}", metric.window)
    return {"model": version.manifest.model, "version": version.manifest.version, "columns": columns}


def _print(found: list[dict[str, object]]) -> None:
    rows = []
    for each in found:
        columns = each["columns"]
        assert isinstance(columns, dict)  # noqa: S101
        ordered = sorted(columns.items(), key=lambda item: (str(item[1].get("breach", "9999")), str(item[1]["warn"])))
        for column, first in ordered:
            rows.append(
                [
                    f"{each['model']} {each['version']}",
                    column,
                    str(first["kind"]).upper(),
                    str(first.get("warn", "–")),
                    str(first.get("breach", "–")),
                    _number(first.get("psi at breach", first.get("psi at warn"))),
                ]
            )
    table(
        "Drift found (the population changes on 2019-03-31)",
        ("model", "column", "index", "first warn", "first breach", "PSI then"),
        rows,
    )
    click.echo("Look at it: make up, then http://127.0.0.1:3000/assets/car-loan/1.0.0/csi?view=checks")


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–"
