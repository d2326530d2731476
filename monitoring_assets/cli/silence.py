"""`scorewatch silence`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

from monitoring_assets.cli.output import plain
from resources.errors import BadInput
from resources.settings import Settings

LONGEST = timedelta(days=90)
_LENGTH = re.compile(r"([0-9]{1,4})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@click.command("silence")
@click.argument("model")
@click.option("--until", help="When it ends: 30m, 4h, 2d from now, or 2026-03-01T09:00+03:00.")
@click.option("--reason", help="Why; whoever wonders about the silence reads it.")
@click.option("--end", is_flag=True, help="End the model's silence now.")
@click.pass_obj
def command(settings: Settings, model: str, until: str | None, reason: str | None, end: bool) -> None:
    """Hold back the pages of all versions of MODEL for a while. What is over is resolved all the same.

    What still fires when the silence ends pages then.
    """
    from monitoring_assets.alerting.silences import Silence, put_silence, silences
    from monitoring_assets.onboarding import utc_now

    store = settings.open_store()
    if end:
        if until:
            raise BadInput("--end ends a silence now; leave out --until.")
        if model not in silences(store):
            raise BadInput(f"{model} is not silent: scorewatch alerts shows who is.")
        # The publisher looks at whoever was silent when it has ended, and removes it.
        put_silence(store, Silence(model=model, until=utc_now(), reason=reason or "ended"))
        click.echo(plain(f"{model} is heard again."))
        return
    if not until or not (reason or "").strip():
        raise BadInput("A silence needs --until and --reason: scorewatch silence MODEL --until 4h --reason 'payday'.")
    known = set(settings.open_registry().list_folders(""))
    if model not in known:
        raise BadInput(f"No model {model} is registered in {settings.registry_uri}. It has {_some(known)}.")
    moment = _moment(until, utc_now())
    put_silence(store, Silence(model=model, until=moment, reason=str(reason)))
    click.echo(plain(f"{model} is silent until {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {reason}"))


def _moment(text: str, now: datetime) -> datetime:
    found = _LENGTH.fullmatch(text)
    try:
        moment = now + int(found[1]) * _UNITS[found[2]] if found else datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--until {text} is no time. Write 30m, 4h, 2d, or 2026-03-01T09:00+03:00.") from None
    if moment.tzinfo is None:
        raise BadInput(f"--until {text} has no time zone. Write time and offset, such as {moment.isoformat()}+03:00.")
    if not now < moment <= now + LONGEST:
        raise BadInput(f"--until {text} is not within the next {LONGEST.days} days.")
    return moment


def _some(models: set[str]) -> str:
    return ", ".join(sorted(models)[:10]) or "none"
