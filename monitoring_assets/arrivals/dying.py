"""Runs that die again and again on one partition: an `error` that somebody has to look at, until one comes through."""

from __future__ import annotations

from datetime import datetime

from monitoring_assets.arrivals.agenda import TOGETHER, TRIES, Attempt, Task
from monitoring_assets.arrivals.evidence import RUN, died_of
from monitoring_assets.arrivals.watched import Landed, Watched
from monitoring_assets.landing import landing
from monitoring_assets.layout import REGISTRY_PARTITION
from monitoring_assets.results import Input, Result, Status, Trigger, write_result


def report_dying(watched: Watched, landed: Landed, found: Attempt, now: datetime, trigger: Trigger = "arrival") -> None:
    """Write that every run of the partition's data died; the same again changes nothing.

    The results say nothing of how often: a number would make another finding of each attempt.
    """
    if watched.dying.get(landed.partition) == landed.digest:
        return
    reason = (
        f"{found.runs} runs in a row ended without a result, the last one at {found.ended_at:%Y-%m-%d %H:%M} UTC: "
        "look at its log and its memory. It is tried again, less and less often, and the other partitions go on."
    )
    _write(watched, landed, "error", reason, now, trigger)
    watched.dying[landed.partition] = landed.digest


def report_dying_history(watched: Watched, task: Task, found: Attempt | None, now: datetime) -> None:
    """The same of a partition of the past, which is nobody's emergency."""
    if found is None or found.state != "failed" or found.runs < TRIES or len(watched.history) > 1:
        return
    [partition] = task.partitions
    if partition not in watched.dying:
        remember_dying(watched, partition)
    there = landing(watched.version, partition)
    report_dying(watched, Landed(partition, there.digest, there.landed_at), found, now, "catch-up")


def dies(found: Attempt | None) -> bool:
    """Whether one of many partitions may be to blame for runs that died."""
    return found is not None and found.state == "failed" and found.runs >= TOGETHER


def report_onboarding(watched: Watched, found: Attempt | None, now: datetime) -> None:
    """Write that a version cannot be onboarded, because every run dies: nothing of it is monitored."""
    if found is not None and found.state == "failed" and found.runs >= TRIES:
        report_dying(watched, Landed(REGISTRY_PARTITION, watched.member.files), found, now)


def report_onboarded(watched: Watched, now: datetime) -> None:
    """Clear that; nothing for a version that had no such trouble."""
    report_recovered(watched, Landed(REGISTRY_PARTITION, watched.member.files), now)


def remember_dying(watched: Watched, partition: str) -> None:
    """What the store says of the partition, so that a new server knows it too."""
    digest = died_of(watched.version, partition)
    if digest is not None:
        watched.dying[partition] = digest


def report_recovered(watched: Watched, landed: Landed, now: datetime) -> None:
    """Clear a partition that a run came through with after all; nothing for any other."""
    if watched.dying.pop(landed.partition, None) is not None:
        _write(watched, landed, "ok", "a run has come through", now, "arrival")


def _write(watched: Watched, landed: Landed, status: Status, reason: str, now: datetime, trigger: Trigger) -> None:
    version = watched.version
    whole = landed.partition == REGISTRY_PARTITION
    live = whole or (trigger == "arrival" and _is_live(watched, landed, now))
    result = Result(
        model=watched.name[0],
        version=watched.name[1],
        partition=landed.partition,
        kind="pipeline",
        asset=RUN,
        status=status,
        reason=reason,
        recorded_at=now,
        trigger=trigger,
        live=live,
        inputs=(Input(asset="registry" if whole else "source", partition=landed.partition, digest=landed.digest),),
    )
    write_result(version.store, result, landed.partition if whole else version.calendar.encode(landed.partition))


def _is_live(watched: Watched, landed: Landed, now: datetime) -> bool:
    _, end = watched.version.calendar.window(landed.partition)
    return watched.is_live(landed.partition, max(end, landed.at or end), now)
