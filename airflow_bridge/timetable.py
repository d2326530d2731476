"""When a DAG runs, and for which partition. Keys and instants are Dagster's, also on the days when clocks change.

Airflow's own CronPartitionTimetable is not used: where clocks skip a midnight (Cairo, Beirut, Santiago) its scheduler
leaves out the day before and runs the day itself twice, and a cron line that is some minutes late gives partitions
other dates, by which Airflow tells whether a run is there already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pendulum
from airflow._shared.timezones.timezone import utcnow
from airflow.exceptions import InvalidPartitionKeyError
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable
from airflow.utils.strings import get_random_string
from airflow.utils.types import DagRunType

from airflow_bridge.schema import Partitions


class PartitionTimetable(Timetable):
    """One run a partition, `delay_minutes` after its end; if not `scheduled`, in backfills and by hand only.

    There is no catching up: of the partitions that ended since the last run, the newest one runs.
    """

    partitioned = True
    run_ordering = ("partition_date", "run_after")

    def __init__(self, partitions: Partitions, *, scheduled: bool, delay_minutes: int = 0) -> None:
        self.can_be_scheduled = scheduled
        self._partitions = partitions
        self._delay = timedelta(minutes=delay_minutes)
        self._zone = ZoneInfo(partitions.timezone)
        start = datetime.combine(partitions.start, time())
        first = self._floor(start)
        self._first = first if first == start else self._step(first, 1)
        when = f"{delay_minutes} min after its end" if scheduled else "by hand and in backfills; others schedule it"
        self.description = f"Every {partitions.every} ({partitions.timezone}), {when}"

    @property
    def start(self) -> datetime:
        """When the first partition begins, in UTC."""
        return self._begin(self._first)

    @property
    def summary(self) -> str:
        return self._partitions.cron if self.can_be_scheduled else "by hand"

    def serialize(self) -> dict[str, Any]:
        return {
            "partitions": self._partitions.model_dump(mode="json"),
            "scheduled": self.can_be_scheduled,
            "delay_minutes": self._delay // timedelta(minutes=1),
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> PartitionTimetable:
        return cls(
            Partitions.model_validate(data["partitions"]),
            scheduled=data["scheduled"],
            delay_minutes=data["delay_minutes"],
        )

    def next_dagrun_info_v2(
        self, *, last_dagrun_info: DagRunInfo | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        # With `can_be_scheduled` alone the scheduler would still make runs.
        return self.next_run(last_dagrun_info, restriction, utcnow()) if self.can_be_scheduled else None

    def next_run(self, last: DagRunInfo | None, restriction: TimeRestriction, now: datetime) -> DagRunInfo | None:
        """What follows `last` at the time `now`: the newest partition that has ended, or the one that ends next."""
        candidates = [self._first]
        if last is not None and last.partition_date is not None:
            candidates.append(self._step(self._holding(last.partition_date), 1))
        if not restriction.catchup:
            candidates.append(self._step(self._holding(now), -1))
        period = max(candidates)
        if restriction.latest is not None and self._begin(period) > restriction.latest:
            return None
        return self._info(period, delay=self._delay)

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterable[DagRunInfo]:
        """The partitions of a backfill: those that begin on the wall clock from `earliest` to `latest`, and have ended.

        What the bounds' own time zone is does not matter, as in Airflow's timetables.
        """
        return self.backfill(earliest.replace(tzinfo=None), latest.replace(tzinfo=None), utcnow())

    def backfill(self, earliest: datetime, latest: datetime, now: datetime) -> Iterator[DagRunInfo]:
        """As above, at the time `now`; the bounds are naive."""
        period = max(self._floor(earliest), self._first)
        if period < earliest:
            period = self._step(period, 1)
        while period <= latest and self._begin(self._step(period, 1)) <= now:
            yield self._info(period)
            period = self._step(period, 1)

    def resolve_partition_date(self, partition_key: str | None) -> datetime:
        """When the partition begins. Raises InvalidPartitionKeyError for what is no key, and for no key at all."""
        example = f"such as {self._key(self._first)}, its first"
        if partition_key is None:
            raise InvalidPartitionKeyError(f"Every run is of one partition. Give its key, {example}.")
        try:
            period = datetime.strptime(partition_key, self._partitions.key_format)  # noqa: DTZ007 - a wall clock's
        except ValueError:
            period = None
        # strptime reads 2026-1-5 as well, and any weekday.
        if period is None or period != self._floor(period) or self._key(period) != partition_key:
            raise InvalidPartitionKeyError(f"{partition_key!r} is no key of {self._kind}. Give one {example}.")
        if period < self._first:
            raise InvalidPartitionKeyError(f"{partition_key!r} is before the first partition. Give a key {example}.")
        return self._begin(period)

    def localize_partition_datetime(self, dt: datetime) -> pendulum.DateTime:
        """The moment at which the wall clock of the partitions first shows what `dt` shows."""
        return self._begin(dt.replace(tzinfo=None))

    def infer_manual_data_interval(self, *, run_after: pendulum.DateTime) -> DataInterval:
        """Nothing reads it; Airflow asks for it when somebody gives a logical date."""
        return DataInterval.exact(run_after)

    def generate_run_id(
        self,
        *,
        run_type: DagRunType,
        run_after: datetime,
        data_interval: DataInterval | None,  # noqa: ARG002 - Airflow passes it
        **extra: Any,
    ) -> str:
        """With the partition's key in it, if that is known."""
        parts = [run_after.isoformat(), extra.get("partition_key"), get_random_string()]
        return run_type.generate_run_id(suffix="__".join(filter(None, parts)))

    @property
    def _kind(self) -> str:
        return f"an {self._partitions.every}" if self._partitions.every == "hour" else f"a {self._partitions.every}"

    def _info(self, period: datetime, delay: timedelta = timedelta(0)) -> DagRunInfo:
        return DagRunInfo(
            run_after=self._begin(self._step(period, 1)) + delay,
            data_interval=None,
            partition_date=self._begin(period),
            partition_key=self._key(period),
        )

    # A period is the wall-clock time, naive, at which a partition begins.

    def _key(self, period: datetime) -> str:
        return period.strftime(self._partitions.key_format)

    def _begin(self, period: datetime) -> pendulum.DateTime:
        # With fold=0 a time that occurs twice is the first of both, and one that is skipped is by the clock before.
        return pendulum.instance(period.replace(tzinfo=self._zone, fold=0).astimezone(UTC))

    def _holding(self, moment: datetime) -> datetime:
        period = self._floor(moment.astimezone(self._zone).replace(tzinfo=None))
        following = self._step(period, 1)
        # Clocks that are set back over midnight show the day before once more.
        return following if self._begin(following) <= moment else period

    def _floor(self, local: datetime) -> datetime:
        match self._partitions.every:
            case "hour":
                return datetime.combine(local, time(local.hour))
            case "day":
                return datetime.combine(local, time())
            case "week":
                return datetime.combine(local - timedelta(days=local.weekday()), time())
            case "month":
                return datetime.combine(local.replace(day=1), time())

    def _step(self, period: datetime, count: int) -> datetime:
        match self._partitions.every:
            case "hour":
                return period + count * timedelta(hours=1)
            case "day":
                return period + count * timedelta(days=1)
            case "week":
                return period + count * timedelta(weeks=1)
            case "month":
                months = period.year * 12 + period.month - 1 + count
                return period.replace(year=months // 12, month=months % 12 + 1)
