from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from monitoring_assets.assets import pipeline
from resources.errors import InfrastructureError

ALL = ("features", "scores", "distribution", "psi", "csi")
KIND = {"features": "quality", "scores": "quality", "distribution": "quality", "psi": "psi", "csi": "csi"}
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
DAY, END = DAYS[1], datetime(2026, 1, 3, tzinfo=UTC)
HOUR = timedelta(hours=1)
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture
def version(lender: Any) -> Any:
    """A version with data for three days."""
    for day in DAYS:
        lender.land(day)
    return lender.onboard(precomputed=True)


def everything(lender: Any) -> dict[str, tuple[bytes, str]]:
    """All of the store: bytes, and a fingerprint that a rewrite changes."""
    return {info.key: (lender.store.get(info.key).data, info.fingerprint) for info in lender.store.list()}


class Interfering:
    """A store in which something happens before the first swap of a key below ``prefix``."""

    def __init__(self, store: Any, prefix: str, happens: Callable[[], None]) -> None:
        self._store, self._prefix, self._happens = store, prefix, [happens]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        if key.startswith(self._prefix) and self._happens:
            self._happens.pop()()
        found: str | None = self._store.compare_and_swap(key, data, etag)
        return found


def test_every_asset_of_every_day_has_data_a_result_and_a_marker(lender: Any, run: Any, attempts: Any) -> None:
    for day in DAYS:
        lender.land(day)
    version = lender.onboard()
    recorded = run(version, DAYS)
    assert set(recorded) == {(asset, day) for asset in ALL for day in DAYS}
    for (asset, day), each in recorded.items():
        assert (each.outcome.state, each.result.status, each.result.reason) == ("materialised", "ok", "")
        assert (each.result.kind, each.result.partition, each.result.recorded_at) == (KIND[asset], day, lender.now)
        assert attempts(version, day, KIND[asset], asset) == [each.result]
        assert version.current(asset, day) is not None
    for day in DAYS:
        found = [
            key.removeprefix(f"pending/ke-nano-loan/1.0.0/{day}/")
            for key in lender.listed(f"pending/ke-nano-loan/1.0.0/{day}")
        ]
        assert found == ["csi/0001", "psi/0001", "quality/0001", "quality/0002", "quality/0003"]


def test_doing_it_again_writes_nothing(lender: Any, run: Any, version: Any) -> None:
    run(version, DAYS)
    before = everything(lender)
    again = run(version, DAYS)
    assert {each.outcome.state for each in again.values()} == {"reused"}
    run(version, [DAY], ("psi",))
    run(version, DAYS, trigger="catch-up")
    assert everything(lender) == before


def test_force_does_the_work_again_to_the_same_bytes(lender: Any, run: Any, version: Any) -> None:
    run(version, DAYS)
    before = everything(lender)
    again = run(version, DAYS, force=True)
    assert {again[asset, DAY].outcome.state for asset in ("features", "scores", "distribution")} == {"materialised"}
    after = everything(lender)
    assert {key: data for key, (data, _) in after.items()} == {key: data for key, (data, _) in before.items()}
    rewritten = {key.split("/")[1] for key, (_, fingerprint) in after.items() if fingerprint != before[key][1]}
    assert rewritten >= {"features", "scores", "distribution"}


def test_another_store_gets_the_same_bytes(lender: Any, run: Any, version: Any) -> None:
    from resources.object_store import open_store

    run(version, DAYS)
    elsewhere = open_store(f"{lender.settings.store_uri}-again")
    run(replace(version, store=elsewhere), DAYS)
    for info in elsewhere.list():
        assert elsewhere.get(info.key) == lender.store.get(info.key), info.key
    assert len(list(elsewhere.list("results"))) == len(lender.listed("results")) == 15


