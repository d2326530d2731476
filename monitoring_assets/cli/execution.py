"""Running a version's assets in this process, as a real run of the shared Dagster instance."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from monitoring_assets.onboarding import onboard, pinned
from monitoring_assets.results import Trigger
from monitoring_assets.version import ModelVersion
from resources.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from monitoring_assets.assets.pipeline import Recorded


JOB = "__ephemeral_asset_job__"
"""What dg.materialize() calls a run's job; Dagit shows the assets in its place."""


def open_version(settings: Settings, model: str, version: str, digest: str | None) -> ModelVersion:
    """The version by its pinned manifest, or onboarded from the registry."""
    from resources.errors import BadInput

    if digest is None:
        return onboard(settings, model, version)
    found = pinned(settings, digest)
    if (found.manifest.model, found.manifest.version) != (model, version):
        raise BadInput(f"The manifest {digest} is of {found.name}, not of {model} {version}.")
    return found


def execute(
    version: ModelVersion,
    instance: DagsterInstance,
    assets: Collection[str],
    partitions: Sequence[str],
    *,
    trigger: Trigger,
    force: bool,
    on_recorded: Callable[[list[Recorded]], None],
    verbose: bool = False,
) -> list[Recorded]:
    """Materialise ``assets`` for ``partitions`` in one Dagster run; what was recorded.

    A failed blocking check is in the records, not an exception; infrastructure trouble is raised.
    """
    import dagster as dg
    from dagster._core.utils import make_new_run_id

    from monitoring_assets.alerting.fast_path import alerting
    from monitoring_assets.assets.events import asset_key, report_reference
    from monitoring_assets.assets.factory import RESOURCE, TRIGGER_TAG, Work, group, quiet
    from monitoring_assets.heartbeats import EXTERNAL_TAG, MODEL_TAG, VERSION_TAG, heartbeat
    from monitoring_assets.instance import process_tags

    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    manifest = version.manifest
    report_reference(instance, version)
    work = Work(
        version.settings,
        version.clock,
        version=version,
        trigger=trigger,
        force=force,
        partitions=tuple(partitions),
        on_recorded=on_recorded,
        on_live=alerting(version.settings, version.clock),
    )
    keys = [asset_key(manifest.model, manifest.version, asset) for asset in assets]
    tags = {
        TRIGGER_TAG: trigger,
        MODEL_TAG: manifest.model,
        VERSION_TAG: manifest.version,
        "scorewatch/partitions": f"{partitions[0]}…{partitions[-1]}"[:60],
        EXTERNAL_TAG: "command",
        **process_tags(),
    }
    # Evaluations are reported by the assets themselves; planned ones would stay planned.
    job = dg.define_asset_job(JOB, selection=dg.AssetSelection.assets(*keys).without_checks())
    definitions = dg.Definitions(
        assets=group(manifest, version.manifest_digest), jobs=[job], resources={RESOURCE: work}
    )
    run_id = make_new_run_id()
    try:
        with heartbeat(version.store, run_id, version.clock):
            # As dg.materialize() does it, but for the run's id.
            definitions.resolve_job_def(JOB).execute_in_process(
                run_id=run_id,
                instance=instance,
                tags=tags,
                run_config=quiet(logging.DEBUG if verbose else logging.CRITICAL),
                # A range goes to the assets as it is: a partitioned run would plan an event for each of its partitions.
                partition_key=partitions[0] if len(partitions) == 1 else None,
            )
    except dg.Failure:
        if not any(each.outcome.state == "blocked" for each in work.recorded):
            raise
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    return work.recorded
