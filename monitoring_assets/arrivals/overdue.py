"""Data that does not arrive: a `stale` result after its deadline, and one that clears it when it came after all."""

from __future__ import annotations

from datetime import datetime, timedelta

from monitoring_assets import layout
from monitoring_assets.arrivals.watched import Watched
from monitoring_assets.results import Result, Status, newest_of_asset, write_result

SOURCE = "source"


def report_overdue(watched: Watched, partition: str, reason: str, now: datetime) -> None:
    """Write that the partition's data is overdue; the same again changes nothing."""
    deadline = watched.deadline(partition)
    text = f"no data {_hours(watched, partition, deadline):g} h after the partition's end: {reason}"
    _write(watched, partition, "stale", text, deadline, now)


def report_arrived(watched: Watched, partition: str, now: datetime) -> None:
    """Clear a partition that was overdue; nothing for one that was not."""
    version = watched.version
    folder = layout.results(*watched.name, version.calendar.encode(partition), "pipeline")
    newest = newest_of_asset(version.store, folder, SOURCE)
    if newest is not None and newest.status == "stale":
        _write(watched, partition, "ok", "the data has arrived", watched.deadline(partition), now)


def _hours(watched: Watched, partition: str, deadline: datetime) -> float:
    return (deadline - watched.version.calendar.window(partition)[1]) / timedelta(hours=1)


def _write(watched: Watched, partition: str, status: Status, reason: str, deadline: datetime, now: datetime) -> None:
    model, name = watched.name
    result = Result(
        model=model,
        version=name,
        partition=partition,
        kind="pipeline",
        asset=SOURCE,
        status=status,
        reason=reason,
        recorded_at=now,
        trigger="arrival",
        live=watched.is_live(partition, deadline, now),
    )
    write_result(watched.version.store, result, watched.version.calendar.encode(partition))
