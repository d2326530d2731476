"""Data that does not arrive: a `stale` result after its deadline, and one that clears it when it came after all."""

from __future__ import annotations

from datetime import datetime, timedelta

from monitoring_assets import layout
from monitoring_assets.arrivals.watched import Watched
from monitoring_assets.results import Result, Status, is_live, newest_of_asset, write_result

SOURCE = "source"
GRACE = timedelta(hours=24)
GRACE_HOURLY = timedelta(hours=2)


def report_overdue(watched: Watched, partition: str, reason: str, now: datetime) -> None:
    """Write that the partition's data is overdue; the same again changes nothing."""
    deadline = watched.deadline(partition)
    text = f"no data {_hours(watched, partition, deadline):g} h after the partition's end: {reason}"
    _write(watched, partition, "stale", text, deadline, now)


def report_arrived(watched: Watched, partition: str, now: datetime) -> None:
    """Clear a partition that was overdue; nothing for one that was not."""
    deadline = watched.deadline(partition)
    if now < deadline:
        return
    version, (model, name) = watched.version, watched.name
    folder = layout.results(model, name, version.calendar.encode(partition), "pipeline")
    newest = newest_of_asset(version.store, folder, SOURCE)
    if newest is not None and newest.status == "stale":
        _write(watched, partition, "ok", "the data has arrived", deadline, now)


def _hours(watched: Watched, partition: str, deadline: datetime) -> float:
    return (deadline - watched.version.calendar.window(partition)[1]) / timedelta(hours=1)


def _write(watched: Watched, partition: str, status: Status, reason: str, deadline: datetime, now: datetime) -> None:
    calendar = watched.version.calendar
    newest = calendar.latest_complete(now) or partition
    grace = GRACE_HOURLY if calendar.every == "hour" else GRACE
    since = max(0, len(calendar.keys(partition, newest)) - 1)
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
        live=is_live("arrival", recorded_at=now, due=deadline, grace=grace, partitions_since=since),
    )
    write_result(watched.version.store, result, calendar.encode(partition))
