"""The partition calendar: which keys a model has, and which stretch of time each of them is. Pure; no clock in it.

Keys and windows are those of Dagster's `HourlyPartitionsDefinition`, `DailyPartitionsDefinition`,
`WeeklyPartitionsDefinition(day_offset=1)` and `MonthlyPartitionsDefinition`, without importing Dagster. A partition
begins at the first midnight of its day on the wall clock of its time zone. Where that midnight is skipped, it begins at
the moment that midnight would have been by the clock before the change; where it occurs twice, at the first of the two.

Dagster differs in one place. Where a zone skipped a whole day (Pacific/Apia and Pacific/Fakaofo, 2011-12-30), Dagster
gives the skipped day the window of the day after it; here that window is empty, so that no row is in two partitions.
"""

from __future__ import annotations

import difflib
import functools
import re
import zoneinfo
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from monitoring_assets import layout
from monitoring_assets.problems import Problem, shown
from resources.errors import BadInput

Frequency = Literal["hour", "day", "week", "month"]

# Every date in these hundred years has a four-digit year and is far from where datetime arithmetic overflows.
FIRST_DAY = date(2000, 1, 1)
LAST_DAY = date(2099, 12, 31)

_WINDOWS: dict[Frequency, tuple[int, ...]] = {
    "hour": (1, 24, 168),
    "day": (1, 2, 3, 5, 7, 14, 28),
    "week": (1, 2, 4),
    "month": (1, 2, 3),
}
_SHAPE: dict[Frequency, str] = {
    "hour": "an hour as YYYY-MM-DD-HH:00 in UTC",
    "day": "a day as YYYY-MM-DD",
    "week": "the Monday of a week as YYYY-MM-DD",
    "month": "the first day of a month as YYYY-MM-DD",
}
_DAY_KEY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HOUR_KEY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})-([0-9]{2}):00")
_HOUR_PATH = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{2})-00")
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,2}")
# Files of the zone database's folder that mean another thing on every machine, or count leap seconds.
_NO_ZONES = ("localtime", "posixrules", "Factory")
_NO_ZONE_FOLDERS = ("posix/", "right/")
_UNREADABLE = "it has another format or is no date"
_HOUR = timedelta(hours=1)


def windows_for(every: Frequency) -> tuple[int, ...]:
    """The lengths, in partitions, of the windows over which a partition is judged, shortest first."""
    return _WINDOWS[every]


def cycle_length(every: Frequency) -> int:
    """Partitions in a week, the cycle in which hours and days repeat themselves; 0 for weeks and months."""
    return {"hour": 168, "day": 7}.get(every, 0)


def period_start(every: Frequency, day: date) -> date:
    """The first day of the partition that holds `day`: its Monday, the first of its month, otherwise the day itself."""
    return _from_index(every, _to_index(every, _midnight(day))).date()


def calendar_problems(every: Frequency, timezone: str, start: date) -> list[Problem]:
    """What keeps these three from being a calendar; empty if nothing does. Keys are `timezone` and `start`."""
    return _timezone_problems(every, timezone) + _start_problems(every, start)


def _timezone_problems(every: Frequency, name: str) -> list[Problem]:
    if every == "hour" and name != "UTC":
        message = f"hourly partitions are UTC only (a local hour can occur twice), got {shown(name)}"
        return [Problem("timezone", message, "write timezone: UTC")]
    if _is_zone(name):
        return []
    close = difflib.get_close_matches(name[:60], sorted(zoneinfo.available_timezones()), n=1)
    fix = f"write timezone: {close[0]}" if close else "write a name such as timezone: Africa/Nairobi"
    return [Problem("timezone", f"{shown(name)} is no time zone of the IANA database", fix)]


@functools.lru_cache(maxsize=1024)
def _is_zone(name: str) -> bool:
    if not _ZONE_NAME.fullmatch(name) or name in _NO_ZONES or name.startswith(_NO_ZONE_FOLDERS):
        return False
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name of a folder in the database, such as "America"
        return False
    return True


