"""The plan of a DAG: what Airflow is told of an asset group. It is data, and nothing in it is trusted.

Both sides read this module: it imports neither Dagster nor Airflow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from resources.errors import BadInput

PLAN_LIMIT = 256_000
"""Bytes of one plan."""
ID_LENGTH = 200
"""Airflow's limit is 250; a task's id stands in file names and labels too."""
ACTIVE_RUNS = 16
"""Of one DAG, beside those that wait for late data: they take no worker, and must not keep later ones from running."""

COMMAND, PREPARING = "run", "features"
"""The runner's commands that a task, and what is prepared for an image before it, may consist of: no others."""

Every = Literal["hour", "day", "week", "month"]


def _literal(text: str) -> str:
    """Airflow renders what operators are given: a plan holds no template, and no text that is taken for a file's."""
    if any(sign in text for sign in ("{{", "{%", "{#", "\x00")):
        raise ValueError("holds {{, {% or {#, which Airflow would evaluate")
    if any(ord(sign) < 32 and sign not in "\n\t" for sign in text):
        raise ValueError("holds a control character")
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("is no IANA time zone") from None
    return name


def _no_file(text: str) -> str:
    if text.rstrip().lower().endswith(".md"):
        raise ValueError("ends in .md, which Airflow would read as the name of a file")
    return text


Text = Annotated[str, StringConstraints(max_length=4_000), AfterValidator(_literal), AfterValidator(_no_file)]
Id = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{ID_LENGTH - 1}}}$")]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(_literal)]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,100}(/[A-Za-z0-9_.-]{1,100}){0,7}$")]
"""An asset's key, its parts joined by slashes."""
Link = Annotated[str, StringConstraints(pattern=r"^https?://[^\s\"'<>\\]{1,1900}$"), AfterValidator(_literal)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:@/ -]{1,100}$")]
Image = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]{0,250}@sha256:[0-9a-f]{64}$")]
"""An image of containers, by its digest."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Partitions(_Strict):
    """Time partitions, whose keys are Dagster's; a week begins on Monday. Hours are UTC."""

    every: Every
    timezone: Annotated[str, StringConstraints(max_length=64), AfterValidator(_zone)]
    start: Annotated[date, Field(strict=False)]

    @property
    def cron(self) -> str:
        """When a partition begins, and the one before it ends."""
        return {"hour": "0 * * * *", "day": "0 0 * * *", "week": "0 0 * * 1", "month": "0 0 1 * *"}[self.every]

    @property
    def key_format(self) -> str:
        """Of keys, as ``strftime`` writes them."""
        return "%Y-%m-%d-%H:%M" if self.every == "hour" else "%Y-%m-%d"

    @model_validator(mode="after")
    def _hours_are_utc(self) -> Self:
        if self.every == "hour" and ZoneInfo(self.timezone) != ZoneInfo("UTC"):
            raise ValueError("timezone: hours are in UTC: a wall-clock hour may come twice")
        return self


class Asset(_Strict):
    """An asset that a task materialises: what it is made of, and the checks that judge it."""

    key: Key
    description: Text = ""
    upstream: tuple[Key, ...] = ()
    checks: tuple[Id, ...] = ()


class Resources(_Strict):
    """What a task asks of the machine it runs on: cores, and memory in MiB."""

    cpu: Annotated[float, Field(gt=0, le=256)]
    memory_mib: Annotated[int, Field(ge=64, le=4_194_304)]


class Before(_Strict):
    """What runs in a pod before the task: an image, on a file that the runner makes for it.

    ``arguments`` are those of the runner's command that makes it; the partition's key is added to them. It does not run
    when the reason of the run (see `DagPlan`) is one of ``unless``.
    """

    image: Image
    arguments: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=40)]
    unless: tuple[Id, ...] = ()


class Task(_Strict):
    """The assets of a stage, which one process materialises.

    ``arguments`` are those of the runner's command; the partition's key is added to them. ``upstream`` are tasks.
    """

    id: Id
    assets: Annotated[tuple[Asset, ...], Field(min_length=1, max_length=100)]
    arguments: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=40)]
    upstream: tuple[Id, ...] = ()
    resources: Resources | None = None
    before: Before | None = None
    pool: Id | None = None


class DagPlan(_Strict):
    """One DAG: a group of assets with the same partitions.

    ``scheduled``: Airflow decides when it runs; else it shows, backfills and runs by hand. A scheduled one that
    ``waits`` begins when somebody says that the partition's data is there (`ready`). ``reasons`` are arguments that are
    added to each task's by why a run is there: its type, or what its configuration names as ``reason``. ``sla_s`` is
    how long after its end a partition may be done.
    """

    schema_version: Literal[1] = 1
    dag_id: Id
    group: Id
    description: Text = ""
    owner: Tag = "scorewatch"
    tags: tuple[Tag, ...] = ()
    links: dict[Tag, Link] = {}
    partitions: Partitions
    scheduled: bool
    waits: bool = False
    reasons: dict[Id, Annotated[tuple[Argument, ...], Field(max_length=10)]] = {}
    sla_s: Annotated[int, Field(gt=0)] | None = None
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _is_a_graph(self) -> Self:
        seen: set[str] = set()
        for task in self.tasks:
            if task.id in seen:
                raise ValueError(f"tasks: {task.id} is there twice")
            if unknown := set(task.upstream) - seen:
                # In an order in which every task comes after those it waits for, so there is no circle.
                raise ValueError(f"tasks: {task.id} waits for {', '.join(sorted(unknown))}, which is not before it")
            seen.add(task.id)
        keys = [asset.key for task in self.tasks for asset in task.assets]
        if len(set(keys)) != len(keys):
            raise ValueError("tasks: an asset is materialised by two of them")
        return self

    @property
    def assets(self) -> Iterator[Asset]:
        """Of all tasks."""
        for task in self.tasks:
            yield from task.assets


def encode(plan: DagPlan) -> bytes:
    """The plan as JSON, the same bytes for the same plan."""
    return canonical(plan.model_dump(mode="json"))


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, sha256: str) -> DagPlan:
    """The plan that was stored under its digest.

    Raises BadInput when it is too long, not what the digest says, or anything in it is not as this module states.
    """
    if len(data) > PLAN_LIMIT:
        raise BadInput(f"The plan {sha256} has {len(data)} bytes; at most {PLAN_LIMIT} are read.")
    if digest(data) != sha256:
        raise BadInput(f"The plan {sha256} has the digest {digest(data)}: it was changed after it was exported.")
    try:
        plan = DagPlan.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the plan"
        raise BadInput(f"The plan {sha256} cannot be used: {where}: {first['msg']}. Export it again.") from None
    for command, allowed in _commands(plan):
        if command != allowed:
            raise BadInput(
                f"The plan {sha256} cannot be used: it would have the runner {command!r}, and may have it "
                f"{allowed!r}. Export it again."
            )
    return plan


def _commands(plan: DagPlan) -> Iterator[tuple[str, str]]:
    """What the plan would have the runner do, and what it may."""
    for task in plan.tasks:
        yield task.arguments[0], COMMAND
        if task.before is not None:
            yield task.before.arguments[0], PREPARING


class PlanSet(_Strict):
    """All DAGs at one time: by ``dag_id`` the digest of the plan. Its own digest names it in Airflow's runs."""

    schema_version: Literal[1] = 1
    plans: dict[Id, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]] = {}
