"""How versions stand, from what the stages, the sensors and a person's backfills leave in the store."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import yaml

from monitoring_assets.assets import pipeline
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.quarantine import Quarantined, keep_back
from monitoring_assets.refresh import Refresher
from monitoring_assets.results import Metric, Result, gravest, write_result
from monitoring_assets.status import ATTEMPTS, LOOK_BACK, VersionStatus, statuses
from resources.errors import InfrastructureError
from resources.object_store import LocalStore

NAME = ("ke-nano-loan", "1.0.0")


class Records:
    """A lender's registry as it was looked at, and results put into the store by hand."""

    def __init__(self, lender: Any) -> None:
        self.lender = lender
        self._refresher = Refresher(lender.settings, lender.clock)

    def deploy(self, **changes: Any) -> None:
        """Put a manifest into the registry, and look at it."""
        document = self.lender.manifest(precomputed=True, **changes)
        self.lender.deploy_manifest(yaml.safe_dump(document).encode(), document["model"], document["version"])
        self.look()

    def look(self) -> None:
        self._refresher.look()

    def result(self, partition: str, kind: str, status: str = "ok", **more: Any) -> None:
        """A result of ke-nano-loan 1.0.0, live unless said otherwise."""
        asset = {"quality": "features", "pipeline": "source"}.get(kind, kind)
        fields = {"asset": asset, "trigger": "arrival", "live": True, "recorded_at": self.lender.now, **more}
        result = Result(model=NAME[0], version=NAME[1], partition=partition, kind=kind, status=status, **fields)
        write_result(self.lender.store, result, partition.replace(":", "-"))

    def day(self, partition: str, status: str = "ok", **more: Any) -> None:
        """What a whole run leaves of a partition."""
        for asset in ("features", "scores", "distribution"):
            self.result(partition, "quality", asset=asset, **more)
        self.result(partition, "psi", status, **more)
        self.result(partition, "csi", **more)

    def read(self) -> dict[str, VersionStatus]:
        registered = FleetFile(self.lender.store).read().registered
        found = list(statuses(self.lender.settings, registered, self.lender.clock))
        assert [(each.model, each.version) for each in found] == [(each.model, each.version) for each in registered]
        return {f"{each.model} {each.version}": each for each in found}

    def one(self) -> VersionStatus:
        [found] = self.read().values()
        return found


@pytest.fixture
def records(lender: Any) -> Records:
    """Of a lender whose clock stands at the beginning of the 20th: the 19th is the newest complete day."""
    return Records(lender)


@pytest.fixture
def deployed(records: Records) -> Records:
    """With one active version whose data is due six hours after the day's end."""
    records.deploy(source=records.lender.manifest()["source"] | {"sla_hours": 6})
    return records


def psi(column: str, status: str, net: float | None, **more: Any) -> Metric:
    return Metric(metric="psi", column=column, status=status, net_value=net, **more)


def test_what_the_stages_found_of_the_newest_partition_is_shown(lender: Any) -> None:
    records, days = Records(lender), ["2026-01-18", "2026-01-19"]
    version = lender.onboard(precomputed=True)
    records.look()
    lender.land(days[0])
    rows = lender.rows(days[1])
    lender.land(days[1], rows.with_columns(income=50 + (rows["income"] - 50).abs()))
    assets = ("features", "scores", "distribution", "psi", "csi")
    recorded = [each for batch in pipeline.run(version, assets, days, trigger="arrival") for each in batch]
    newest = [each.result for each in recorded if each.outcome.partition == days[1]]
    [csi] = [each for each in newest if each.kind == "csi"]

    found = records.one()

    assert gravest(each.status for each in newest) == "breach"
    assert (found.state, found.kind, found.partition, found.live) == ("breach", "csi", days[1], True)
    assert (found.ended_at, found.age_s, found.overdue) == (datetime(2026, 1, 20, tzinfo=UTC), 0, False)
    assert found.worst is not None
    assert (found.worst.column, found.worst.kind, found.worst.status) == ("income", "csi", "breach")
    assert f"worst income with net PSI {found.worst.net_psi:.3g} over" in csi.reason
    assert found.reason == csi.reason


@pytest.mark.parametrize("results", [[], ["quality"]], ids=["nothing yet", "a run has only begun"])
def test_an_active_version_without_psi_is_being_onboarded(deployed: Records, results: list[str]) -> None:
    for kind in results:
        deployed.result("2026-01-19", kind)
    found = deployed.one()
    assert (found.state, found.partition, found.age_s, found.worst) == ("onboarding", None, None, None)


