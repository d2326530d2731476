"""The `control` code location: registry, publisher, exporter, runs that never begin, keeping house in the store.

It loads no model version.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.missing import read_missing
from monitoring_assets.onboarding import utc_now
from monitoring_assets.sensors.exporter import exporter_sensor
from monitoring_assets.sensors.publisher import publisher_sensor
from monitoring_assets.sensors.registry import CHECK, REGISTRY, Report, registry_sensor
from monitoring_assets.sensors.reloading import Servers
from monitoring_assets.sensors.starts import starts_sensor
from monitoring_assets.sweep import sweep
from resources.settings import Settings


@dg.definitions
def defs() -> dg.Definitions:
    """Definitions of this deployment's registry."""
    settings = Settings.from_environment(os.environ, Path.cwd())
    job = _nightly(settings)
    return dg.Definitions(
        assets=[_registry(settings)],
        sensors=[registry_sensor(settings), publisher_sensor(settings), exporter_sensor(settings), starts_sensor()],
        jobs=[job],
        schedules=[
            dg.ScheduleDefinition(job=job, cron_schedule="17 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
        ],
        executor=dg.in_process_executor,
    )


def _registry(settings: Settings) -> dg.AssetsDefinition:
    check = dg.AssetCheckSpec(
        CHECK, asset=REGISTRY, description="No version is kept back; those that are, and why, are in the metadata."
    )

    @dg.asset(
        key=REGISTRY,
        group_name="registry",
        description=f"The deployed model versions: {settings.registry_uri}. The sensor keeps this up to date.",
        check_specs=[check],
    )
    def registry() -> Iterator[dg.MaterializeResult[None]]:
        store = settings.open_store()
        problems = Servers(settings.workspace).problems()
        report = Report(settings, FleetFile(store).read(), missing=read_missing(store), problems=problems)
        result = dg.AssetCheckResult(
            passed=report.passed, severity=report.severity, description=report.description, metadata=report.metadata()
        )
        yield dg.MaterializeResult(metadata=report.counts, check_results=[result])

    return registry


def _nightly(settings: Settings) -> dg.JobDefinition:
    @dg.op
    def sweep_orphans(context: dg.OpExecutionContext) -> None:
        done = sweep(settings.open_store(), utc_now)
        context.log.info(
            "%d objects (%d bytes) that no partition names were removed; %d partitions were looked at",
            done.objects,
            done.size,
            done.partitions,
        )

    @dg.op
    def compact_results(context: dg.OpExecutionContext) -> None:
        from monitoring_assets.past.compaction import LIMIT, compact  # noqa: PLC0415

        while (done := compact(settings.open_store(), utc_now)).results:
            context.log.info("%d results were written to %d files of history/", done.results, done.files)
            if done.results < LIMIT:
                break

    @dg.op
    def resolve_incidents_again(context: dg.OpExecutionContext) -> None:
        from monitoring_assets.alerting.publisher import resolve_again  # noqa: PLC0415

        context.log.info("%d incidents of the last week were resolved once more", resolve_again(settings, utc_now))

    @dg.job(
        description="Remove files that no partition names any more, a week after they were written; compact published "
        "results by month; resolve the incidents of the last week once more."
    )
    def keep_house() -> None:
        sweep_orphans()
        compact_results()
        resolve_incidents_again()

    return keep_house
