"""`scorewatch publish`."""

from __future__ import annotations

import time

import click

from monitoring_assets.cli.output import echo_json, plain, working
from resources.errors import EXIT_INFRASTRUCTURE
from resources.settings import Settings

EVERY_S = 30.0


@click.command("publish")
@click.option("--once", is_flag=True, help="One round, then end: for a CronJob.")
@click.option("--refused", is_flag=True, help="Send again what PagerDuty refused, once the reason is mended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a round.")
@click.pass_obj
def command(settings: Settings, once: bool, refused: bool, as_json: bool) -> int:
    """Tell PagerDuty what the results ask for that it does not know yet; every 30 seconds until Ctrl-C.

    Stages do that themselves when they have written results, and so does a sensor where `scorewatch up` runs: this is a
    second pair of hands. Any number may run at once. Without SCOREWATCH_PAGERDUTY_ROUTING_KEY the same events go to the
    outbox, which `scorewatch alerts` shows.
    """
    from monitoring_assets.alerting.publisher import publish
    from monitoring_assets.onboarding import utc_now

    while True:
        with working("publishing"):
            done = publish(settings, utc_now, refused=refused)
        if as_json:
            echo_json({"results": done.results, "sent": done.sent, "waiting": done.waiting})
        else:
            click.echo(f"{done.results} results, {done.sent} events sent")
            for name, why in done.waiting.items():
                click.secho(plain(f"{name}: {why}"), fg="yellow", err=True)
        if once:
            return EXIT_INFRASTRUCTURE if done.waiting else 0
        time.sleep(EVERY_S)