def test_a_version_whose_first_partition_has_not_ended_says_so(records: Records) -> None:
    records.deploy(partitions={"every": "day", "timezone": "UTC", "start": date(2026, 1, 20)})
    found = records.one()
    assert (found.state, found.overdue) == ("onboarding", False)
    assert "2026-01-20" in found.reason


def test_the_gravest_of_the_checks_decides_and_says_why(deployed: Records) -> None:
    day = "2026-01-19"
    deployed.result(day, "quality", "warn", reason="many nulls")
    deployed.result(day, "psi", "insufficient_data", reason="few rows")
    deployed.result(day, "csi", "ok")
    found = deployed.one()
    assert (found.state, found.kind, found.reason) == ("warn", "quality", "many nulls")


def test_what_a_stage_found_is_not_hidden_by_the_stages_after_it(deployed: Records) -> None:
    """They share the folder of their kind, and the newest attempt in it is another asset's."""
    day = "2026-01-19"
    deployed.result(day, "quality", "breach", reason="12 duplicate keys")
    for asset in ("scores", "distribution"):
        deployed.result(day, "quality", "insufficient_data", asset=asset, reason="features is blocked")
    for kind in ("psi", "csi"):
        deployed.result(day, kind, "insufficient_data", reason="distribution is skipped")
    found = deployed.one()
    assert (found.state, found.reason) == ("breach", "12 duplicate keys")


def test_of_checks_that_are_equally_grave_the_first_on_the_way_of_the_data_says_why(deployed: Records) -> None:
    for kind in ("quality", "psi", "csi"):
        deployed.result("2026-01-19", kind, "insufficient_data", reason=f"by {kind}")
    assert deployed.one().reason == "by quality"


def test_of_several_attempts_the_newest_counts_and_a_correction_leaves_a_partition_live(deployed: Records) -> None:
    deployed.day("2026-01-19", "breach")
    deployed.result("2026-01-19", "psi", "warn", live=False, trigger="catch-up", reason="after the correction")
    found = deployed.one()
    assert (found.state, found.reason, found.live) == ("warn", "after the correction", True)


def test_a_live_partition_is_shown_before_a_newer_one_that_was_caught_up_with(deployed: Records) -> None:
    deployed.day("2026-01-17", "warn")
    deployed.day("2026-01-18", live=False, trigger="catch-up")
    found = deployed.one()
    assert (found.state, found.partition, found.live) == ("warn", "2026-01-17", True)
    assert found.age_s == timedelta(days=2).total_seconds()


@pytest.mark.parametrize("day", ["2026-01-19", "2026-01-02"], ids=["recent", "long ago"])
def test_where_nothing_is_live_the_newest_judged_partition_is_shown(deployed: Records, day: str) -> None:
    deployed.day("2026-01-01", "breach", live=False, trigger="backfill")
    deployed.day(day, "warn", live=False, trigger="backfill")
    found = deployed.one()
    assert (found.state, found.partition, found.live) == ("warn", day, False)


def test_what_was_live_long_ago_is_not_shown_before_what_was_judged_lately(deployed: Records) -> None:
    deployed.day("2026-01-02", "breach")
    deployed.day("2026-01-19", live=False, trigger="backfill")
    found = deployed.one()
    assert (found.state, found.partition, found.live) == ("ok", "2026-01-19", False)


def test_results_of_no_partition_or_of_one_that_has_not_ended_are_not_shown(deployed: Records) -> None:
    deployed.day("2026-01-02")
    deployed.day("2026-01-20", "breach")
    deployed.result("registry", "pipeline", "quarantined", asset="manifest")
    deployed.result("zzz", "psi", "breach")
    assert (deployed.one().state, deployed.one().partition) == ("ok", "2026-01-02")


@pytest.mark.parametrize(
    ("live", "after", "overdue"),
    [
        (True, timedelta(hours=5, minutes=59), False),
        (True, timedelta(hours=6), True),
        (False, timedelta(hours=6), True),
    ],
)
def test_the_next_partition_is_overdue_from_its_deadline_on(
    deployed: Records, live: bool, after: timedelta, overdue: bool
) -> None:
    deployed.day("2026-01-18", live=live)
    deployed.lender.now += after
    assert deployed.one().overdue is overdue