def test_corrected_data_replaces_and_never_appends(
    lender: Any, run: Any, attempts: Any, stored: Any, version: Any
) -> None:
    run(version, DAYS)
    old = version.current("features", DAY)
    corrected = lender.rows("corrected", 300)
    lender.land(DAY, corrected)
    recorded = run(version, [DAY])
    assert {each.outcome.state for each in recorded.values()} == {"materialised"}
    assert stored(version, "features", DAY)["application_id"].to_list() == corrected["application_id"].to_list()
    assert stored(version, "scores", DAY).height == 300
    assert version.current("features", DAY).input_digest != old.input_digest
    assert lender.store.head(version.path("features", DAY).file(old.input_digest, "part-00000.parquet")), (
        "readers may be in it"
    )
    for asset in ALL:
        results = attempts(version, DAY, KIND[asset], asset)
        assert [result.attempt for result in results] == sorted({result.attempt for result in results})
        assert results[-1].inputs != results[0].inputs
    assert attempts(version, DAYS[0], "psi")[-1].attempt == 1


@pytest.mark.parametrize("data", [b"no Parquet", None], ids=["blocked", "missing"])
def test_features_that_end_it_leave_results_of_every_asset_even_when_run_alone(
    lender: Any, run: Any, attempts: Any, version: Any, data: bytes | None
) -> None:
    day = DAY if data else "2026-01-04"
    if data:
        lender.land(day, data)
    recorded = run(version, [day], ("features",), trigger="arrival")
    assert set(recorded) == {(asset, day) for asset in ALL}
    why = recorded["features", day].result.reason
    for asset in ALL[1:]:
        [result] = attempts(version, day, KIND[asset], asset)
        assert (result.status, result.metrics) == ("insufficient_data", ())
        assert result.reason.endswith(f"features is {'blocked' if data else 'missing'}: {why}")
    run(version, [day], ("features",), trigger="arrival")
    assert [len(attempts(version, day, KIND[asset], asset)) for asset in ALL] == [1] * 5


def test_stages_that_are_run_one_by_one_leave_what_a_run_of_the_range_leaves(
    lender: Any, run: Any, version: Any
) -> None:
    """As Airflow runs them: a stage begins when the one before it was well. Of one day data is missing, one is bad."""
    from resources.object_store import open_store

    days = [*DAYS, "2026-01-04", "2026-01-05"]
    lender.land(days[-1])
    lender.land(DAY, b"no Parquet")
    run(version, days)

    elsewhere = replace(version, store=open_store(f"{lender.settings.store_uri}-again"))
    for day in days:
        for stage in (ALL[:1], ALL[1:2], ALL[2:]):
            recorded = run(elsewhere, [day], stage)
            if not all(each.outcome.usable for each in recorded.values()):
                break

    assert found(elsewhere.store) == found(version.store)
    assert len(found(version.store)) == 5 * 5 + 3 * 5, "results of all days, and pointers of three"


def found(store: Any) -> dict[str, Any]:
    """Results, but for when and why they were made, and pointers as they are."""
    everything = {info.key: store.get(info.key).data for info in store.list()}
    results = {key: json.loads(data) for key, data in everything.items() if key.startswith("results/")}
    pointers = {key: data for key, data in everything.items() if key.endswith("/current.json")}
    outside = ("attempt", "recorded_at", "trigger", "live")
    return pointers | {
        key: {name: value for name, value in result.items() if name not in outside} for key, result in results.items()
    }


def test_a_blocked_correction_leaves_the_partition_as_it_was(
    lender: Any, run: Any, attempts: Any, stored: Any, version: Any
) -> None:
    run(version, DAYS)
    before = {asset: version.current(asset, DAY) for asset in ALL}
    lender.land(DAY, lender.rows("corrected").drop("age"))
    recorded = run(version, [DAY])
    assert recorded["features", DAY].outcome.state == "blocked"
    assert {asset: version.current(asset, DAY) for asset in ALL} == before
    assert stored(version, "features", DAY).height == 400
    assert [result.status for result in attempts(version, DAY, "psi")] == ["ok", "insufficient_data"]
    lender.land(DAY)
    assert {each.result.status for each in run(version, [DAY]).values()} == {"ok"}


