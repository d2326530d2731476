"""From Dagster's asset graph to plans: a DAG for every group of assets, a task for every stage of it.

Pure: nothing is stored, scheduled or run. What Airflow cannot do is refused, with the asset that it is about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any, get_args

import dagster as dg

from airflow_bridge.graph import CPU_TAG, MEMORY_TAG, Defined, Graph, Node, named, read, shown
from airflow_bridge.schema import Asset, Before, DagPlan, Every, Partitions, Resources, Task
from resources.errors import BadInput

Runner = Callable[[str, str, Sequence[dg.AssetKey]], Sequence[str]]
"""Of a group, a stage and the assets in it: the arguments of the command that makes them, without the partition."""

_Name = tuple[str, Partitions]
_KIND = "dagster/kind/"
_NOT_IN_A_LABEL = re.compile(r"[^A-Za-z0-9_.:@/ -]")
_LABEL_LENGTH = 100


@dataclass(frozen=True)
class About:
    """What Dagster does not know of a group; the fields are those of a plan.

    ``unprepared`` are reasons of runs before whose stages no image runs.
    """

    description: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    waits: bool = False
    reasons: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unprepared: Sequence[str] = ()


def plans(
    definitions: Defined,
    *,
    stage_tag: str,
    runner: Runner,
    preparing: Runner | None = None,
    scheduled: bool,
    about: Callable[[str], About] = lambda _: About(),
) -> list[DagPlan]:
    """The DAGs of the definitions, sorted: one for each group and partitions definition in it.

    Assets with the same value of ``stage_tag`` are a task; those without it are only shown, as what others are made
    of. Where an asset names an image (`IMAGE_METADATA`), that runs before its stage, on what the command of
    ``preparing`` writes. Owners are the assets' ``owners`` or else their metadata ``owner``; links are metadata that
    is a URL; tags are those that all assets share, and their kinds; what ``about`` says wins. A group keeps its name
    for the finest of its partitions, the other DAGs add what differs; dots stand for its slashes.

    Raises BadInput, which names the asset or the DAG, for what Airflow cannot run, or Dagster schedules as well.
    """
    graph = read(definitions, stage_tag, scheduled=scheduled)
    members: dict[_Name, list[Node]] = {}
    for node in graph.values():
        if node.stage is not None:
            members.setdefault((node.group, node.partitions), []).append(node)
    made = []
    for name, dag_id in _ids(members).items():
        nodes, known = members[name], about(name[0])
        tasks = _tasks(dag_id, nodes, graph, runner, preparing, known.unprepared)
        late = [sla for node in nodes if (sla := node.sla) is not None]
        with named(f"The DAG {dag_id!r}"):
            plan = DagPlan(
                dag_id=dag_id,
                group=name[0],
                description=known.description,
                owner=_owner(nodes) or DagPlan.model_fields["owner"].default,
                tags=_tags(nodes, stage_tag),
                links=_links(nodes) | dict(known.links),
                partitions=name[1],
                scheduled=scheduled,
                waits=known.waits,
                reasons={name: tuple(arguments) for name, arguments in sorted(known.reasons.items())},
                sla_s=int(min(late).total_seconds()) if late else None,
                tasks=tasks,
            )
        made.append(plan)
    return sorted(made, key=lambda plan: plan.dag_id)


def _ids(names: Iterable[_Name]) -> dict[_Name, str]:
    fineness = get_args(Every).index
    by_group: dict[str, list[_Name]] = {}
    for name in sorted(names, key=lambda name: (fineness(name[1].every), name[1].start, name[1].timezone)):
        by_group.setdefault(name[0], []).append(name)
    found: dict[_Name, str] = {}
    for group, (first, *others) in by_group.items():
        found[first] = group
        same = Counter(partitions.every for _, partitions in others)
        for _, each in others:
            more = f"_{each.start}_{each.timezone.replace('/', '-')}" if same[each.every] > 1 else ""
            found[group, each] = re.sub(r"[^\w.-]", "-", f"{group}__{each.every}{more}", flags=re.ASCII)
    for dag_id, times in Counter(found.values()).items():
        if times > 1:
            raise BadInput(f"Two DAGs would have the name {dag_id!r}: rename one of the groups, or split the other.")
    return found


def _tasks(
    dag_id: str,
    nodes: Sequence[Node],
    graph: Graph,
    runner: Runner,
    preparing: Runner | None,
    unprepared: Sequence[str],
) -> tuple[Task, ...]:
    stages: dict[str, list[Node]] = {}
    for node in nodes:
        stages.setdefault(str(node.stage), []).append(node)
    upstream = _upstream(stages, graph)
    tasks = []
    for stage in _ordered(dag_id, upstream):
        members = stages[stage]
        assets = tuple(_asset(node) for node in members)
        what = f"The stage {stage!r} of the DAG {dag_id!r}, with the asset {members[0].key!r},"
        with named(what):
            tasks.append(
                Task(
                    id=stage,
                    assets=assets,
                    arguments=tuple(runner(members[0].group, stage, [node.spec.key for node in members])),
                    upstream=tuple(sorted(upstream[stage])),
                    resources=_resources(members),
                    before=_before_stage(what, stage, members, preparing, unprepared),
                    pool=_pool(what, members),
                )
            )
    return tuple(tasks)


def _asset(node: Node) -> Asset:
    deps = (dep.asset_key for dep in node.spec.deps if dep.asset_key != node.spec.key)
    with named(node.name):
        return Asset(
            key=node.key,
            description=node.spec.description or "",
            upstream=tuple(sorted(map(shown, deps))),
            checks=tuple(check.name for check in node.checks),
        )


def _upstream(stages: Mapping[str, Sequence[Node]], graph: Graph) -> dict[str, dict[str, str]]:
    """For each stage the others that it waits for, with a reason."""
    stage_of = {node.spec.key: stage for stage, nodes in stages.items() for node in nodes}
    found: dict[str, dict[str, str]] = {stage: {} for stage in sorted(stages)}
    for key, stage in stage_of.items():
        for before, through in _before(key, graph):
            if before not in stage_of:
                continue
            if through is not None:
                raise BadInput(
                    f"{through.name} is made of {shown(before)!r}, and {shown(key)!r} of it, but it has no stage: "
                    "Airflow would make these two and leave it as it was. Give it a stage."
                )
            if stage_of[before] != stage:
                reason = f"{shown(key)!r} of the stage {stage!r} needs {shown(before)!r} of {stage_of[before]!r}"
                found[stage].setdefault(stage_of[before], reason)
    return found


def _before(key: dg.AssetKey, graph: Graph) -> Iterable[tuple[dg.AssetKey, Node | None]]:
    """The assets with a stage that come first, through any without; and of those one that Dagster makes, if any."""
    seen: set[tuple[dg.AssetKey, Node | None]] = set()
    pending: list[tuple[dg.AssetKey, Node | None]] = [(parent, None) for parent in graph[key].parents]
    while pending:
        step = pending.pop()
        node = graph.get(step[0])
        if node is None or step in seen:
            continue
        seen.add(step)
        if node.stage is None:
            through = step[1] or (node if node.made_by.is_executable else None)
            pending += [(parent, through) for parent in node.parents]
    return sorted(
        (step for step in seen if graph[step[0]].stage is not None),
        key=lambda step: (tuple(step[0].path), step[1] is None, step[1].key if step[1] else ""),
    )


def _ordered(dag_id: str, upstream: Mapping[str, Mapping[str, str]]) -> list[str]:
    sorter = TopologicalSorter(upstream)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = error.args[1]
        reasons = "; ".join(upstream[after][before] for before, after in pairwise(circle))
        raise BadInput(
            f"The stages of the DAG {dag_id!r} wait for each other: {reasons}. Give one of these assets another stage."
        ) from None
    found: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found += ready
        sorter.done(*ready)
    return found


def _resources(nodes: Iterable[Node]) -> Resources | None:
    asked = [asks for node in nodes if (asks := node.resources) is not None]
    if not asked:
        return None
    return Resources(cpu=max(each.cpu for each in asked), memory_mib=max(each.memory_mib for each in asked))


def _before_stage(
    what: str, stage: str, nodes: Sequence[Node], preparing: Runner | None, unprepared: Sequence[str]
) -> Before | None:
    images = sorted({node.image for node in nodes if node.image is not None})
    if not images:
        return None
    if preparing is None or len(images) > 1:
        raise BadInput(f"{what} names {', '.join(images)} to run before it: one image can, if anybody prepares for it.")
    arguments = preparing(nodes[0].group, stage, [node.spec.key for node in nodes])
    return Before(image=images[0], arguments=tuple(arguments), unless=tuple(sorted(unprepared)))


def _pool(what: str, nodes: Iterable[Node]) -> str | None:
    pools = sorted(set[str]().union(*(node.pools for node in nodes)))
    if len(pools) > 1:
        raise BadInput(f"{what} is in the pools {', '.join(map(repr, pools))}: a task can be in one.")
    return pools[0] if pools else None


def _owner(nodes: Sequence[Node]) -> str:
    owners = {owner for node in nodes for owner in node.spec.owners}
    return _label(" / ".join(sorted(owners or {_text(node.spec.metadata.get("owner")) for node in nodes} - {""})))


def _links(nodes: Sequence[Node]) -> dict[str, str]:
    found: dict[str, dict[str, str]] = {}
    for node in nodes:
        for name, value in node.spec.metadata.items():
            if isinstance(value, dg.UrlMetadataValue) and value.url:
                found.setdefault(_label(name.removeprefix("link ")), {})[node.key] = value.url
    links = {}
    for name, urls in sorted(found.items()):
        if len(set(urls.values())) == 1:
            links[name] = next(iter(urls.values()))
        else:
            links |= {_label(f"{name}: {key}"): url for key, url in urls.items()}
    return links


def _tags(nodes: Sequence[Node], stage_tag: str) -> tuple[str, ...]:
    shared = set.intersection(*(set(node.spec.tags.items()) for node in nodes))
    hidden = (stage_tag, CPU_TAG, MEMORY_TAG)
    own = [
        (name.rpartition("/")[2], text)
        for name, text in shared
        if not name.startswith("dagster/") and name not in hidden
    ]
    tags = {f"{name}:{text}" if text else name for name, text in own}
    kinds = {tag.removeprefix(_KIND) for node in nodes for tag in node.spec.tags if tag.startswith(_KIND)}
    return tuple(sorted({_label(tag) for tag in tags | kinds}))


def _text(value: Any) -> str:
    value = getattr(value, "value", value)
    return value.strip() if isinstance(value, str) else ""


def _label(text: str) -> str:
    """Text that is only shown, and cut and cleaned for that: an owner's accents are no reason to refuse a DAG."""
    return _NOT_IN_A_LABEL.sub("-", text)[:_LABEL_LENGTH]
