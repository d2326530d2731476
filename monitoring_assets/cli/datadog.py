"""`scorewatch datadog`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from monitoring_assets.cli.output import echo_json, plain, working
from resources.errors import BadInput
from resources.settings import Settings

if TYPE_CHECKING:
    from resources.datadog_boards import Change, DatadogBoards

# Beside the packages, in a checkout as in an installation.
FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "datadog"
DONE = {"create": "created", "update": "updated", "none": "nothing to change"}


@click.group("datadog")
def command() -> None:
    """Keep the dashboards and monitors at Datadog as this release has them."""


@command.command("apply")
@click.option("--dry-run", is_flag=True, help="Show the difference, and write nothing.")
@click.option(
    "--notify",
    metavar="HANDLE",
    help="Whom the monitors of the monitoring itself notify, such as @slack-risk or '@pagerduty-Platform @me@bank.ke'. "
    "[default: whom they notify now]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_obj
def apply(settings: Settings, dry_run: bool, notify: str | None, as_json: bool) -> None:
    """Make Scorewatch's dashboards and monitors at Datadog what deploy/datadog says.

    What is not there is created, what differs is updated in place, nothing else is touched. Monitors are those of the
    environment in SCOREWATCH_ENV; dashboards show all of them. Needs DD_API_KEY and DD_APP_KEY (or files with them,
    named in DD_API_KEY_FILE and DD_APP_KEY_FILE), and DD_SITE where the site is not datadoghq.com. Where the dashboards
    are is kept in SCOREWATCH_STORE, so that incidents link to them.
    """
    from monitoring_assets.alerting.dashboards import keep
    from resources.datadog_boards import dashboard_address, read_boards

    boards = read_boards(FOLDER, env=settings.env)
    datadog = _open(settings)
    with working("comparing with Datadog"):
        changes = datadog.compare(boards, _handles(notify))
    shown, dashboards = [], {}
    for change in changes:
        found = change.id if dry_run else datadog.write(change)
        if found and change.board.kind == "dashboard":
            dashboards[change.board.key] = dashboard_address(settings.datadog_site, found)
        shown.append({"kind": change.board.kind, "key": change.board.key, "id": found, "action": change.action})
        if not as_json:
            _print(change, dry_run)
    kept = None if dry_run else keep(settings.open_store(), dashboards)
    if as_json:
        differences = [change.difference for change in changes]
        objects = [each | {"difference": difference} for each, difference in zip(shown, differences, strict=True)]
        echo_json({"dry_run": dry_run, "objects": objects})
    else:
        if kept:
            click.echo(f"incidents link to the dashboard of their model: {kept}")
        _warn_of_silence(changes)


def _open(settings: Settings) -> DatadogBoards:
    from resources.datadog_boards import DatadogBoards

    keys = {"DD_API_KEY": settings.datadog_key, "DD_APP_KEY": settings.datadog_app_key}
    if settings.datadog_key is None or settings.datadog_app_key is None:
        missing = [name for name, key in keys.items() if key is None]
        raise BadInput(
            f"{' and '.join(missing)} must be set: dashboards and monitors need an API key and an application key of "
            f"Datadog. Set what is missing, or name files that hold it in {' and '.join(f'{x}_FILE' for x in missing)}."
        )
    return DatadogBoards(
        settings.datadog_key, settings.datadog_app_key, site=settings.datadog_site, url=settings.datadog_url
    )


def _handles(notify: str | None) -> str | None:
    if notify is None:
        return None
    words = notify.split()
    if not words or not all(word.startswith("@") and len(word) > 1 for word in words):
        raise BadInput(f"--notify is {notify!r}. Write handles as Datadog has them, such as '@slack-risk @me@bank.ke'.")
    return " ".join(words)


def _print(change: Change, dry_run: bool) -> None:
    if change.action == "update" and dry_run:
        for line in plain(change.difference).splitlines():
            click.secho(line, fg={"+": "green", "-": "red"}.get(line[:1]))
        return
    done = "would be created" if change.action == "create" and dry_run else DONE[change.action]
    click.secho(f"{change.board.name}: {done}", fg=None if change.action == "none" else "green")


def _warn_of_silence(changes: Sequence[Change]) -> None:
    silent = [change.board.name for change in changes if change.board.notifies_nobody]
    if silent:
        click.secho(f"{', '.join(silent)}: nobody is notified; say whom with --notify @HANDLE.", fg="yellow", err=True)
