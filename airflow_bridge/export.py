"""Plans in the store: each one, and each set of them, under its digest, and last the pointer to the set in force.

Whoever is killed before that leaves the old set in force, and objects that nobody reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from airflow_bridge.schema import PLAN_LIMIT, DagPlan, Id, PlanSet, canonical, decode, digest, encode
from resources.at_once import at_once
from resources.errors import BadInput, InfrastructureError
from resources.object_store import Blob, ObjectStore

CURRENT = "airflow/current.json"
"""``{"set": digest}``: the set in force."""
SOURCES = "airflow/sources.json"
"""What each source gave when it was last built. Only exporters read it: without it they build everything again."""

_Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_Model = TypeVar("_Model", bound=BaseModel)


def plan_key(sha256: str) -> str:
    """Where a plan is."""
    return f"airflow/plans/{sha256}.json"


def set_key(sha256: str) -> str:
    """Where a set of plans is."""
    return f"airflow/sets/{sha256}.json"


@dataclass(frozen=True)
class Source:
    """Something that DAGs are made of. ``build`` gives the same plans as long as ``fingerprint`` is the same."""

    fingerprint: str
    build: Callable[[], Iterable[DagPlan]]


@dataclass(frozen=True)
class Exported:
    """The set in force now, and how its DAGs differ from those before.

    ``refused`` says by source why it could not be built: its DAGs are those of the last time that it could.
    """

    set: str
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    unchanged: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)


class _Current(BaseModel):
    set: _Digest


class _Built(BaseModel):
    model_config = ConfigDict(frozen=True)

    fingerprint: str
    plans: dict[Id, _Digest]


class _Remembered(BaseModel):
    sources: dict[str, _Built] = {}


def export(store: ObjectStore, sources: Mapping[str, Source]) -> Exported:
    """Put the DAGs of all sources, and no others, into force; two reads when nothing has changed.

    Only sources with another fingerprint than last time are built, and only plans that the store has not got are
    written. A source that cannot be built hides no other. Raises InfrastructureError when the store cannot be reached,
    or somebody else exported meanwhile: what is in force then is theirs, and may be newer.
    """
    before = store.get(CURRENT)
    in_force = _parsed(_Current, before)
    remembered = _parsed(_Remembered, store.get(SOURCES)) or _Remembered()
    built, fresh, refused = _built(sources, remembered.sources)
    wanted = PlanSet(plans={dag_id: sha for each in built.values() for dag_id, sha in each.plans.items()})
    data = canonical(wanted.model_dump(mode="json"))
    sha256 = digest(data)
    if in_force is not None and in_force.set == sha256:
        _remember(store, remembered, built)
        return Exported(sha256, unchanged=len(wanted.plans), refused=refused)
    old = (_parsed(PlanSet, store.get(set_key(in_force.set))) if in_force else None) or PlanSet()
    there = {*old.plans.values(), *(sha for each in remembered.sources.values() for sha in each.plans.values())}
    at_once(lambda sha: store.put(plan_key(sha), fresh[sha]), sorted(fresh.keys() - there))
    store.put(set_key(sha256), data)
    _remember(store, remembered, built)
    swapped = store.compare_and_swap(CURRENT, canonical({"set": sha256}), before.etag if before else None)
    # A swap whose answer was lost is done all the same.
    if swapped is None and _parsed(_Current, store.get(CURRENT)) != _Current(set=sha256):
        raise InfrastructureError(f"{store.uri}/{CURRENT} was changed by somebody else meanwhile. Export again.")
    return Exported(
        sha256,
        new=tuple(sorted(wanted.plans.keys() - old.plans.keys())),
        changed=tuple(sorted(name for name, sha in wanted.plans.items() if old.plans.get(name, sha) != sha)),
        gone=tuple(sorted(old.plans.keys() - wanted.plans.keys())),
        unchanged=sum(old.plans.get(name) == sha for name, sha in wanted.plans.items()),
        refused=refused,
    )


def _built(
    sources: Mapping[str, Source], remembered: Mapping[str, _Built]
) -> tuple[dict[str, _Built], dict[str, bytes], dict[str, str]]:
    """What every source gives, the plans that were built for that, and why some could not be."""
    built: dict[str, _Built] = {}
    fresh: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, source in sorted(sources.items()):
        found = remembered.get(name)
        try:
            if found is None or found.fingerprint != source.fingerprint:
                plans = {plan.dag_id: _checked(plan) for plan in source.build()}
                fresh |= {digest(data): data for data in plans.values()}
                digests = {dag_id: digest(data) for dag_id, data in plans.items()}
                found = _Built(fingerprint=source.fingerprint, plans=digests)
        except BadInput as error:
            refused[name] = str(error)
        except InfrastructureError:
            raise
        except Exception as error:
            # A bug of ours, on one source out of thousands: the others must not pay for it.
            logging.getLogger(__name__).exception("the DAGs of %s cannot be built", name)
            refused[name] = f"could not be built ({type(error).__name__}: {error}); report this bug"
        for dag_id in found.plans if found else ():
            if dag_id in owners:
                refused[name] = f"The DAG {dag_id!r} is made of {owners[dag_id]!r} already. Rename one of the groups."
        if found is not None and owners.keys().isdisjoint(found.plans):
            built[name] = found
            owners |= dict.fromkeys(found.plans, name)
    return built, fresh, refused


def _checked(plan: DagPlan) -> bytes:
    """The plan's bytes, as whoever reads them will take them. Raises BadInput."""
    data = encode(plan)
    if len(data) > PLAN_LIMIT:
        raise BadInput(
            f"The plan of the DAG {plan.dag_id!r} has {len(data)} bytes, and {PLAN_LIMIT} are read: "
            "give its assets shorter descriptions, or split the group."
        )
    decode(data, digest(data))
    return data


def _remember(store: ObjectStore, last: _Remembered, built: dict[str, _Built]) -> None:
    """Before the swap: the plans are in the store, whether or not the set gets into force."""
    if last.sources != built:
        store.put(SOURCES, canonical(_Remembered(sources=built).model_dump(mode="json")))


def _parsed(model: type[_Model], blob: Blob | None) -> _Model | None:
    """An object of the exporter's; None when there is none, or it is none of its making, and is to be replaced."""
    try:
        return None if blob is None else model.model_validate_json(blob.data)
    except ValidationError:
        return None