def _start_problems(every: Frequency, start: date) -> list[Problem]:
    if not FIRST_DAY <= start <= LAST_DAY:
        fix = f"write a date from {FIRST_DAY} to {LAST_DAY}"
        return [Problem("start", f"{start} is outside the years that partitions may have", fix)]
    first = period_start(every, start)
    if first == start:
        return []
    following = _from_index(every, _to_index(every, _midnight(start)) + 1).date()
    what = "a Monday, on which weekly partitions start" if every == "week" else "the first day of a month"
    fix = f"write start: {following}, or start: {first} to include the {every} that holds it"
    return [Problem("start", f"{start} is not {what}", fix)]


@dataclass(frozen=True)
class PartitionCalendar:
    """The partitions of one model version: every hour, day, week or month from the date `start` in `timezone`.

    Raises `BadInput` for an unknown time zone, an hourly calendar outside UTC, and a start that is no first day.
    """

    every: Frequency
    timezone: str
    start: date

    def __post_init__(self) -> None:
        if self.every not in get_args(Frequency):
            raise BadInput(f"{shown(self.every)} is no partition frequency; write hour, day, week or month")
        problems = calendar_problems(self.every, self.timezone, self.start)
        if problems:
            raise BadInput("\n".join(f"{problem.key}: {problem.message}; {problem.fix}" for problem in problems))

    @property
    def first_key(self) -> str:
        """The key of the partition that begins at `start`."""
        return self._key(self._first)

    def key_of(self, moment: datetime) -> str:
        """The key of the partition whose window holds `moment`.

        Raises `BadInput` if there is none (before the first partition, after 2099), `ValueError` if it is naive.
        """
        return self._key(self._index_of(moment))

    def window(self, key: str) -> tuple[datetime, datetime]:
        """Begin and end of a partition in UTC; the end belongs to the next one. Raises `BadInput` for no key."""
        index = self._parse(key)
        return self._begin(index), self._begin(index + 1)

    def start_local(self, key: str) -> datetime:
        """The wall-clock time at which a partition begins, aware, in the model's zone. Raises `BadInput` for no key.

        Its date is the key's date even on a day whose midnight the clocks skipped.
        """
        return _from_index(self.every, self._parse(key)).replace(tzinfo=self._zone)

    def keys(self, first: str, last: str) -> list[str]:
        """All keys from `first` to `last`, both included; empty if `last` is earlier. Raises `BadInput` for no key."""
        return [self._key(index) for index in range(self._parse(first), self._parse(last) + 1)]

    def previous(self, key: str, n: int) -> list[str]:
        """The `n` keys up to and with `key`, oldest first; fewer near the start. Raises `BadInput` for no key."""
        index = self._parse(key)
        return [self._key(each) for each in range(max(self._first, index - n + 1), index + 1)]

    def same_weekday(self, key: str, n: int) -> list[str]:
        """The `n` keys before `key` that fall on its weekday, oldest first, `key` left out.

        For partitions other than days, the `n` keys before it. Fewer where the calendar begins. Raises `BadInput` for
        no key.
        """
        index = self._parse(key)
        step = 7 if self.every == "day" else 1
        earlier = (index - step * back for back in range(n, 0, -1))
        return [self._key(each) for each in earlier if each >= self._first]

    def earlier_cycles(self, key: str) -> list[str]:
        """The keys at the same place of the cycles before `key`, oldest first; for days and hours, otherwise none.

        These are the same weekday of 8 weeks and the same day of 3 months (of a shorter month its last), an hour's at
        the same hour. Fewer where the calendar begins. Raises `BadInput` for no key.
        """
        index, week = self._parse(key), cycle_length(self.every)
        months = {_to_index(self.every, _months_before(_from_index(self.every, index), n)) for n in range(1, 4)}
        earlier = months.union(index - week * n for n in range(1, 9)) if week else ()
        return [self._key(each) for each in sorted(earlier) if each >= self._first]

    def latest_complete(self, now: datetime) -> str | None:
        """The newest key whose window has ended at `now` (aware); None before the end of the first window."""
        if now < self._begin(self._first + 1):
            return None
        return self._key(self._index_of(now) - 1)

    def validate(self, key: object) -> None:
        """Raises `BadInput` with the expected format and an example if `key` is not a key of this calendar."""
        self._parse(key)

    def encode(self, key: str) -> str:
        """`key` for use in a path: no colon, sorts as the key does. Raises `BadInput` for no key."""
        self._parse(key)
        return layout.encoded(key)

    def decode(self, encoded: str) -> str:
        """The key that `encode` was given. Raises `BadInput` if there is none."""
        if self.every != "hour":
            self._parse(encoded)
            return encoded
        match = _HOUR_PATH.fullmatch(encoded)
        if match is None:
            raise self._no_key(encoded, _UNREADABLE)
        key = f"{match[1]}:00"
        self._parse(key)
        return key

    @functools.cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @functools.cached_property
    def _first(self) -> int:
        return _to_index(self.every, _midnight(self.start))

    @functools.cached_property
    def _stop(self) -> int:
        return _to_index(self.every, _midnight(LAST_DAY) + 23 * _HOUR) + 1

    def _begin(self, index: int) -> datetime:
        return _from_index(self.every, index).replace(tzinfo=self._zone).astimezone(UTC)

    def _key(self, index: int) -> str:
        begin = _from_index(self.every, index)
        return f"{begin:%Y-%m-%d-%H:00}" if self.every == "hour" else f"{begin:%Y-%m-%d}"

    def _index_of(self, moment: datetime) -> int:
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone")
        if moment < self._begin(self._first):
            raise BadInput(f"{moment.isoformat()} is before the first partition, {self.first_key} ({self.timezone})")
        if moment >= self._begin(self._stop):
            raise BadInput(f"{moment.isoformat()} is after {LAST_DAY}, the last day that partitions may have")
        index = _to_index(self.every, moment.astimezone(self._zone).replace(tzinfo=None))
        # Clocks that go back over midnight show the day before once more, after the next partition has begun.
        return index + 1 if moment >= self._begin(index + 1) else index

    def _parse(self, key: object) -> int:
        begin = self._read(key)
        if begin is None:
            raise self._no_key(key, _UNREADABLE)
        index = _to_index(self.every, begin)
        if _from_index(self.every, index) != begin:
            right = self._key(index) if index >= self._first else self.first_key
            raise self._no_key(key, f"the {self.every} that holds it has the key {right}")
        if index < self._first:
            raise self._no_key(key, f"the first partition is {self.first_key}")
        if index >= self._stop:
            raise self._no_key(key, f"the last day that partitions may have is {LAST_DAY}")
        return index

    def _read(self, key: object) -> datetime | None:
        if not isinstance(key, str):
            return None
        match = _HOUR_KEY.fullmatch(key) if self.every == "hour" else _DAY_KEY.fullmatch(key)
        if match is None:
            return None
        day, hour = match.groups() if self.every == "hour" else (key, "00")
        try:
            return datetime.fromisoformat(f"{day}T{hour}:00")
        except ValueError:
            return None

    def _no_key(self, key: object, reason: str) -> BadInput:
        if key in (None, "None", ""):
            reason = "the run was started without a partition key"
        return BadInput(
            f"{shown(key)} is not a partition key (every {self.every}, {self.timezone}, from {self.start}): {reason}; "
            f"write {_SHAPE[self.every]}, for example {self.first_key}"
        )


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)  # noqa: DTZ001 - a wall clock's time, before it meets its zone


def _to_index(every: Frequency, wall: datetime) -> int:
    """The running number of the partition that holds a naive wall-clock time."""
    if every == "hour":
        return wall.toordinal() * 24 + wall.hour
    if every == "day":
        return wall.toordinal()
    if every == "week":
        return (wall.toordinal() - 1) // 7  # 0001-01-01, ordinal 1, was a Monday
    return wall.year * 12 + wall.month - 1


def _from_index(every: Frequency, index: int) -> datetime:
    """The naive wall-clock time at which a partition begins, from its running number."""
    if every == "hour":
        return _midnight(date.fromordinal(index // 24)) + _HOUR * (index % 24)
    if every == "day":
        return _midnight(date.fromordinal(index))
    if every == "week":
        return _midnight(date.fromordinal(index * 7 + 1))
    return _midnight(date(index // 12, index % 12 + 1, 1))


def _months_before(wall: datetime, months: int) -> datetime:
    year, month = divmod(wall.year * 12 + wall.month - 1 - months, 12)
    return wall.replace(year=year, month=month + 1, day=min(wall.day, monthrange(year, month + 1)[1]))
