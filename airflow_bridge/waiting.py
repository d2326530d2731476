"""A run's wait for the data of its partition: in the triggerer from the beginning, so that it takes no worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException
from airflow.triggers.base import BaseTrigger, StartTriggerArgs, TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent

from airflow_bridge.config import SECTION, Config
from airflow_bridge.ready import DONE, ready_key
from airflow_bridge.runner import check_partition
from airflow_bridge.schema import DagPlan
from resources.errors import BadInput, InfrastructureError
from resources.object_store import ObjectStore, open_store

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import TriggerEvent

POLL_S = 30.0
TASK_ID = "wait_for_data"
SCHEDULED = "scheduled"
_NOTHING_LEFT = "Partition %s is done already. To have it done again, start a run of it by hand."

# Of their own: when the store hangs, other triggers still find threads.
_threads = ThreadPoolExecutor(4, "wait-for-data")


def task(plan: DagPlan, config: Config, **kwargs: Any) -> BaseSensorOperator:
    """The sensor that every other task of the DAG comes after; the keyword arguments are those of BaseOperator."""
    return WaitForData(task_id=TASK_ID, ready_dag_id=plan.dag_id, wait_days=config.wait_days, **kwargs)


class DataTrigger(BaseTrigger):
    """Ends its task when the store says that the partition's data is there. How long that may take is the task's.

    A run that somebody asked for is of data that is there: only those that the timetable made wait.
    """

    def __init__(self, dag_id: str, partition: str, run_type: str = SCHEDULED) -> None:
        super().__init__()
        self.dag_id = dag_id
        self.partition = partition
        self.run_type = run_type

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What another triggerer makes it from."""
        return f"{__name__}.{type(self).__name__}", {
            "dag_id": self.dag_id,
            "partition": self.partition,
            "run_type": self.run_type,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Asks twice a minute. A store that cannot be reached is asked again; what cannot be asked for fails.

        The task, and with it the run, is skipped when its partition was done in another way.
        """
        try:
            left = await self._is_work_left()
        except BadInput as error:
            self.log.error("The data cannot be waited for: %s", error)
            yield TaskFailedEvent()
        else:
            self.log.info("The data of %s is there." if left else _NOTHING_LEFT, self.partition)
            yield TaskSuccessEvent() if left else TaskSkippedEvent()

    async def _is_work_left(self) -> bool:
        """Ends when the data is there; whether anything is to be done with it."""
        key = ready_key(self.dag_id, self.partition)
        if self.run_type != SCHEDULED:
            return True
        store = _store()
        self.log.info("Waiting for %s/%s.", store.uri, key)
        loop = asyncio.get_running_loop()
        reachable = True
        while True:
            try:
                if found := await loop.run_in_executor(_threads, store.get, key):
                    return found.data != DONE
                reachable = True
            except InfrastructureError as error:
                if reachable:
                    self.log.warning("The store is asked again until it answers: %s", error)
                reachable = False
            # Triggers that began together drift apart.
            await asyncio.sleep(POLL_S * random.uniform(1, 1.2))  # noqa: S311


class WaitForData(BaseSensorOperator):
    """Is never executed where there is a triggerer; `airflow dags test` pokes it."""

    template_fields = ("partition", "run_type")
    start_from_trigger = True

    def __init__(self, *, ready_dag_id: str, wait_days: int, **kwargs: Any) -> None:
        super().__init__(
            poke_interval=POLL_S, timeout=timedelta(days=wait_days), retries=0, mode="reschedule", **kwargs
        )
        self.ready_dag_id = ready_dag_id
        self.wait_days = wait_days
        # The trigger's argument of this name is rendered with it. A run without a key is one with an empty one.
        self.partition = "{{ partition_key or '' }}"
        # An enumeration in a task, and a text where Airflow makes the trigger.
        self.run_type = "{{ dag_run.run_type.value if dag_run.run_type.value is defined else dag_run.run_type }}"
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"{__name__}.{DataTrigger.__name__}",
            trigger_kwargs={"dag_id": ready_dag_id, "partition": self.partition, "run_type": self.run_type},
            # Its trigger ends the task, so that there is nothing to go on with.
            next_method="execute",
            timeout=timedelta(days=wait_days),
        )

    def poke(self, context: Context) -> bool:
        """Whether the data is there; skips the run when there is nothing left to do with it."""
        check_partition(context)
        if self.run_type != SCHEDULED:
            return True
        found = _store().get(ready_key(self.ready_dag_id, self.partition))
        if found is not None and found.data == DONE:
            raise AirflowSkipException(_NOTHING_LEFT % self.partition)
        return found is not None

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Where Airflow comes when the trigger took too long, or could not be started."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as error:
            raise AirflowFailException(
                f"The data of partition {context.get('partition_key')} of {self.ready_dag_id} was not there within "
                f"{self.wait_days} days. Clear this task when it has landed; the option wait_days of "
                f"[{SECTION}] in Airflow's configuration makes runs wait longer."
            ) from error


@cache
def _store() -> ObjectStore:
    config = Config.read()
    if config.store_uri is None:
        raise BadInput(
            f"It is not known where Scorewatch's store is. Set the option store_uri of [{SECTION}] in Airflow's "
            "configuration, or SCOREWATCH_STORE, for the triggerer as well."
        )
    return open_store(config.store_uri, s3_endpoint=config.s3_endpoint)