def test_what_was_caught_up_with_is_not_overdue(deployed: Records) -> None:
    deployed.day("2026-01-18")
    deployed.day("2026-01-19", live=False, trigger="catch-up")
    deployed.lender.now += timedelta(hours=12)
    found = deployed.one()
    assert (found.partition, found.overdue) == ("2026-01-18", False)


def test_data_that_does_not_come_is_stale_until_it_has_come(deployed: Records) -> None:
    deployed.lender.now += timedelta(hours=7)
    deployed.day("2026-01-18", "warn")
    deployed.result("2026-01-19", "pipeline", "stale", reason="no data 6 h after the partition's end")
    found = deployed.one()
    assert (found.state, found.partition, found.overdue) == ("stale", "2026-01-19", True)
    assert found.reason.startswith("no data 6 h")
    deployed.lender.now += timedelta(hours=20)
    assert (deployed.one().partition, deployed.one().overdue) == ("2026-01-19", True), "the 20th is not, yet"
    deployed.result("2026-01-19", "pipeline", "ok", reason="the data has arrived")
    found = deployed.one()
    assert (found.state, found.partition, found.overdue) == ("warn", "2026-01-18", True), "nobody has judged it yet"
    deployed.day("2026-01-19")
    found = deployed.one()
    assert (found.state, found.partition, found.overdue) == ("ok", "2026-01-19", False)


def test_the_worst_column_is_the_gravest_and_then_the_one_that_moved_most(deployed: Records) -> None:
    day = "2026-01-19"
    score = psi("score", "ok", 0.07, window=1)
    features = (
        psi("income", "ok", 0.3, window=7),
        psi("income", "breach", 0.9, window=1),
        psi("age", "warn", 0.11, window=2, value=0.14, threshold=0.1),
        psi("region", "warn", 0.105, window=1),
        psi("term", "breach", 0.8, window=1, segment="product=card"),
    )
    deployed.result(day, "psi", metrics=(score,))
    assert deployed.one().worst.column == "score"
    deployed.result(day, "csi", "warn", metrics=features)
    worst = deployed.one().worst
    assert worst is not None
    assert (worst.column, worst.kind, worst.status, worst.window) == ("age", "csi", "warn", 2)
    assert (worst.psi, worst.net_psi, worst.threshold) == (0.14, 0.11, 0.1)


def test_a_column_with_too_few_rows_has_no_net_psi(deployed: Records) -> None:
    few = psi("score", "insufficient_data", None, n=3)
    deployed.result("2026-01-19", "psi", "insufficient_data", metrics=(few,))
    worst = deployed.one().worst
    assert worst is not None
    assert (worst.column, worst.status, worst.net_psi) == ("score", "insufficient_data", None)


def test_hours_are_shown_by_their_keys(records: Records) -> None:
    records.deploy(
        partitions={"every": "hour", "timezone": "UTC", "start": date(2026, 1, 1)},
        source={"uri": f"{records.lender.lake_uri}/{{partition:%Y-%m-%d-%H}}/*.parquet", "key": "application_id"},
    )
    records.day("2026-01-19-21:00")
    found = records.one()
    assert (found.partition, found.age_s) == ("2026-01-19-21:00", 2 * 3600)
    assert not found.overdue, "the hour after it has ended an hour ago, and has two"
    records.lender.now += timedelta(hours=1)
    assert records.one().overdue


def test_versions_that_are_kept_back_are_quarantined_and_hide_no_other(deployed: Records) -> None:
    lender = deployed.lender
    deployed.deploy(version="2")
    deployed.deploy(version="3")
    broken = Quarantined(model=NAME[0], version="2", stage="onboarding", of=_files(deployed, "2"), reason="no artefact")
    keep_back(lender.store, broken, lender.clock)
    lender.deploy_manifest(b"ownr: nobody", version="4")
    deployed.look()
    found = deployed.read()
    assert {name.split()[1]: each.state for name, each in found.items()} == {
        "1.0.0": "onboarding",
        "2": "quarantined",
        "3": "onboarding",
        "4": "quarantined",
    }
    assert found["ke-nano-loan 2"].reason == "no artefact"
    assert "ownr" in found["ke-nano-loan 4"].reason
    assert {each.problem for each in found.values()} == {""}


def _files(records: Records, version: str) -> str:
    [files] = [each.files for each in FleetFile(records.lender.store).read().registered if each.version == version]
    return files


