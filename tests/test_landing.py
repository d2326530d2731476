from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from monitoring_assets.landing import Landing, features_digest, landing, source_input
from resources.errors import BadInput
from resources.lake import SourceFile

DAY = "2026-01-19"
NOW = datetime(2026, 1, 20, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture(params=["local", "s3"])
def anywhere(request: pytest.FixtureRequest) -> Any:
    """A lender on this machine's disk, and one on S3."""
    return request.getfixturevalue("lender" if request.param == "local" else "s3_lender")


def source(lender: Any, **more: Any) -> dict[str, Any]:
    uri = f"{lender.lake_uri}/{{partition:%Y-%m-%d}}/*.parquet"
    return {"uri": uri, "key": "application_id"} | more


def test_where_nothing_lies_the_reason_names_the_place(anywhere: Any) -> None:
    found = landing(anywhere.onboard(precomputed=True), DAY)
    assert (found.files, found.landed_at, found.settled(NOW)) == ((), None, False)
    assert found.why_none == f"no file matches {anywhere.lake_uri}/{DAY}/*.parquet"


def test_the_digest_changes_with_every_file_that_is_added_rewritten_or_removed(anywhere: Any) -> None:
    version = anywhere.onboard(precomputed=True)
    digests = []
    for name, data in (("0.parquet", b"one"), ("1.parquet", b"two"), ("1.parquet", b"three"), ("2.txt", b"no rows")):
        anywhere.land(DAY, data, name=name)
        digests.append(landing(version, DAY).digest)
    anywhere.lake.delete(f"{DAY}/1.parquet")
    digests.append(landing(version, DAY).digest)
    assert digests[2] == digests[3], "another kind of file is not of the source"
    assert digests[4] == digests[0]
    assert len(set(digests[:3])) == 3
    assert source_input(DAY, landing(version, DAY)).digest == digests[0]


def test_features_are_made_from_the_files_and_the_manifest_whatever_of_it_may_change(lender: Any) -> None:
    lender.land(DAY)
    version = lender.onboard(precomputed=True, owner="one@lender.example")
    other = lender.onboard(precomputed=True, model="other", segments=["product"])
    digest = features_digest(version, landing(version, DAY))
    assert digest != features_digest(other, landing(other, DAY))
    lender.land(DAY, name="1.parquet")
    assert digest != features_digest(version, landing(version, DAY))


def test_data_landed_when_its_newest_file_was_written(lender: Any) -> None:
    version = lender.onboard(precomputed=True)
    for name, age in (("0", 50), ("1", 20), ("2", 40)):
        lender.land(DAY, name=f"{name}.parquet", at=NOW - age * SECOND)
    found = landing(version, DAY)
    assert (len(found.files), found.landed_at) == (3, NOW - 20 * SECOND)


@pytest.mark.parametrize(("uri", "quiet"), [("s3://lake/*.parquet", 30), ("s3://lake/?.csv", 30), ("s3://lake/1", 2)])
def test_files_are_all_there_when_nothing_changed_for_a_while_which_is_short_for_a_single_one(
    uri: str, quiet: int
) -> None:
    found = Landing(uri, (SourceFile("s3://lake/1", 1, NOW, "1"),), "", has_marker=False)
    assert [found.settled(NOW + age * SECOND) for age in (0, quiet - 1, quiet)] == [False, False, True]


def test_a_marker_says_that_they_are_all_there_however_new_they_are(anywhere: Any) -> None:
    version = anywhere.onboard(precomputed=True, source=source(anywhere, ready="_SUCCESS"))
    anywhere.land(DAY)
    found = landing(version, DAY)
    assert (found.files, found.settled(NOW + 1000 * SECOND)) == ((), False)
    assert found.why_none == f"the marker _SUCCESS is not there yet beside {anywhere.lake_uri}/{DAY}/*.parquet"
    anywhere.land(DAY, b"", name="_SUCCESS")
    found = landing(version, DAY)
    assert (len(found.files), found.why_none) == (1, "")
    assert found.landed_at is not None
    assert found.settled(found.landed_at)


def test_a_marker_without_files_is_no_data(lender: Any) -> None:
    version = lender.onboard(precomputed=True, source=source(lender, ready="_SUCCESS"))
    lender.land(DAY, b"", name="_SUCCESS")
    found = landing(version, DAY)
    assert (found.why_none, found.settled(NOW)) == (f"no file matches {lender.lake_uri}/{DAY}/*.parquet", False)


@pytest.mark.parametrize(
    ("timezone", "partition"),
    [("Australia/Lord_Howe", "2026-04-05"), ("Asia/Beirut", "2026-03-29"), ("America/New_York", "2026-11-01")],
)
def test_the_place_is_that_of_the_lender_s_own_day(lender: Any, timezone: str, partition: str) -> None:
    every_day = {"every": "day", "timezone": timezone, "start": date(2026, 1, 1)}
    version = lender.onboard(precomputed=True, partitions=every_day)
    lender.land(partition)
    [file] = landing(version, partition).files
    assert partition in file.uri


def test_a_place_that_is_not_allowed_is_not_looked_at(lender: Any) -> None:
    version = lender.onboard(precomputed=True)
    lender.land(DAY)
    allowed = version.settings.model_copy(update={"allowed_sources": ("s3://elsewhere",)})
    with pytest.raises(BadInput, match="lies outside the allowed sources"):
        landing(replace(version, settings=allowed), DAY)
