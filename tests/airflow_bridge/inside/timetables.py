"""What the timetable answers, asked the way that Airflow asks. Called by test_timetable.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.exceptions import InvalidPartitionKeyError
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables.base import DagRunInfo, TimeRestriction

from airflow_bridge.schema import Partitions
from airflow_bridge.timetable import PartitionTimetable

UNRESTRICTED = TimeRestriction(earliest=None, latest=None, catchup=False)


def table(partitions: dict[str, Any], *, scheduled: bool = True, delay_minutes: int = 0) -> PartitionTimetable:
    """Through the encoding in which Airflow's database has it, which needs the plugin to be registered."""
    made = PartitionTimetable(Partitions(**partitions), scheduled=scheduled, delay_minutes=delay_minutes)
    found = decode_timetable(encode_timetable(made))
    assert isinstance(found, PartitionTimetable)
    return found


def stated(info: DagRunInfo) -> dict[str, str]:
    assert info.partition_key
    assert info.partition_date
    return {
        "key": info.partition_key,
        "begin": info.partition_date.isoformat(),
        "run_after": info.run_after.isoformat(),
    }


def schedule(
    partitions: dict[str, Any], since: str, until: str, delay_minutes: int = 0, last: str | None = None
) -> list[dict[str, str]]:
    """The runs that a scheduler makes that looks again as soon as the next one is due."""
    timetable, now = table(partitions, delay_minutes=delay_minutes), datetime.fromisoformat(since)
    newest = None
    if last:
        begin = timetable.resolve_partition_date(last)
        newest = DagRunInfo(run_after=begin, data_interval=None, partition_date=begin, partition_key=last)
    runs = []
    while now < datetime.fromisoformat(until):
        newest = timetable.next_run(newest, UNRESTRICTED, now)
        assert newest
        runs.append(stated(newest))
        now = max(now, newest.run_after)
    return runs


def backfill(partitions: dict[str, Any], earliest: str, latest: str, now: str) -> list[dict[str, str]]:
    bounds = [datetime.fromisoformat(bound) for bound in (earliest, latest, now)]
    return [stated(info) for info in table(partitions, scheduled=False).backfill(*bounds)]


def unscheduled(partitions: dict[str, Any]) -> dict[str, Any]:
    timetable = table(partitions, scheduled=False)
    following = timetable.next_dagrun_info_v2(last_dagrun_info=None, restriction=UNRESTRICTED)
    return {
        "following": following,
        "can_be_scheduled": timetable.can_be_scheduled,
        "periodic": timetable.periodic,
        "partitioned": timetable.partitioned,
        "description": timetable.description,
    }


def resolve(partitions: dict[str, Any], keys: list[str | None]) -> list[dict[str, str]]:
    timetable, found = table(partitions), []
    for key in keys:
        try:
            found.append({"begin": timetable.resolve_partition_date(key).isoformat()})
        except InvalidPartitionKeyError as error:
            found.append({"refused": str(error)})
    return found
