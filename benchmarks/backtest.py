"""A policy replayed over a year of a thousand models: `scorewatch policy backtest --json` as a process of its own.

The store holds the compacted results of every day as stages write them: psi, csi of 20 columns in two windows each,
and three of quality. Most of it is noise; what pages is known, and a replay that finds anything else measures nothing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.fleet_store import FEATURE_NAMES, VERSION, manifest, model_name
from benchmarks.measure import measured
from monitoring_assets import layout
from monitoring_assets.fleet import Fleet, Member, Registered, shard_of
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.manifest_yaml import parse_manifest
from monitoring_assets.past.markers import PARTS
from monitoring_assets.past.rows import IDENTITY, schema, to_parquet
from resources.object_store import LocalStore

MODELS, DAYS = 1_000, 365
START = date(2025, 1, 1)
ROWS_A_DAY = 5_000
WINDOWS = 28, 1
EVERY = 20
"""One model in so many has one column that moves, on the days of `MOVED`; another one has a key twice on one day."""
MOVED = range(100, 110)
SPOILT = 200
QUALITY = "features", "scores", "distribution"


def run() -> dict[str, float]:
    """Wall seconds, CPU seconds and peak GiB of the process. Raises RuntimeError when it finds other pages."""
    with tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as folder:
        store = LocalStore(Path(folder) / "store")
        _register(store)
        _fill(store)
        environment = {**os.environ, "SCOREWATCH_HOME": folder, "SCOREWATCH_STORE": f"file://{folder}/store"}
        until = START + timedelta(days=DAYS)
        command = [sys.executable, "-m", "monitoring_assets", "policy", "backtest", "--json", "--until", f"{until}"]
        used = measured(command, environment)
    _check(json.loads(used.output)["present"])
    return {
        f"backtest.s_{MODELS}x{DAYS}": used.wall_s,
        "backtest.cpu_s": used.cpu_s,
        "backtest.peak_gib": used.peak_gib,
    }


def _check(found: dict[str, Any]) -> None:
    pages = [(each["model"], each["kind"], each["paged"], each["closed"]) for each in found["pages"]]
    moved = [(model_name(number), "drift", _day(MOVED[0]), _day(MOVED[-1] + 2)) for number in range(0, MODELS, EVERY)]
    spoilt = [(model_name(number), "quality", _day(SPOILT), _day(SPOILT + 2)) for number in range(1, MODELS, EVERY)]
    if sorted(pages) != sorted(moved + spoilt):
        raise RuntimeError(f"{len(moved + spoilt)} pages were made, the backtest says others: {pages[:5]} ...")


def _day(number: int) -> str:
    return f"{START + timedelta(days=number)}"


def _register(store: LocalStore) -> None:
    def registered(model: str) -> Registered:
        deployed_at = datetime.combine(START, datetime.min.time(), UTC)
        member = Member(
            manifest=parse_manifest(manifest(model), where=model), digest="", files="", deployed_at=deployed_at
        )
        return Registered(model=model, version=VERSION, fingerprint="", files="", member=member)

    FleetFile(store).write(Fleet(registered=tuple(registered(model_name(number)) for number in range(MODELS))))


def _fill(store: LocalStore) -> None:
    """Write every month's files, as the compaction does."""
    generator = np.random.default_rng(20260105)
    months: dict[str, list[int]] = {}
    for day in range(DAYS):
        months.setdefault(_day(day)[:7], []).append(day)
    for part in range(PARTS):
        numbers = [number for number in range(MODELS) if shard_of(model_name(number), VERSION, PARTS) == part]
        for month, days in months.items():
            # One result a model and day, model by model.
            of_model, of_day = np.repeat(numbers, len(days)), np.tile(days, len(numbers))
            rows = pl.concat(_results(generator, of_model, of_day)).sort(IDENTITY)
            store.put(layout.history_month(month, part), to_parquet(rows))


def _results(generator: np.random.Generator, models: Any, days: Any) -> list[pl.DataFrame]:
    moved = (models % EVERY == 0) & np.isin(days, MOVED)
    spoilt = (models % EVERY == 1) & (days == SPOILT)
    never = np.zeros_like(moved)
    means = _metrics(metric=["mean_log_odds"] * len(days), net_value=generator.normal(0, 0.1, len(days)))
    drift = [
        _rows(models, days, "psi", "psi", never, _shifts(generator, "psi", ["score"], never), means),
        _rows(models, days, "csi", "csi", moved, _shifts(generator, "csi", FEATURE_NAMES, moved)),
    ]
    counted = _metrics(metric=["rows"] * len(days), value=[float(ROWS_A_DAY)] * len(days))
    # The results of one partition and kind are its attempts, whichever asset they are of.
    quality = [
        _rows(models, days, "quality", asset, spoilt if asset == "features" else never, counted, attempt=attempt)
        for attempt, asset in enumerate(QUALITY, start=1)
    ]
    return [*drift, *quality]


def _shifts(generator: np.random.Generator, kind: str, columns: Sequence[str], moved: Any) -> pl.DataFrame:
    """Metrics of every column and window of every result; of those that ``moved`` the first column is far off."""
    each = len(columns) * len(WINDOWS)
    window = np.tile(WINDOWS, len(columns) * len(moved))
    first = np.tile(np.arange(each) < len(WINDOWS), len(moved))
    large = np.repeat(moved, each) & first & (window == 1)
    net = np.where(large, 1.82, generator.exponential(0.004, len(window)))
    return _metrics(
        metric=[kind] * len(window),
        column=np.tile(np.repeat(columns, len(WINDOWS)), len(moved)),
        window=window,
        value=net + generator.exponential(0.004, len(window)),
        net_value=net,
        n=window * ROWS_A_DAY,
        p_value=np.where(large, 0.0, generator.uniform(0.001, 1, len(window))),
        significant=large,
        threshold=np.where(large, 0.25, 0.1),
        status=np.where(large, "breach", "ok"),
        note=pl.select(pl.format("a PSI of {} would have been seen", pl.Series(net).round(4))).to_series(),
    )


def _metrics(**columns: Any) -> pl.DataFrame:
    return _typed(pl.DataFrame(columns), pl.Schema(schema()["metrics"].inner))  # type: ignore[attr-defined]


def _rows(
    models: Any, days: Any, kind: str, asset: str, bad: Any, *metrics: pl.DataFrame, attempt: int = 1
) -> pl.DataFrame:
    """The results of one kind and asset; each of ``metrics`` has as many of every result, in the same order."""
    lists = [table.to_struct().reshape((len(days), -1)).arr.to_list() for table in metrics]
    day = pl.Series([_day(number) for number in days.tolist()])
    table = pl.DataFrame(
        {
            "model": [model_name(number) for number in models.tolist()],
            "partition": day,
            "status": np.where(bad, "breach", "ok"),
            "reason": np.where(bad, "12 duplicate keys" if kind == "quality" else f"1 of {len(FEATURE_NAMES)}", ""),
            "recorded_at": day.str.to_datetime("%Y-%m-%d", time_zone="UTC") + timedelta(hours=28),
        }
    )
    fixed = {"version": VERSION, "kind": kind, "asset": asset, "attempt": attempt, "trigger": "arrival", "live": True}
    table = table.with_columns(**{name: pl.lit(value) for name, value in fixed.items()})
    return _typed(table.with_columns(pl.concat_list(lists).alias("metrics")), schema())


def _typed(table: pl.DataFrame, types: pl.Schema) -> pl.DataFrame:
    missing = [pl.lit(None, kind).alias(name) for name, kind in types.items() if name not in table.columns]
    return table.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in types.items())
