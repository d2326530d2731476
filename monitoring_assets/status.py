"""The fleet at a glance: how each version stands, from a few reads of the store a version. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from monitoring_assets.arrivals.evidence import RUN
from monitoring_assets.arrivals.overdue import SOURCE
from monitoring_assets.arrivals.watched import Watched
from monitoring_assets.fleet import Member, Registered
from monitoring_assets.partitions import PartitionCalendar
from monitoring_assets.quarantine import kept_back
from monitoring_assets.results import SEVERITY, Kind, Metric, Result, Status
from monitoring_assets.version import CHECKS, CSI, PSI, Clock, DeployedVersion
from resources.at_once import THREADS
from resources.errors import BadInput
from resources.settings import Settings

State = Status | Literal["onboarding", "retired"]

GRAVEST_FIRST: tuple[State, ...] = (*reversed(SEVERITY[1:]), "onboarding", "ok", "retired")

LOOK_BACK = 5
"""Newest partitions among which one is looked for that has results."""
ATTEMPTS = 12
"""Newest attempts of one kind that are read, at most."""

_UPSTREAM_FIRST = (SOURCE, RUN, *CHECKS)
_ASSETS: dict[str, set[str]] = {
    "pipeline": {SOURCE, RUN},
    **{kind: {asset for asset, check in CHECKS.items() if check == kind} for kind in CHECKS.values()},
}


class Worst(BaseModel):
    """The column that moved most, in the window that decides about it. ``psi`` is None with too few rows for any."""

    model_config = ConfigDict(frozen=True)

    column: str
    kind: Literal["psi", "csi"]
    status: Status
    psi: float | None
    net_psi: float | None
    threshold: float | None
    window: int | None


class VersionStatus(BaseModel):
    """How one version stands.

    ``partition`` is the newest one with live results, or, where ``live`` is false, the newest that was judged at all;
    ``ended_at`` is its end and ``age_s`` the seconds since then. ``overdue``: the data of the partition after the
    newest judged one should be there by now. ``kind`` is the check that decided the state and ``reason`` what it found;
    ``problem`` says what is wrong with a newer manifest that is not used because of it.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    version: str
    state: State
    partition: str | None = None
    live: bool = False
    ended_at: datetime | None = None
    age_s: int | None = None
    overdue: bool = False
    worst: Worst | None = None
    kind: Kind | None = None
    reason: str = ""
    problem: str = ""


def statuses(settings: Settings, registered: Iterable[Registered], clock: Clock) -> Iterator[VersionStatus]:
    """How each of these versions stands, in their order.

    What is wrong with one version's results is its own ``error``; raises InfrastructureError when the store cannot be
    reached.
    """
    store, now = settings.open_store(), clock()
    marked = [*kept_back(store, "definitions"), *kept_back(store, "onboarding")]
    back = {(each.model, each.version): each.reason for each in marked}

    def of(entry: Registered) -> VersionStatus:
        member = entry.member
        say = partial(VersionStatus, model=entry.model, version=entry.version, problem=entry.problem)
        if member is None:
            return say(state="quarantined", reason=entry.problem, problem="")
        if member.manifest.status == "retired":
            return say(state="retired")
        if (entry.model, entry.version) in back:
            return say(state="quarantined", reason=back[entry.model, entry.version])
        version = DeployedVersion(member.manifest, member.digest, store, settings, clock)
        try:
            return _of_results(version, member, now, say)
        except BadInput as error:
            return say(state="error", reason=str(error))

    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(of, registered)


def _of_results(
    version: DeployedVersion, member: Member, now: datetime, say: Callable[..., VersionStatus]
) -> VersionStatus:
    calendar, watched = version.calendar, Watched(version, member)
    newest = calendar.latest_complete(now)
    if newest is None:
        return _not_judged(version, say, f"its first partition, {calendar.first_key}, has not ended yet")
    live, judged = _newest_with_results(version, newest)
    shown = live or judged
    if shown is None:
        return _not_judged(version, say)
    results = shown.newest()
    gravest = max(results, key=lambda each: SEVERITY.index(each.status))
    ended_at = calendar.window(shown.partition)[1]
    awaited = calendar.key_of(calendar.window(judged.partition)[1]) if judged else shown.partition
    return say(
        state=gravest.status,
        partition=shown.partition,
        live=live is not None,
        ended_at=ended_at,
        age_s=(now - ended_at) // timedelta(seconds=1),
        overdue=now >= watched.deadline(awaited),
        worst=_worst(results),
        kind=gravest.kind,
        reason=gravest.reason,
    )