@pytest.mark.parametrize("status", ["active", "retired"])
def test_a_bad_update_leaves_a_version_as_it_stands_and_is_told(records: Records, status: str) -> None:
    records.deploy(status=status)
    records.day("2026-01-19", "warn")
    records.lender.deploy_manifest(b"tier: high")
    records.look()
    found = records.one()
    assert found.state == ("warn" if status == "active" else "retired")
    assert "tier" in found.problem
    assert "tier" not in found.reason


def test_a_version_whose_runs_all_died_before_anything_was_judged_is_not_shown_as_on_its_way(deployed: Records) -> None:
    deployed.result("registry", "pipeline", "error", asset="run", reason="5 runs in a row ended without a result")
    found = deployed.one()
    assert (found.state, found.kind, found.reason) == ("error", "pipeline", "5 runs in a row ended without a result")
    deployed.result("registry", "pipeline", "ok", asset="run")
    assert deployed.one().state == "onboarding"


def test_a_retired_version_is_nothing_else(deployed: Records) -> None:
    deployed.day("2026-01-19", "breach")
    deployed.deploy(status="retired", source=deployed.lender.manifest()["source"] | {"sla_hours": 6})
    found = deployed.one()
    assert (found.state, found.partition, found.overdue, found.reason) == ("retired", None, False, "")


@pytest.mark.parametrize("data", [b"", b'{"model": "ke', b'{"verdict": "fine"}'])
def test_a_result_that_cannot_be_read_is_an_error_of_its_version_alone(deployed: Records, data: bytes) -> None:
    deployed.deploy(version="2")
    deployed.day("2026-01-19")
    key = "results/ke-nano-loan/1.0.0/2026-01-19/csi/0002.json"
    deployed.lender.store.put(key, data)
    found = deployed.read()
    assert [each.state for each in found.values()] == ["error", "onboarding"]
    assert key in found["ke-nano-loan 1.0.0"].reason


def test_looking_writes_nothing(deployed: Records) -> None:
    deployed.day("2026-01-19")
    before = {key: deployed.lender.store.get(key).data for key in deployed.lender.listed()}
    deployed.read()
    assert {key: deployed.lender.store.get(key).data for key in deployed.lender.listed()} == before


def test_a_version_costs_few_requests_however_long_its_history(s3_lender: Any, s3_server: Any) -> None:
    records = Records(s3_lender)
    records.deploy()
    for day in range(1, 19):
        records.day(f"2026-01-{day:02d}")
    registered = FleetFile(s3_lender.store).read().registered

    def requests() -> int:
        before = s3_server.requests
        [found] = statuses(s3_lender.settings, registered, s3_lender.clock)
        assert (found.state, found.partition) == ("ok", "2026-01-18")
        return int(s3_server.requests) - before

    markers, listings, reads = 2, 2, 5
    assert requests() == markers + listings + reads
    for attempt in range(3 * ATTEMPTS):
        records.result("2026-01-18", "csi", reason=f"attempt {attempt}", status="warn" if attempt % 2 == 0 else "ok")
    assert requests() == markers + listings + reads, "only the newest attempt of an asset is read"


def test_a_version_without_live_results_costs_a_bounded_number_of_requests(s3_lender: Any, s3_server: Any) -> None:
    records = Records(s3_lender)
    records.deploy()
    for day in range(1, 13):
        records.day(f"2026-01-{day:02d}", live=False, trigger="backfill")
    for attempt in range(2 * ATTEMPTS):
        records.result("2026-01-12", "psi", live=False, trigger="backfill", reason=f"attempt {attempt}")
    before = s3_server.requests
    assert records.one().partition == "2026-01-12"
    snapshot, markers, listings, reads = 2, 2, 2 * LOOK_BACK + 1, ATTEMPTS + LOOK_BACK - 1 + 4
    assert s3_server.requests - before == snapshot + markers + listings + reads


def test_a_store_that_cannot_be_reached_is_no_state_of_a_version(
    deployed: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = LocalStore.list

    def unreachable(store: LocalStore, prefix: str = "") -> Any:
        if prefix.startswith("results/"):
            raise InfrastructureError(f"Could not list {prefix}.")
        return listing(store, prefix)

    monkeypatch.setattr(LocalStore, "list", unreachable)
    with pytest.raises(InfrastructureError, match="results/ke-nano-loan/1"):
        deployed.read()
