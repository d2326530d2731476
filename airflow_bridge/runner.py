"""The runner as a task of Airflow sees it, in a process or in a pod: its arguments, and what its exit code means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_bridge.schema import Task
from resources.errors import EXIT_BAD_INPUT, EXIT_BLOCKED, EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from airflow.sdk import Context

_FINAL = {
    EXIT_BAD_INPUT: "its input is wrong, as the log says; change that, then clear the task",
    EXIT_BLOCKED: "a blocking check failed, and its result is written; correct the data, then clear the task",
}
_PASSING = {
    EXIT_INFRASTRUCTURE: "a store, a database or a network did not do its part, or another process has the partition",
    EXIT_INTERRUPTED: "it was interrupted",
    143: "it was ended by SIGTERM",
    137: "it was killed, perhaps because it used more memory than it may",
}


def arguments(task: Task) -> list[str]:
    """Of the runner. Airflow fills in the key when the task runs."""
    return for_the_partition(task.arguments)


def for_the_partition(own: Sequence[str]) -> list[str]:
    """Arguments of any command of the runner, with the run's partition."""
    return [*own, "--partition", "{{ partition_key }}"]


def for_its_reason(context: Context, reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Further arguments, by why the run is there."""
    return list(reasons.get(reason(context, reasons), ()))


def reason(context: Context, reasons: Mapping[str, Sequence[str]]) -> str:
    """Why the run is there. Only what the plan knows: whoever starts a run chooses among these."""
    run = context["dag_run"]
    asked = str((run.conf or {}).get("reason"))
    # An enumeration in a task: its text would be DagRunType.MANUAL.
    return asked if asked in reasons else str(getattr(run.run_type, "value", run.run_type))


def check_partition(context: Context) -> None:
    """Fails the task for good if its run is of no partition: its key would be the text None."""
    if not context.get("partition_key"):
        raise AirflowFailException(
            "This run has no partition key, so there is nothing to run. Start another one with a key: a backfill does, "
            'and over REST it is {"logical_date": null, "partition_key": "2026-01-31"}.'
        )


def failure(exit_code: int) -> AirflowException:
    """What a task raises after its runner ended so: an AirflowFailException where another try cannot help."""
    code = 128 - exit_code if exit_code < 0 else exit_code
    if code in _FINAL:
        return AirflowFailException(f"The runner ended with exit code {code}: {_FINAL[code]}. It is not tried again.")
    reason = _PASSING.get(code, "nothing that was planned for; the log says more")
    return AirflowException(
        f"The runner ended with exit code {code}: {reason}. It is tried again, if retries are left."
    )
