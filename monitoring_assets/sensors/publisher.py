"""The publisher's sensor: what stages could not tell when they wrote their results is told within half a minute."""

from threading import Lock

import dagster as dg

from monitoring_assets.onboarding import utc_now
from monitoring_assets.version import Clock
from resources.settings import Settings

EVERY_S = 30
SHOWN = 5


def publisher_sensor(settings: Settings, clock: Clock = utc_now) -> dg.SensorDefinition:
    """The sensor. It starts no run: a round of the publisher is all that it does.

    Dagster gives a tick up after a minute, and the next one comes while the round goes on: that one is let end, or they
    would be in each other's way until none ends.
    """
    under_way = Lock()

    @dg.sensor(
        name="publisher",
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells PagerDuty what results ask for that it does not know yet.",
    )
    def publisher(_: dg.SensorEvaluationContext) -> dg.SkipReason:
        # Polars comes with it, which the location can do without while it loads.
        from monitoring_assets.alerting.publisher import publish  # noqa: PLC0415

        if not under_way.acquire(blocking=False):
            return dg.SkipReason("the round before is still under way")
        try:
            done = publish(settings, clock)
        finally:
            under_way.release()
        waiting = [f"{name}: {why}" for name, why in list(done.waiting.items())[:SHOWN]]
        more = [f"and {len(done.waiting) - SHOWN} more"] if len(done.waiting) > SHOWN else []
        return dg.SkipReason("; ".join([f"{done.results} results, {done.sent} events sent", *waiting, *more]))

    return publisher
