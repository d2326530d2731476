"""Signs of life of runs that no launcher of Dagster's started: a pod of Airflow's, or the command on any machine.

The process of such a run renews an object in the store while it works, and whoever finds that it stopped records the
run as failed. There is no Kubernetes job and no child process to look at.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from monitoring_assets import layout
from monitoring_assets.instance import lives
from monitoring_assets.leases import LASTS, Lease, Renewal, read_lease
from monitoring_assets.version import Clock, ModelVersion
from resources.errors import InfrastructureError, ScorewatchError
from resources.object_store import ObjectStore
from resources.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

MODEL_TAG, VERSION_TAG = "scorewatch/model", "scorewatch/version"
EXTERNAL_TAG = "scorewatch/external"
"""Tag of the runs that are judged by their heartbeat; its value says what started them."""
KILLED = "Its process ended without a word: it was killed."


@contextmanager
def heartbeat(store: ObjectStore, run: str, clock: Clock) -> Iterator[None]:
    """Show that the process of a run lives, from before the run is recorded until after it ended.

    Raises InfrastructureError when the store cannot be reached at the start; later that is only logged.
    """
    key = layout.heartbeat(run)
    own = Lease.of_this_process(clock())
    store.put(key, own.stored())

    def renew() -> bool:
        store.put(key, own.renewed(clock()).stored())
        return True

    renewing = Renewal(renew)
    try:
        yield
    finally:
        renewing.stop()
        try:
            store.delete(key)
        except ScorewatchError as error:
            # It runs out by itself, and must not hide what became of the run.
            logging.getLogger(__name__).warning("a heartbeat could not be removed: %s", error)


def why_dead(beat: Lease | None, now: datetime, started: datetime | None) -> str | None:
    """Why a run that has not ended counts as killed, judged by its heartbeat and its own start; None while it lives."""
    if beat is None:
        since = f"{started:%Y-%m-%d %H:%M:%S} UTC, when it started" if started else "it started"
        return f"Its process has not been heard of since {since}: it was killed."
    if beat.holds(now):
        return None
    return (
        f"Its process ({beat.process} on {beat.host}) has not been heard of since "
        f"{beat.until - LASTS:%Y-%m-%d %H:%M:%S} UTC: it was killed, or its machine was lost."
    )


class Heartbeats:
    """Those of all runs, for somebody who looks at them from time to time. Nobody is judged by an outage of the store:
    neither during one nor until every process had the time to show itself again.
    """

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._outage: datetime | None = None

    @classmethod
    def configured(cls) -> Heartbeats:
        """Those in the store that the environment names, for launchers: Dagster makes them without arguments."""
        from monitoring_assets.onboarding import utc_now  # noqa: PLC0415

        return cls(Settings.from_environment(os.environ, Path.cwd()).open_store(), utc_now)

    def why_dead(self, instance: DagsterInstance, run: DagsterRun) -> str | None:
        """As the function of this name; None also while the store is, or was just now, out of reach."""
        try:
            beat, _ = read_lease(self._store, layout.heartbeat(run.run_id))
        except InfrastructureError as error:
            logging.getLogger(__name__).warning("the heartbeat of run %s could not be read: %s", run.run_id, error)
            self._outage = self._clock()
            return None
        now = self._clock()
        if self._outage is not None and now < self._outage + LASTS:
            return None
        # Read after the heartbeat: a run that ended meanwhile took it along.
        record = instance.get_run_record_by_id(run.run_id)
        if record is None or record.dagster_run.is_finished:
            return None
        started = record.start_time
        return why_dead(beat, now, datetime.fromtimestamp(started, UTC) if started else None)


def end_killed_runs(instance: DagsterInstance, version: ModelVersion) -> None:
    """Record the version's runs whose process is known to be gone as failed; they would be running for ever."""
    from dagster import DagsterRunStatus, RunsFilter  # noqa: PLC0415

    heartbeats = Heartbeats(version.store, version.clock)
    tags = {MODEL_TAG: version.manifest.model, VERSION_TAG: version.manifest.version}
    # It may have been killed between the record of its run and its first event.
    unfinished = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED]
    for run in instance.get_runs(RunsFilter(statuses=unfinished, tags=tags)):
        if EXTERNAL_TAG in run.tags:
            why = heartbeats.why_dead(instance, run)
        else:
            why = KILLED if lives(run) is False else None
        if why is not None:
            instance.report_run_failed(run, why)
