"""`scorewatch demo`."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monitoring_assets.cli.output import echo_json, error_console, table
from resources.settings import Settings

if TYPE_CHECKING:
    from monitoring_assets.version import ModelVersion

LAST = "2019-08-29"
END = date.fromisoformat(LAST) + timedelta(days=1)


@click.command("demo")
@click.option("--cache", type=click.Path(path_type=Path), help="Keep the downloaded data here.  [default: HOME/demo]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_obj
def command(settings: Settings, cache: Path | None, as_json: bool) -> None:
    """Monitor two models over ten months of public car-loan applications, and say what was found.

    Takes NannyML's data out of its wheel (checksummed), trains a model and exports it to ONNX, registers it and one
    with precomputed scores, and materialises every day. A second run continues where the first one stopped.
    """
    from monitoring_assets.alerting.backtest import merged
    from monitoring_assets.cli.backfill import backfill
    from monitoring_assets.cli.policy import print_pages, would_have_paged
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
        found.append(first_alarms(version, partitions))
    replays = {each["model"]: would_have_paged(settings, each["model"], END) for each in found}
    if as_json:
        pages = {model: [vars(each) for each in replay.pages] for model, replay in replays.items()}
        echo_json([each | {"pages": pages[each["model"]]} for each in found])
        return
    _print(found)
    print_pages("what would have paged, had each day been judged on its day", merged(replays.values()))
    _say_where_to_look()


def first_alarms(version: ModelVersion, partitions: list[str]) -> dict[str, Any]:
    """Per column, from the results: the first day at warn or worse, the first at breach, and the PSI of that day."""
    from monitoring_assets.reading import newest_results

    columns: dict[str, dict[str, Any]] = {}
    for kind in ("psi", "csi"):
        for result in newest_results(version, partitions, kind):
            for metric in result.metrics:
                if metric.status in ("warn", "breach") and metric.segment is None and metric.column:
                    shift = {"psi": metric.value, "days": metric.window}
                    first = columns.setdefault(
                        metric.column, {"index": kind.upper(), "warn": result.partition, **shift}
                    )
                    if metric.status == "breach" and "breach" not in first:
                        first |= {"breach": result.partition, **shift}
    return {"model": version.manifest.model, "version": version.manifest.version, "columns": columns}


def _print(found: list[dict[str, Any]]) -> None:
    for each in found:
        columns = sorted(each["columns"].items(), key=lambda item: (item[1].get("breach", "9999"), item[1]["warn"]))
        rows = [
            [
                column,
                first["index"],
                first["warn"],
                first.get("breach", "–"),
                f"{first['psi']:.3f}",
                f"{first['days']} day{'s' if first['days'] > 1 else ''}",
            ]
            for column, first in columns
        ]
        table(
            f"{each['model']} {each['version']}: drift found (the population changes on 2019-03-31)",
            ("column", "index", "first warn", "first breach", "PSI then", "over"),
            rows,
        )


def _say_where_to_look() -> None:
    click.echo("Look at it: make up, then")
    click.echo("  lineage  http://127.0.0.1:3000/locations/models/asset-groups/car_loan__1_0_0")
    click.echo("  checks   http://127.0.0.1:3000/assets/car-loan/1.0.0/csi?view=checks")
