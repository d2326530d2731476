"""`scorewatch policy`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monitoring_assets.cli.output import echo_json, plain, progress, table
from resources.errors import BadInput
from resources.settings import Settings

if TYPE_CHECKING:
    from monitoring_assets.alerting.backtest import Episode, Replay
    from monitoring_assets.fleet_defaults import FleetPolicy
    from monitoring_assets.manifest import Manifest

SHOWN = 5
"""Models of a storm that are named."""
COLUMNS = ("paged", "version", "about", "severity", "closed")
Name = tuple[str, str]


@click.group("policy")
def command() -> None:
    """Try out when to speak up: what a policy makes of the results that are stored."""


@command.command("backtest")
@click.argument("model", required=False)
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d"]), help="First day of the period.  [default: the first result]"
)
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="The day after its last.  [default: today]")
@click.option(
    "--policy",
    "tried",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file as fleet.yaml: what it states overrules manifests and defaults.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_obj
def backtest(
    settings: Settings,
    model: str | None,
    since: datetime | None,
    until: datetime | None,
    tried: Path | None,
    as_json: bool,
) -> None:
    """Say what would have paged, when and why, had every stored result been live; with --policy, beside the present.

    Takes the newest attempt of every partition in the period, of all versions that are not retired or of those of
    MODEL. It sends and changes nothing.

    \b
    A file for --policy:
      policy: {psi: {warn: 0.1, critical: 0.25}, csi: {warn: 0.2, critical: 0.5}, warnings: 2, among: 3}
    """
    from monitoring_assets.fleet_defaults import fleet_defaults, parse_defaults
    from monitoring_assets.onboarding import utc_now

    first = since.date() if since else date.min
    end = until.date() if until else utc_now().date()
    if first >= end:
        raise BadInput(f"--since {first} is not before --until {end}, so there is nothing to replay.")
    present = fleet_defaults(settings.open_store()).policy
    other = parse_defaults(tried.read_bytes(), str(tried)).policy if tried else None
    replays = _replay(settings, model, (first, end), present, other)
    if as_json:
        echo_json({name: _as_json(found) for name, found in replays.items()})
    else:
        _print(replays)


def would_have_paged(settings: Settings, model: str, until: date) -> Replay:
    """What the present policy makes of everything that is stored about a model's partitions before a day."""
    from monitoring_assets.fleet_defaults import fleet_defaults

    period = (date.min, until)
    return _replay(settings, model, period, fleet_defaults(settings.open_store()).policy, None)["present"]


def _replay(
    settings: Settings, model: str | None, period: tuple[date, date], present: FleetPolicy, tried: FleetPolicy | None
) -> dict[str, Replay]:
    from monitoring_assets.alerting.backtest import merged, replay
    from monitoring_assets.alerting.policies import policy_instead, policy_of
    from monitoring_assets.past.markers import PARTS
    from monitoring_assets.past.reading import past_in_parts

    manifests = _manifests(settings, model)
    policies = {"present": {name: policy_of(manifest, present) for name, manifest in manifests.items()}}
    if tried:
        policies["tried"] = {name: policy_instead(manifest, present, tried) for name, manifest in manifests.items()}
    results = past_in_parts(settings.open_store(), since=period[0], until=period[1], models=model and [model])
    replays: dict[str, list[Replay]] = {name: [] for name in policies}
    for part in progress("replaying results", results, PARTS):
        for name, each in policies.items():
            replays[name].append(replay(part, each))
        # Before the next one is read: a part of a large fleet takes hundreds of megabytes.
        del part
    return {name: merged(found) for name, found in replays.items()}


def _manifests(settings: Settings, model: str | None) -> Mapping[Name, Manifest]:
    from monitoring_assets.fleet import Fleet, scan
    from monitoring_assets.fleet_file import FleetFile

    fleet = FleetFile(settings.open_store()).read()
    if not fleet.registered:
        # Nobody has looked at the registry yet, as after `scorewatch demo`.
        found = scan(settings, Fleet())
        while not found.complete:
            found = scan(settings, found.fleet)
        fleet = found.fleet
    # As for the publisher: what is retired pages nobody.
    manifests = {(each.manifest.model, each.manifest.version): each.manifest for each in fleet.members}
    wanted = {name: manifest for name, manifest in manifests.items() if model in (None, name[0])}
    if not wanted:
        known = ", ".join(sorted({name[0] for name in manifests})[:10]) or "none"
        whose = "" if model is None else f" of {model}"
        raise BadInput(f"{settings.registry_uri} has no active version{whose}. Models that have one: {known}.")
    return wanted


def _print(replays: Mapping[str, Replay]) -> None:
    present = replays["present"]
    tried = replays.get("tried")
    print_pages(_title("the present policy", present), present)
    if tried is not None:
        print_pages(_title("the tried policy", tried), tried)
        gone, new = _difference(present, tried)
        click.echo(f"pages of the tried policy alone: {len(new)}; of the present one alone: {len(gone)}")
        for sign, episodes in (("+", new), ("-", gone)):
            for each in episodes:
                click.echo(plain(f"{sign} {each.paged} {each.model} {each.version}, {each.kind}"))


def print_pages(title: str, found: Replay) -> None:
    """A line for every page, and below them why."""
    # Not as the table's title, which is folded at the table's width.
    click.echo(title)
    for partition, models in found.storms.items():
        some = ", ".join(models[:SHOWN]) + (", …" if len(models) > SHOWN else "")
        click.echo(plain(f"{partition} the fleet: {len(models)} of {len(found.models)} models at once: {some}"))
    pages = found.pages
    if not pages:
        return
    rows = [
        [each.paged or "", f"{each.model} {each.version}", each.kind, each.severity, each.closed or "open"]
        for each in pages
    ]
    table("", COLUMNS, rows)
    for each in pages:
        click.echo(plain(f"{each.paged} {each.model} {each.version}: {each.why}"))


def _title(whose: str, found: Replay) -> str:
    pages = len(found.pages) + len(found.storms)
    rate = "" if math.isnan(found.pages_per_model_month) else f", {found.pages_per_model_month:.3g} a model-month"
    return f"{whose}: {pages} page{'' if pages == 1 else 's'} in {found.model_months:.1f} model-months{rate}"


def _difference(present: Replay, tried: Replay) -> tuple[list[Episode], list[Episode]]:
    """Pages of the present policy that the tried one would not have sent at any time of their episode, and the other
    way round.
    """
    return _without(present, tried), _without(tried, present)


def _without(ours: Replay, theirs: Replay) -> list[Episode]:
    return [each for each in ours.pages if not any(_overlap(each, other) for other in theirs.pages)]


def _overlap(one: Episode, other: Episode) -> bool:
    same = (one.model, one.version, one.kind) == (other.model, other.version, other.kind)
    return same and one.opened <= (other.closed or "~") and other.opened <= (one.closed or "~")


def _as_json(found: Replay) -> dict[str, Any]:
    rate = found.pages_per_model_month
    return {
        "storms": found.storms,
        "pages": [each.__dict__ for each in found.pages],
        "episodes": len(found.episodes),
        "model_months": found.model_months,
        "pages_per_model_month": None if math.isnan(rate) else rate,
    }
