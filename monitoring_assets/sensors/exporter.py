"""The exporter's sensor: what changes in the registry changes Airflow's DAGs, seconds later."""

import dagster as dg

from monitoring_assets.fleet import Fleet
from monitoring_assets.fleet_file import FleetFile
from resources.errors import BadInput
from resources.settings import Settings

EVERY_S = 10
SHOWN = 5


def exporter_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor. It does nothing before the first `scorewatch export-dags`, unless Airflow is to schedule."""
    store = settings.open_store()
    file = FleetFile(store)
    exported: list[Fleet] = []

    @dg.sensor(
        name="airflow_exporter",
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Keeps the DAGs that were exported for Airflow as the registry is.",
    )
    def airflow_exporter(_: dg.SensorEvaluationContext) -> dg.SkipReason:
        # Pydantic's models and the graph's factory come with it, which the location can do without while it loads.
        from monitoring_assets.exporting import export_fleet, scheduler  # noqa: PLC0415

        if settings.orchestrator == "dagster" and scheduler(store) is None:
            return dg.SkipReason("no DAG was exported yet: scorewatch export-dags")
        fleet = file.read()
        if not fleet.registered:
            return dg.SkipReason("nobody has looked at the registry yet, or it is empty: the DAGs stay as they are")
        if exported and exported[-1] is fleet:
            return dg.SkipReason("nothing changed in the registry")
        try:
            done = export_fleet(settings, fleet)
        except BadInput as error:
            return dg.SkipReason(str(error))
        exported[:] = [fleet]
        refused = [f"{name}: {why}" for name, why in list(done.refused.items())[:SHOWN]]
        changes = f"{len(done.new)} new DAGs, {len(done.changed)} changed, {len(done.gone)} gone"
        return dg.SkipReason("; ".join([changes, *refused]))

    return airflow_exporter
