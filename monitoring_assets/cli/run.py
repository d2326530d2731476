"""`scorewatch run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from monitoring_assets.cli.output import echo_json, table, working
from resources.errors import EXIT_BAD_INPUT, EXIT_BLOCKED
from resources.settings import Settings

if TYPE_CHECKING:
    from monitoring_assets.assets.pipeline import Recorded
    from monitoring_assets.results import Trigger

STAGES = {
    "features": ("features",),
    "scores": ("scores",),
    "monitoring": ("distribution", "psi", "csi"),
    "all": ("features", "scores", "distribution", "psi", "csi"),
}
ONE_ASSET = ("distribution", "psi", "csi")


@click.command("run")
@click.argument("model")
@click.argument("version")
@click.option("--partition", required=True, metavar="KEY", help="The partition's key, such as 2026-01-31.")
@click.option(
    "--stage",
    type=click.Choice([*STAGES, *ONE_ASSET]),
    default="all",
    show_default=True,
    help="A stage, or one asset by name.",
)
@click.option("--manifest-digest", metavar="SHA256", help="Run with this onboarded manifest, not the registry's.")
@click.option(
    "--trigger",
    type=click.Choice(["arrival", "backfill", "catch-up", "onboarding"]),
    default="arrival",
    show_default=True,
    help="Why it runs: only an arrival, soon after the data was due, makes live results.",
)
@click.option("--force", is_flag=True, help="Do the work again although the same inputs and code are done already.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option("-v", "--verbose", is_flag=True, help="Dagster's log on standard error.")
@click.pass_obj
def command(
    settings: Settings,
    model: str,
    version: str,
    partition: str,
    stage: str,
    manifest_digest: str | None,
    trigger: str,
    force: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """Materialise one partition of MODEL VERSION: a stage, or everything.

    Idempotent: the same inputs and code give the same bytes, and are not done twice. Without --manifest-digest the
    version is onboarded from the registry first.
    """
    from monitoring_assets.cli.execution import execute, open_version
    from monitoring_assets.heartbeats import end_killed_runs
    from monitoring_assets.instance import open_instance

    with working(f"{model} {version}, {partition}: {stage}"), open_instance(settings) as instance:
        found = open_version(settings, model, version, manifest_digest)
        found.calendar.validate(partition)
        assets = STAGES.get(stage, (stage,))
        end_killed_runs(instance, found)
        recorded = execute(
            found,
            instance,
            assets,
            [partition],
            trigger=cast("Trigger", trigger),
            force=force,
            on_recorded=lambda _: None,
            verbose=verbose,
        )
    if as_json:
        echo_json([summary(each) for each in recorded])
    else:
        table(f"{found.name}, {partition}", ("asset", "check", "state", "status", "rows", "why"), _rows(recorded))
    return exit_code(recorded, missing=EXIT_BAD_INPUT)


def exit_code(recorded: list[Recorded], *, missing: int) -> int:
    """The gravest of the outcomes: a failed blocking check, then (``missing``) a source that is not there."""
    states = {each.outcome.state for each in recorded}
    if "blocked" in states:
        return EXIT_BLOCKED
    return missing if "missing" in states or states == {"skipped"} else 0


def summary(recorded: Recorded) -> dict[str, object]:
    """One outcome as JSON."""
    outcome, result = recorded.outcome, recorded.result
    return {
        "asset": outcome.asset,
        "partition": outcome.partition,
        "kind": result.kind,
        "state": outcome.state,
        "status": result.status,
        "reason": result.reason,
        "rows": outcome.rows,
        "digest": outcome.digest,
        "attempt": result.attempt,
        "live": result.live,
    }


def _rows(recorded: list[Recorded]) -> list[list[str]]:
    return [
        [
            each.outcome.asset,
            each.result.kind,
            each.outcome.state,
            each.result.status,
            str(each.outcome.rows),
            each.result.reason,
        ]
        for each in recorded
    ]
