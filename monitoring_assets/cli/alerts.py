"""`scorewatch alerts`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

import click

from monitoring_assets.cli.output import echo_json, plain, progress, table
from resources.errors import BadInput
from resources.settings import Settings

if TYPE_CHECKING:
    from monitoring_assets.alerting.outbox import Sent
    from monitoring_assets.alerting.overview import Open

OUTBOX_SHOWN, OUTBOX_SEARCHED = 10, 1_000
COLUMNS = ("severity", "version", "about", "since", "partition", "told")


@click.command("alerts")
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_obj
def command(settings: Settings, model: str | None, as_json: bool) -> None:
    """Show the open episodes, the gravest first: why, since when, and what PagerDuty was told of them.

    An episode that nobody was told of is a ticket: of a challenger, of a small sustained shift, or a warning of tier 3.
    Messages that a service refused for good are told too, until somebody deletes them from the store; and storms, in
    which the fleet has one incident for all the models that breach on one partition.

    Without PagerDuty's key it also shows the newest events of the outbox, where they go instead.
    """
    from monitoring_assets.alerting.dead_letters import dead_letters
    from monitoring_assets.alerting.outbox import newest
    from monitoring_assets.alerting.overview import open_episodes, versions_with_alerts
    from monitoring_assets.alerting.silences import silences
    from monitoring_assets.alerting.storms import storms
    from monitoring_assets.onboarding import utc_now

    store, now = settings.open_store(), utc_now()
    names = [name for name in versions_with_alerts(store) if model in (None, name[0])]
    if model is not None and not names and model not in settings.open_registry().list_folders(""):
        raise BadInput(f"No model {model} is registered in {settings.registry_uri}, and nothing was alerted of it.")
    episodes = [each for found in progress("reading alerts", open_episodes(store, names), len(names)) for each in found]
    episodes.sort(key=lambda each: (-each.told.severity, each.model, each.version, each.told.track))
    silent = {name: each for name, each in silences(store).items() if now < each.until and model in (None, name)}
    outbox = (each for each in newest(store, OUTBOX_SEARCHED) if model is None or _is_about(each, model))
    events = [] if settings.pagerduty_key else list(islice(outbox, OUTBOX_SHOWN))
    dead = [each for each in dead_letters(store) if model in (None, each.model)]
    present = [each for each in storms(store) if not each.over and (model is None or model in each.models)]
    if as_json:
        echo_json(
            {
                "dead_letters": [vars(each) for each in dead],
                "episodes": [each.as_json() for each in episodes],
                "storms": [each.model_dump(mode="json", exclude={"over"}) for each in present],
                "silences": [each.model_dump(mode="json") for each in silent.values()],
                "outbox": [each.model_dump(mode="json") for each in events],
            }
        )
        return
    _print(episodes, now)
    for storm in present:
        count, since = len(storm.models), f"{storm.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        line = f"storm: {count} models {storm.what}; their pages are held back since {since}"
        click.secho(plain(line), fg="red")
    for each in silent.values():
        click.echo(
            plain(f"{each.model} is silent until {each.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {each.reason}")
        )
    for each_dead in dead:
        line = f"refused for good, {each_dead.model} {each_dead.version}: {each_dead.refused} ({each_dead.key})"
        click.secho(plain(line), fg="red")
    if events:
        title = "outbox: what PagerDuty would have been told, the newest first"
        table(title, ("at (UTC)", "event", "summary"), [_sent(each) for each in events])


def _print(episodes: Sequence[Open], now: datetime) -> None:
    if not episodes:
        click.echo("No episode is open.")
        return
    table(f"open episodes: {len(episodes)}", COLUMNS, [_row(each, now) for each in episodes])
    for each in episodes:
        click.echo(plain(f"{each.model} {each.version}, {each.about}: {each.told.why}"))


def _row(each: Open, now: datetime) -> list[str]:
    age = now - each.told.since
    since = f"{age.days} d" if age.days else f"{age.seconds // 3600} h {age.seconds % 3600 // 60:02d} min"
    told = each.told.told or ("trying" if each.told.trying else "nobody")
    return [each.severity, f"{each.model} {each.version}", each.about, since, each.told.at, told]


def _is_about(event: Sent, model: str) -> bool:
    """A resolve holds nothing but the key of its incident, and a deployment has no incident."""
    return f"/{model}/" in event.dedup_key or event.details.get("model") == model


def _sent(event: Sent) -> list[str]:
    event_name = f"{event.action} {event.severity}" if event.action == "trigger" else event.action
    return [f"{event.at:%Y-%m-%d %H:%M:%S}", event_name, event.summary or event.dedup_key]
