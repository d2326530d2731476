"""The sensor of runs that never begin: their pod was evicted, or crashed before it could say anything.

Dagster's own monitoring (1.13) asks the launcher about runs that have begun, and gives all others the whole time in
which a run may start. That is an hour, since a model's own container may take as long, and meanwhile such a run has a
place in the queue, and its version is not asked for again.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.launcher import WorkerStatus

from monitoring_assets.heartbeats import EXTERNAL_TAG
from monitoring_assets.onboarding import utc_now
from monitoring_assets.version import Clock

EVERY_S = 30
LAUNCHED_WITHIN = timedelta(seconds=60)
"""Between saying that a run starts and making its job the launcher may try again for a while."""


def starts_sensor(clock: Clock = utc_now) -> dg.SensorDefinition:
    """The sensor. It asks for no run: what did not begin is asked for again by those who did so before."""

    @dg.sensor(
        name="starts",
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records runs as failed whose process ended before it began to work.",
    )
    def starts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        ended = end_failed_starts(context.instance, clock())
        return dg.SkipReason(f"ended before they began: {', '.join(ended)}" if ended else "no run failed to start")

    return starts


def end_failed_starts(instance: dg.DagsterInstance, now: datetime) -> list[str]:
    """Record the runs as failed of which the launcher says so before they began; their ids."""
    starting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING], updated_before=now - LAUNCHED_WITHIN)
    return [run.run_id for run in instance.get_runs(starting) if EXTERNAL_TAG not in run.tags and _end(instance, run)]


def _end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    launcher = instance.run_launcher
    if not launcher.supports_check_run_worker_health:
        return False
    health = launcher.check_run_worker_health(run)
    if health.status is not WorkerStatus.FAILED:
        return False
    # Asked again afterwards: whoever worked and ended meanwhile has said so before its process was gone.
    again = instance.get_run_by_id(run.run_id)
    if again is None or again.status is not dg.DagsterRunStatus.STARTING:
        return False
    why = [health.msg or "Its process ended before it began."]
    try:
        why.append(launcher.get_run_worker_debug_info(run, include_container_logs=False) or "")
    except Exception:
        # It failed all the same.
        logging.getLogger(__name__).exception("how run %s ended could not be found out", run.run_id)
    instance.report_run_failed(again, "\n".join(filter(None, why)))
    return True
