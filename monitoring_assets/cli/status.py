"""`scorewatch status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from monitoring_assets.cli.output import echo_json, plain, progress, table
from resources.errors import BadInput
from resources.settings import Settings

if TYPE_CHECKING:
    from monitoring_assets.fleet import Registered
    from monitoring_assets.status import VersionStatus

COLUMNS = ("version", "state", "partition", "worst column", "net PSI", "age")


@click.command("status")
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_obj
def command(settings: Settings, model: str | None, as_json: bool) -> None:
    """Show the fleet at a glance, one line a model version, the gravest first; with MODEL, the versions of that one.

    Each with its newest live partition, the column that moved most in it, and the time since that partition's end.
    Where nothing is live yet, the newest partition that was judged, marked (history). It changes nothing.
    """
    from monitoring_assets.fleet_file import FleetFile
    from monitoring_assets.missing import read_missing
    from monitoring_assets.status import GRAVEST_FIRST

    registered = FleetFile(settings.open_store()).read().registered
    if not registered and model is not None:
        raise BadInput(f"No version of {model} is known. {_nothing(settings)}")
    if not registered:
        click.echo(_nothing(settings), err=as_json)
    if (missing := read_missing(settings.open_store())) is not None:
        click.echo(missing.text(settings.registry_uri, settings.store_uri), err=True)
    found = _look(settings, _of_model(registered, model) if registered else [])
    found.sort(key=lambda each: (GRAVEST_FIRST.index(each.state), each.model, each.version))
    if as_json:
        echo_json([each.model_dump(mode="json") for each in found])
    elif found:
        _print(found)


def _look(settings: Settings, registered: Sequence[Registered]) -> list[VersionStatus]:
    from monitoring_assets.onboarding import utc_now
    from monitoring_assets.status import statuses

    return list(progress("reading results", statuses(settings, registered, utc_now), len(registered)))


def _of_model(registered: Sequence[Registered], model: str | None) -> Sequence[Registered]:
    found = [each for each in registered if model in (None, each.model)]
    if not found:
        models = sorted({each.model for each in registered})
        more = f" and {len(models) - 10} more" if len(models) > 10 else ""
        raise BadInput(
            f"No version of {model} was found in the registry when it was last looked at. "
            f"It has the models {', '.join(models[:10])}{more}."
        )
    return found


def _nothing(settings: Settings) -> str:
    if any(settings.open_registry().list_folders("")):
        return "Nothing has looked at the registry yet: start `scorewatch up`."
    return f"No version is registered in {settings.registry_uri}: deploy one with `scorewatch register DIR`."


def _print(found: Sequence[VersionStatus]) -> None:
    states = Counter(each.state for each in found)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    title = f"{len(found)} version{'s' if len(found) > 1 else ''}: {counts}"
    table(title, COLUMNS, [_row(each) for each in found])
    for each in found:
        for line in _explained(each):
            click.echo(plain(line).replace("\n", "\n  "))


def _row(each: VersionStatus) -> list[str]:
    worst = each.worst
    return [
        f"{each.model} {each.version}",
        each.state,
        (each.partition or "") + ("" if each.live or each.partition is None else " (history)"),
        worst.column if worst else "",
        "" if worst is None or worst.net_psi is None else f"{worst.net_psi:.3f}",
        ("" if each.age_s is None else _age(each.age_s)) + (", overdue" if each.overdue else ""),
    ]


def _explained(each: VersionStatus) -> Iterator[str]:
    """What the version's row does not say; of drift, it names the worst column."""
    name = f"{each.model} {each.version}"
    if each.reason and not (each.kind in ("psi", "csi") and each.state in ("warn", "breach")):
        yield f"{name}: {each.state}: {each.reason}"
    if each.problem:
        yield f"{name}: its newest manifest is not used: {each.problem}"


def _age(seconds: int) -> str:
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 48 * 3600 else f"{seconds // 86400} d"
