from __future__ import annotations

import itertools
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets import uri_template
from monitoring_assets.partitions import Frequency

EVERY: list[Frequency] = ["hour", "day", "week", "month"]
MOMENT = datetime(2026, 3, 9, 7)  # noqa: DTZ001 - a wall clock's time


def template(directives: str) -> str:
    return "s3://lake/" + "".join(f"{{partition:%{letter}}}" for letter in directives) + ".parquet"


def starts(every: Frequency) -> list[datetime]:
    if every == "hour":
        first = datetime(2023, 12, 20)  # noqa: DTZ001
        return [first + timedelta(hours=each) for each in range(24 * 400)]
    days = [datetime(2000, 1, 1) + timedelta(days=each) for each in range(36_525)]  # noqa: DTZ001
    wanted = {"day": days, "week": days[2::7], "month": [day for day in days if day.day == 1]}
    return wanted[every]


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://lake/ke/{partition:%Y/%m/%d}/*.parquet", "s3://lake/ke/2026/03/09/*.parquet"),
        ("s3://lake/{partition}.parquet", "s3://lake/2026-03-09.parquet"),
        ("file:///data/dt={partition:%Y%m%d}/h={partition:%H%M}/part-?.parquet", "file:///data/dt=20260309/h=0700/part-?.parquet"),
        ("s3://lake/{partition:year=%G,week=%V,day=%u,yy=%y,j=%j}.csv", "s3://lake/year=2026,week=11,day=1,yy=26,j=068.csv"),
        ("s3://lake/é/{partition}", "s3://lake/é/2026-03-09"),
    ],
)  # fmt: skip
def test_a_template_is_rendered_from_the_wall_clock(text: str, uri: str) -> None:
    assert uri_template.problem(text) is None
    assert uri_template.render(text, MOMENT) == uri


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://lake/applications/*.parquet", "no partition field"),
        ("s3://lake/{partition.__class__}.parquet", "a brace that is no partition field"),
        ("s3://lake/{partition!r}.parquet", "a brace"),
        ("s3://lake/{0}{partition}.parquet", "a brace"),
        ("s3://lake/{{partition}}.parquet", "a brace"),
        ("s3://lake/{partition:{partition}}.parquet", "a brace"),
        ("s3://lake/{Partition}.parquet", "a brace"),
        ("s3://lake/{partition:%S}.parquet", "'%S'"),
        ("s3://lake/{partition:%Y%}.parquet", "'%'"),
        ("s3://lake/{partition:%%}.parquet", "'%%'"),
        ("s3://lake/{partition:%-d}.parquet", "'%-'"),
        ("s3://lake/%Y/%m/{partition:%d}.parquet", "a % outside a field"),
        ("https://lake/{partition}.parquet", "write s3://bucket/path or file:///absolute/path"),
        ("/data/{partition}.parquet", "not in S3 or on a disk"),
        ("{partition}", "not in S3 or on a disk"),
        ("S3://lake/{partition}", "not in S3 or on a disk"),
        ("s3://{partition}/x.parquet", "not in S3 or on a disk"),
        ("s3://key:secret@lake/{partition}", "not in S3 or on a disk"),
        ("file://host/data/{partition}", "not in S3 or on a disk"),
        ("file://{partition}", "not in S3 or on a disk"),
        ("file:///data/../etc/{partition}", "leaves its folder"),
        ("file:///data/{partition}/..", "leaves its folder"),
        ("file:///data/{partition:%Y/../%m-%d}.parquet", "leaves its folder"),
        ("file:///data/{partition:.}{partition:.}/{partition}", "leaves its folder"),
        ("s3://lake/*/{partition}.parquet", "in the name of a folder"),
        ("s3://lake/{partition:%Y*/%m-%d}.parquet", "in the name of a folder"),
        ("s3://lake/{partition}/", "is a folder"),
        ("s3://lake/{partition}\n", "cannot be printed"),
        ("s3://lake/{partition}\u202e", "cannot be printed"),
        ("file:///c:\\data\\{partition}", "a backslash"),
        ("s3://lake/{partition}" + "x" * 1024, "too long"),
    ],
)
def test_what_is_no_template_is_refused_with_what_to_write(text: str, said: str) -> None:
    problem = uri_template.problem(text)
    assert problem is not None
    assert said in f"{problem.message}; {problem.fix}"
    assert problem.fix.startswith("write")
    assert problem.message.isprintable()
    assert len(problem.message) < 250


@settings(max_examples=500)
@given(st.text(st.sampled_from("{}partion:%YmdHz/.*s3\\ \n"), max_size=40), st.booleans())
def test_any_text_is_refused_or_rendered_inside_its_folder(text: str, prefixed: bool) -> None:
    candidate = f"s3://lake/{text}" if prefixed else text
    if uri_template.problem(candidate) is None:
        uri = uri_template.render(candidate, MOMENT)
        assert uri.startswith(("s3://", "file:///"))
        assert not {"{", "}", "%", "\\", "\n"}.intersection(uri)
        assert ".." not in uri.split("/")
        assert "*" not in uri.rpartition("/")[0]


@pytest.mark.parametrize("every", EVERY)
def test_a_template_that_tells_partitions_apart_gives_each_its_own_uri(every: Frequency) -> None:
    sufficient = {
        "hour": ["YmdH", "ymdH", "YjH", "yjH", "GVuH"],
        "day": ["Ymd", "ymd", "Yj", "yj", "GVu"],
        "week": ["Ymd", "GV"],
        "month": ["Ym", "ym", "Yj"],
    }[every]
    moments = starts(every)
    for directives in sufficient:
        text = template(directives)
        assert uri_template.tells_apart(text, every)
        assert len({uri_template.render(text, moment) for moment in moments}) == len(moments)
    field = f"s3://lake/{uri_template.suggested_field(every)}.parquet"
    assert uri_template.problem(field) is None
    assert uri_template.tells_apart(field, every)


@pytest.mark.parametrize(
    ("every", "directives"),
    [
        ("hour", "Ymd"), ("hour", "H"), ("hour", "YmdM"), ("day", "Ym"), ("day", "md"), ("day", "YVu"), ("day", "GV"),
        ("day", "Gmd"), ("day", "Gj"), ("week", "YV"), ("week", "Ym"), ("week", "Vu"), ("month", "Y"), ("month", "Gm"),
        ("month", "m"),
    ],
)  # fmt: skip
def test_a_template_under_which_two_partitions_share_a_uri_is_told(every: Frequency, directives: str) -> None:
    text = template(directives)
    moments = starts(every)
    assert len({uri_template.render(text, moment) for moment in moments}) < len(moments)
    assert not uri_template.tells_apart(text, every)


def test_directives_count_wherever_in_the_template_they_stand() -> None:
    text = "s3://lake/{partition:%Y}/{partition:%m}/x-{partition:%d}.parquet"
    assert uri_template.tells_apart(text, "day")
    assert not uri_template.tells_apart(text, "hour")
    assert uri_template.tells_apart("s3://lake/{partition}", "day")
    assert not uri_template.tells_apart("s3://lake/{partition}", "hour")
    for left, right in itertools.pairwise(starts("day")[:400]):
        assert uri_template.render(text, left) < uri_template.render(text, right)