class TestLive:
    """Only an arrival pages, soon after it was due, and not for what is long past."""

    @pytest.mark.parametrize(
        ("arrived", "now", "live"),
        [
            pytest.param(END + HOUR, END + 2 * HOUR, True, id="at once"),
            pytest.param(END - 3 * HOUR, END + 24 * HOUR, True, id="the grace begins with the partition's end"),
            pytest.param(END - 3 * HOUR, END + 25 * HOUR, False, id="a day after the end"),
            pytest.param(END + HOUR, END + 25 * HOUR, True, id="the grace begins with the data"),
            pytest.param(END + HOUR, END + 26 * HOUR, False, id="a day after the data"),
            pytest.param(END + 60 * HOUR, END + 61 * HOUR, True, id="late data"),
            pytest.param(END + 94 * HOUR, END + 95 * HOUR, True, id="three partitions old"),
            pytest.param(END + 95 * HOUR, END + 96 * HOUR, False, id="four partitions old"),
        ],
    )
    def test_an_arrival_is_live_within_its_grace(
        self, lender: Any, run: Any, version: Any, arrived: datetime, now: datetime, live: bool
    ) -> None:
        lender.land(DAY, at=arrived)
        lender.now = now
        recorded = run(version, [DAY], ("features", "scores"), trigger="arrival")
        assert {each.result.live for each in recorded.values()} == {live}

    @pytest.mark.parametrize("trigger", ["backfill", "catch-up", "onboarding"])
    def test_nothing_else_is_ever_live(self, lender: Any, run: Any, version: Any, trigger: str) -> None:
        lender.land(DAY, at=END + HOUR)
        lender.now = END + 2 * HOUR
        for each in run(version, [DAY], trigger=trigger).values():
            assert (each.result.live, each.result.trigger) == (False, trigger)

    @pytest.mark.parametrize(("hours", "live"), [(24, True), (25, False)])
    def test_a_partition_that_never_came_is_due_at_its_end(self, lender: Any, run: Any, hours: int, live: bool) -> None:
        version = lender.onboard(precomputed=True)
        lender.now = END + hours * HOUR
        assert {each.result.live for each in run(version, [DAY], trigger="arrival").values()} == {live}

    def test_bad_data_that_came_late_is_live_too(self, lender: Any, run: Any, version: Any) -> None:
        lender.land(DAY, b"no Parquet", at=END + 60 * HOUR)
        lender.now = END + 61 * HOUR
        recorded = run(version, [DAY], trigger="arrival")
        assert recorded["features", DAY].outcome.state == "blocked"
        assert {each.result.live for each in recorded.values()} == {True}

    def test_a_bad_correction_of_old_data_is_not_live(self, lender: Any, run: Any, version: Any) -> None:
        lender.land(DAY, at=END)
        run(version, [DAY])
        lender.land(DAY, b"no Parquet", at=END + 60 * HOUR)
        lender.now = END + 61 * HOUR
        recorded = run(version, [DAY], trigger="arrival")
        assert {each.result.live for each in recorded.values()} == {False}

    def test_an_hour_has_two_hours_of_grace(self, lender: Any, run: Any) -> None:
        version = lender.onboard(
            precomputed=True,
            partitions={"every": "hour", "timezone": "UTC", "start": date(2026, 1, 1)},
            source={"uri": f"{lender.lake_uri}/{{partition:%Y-%m-%d-%H}}/*.parquet", "key": "application_id"},
        )
        lender.land("2026-01-02-23", at=END - HOUR)
        for minutes, live in ((121, False), (120, True)):
            lender.now = END + timedelta(minutes=minutes)
            recorded = run(version, ["2026-01-02-23:00"], ("features",), trigger="arrival")
            assert recorded["features", "2026-01-02-23:00"].result.live == live

    @pytest.mark.parametrize(
        ("arrived", "now", "live"),
        [
            pytest.param(350, 365, True, id="within the SLA, six hours have ended since"),
            pytest.param(361, 365, False, id="after it"),
            pytest.param(350, 475, False, id="within the SLA, and recorded after the grace"),
            pytest.param(200, 210, True, id="three partitions old"),
        ],
    )
    def test_data_that_comes_within_a_lax_sla_is_live_however_many_partitions_ended_since(
        self, lender: Any, run: Any, arrived: int, now: int, live: bool
    ) -> None:
        version = lender.onboard(
            precomputed=True,
            partitions={"every": "hour", "timezone": "UTC", "start": date(2026, 1, 1)},
            source={
                "uri": f"{lender.lake_uri}/{{partition:%Y-%m-%d-%H}}/*.parquet",
                "key": "application_id",
                "sla_hours": 6,
            },
        )
        lender.land("2026-01-02-23", at=END + timedelta(minutes=arrived))
        lender.now = END + timedelta(minutes=now)
        recorded = run(version, ["2026-01-02-23:00"], ("features",), trigger="arrival")
        assert recorded["features", "2026-01-02-23:00"].result.live == live

    def test_the_grace_is_what_the_fleets_file_says_and_the_usual_where_that_is_bad(
        self, lender: Any, run: Any, version: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        lender.land(DAY, at=END)
        for text, hours, live in (
            ("grace_hours: {day: 3, hour: 1}", 4, False),
            ("grace_hours: {day: 3, hour: 1}", 3, True),
            ("grace_hours: {day: soon}", 24, True),
        ):
            lender.store.put("fleet.yaml", text.encode())
            lender.now = END + hours * HOUR
            recorded = run(version, [DAY], ("features",), trigger="arrival")
            assert recorded["features", DAY].result.live == live, text
            for info in lender.store.list("results/"):
                lender.store.delete(info.key)
        assert "grace_hours.day" in caplog.text

    def test_work_that_a_backfill_did_gets_a_live_attempt(
        self, lender: Any, run: Any, attempts: Any, version: Any
    ) -> None:
        lender.land(DAY, at=END)
        lender.now = END + HOUR
        before = run(version, [DAY])
        lender.now = END + 2 * HOUR
        recorded = run(version, [DAY], trigger="arrival")
        for asset in ALL:
            quiet, live = attempts(version, DAY, KIND[asset], asset)
            assert (quiet.live, live.live, live.trigger, live.recorded_at) == (False, True, "arrival", lender.now)
            assert live.digest == quiet.digest == before[asset, DAY].result.digest
            assert live.metrics == quiet.metrics
            assert recorded[asset, DAY].outcome.state == "reused"
        run(version, [DAY], trigger="arrival")
        run(version, [DAY])
        assert [len(attempts(version, DAY, KIND[asset], asset)) for asset in ALL] == [2] * 5


def lose_leases(version: Any) -> None:
    """What remains when a lease ran out, because its process was held up for a while."""
    for info in version.store.list("leases/"):
        version.store.delete(info.key)


class TestSwap:
    """The swap of the pointer is the guarantee, whatever else goes wrong."""

    @pytest.mark.parametrize("asset", ALL)
    def test_a_run_that_dies_before_it_leaves_the_old_partition(
        self, lender: Any, run: Any, stored: Any, version: Any, asset: str
    ) -> None:
        def die() -> None:
            raise KeyboardInterrupt

        run(version, DAYS)
        before = {each: (version.current(each, DAY), stored(version, each, DAY)) for each in ALL}
        lender.land(DAY, lender.rows("corrected").with_columns(pl.col("income") + 3))
        with pytest.raises(KeyboardInterrupt):
            run(replace(version, store=Interfering(version.store, f"data/{asset}/", die)), [DAY])
        for each in ALL[ALL.index(asset) :]:
            assert version.current(each, DAY) == before[each][0]
            assert stored(version, each, DAY).equals(before[each][1])
        recorded = run(version, [DAY])
        states = [recorded[each, DAY].outcome.state for each in ALL]
        assert states == ["reused"] * ALL.index(asset) + ["materialised"] * (5 - ALL.index(asset))

    def test_losing_it_to_a_run_with_other_inputs_is_an_error_and_the_other_data_stands(
        self, lender: Any, run: Any, stored: Any, version: Any
    ) -> None:
        def rival() -> None:
            lose_leases(version)
            lender.land(DAY, lender.rows("newer", 123))
            run(version, [DAY], ("features",))

        with pytest.raises(InfrastructureError) as lost:
            run(replace(version, store=Interfering(version.store, "data/features/", rival)), [DAY], ("features",))
        assert str(lost.value) == (
            f"ke-nano-loan 1.0.0, features of {DAY}: another run published this partition from other inputs at the "
            "same time. Its data stands; run the partition again."
        )
        assert stored(version, "features", DAY).height == 123

    def test_losing_it_to_a_run_with_the_same_inputs_is_fine(self, run: Any, attempts: Any, version: Any) -> None:
        def rival() -> None:
            lose_leases(version)
            run(version, [DAY])

        recorded = run(replace(version, store=Interfering(version.store, "data/features/", rival)), [DAY])
        assert {each.result.status for each in recorded.values()} == {"ok"}
        assert [len(attempts(version, DAY, KIND[asset], asset)) for asset in ALL] == [1] * 5

    def test_two_runs_at_once_leave_one_partition_and_no_lost_result(
        self, run: Any, attempts: Any, stored: Any, version: Any
    ) -> None:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                run(version, [DAY])
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        assert stored(version, "scores", DAY).height == 400
        for asset in ALL:
            results = attempts(version, DAY, KIND[asset], asset)
            assert {result.digest for result in results} == {results[0].digest}
            assert version.current(asset, DAY) is not None


@pytest.mark.parametrize(
    ("every", "start", "field", "folders", "keys", "windows"),
    [
        (
            "hour",
            date(2026, 1, 1),
            "%Y-%m-%d-%H",
            ["2026-01-01-00", "2026-01-01-01", "2026-01-01-02"],
            ["2026-01-01-00:00", "2026-01-01-01:00", "2026-01-01-02:00"],
            {1, 24, 168},
        ),
        ("week", date(2026, 1, 5), "%G-W%V", ["2026-W02", "2026-W03"], ["2026-01-05", "2026-01-12"], {1, 2, 4}),
        ("month", date(2026, 1, 1), "%Y-%m", ["2026-01", "2026-02"], ["2026-01-01", "2026-02-01"], {1, 2, 3}),
    ],
)
def test_other_partitions_than_days(
    lender: Any,
    run: Any,
    attempts: Any,
    stored: Any,
    every: str,
    start: date,
    field: str,
    folders: list[str],
    keys: list[str],
    windows: set[int],
) -> None:
    version = lender.onboard(
        precomputed=True,
        partitions={"every": every, "timezone": "UTC", "start": start},
        source={"uri": f"{lender.lake_uri}/{{partition:{field}}}/*.parquet", "key": "application_id"},
    )
    for folder in folders:
        lender.land(folder)
    recorded = run(version, keys)
    assert {each.result.status for each in recorded.values()} == {"ok"}
    for folder, key in zip(folders, keys, strict=True):
        assert stored(version, "features", key)["income"].equals(lender.rows(folder)["income"])
        assert attempts(version, key, "csi") == [recorded["csi", key].result]
    assert set(stored(version, "psi", keys[-1])["window"]) == windows
    assert [each.partition for each in recorded["psi", keys[-1]].result.inputs] == [*keys, None]
    assert not [key for key in lender.listed() if ":" in key]


@pytest.mark.parametrize(
    ("timezone", "day", "end"),
    [
        ("Africa/Nairobi", "2026-01-02", datetime(2026, 1, 2, 21, tzinfo=UTC)),
        ("America/New_York", "2026-01-02", datetime(2026, 1, 3, 5, tzinfo=UTC)),
        ("America/New_York", "2026-03-08", datetime(2026, 3, 9, 4, tzinfo=UTC)),
    ],
)
def test_a_day_is_a_day_where_the_lender_is(
    lender: Any, run: Any, stored: Any, timezone: str, day: str, end: datetime
) -> None:
    version = lender.onboard(
        precomputed=True,
        partitions={"every": "day", "timezone": timezone, "start": date(2026, 1, 1)},
        source={"uri": f"{lender.lake_uri}/{{partition:%Y/%m/%d}}/*.parquet", "key": "application_id"},
    )
    lender.land(day.replace("-", "/"), lender.rows(day), at=end - HOUR)
    for now, live in ((end + timedelta(hours=24, seconds=1), False), (end + 24 * HOUR, True)):
        lender.now = now
        recorded = run(version, [day], ("features",), trigger="arrival")["features", day]
        assert (recorded.outcome.rows, recorded.result.live) == (400, live)
    assert stored(version, "features", day)["income"].equals(lender.rows(day)["income"])


def test_names_that_hold_markup_are_only_names(lender: Any, run: Any, attempts: Any) -> None:
    rows = lender.rows("reference", 3_000).rename({"income": MARKUP})
    features = [{"name": MARKUP, "kind": "numeric"}, {"name": "region", "kind": "categorical"}]
    version = lender.onboard(precomputed=True, rows=rows, features=features, segments=["region"])
    for day in DAYS:
        lender.land(day, lender.rows(day).rename({"income": MARKUP}).with_columns(region=pl.lit(MARKUP)))
    recorded = run(version, DAYS)
    assert {each.outcome.state for each in recorded.values()} == {"materialised"}
    assert recorded["csi", DAY].result.status == "breach"
    assert {metric.column for metric in attempts(version, DAY, "csi")[0].metrics} == {MARKUP, "region"}
    assert not [key for key in lender.listed() if "<" in key]


NUMBERS = [None, float("nan"), float("inf"), -float("inf"), -999.0, 0.0, -0.0, 1e-320, 1e308, -1e308, 50.0, 55.5]
TEXTS = [None, "", " ", "north", "NORTH", "other", "null", "nan", MARKUP, "a\x00b", "=1+1", "é" * 300, "\u202e", "0"]


def odd(draw: random.Random) -> pl.DataFrame:
    """A partition of extreme values, each column from a few of them."""
    rows = draw.choice([0, 1, 2, 30, 400])

    def column(values: list[Any]) -> list[Any]:
        some = draw.sample(values, draw.randint(1, 4))
        return [draw.choice(some) for _ in range(rows)]

    return pl.DataFrame(
        {
            "application_id": range(rows),
            "income": column(NUMBERS),
            "age": column([None, 0, 1, -(2**62), 2**62, 30, 40]),
            "region": column(TEXTS),
            "product": column(TEXTS),
            "vendor_score": column([0.0, 1.0, 0.5, 1e-300, 0.9999999999, None, 1.5][: draw.choice([5, 5, 7])]),
        },
        schema_overrides={"income": pl.Float64, "age": pl.Int64, "region": pl.String, "product": pl.String},
    ).with_columns(pl.col("vendor_score").cast(pl.Float64))


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_values_every_day_gets_its_results_and_none_holds_nan(
    lender: Any, run: Any, attempts: Any, seed: int
) -> None:
    draw = random.Random(seed)  # noqa: S311 - test data
    reference = odd(draw).with_columns(vendor_score=pl.lit(0.5)) if seed % 4 == 3 else None
    if reference is not None and not reference.height:
        reference = lender.rows("reference", 1)
    version = lender.onboard(precomputed=bool(seed % 2), rows=reference, segments=["product"])
    for day in DAYS:
        lender.land(day, odd(draw))
    recorded = run(version, DAYS)
    for day in DAYS:
        assert {recorded[asset, day].outcome.state for asset in ALL} <= {"materialised", "blocked", "skipped"}
        for kind, number in (("quality", 3), ("psi", 1), ("csi", 1)):
            assert len(attempts(version, day, kind)) == number
        if recorded["features", day].outcome.rows:
            assert recorded["features", day].outcome.state == "materialised"
    assert {each.outcome.state for each in run(version, DAYS).values()} <= {"reused", "blocked", "skipped"}


def test_everything_on_s3_with_registry_store_and_lake_in_three_buckets(
    s3_lender: Any, run: Any, attempts: Any, stored: Any
) -> None:
    lender = s3_lender
    version = lender.onboard(segments=["product"])
    for day in DAYS:
        lender.land(day)
    lender.land(DAY, b"PAR1 cut short", name="1.parquet")
    recorded = run(version, DAYS)
    for day in (DAYS[0], DAYS[2]):
        assert {recorded[asset, day].result.status for asset in ALL} == {"ok"}
    assert recorded["features", DAY].result.reason.startswith("1.parquet: ")
    assert [recorded[asset, DAY].result.status for asset in ALL] == ["breach"] + ["insufficient_data"] * 4
    assert stored(version, "scores", DAYS[2]).height == 400
    lender.lake.delete(f"{DAY}/1.parquet")
    assert {each.result.status for each in run(version, [DAY]).values()} == {"ok"}
    assert [result.status for result in attempts(version, DAY, "psi")] == ["insufficient_data", "ok"]
    before = lender.listed()
    assert {each.outcome.state for each in run(version, [DAYS[0], DAY]).values()} == {"reused"}
    assert lender.listed() == before
    assert {key.split("/")[0] for key in before} == {"data", "manifests", "pending", "reference", "results"}
    registered = [info.key for info in lender.registry.list()]
    assert registered == [f"ke-nano-loan/1.0.0/{name}" for name in ("model.onnx", "model.yaml", "reference.parquet")]


def test_lost_features_on_s3_are_trouble_of_the_store_and_named(s3_lender: Any, run: Any) -> None:
    version = s3_lender.onboard()
    s3_lender.land(DAY)
    run(version, [DAY], ("features",))
    [key] = [key for key in s3_lender.listed("data/features") if key.endswith("part-00000.parquet")]
    s3_lender.store.delete(key)
    with pytest.raises(InfrastructureError, match=f"the stored features of {DAY} cannot be read"):
        run(version, [DAY], ("scores",))


@pytest.mark.parametrize("small", [0, 20_000])
def test_partitions_of_few_rows_are_under_way_together_and_those_of_many_one_after_the_other(
    lender: Any, run: Any, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    for day in DAYS:
        lender.land(day)
    version, lock, under_way, most = lender.onboard(), threading.Lock(), dict[str, int](), dict[str, int]()
    together = {asset: threading.Event() for asset in ("scores", "distribution")}

    def counted(module: Any) -> None:
        materialise, asset = module.materialise, module.__name__.rpartition(".")[2]

        def one(*given: Any, **named: Any) -> Any:
            with lock:
                under_way[asset] = under_way.get(asset, 0) + 1
                most[asset] = max(most.get(asset, 0), under_way[asset])
                if under_way[asset] == len(DAYS):
                    together[asset].set()
            if small:
                assert together[asset].wait(30)
            found = materialise(*given, **named)
            with lock:
                under_way[asset] -= 1
            return found

        monkeypatch.setattr(module, "materialise", one)

    counted(pipeline.scores)
    counted(pipeline.distribution)
    monkeypatch.setattr(pipeline, "SMALL", small)
    recorded = run(version, DAYS)
    assert most == dict.fromkeys(together, len(DAYS) if small else 1)
    assert {each.outcome.state for each in recorded.values()} == {"materialised"}


def test_a_stage_makes_the_same_of_partitions_whether_they_are_under_way_together_or_not(
    lender: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS:
        lender.land(day)
    version = lender.onboard()
    run(version, DAYS)
    before = {key: data for key, (data, _) in everything(lender).items() if key.startswith("data/")}
    monkeypatch.setattr(pipeline, "SMALL", 0)
    run(version, DAYS, force=True)
    assert {key: data for key, (data, _) in everything(lender).items() if key.startswith("data/")} == before
