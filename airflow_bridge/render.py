"""A plan as a DAG of Airflow. The same plan and configuration give the same DAG, to the byte, in every process."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_bridge.config import Config
from airflow_bridge.schema import ACTIVE_RUNS, DagPlan, Key, Task, decode, digest
from airflow_bridge.timetable import PartitionTimetable
from resources.errors import BadInput

if TYPE_CHECKING:
    from airflow.sdk import DAG, Asset, BaseOperator

RUN_TYPES = ("asset_materialization", "backfill", "manual")
"""Those for which people or REST calls give a partition's key."""
RETRY_DELAY = timedelta(minutes=1)
LONGEST_RETRY_DELAY = timedelta(minutes=30)

_log = logging.getLogger(__name__)
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def load(file: str, dag_id: str | None) -> dict[str, DAG]:
    """The DAGs of the shard whose loader is ``file``, by their ids; with a ``dag_id`` that one only.

    The plans are in the folder ``plans`` beside it. One that cannot be rendered is left out with a warning: the bundle
    lets none through, if it has the same configuration.
    """
    loader = Path(file)
    config = Config.read()
    shards = len(list(loader.parent.glob("shard_*.py")))
    plans = loader.parent / "plans"
    if dag_id is not None:
        files = [plans / f"{dag_id}.json"]
    else:
        own = int(loader.stem.removeprefix("shard_"))
        files = [path for path in sorted(plans.glob("*.json")) if shard_of(path.stem, shards) == own]
    return dict(_rendered(files, config))


def _rendered(files: list[Path], config: Config) -> Iterator[tuple[str, DAG]]:
    for path in files:
        try:
            data = path.read_bytes()
            plan = decode(data, digest(data))
            yield plan.dag_id, dag(plan, config)
        except Exception as error:
            # Whatever is wrong with this one, the others are to be there.
            _log.exception("the DAG %s is left out", path.stem)
            warnings.warn(f"The DAG {path.stem} is left out: {type(error).__name__}: {error}", stacklevel=2)


def refusal(plan: DagPlan, config: Config) -> str | None:
    """Why the plan cannot be a DAG in this Airflow, such as what it asks for beyond the limits; None when it can."""
    try:
        dag(plan, config)
    except Exception as error:
        return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
    return None


def shard_of(dag_id: str, shards: int) -> int:
    """Which of the shards, from 0, holds a DAG: the same one always and everywhere."""
    return _number(dag_id) % shards


def delay_minutes(dag_id: str, limit: int) -> int:
    """How long after a partition's end its run starts, from 0 to ``limit``, so that not all DAGs start at once."""
    return _number(f"{dag_id} delay") % (limit + 1)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def dag(plan: DagPlan, config: Config) -> DAG:
    """The DAG of a plan: a task a stage, after a wait for its data where Airflow schedules."""
    from airflow.sdk import DAG  # noqa: PLC0415

    jitter = delay_minutes(plan.dag_id, config.jitter_minutes)
    timetable = PartitionTimetable(plan.partitions, scheduled=plan.scheduled, delay_minutes=jitter)
    found = DAG(
        dag_id=plan.dag_id,
        schedule=timetable,
        start_date=timetable.start,
        description=plan.description.partition("\n")[0],
        doc_md=_page(plan),
        tags=sorted(plan.tags),
        default_args={"owner": plan.owner},
        catchup=False,
        # Airflow's default is to pause what is new, and then nothing that is asked for ever starts.
        is_paused_upon_creation=False,
        max_active_runs=ACTIVE_RUNS + config.wait_days * (24 if plan.partitions.every == "hour" else 1),
        allowed_run_types=[*RUN_TYPES, "scheduled"] if plan.scheduled else list(RUN_TYPES),
        # Else Airflow would keep what was made of it until an operator is refused, and run that.
        auto_register=False,
    )
    with found:
        operators: dict[str, BaseOperator] = {}
        first = _wait(plan, config) if plan.scheduled and plan.waits else None
        for task in plan.tasks:
            operators[task.id] = _operator(plan, task, config)
            for upstream in sorted(task.upstream):
                operators[upstream] >> operators[task.id]
            if first is not None and not task.upstream:
                first >> operators[task.id]
    return found


def _wait(plan: DagPlan, config: Config) -> BaseOperator:
    from airflow_bridge import waiting  # noqa: PLC0415

    return waiting.task(plan, config)


def _operator(plan: DagPlan, task: Task, config: Config) -> BaseOperator:
    made = {asset.key for asset in task.assets}
    read = {key for asset in task.assets for key in asset.upstream} - made
    return _factory(config)(
        plan,
        task,
        config,
        task_id=task.id,
        inlets=[_asset(key) for key in sorted(read)],
        outlets=[_asset(key) for key in sorted(made)],
        doc_md=_section(task),
        pool=task.pool or config.pool,
        retries=config.retries,
        retry_delay=RETRY_DELAY,
        retry_exponential_backoff=2.0,
        max_retry_delay=LONGEST_RETRY_DELAY,
        execution_timeout=timedelta(seconds=config.timeout_s),
    )


def _factory(config: Config) -> Callable[..., BaseOperator]:
    # Importing the operator of pods takes seconds, and a machine without Kubernetes need not have it.
    if config.execution == "kubernetes":
        from airflow_bridge import pod  # noqa: PLC0415

        return pod.task
    from airflow_bridge import local  # noqa: PLC0415

    return local.task


def _asset(key: Key) -> Asset:
    """The same for everyone who names the key: Airflow has one row an asset, which the last DAG that is read writes."""
    from airflow.sdk import Asset  # noqa: PLC0415

    return Asset(name=key, uri=f"dagster://asset/{key}", group=key.rpartition("/")[0] or "default")


def _page(plan: DagPlan) -> str:
    every = f"Every {plan.partitions.every} ({plan.partitions.timezone}) from {plan.partitions.start}."
    due = f" A partition is due {timedelta(seconds=plan.sla_s)} after its end." if plan.sla_s else ""
    links = (f"- [{_escaped(name)}](<{link}>)" for name, link in sorted(plan.links.items()))
    blocks = [_escaped(plan.description), _escaped(every + due), f"Group: {_escaped(plan.group)}", "\n".join(links)]
    return _joined(blocks)


def _section(task: Task) -> str:
    return _joined(
        [
            _joined(
                [
                    f"**{_escaped(asset.key)}**",
                    _escaped(asset.description),
                    f"Checks: {', '.join(map(_escaped, sorted(asset.checks)))}" if asset.checks else "",
                ]
            )
            for asset in sorted(task.assets, key=lambda asset: asset.key)
        ]
    )


def _joined(blocks: list[str]) -> str:
    """Paragraphs. The newline at the end keeps Airflow from taking a text that ends in .md for a file's name."""
    return "\n\n".join(block.strip() for block in blocks if block.strip()) + "\n"


def _escaped(text: str) -> str:
    """Markdown that shows the text as it is: no heading, link, image, list or HTML comes of it."""
    return "\n".join(_PUNCTUATION.sub(r"\\\1", line.strip()) for line in text.splitlines())