def _not_judged(version: DeployedVersion, say: Callable[..., VersionStatus], reason: str = "") -> VersionStatus:
    """It is being onboarded, unless every run that tried to died."""
    for result in _PartitionResults(version, layout.REGISTRY_PARTITION).newest():
        if result.asset == RUN and result.status != "ok":
            return say(state=result.status, kind=result.kind, reason=result.reason)
    return say(state="onboarding", reason=reason)


class _PartitionResults:
    """The results of one partition, or of the version as a whole; each object is read once, when it is asked for."""

    def __init__(self, version: DeployedVersion, partition: str) -> None:
        self.partition = partition
        self._store, self._read = version.store, dict[str, Result]()
        self._keys: dict[str, list[str]] = {}
        manifest = version.manifest
        folder = f"{layout.results_of(manifest.model, manifest.version)}/{layout.encoded(partition)}/"
        for info in self._store.list(folder):
            self._keys.setdefault(info.key.removeprefix(folder).partition("/")[0], []).append(info.key)

    @property
    def judged(self) -> bool:
        """Whether a run came to its end, or was kept from it by bad data: it leaves psi either way."""
        return PSI in self._keys

    @property
    def live(self) -> bool:
        """Whether what was found may page: a verdict, or data that does not come.

        A partition with quality results alone is still being worked on.
        """
        overdue = (each.live and each.status != "ok" for each in self._newest("pipeline").values())
        return any(overdue) or any(each.live for each in self._attempts(PSI))

    def newest(self) -> list[Result]:
        """The newest result of each kind and asset, upstream first."""
        found = [each for kind in self._keys for each in self._newest(kind).values()]
        order = {asset: number for number, asset in enumerate(_UPSTREAM_FIRST)}
        return sorted(found, key=lambda each: order.get(each.asset, len(order)))

    def _newest(self, kind: str) -> dict[str, Result]:
        found: dict[str, Result] = {}
        for each in self._attempts(kind):
            found.setdefault(each.asset, each)
            if found.keys() == _ASSETS.get(kind):
                break
        return found

    def _attempts(self, kind: str) -> Iterator[Result]:
        """The newest first."""
        for key in self._keys.get(kind, [])[: -ATTEMPTS - 1 : -1]:
            if key not in self._read:
                blob = self._store.get(key)
                try:
                    self._read[key] = Result.model_validate_json(blob.data if blob else b"")
                except ValidationError as error:
                    raise BadInput(
                        f"{self._store.uri}/{key} is not a result of this release of Scorewatch "
                        f"({error.error_count()} faults, the first: {error.errors()[0]['msg']}). Restore it."
                    ) from error
            yield self._read[key]


def _newest_with_results(
    version: DeployedVersion, newest: str
) -> tuple[_PartitionResults | None, _PartitionResults | None]:
    """The newest partition with live results, and the newest that was judged; looked for where they are likely."""
    live = judged = None
    for partitions in (_recent, _older):
        for partition in partitions(version, newest):
            found = _PartitionResults(version, partition)
            if judged is None and found.judged:
                judged = found
            if found.live:
                live = found
                break
        if live or judged:
            break
    return live, judged


def _recent(version: DeployedVersion, newest: str) -> Iterable[str]:
    return reversed(version.calendar.previous(newest, LOOK_BACK))


def _older(version: DeployedVersion, newest: str) -> Iterable[str]:
    """Those with any results, as far back as they go: the folders of a long history are many to list."""
    calendar, manifest = version.calendar, version.manifest
    names = list(version.store.list_folders(layout.results_of(manifest.model, manifest.version)))
    keys = filter(None, (_decoded(calendar, name) for name in reversed(names)))
    return islice((key for key in keys if key < calendar.previous(newest, LOOK_BACK)[0]), LOOK_BACK)


def _decoded(calendar: PartitionCalendar, name: str) -> str | None:
    """The partition's key; None for a folder of results about the version as a whole."""
    try:
        return calendar.decode(name)
    except BadInput:
        return None


def _worst(results: Iterable[Result]) -> Worst | None:
    # The first metric of a column is that of its deciding window.
    deciding: dict[tuple[str, str], Metric] = {}
    for result in results:
        for metric in result.metrics if result.kind in (PSI, CSI) else ():
            if metric.segment is None and metric.column is not None:
                deciding.setdefault((result.kind, metric.column), metric)
    if not deciding:
        return None
    kind, column = max(
        deciding,
        key=lambda each: (
            SEVERITY.index(deciding[each].status),
            deciding[each].net_value if deciding[each].net_value is not None else float("-inf"),
        ),
    )
    metric = deciding[kind, column]
    return Worst(
        column=column,
        kind=kind,  # type: ignore[arg-type]
        status=metric.status,
        psi=metric.value,
        net_psi=metric.net_value,
        threshold=metric.threshold,
        window=metric.window,
    )
