"""What results say to the policy: of every result a level for a kind of episode, and the words for it.

Results come as rows (`past.rows`), one of them or a year of a thousand models: the publisher and the backtest read
them with the same eyes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from monitoring_assets.alerting.episodes import Seen
from monitoring_assets.alerting.levels import CLEAR, CRITICAL, SILENT, WARN, Shifts, levels
from monitoring_assets.alerting.policy import Policy
from monitoring_assets.quarantine import ASSETS

LEVELS = {
    "ok": CLEAR,
    "warn": WARN,
    "breach": CRITICAL,
    "insufficient_data": SILENT,
    "stale": WARN,
    "quarantined": WARN,
    "error": CRITICAL,
}
EPISODES = {"psi": "drift", "csi": "drift", "quality": "quality", "performance": "performance", "pipeline": "pipeline"}
VERSION = ["model", "version"]
FOUND = {
    "row": pl.UInt32,
    "episode": pl.String,
    "level": pl.Int64,
    "reached": pl.Int64,
    "columns": pl.Int64,
    "worst": pl.String,
    "net": pl.Float64,
    "threshold": pl.Float64,
    "reason": pl.String,
    "shift": pl.Float64,
    "weekly": pl.Float64,
}
"""Columns of findings. ``reached`` of ``columns`` columns are at ``threshold`` or above, ``worst`` with a net PSI of
``net``; ``shift`` and ``weekly`` are those of `episodes.Seen`, null where they were not measured."""
METRIC = (
    "metric",
    "column",
    "window",
    "value",
    "net_value",
    "significant",
    "net_without_worst",
    "season_net_value",
    "season_significant",
    "status",
)
"""What is read of a metric."""


def find(results: pl.DataFrame, policies: Mapping[tuple[str, str], Policy]) -> pl.DataFrame:
    """Findings of results, of some two: ``row`` is the position of the result.

    ``policies`` holds that of every model and version whose drift is asked for.
    """
    # Without the metrics, which are nearly everything: whatever picks results would copy them.
    numbered = results.drop("metrics").with_row_index("row")
    numbered = numbered.with_columns(pl.col("kind").replace_strict(EPISODES).alias("episode"))
    drift = numbered.filter(pl.col("episode") == "drift").join(_limits(policies), on=VERSION, maintain_order="left")
    others = numbered.filter(pl.col("episode") != "drift")
    # A bad manifest keeps back a change only; whatever else is bad, the version, and nobody monitors that.
    unmonitored = (pl.col("status") == "quarantined") & (pl.col("asset") != ASSETS["manifest"])
    level = pl.when(unmonitored).then(CRITICAL).otherwise(pl.col("status").replace_strict(LEVELS)).alias("level")
    # Of a partition that came in time nobody writes that it is not overdue.
    came = others.filter((pl.col("asset") == "features") & pl.col("status").is_in(["ok", "warn"]))
    arrived = came.select("row", pl.lit("pipeline").alias("episode"), pl.lit(CLEAR, pl.Int64).alias("level"))
    found = [_drift(drift, _metrics(results)), others.select("row", "episode", level, "reason"), arrived]
    return pl.concat([_filled(each) for each in found]).sort("row", "episode")


def together(found: pl.DataFrame) -> pl.DataFrame:
    """Findings about one partition and kind of episode as one: the gravest, with what all of them counted.

    Takes and gives ``model``, ``version``, ``partition`` beside the columns of `find`, ``row`` apart; sorted by them.
    Takes ``asset`` too, and gives the lists of assets that `seen` speaks of.
    """
    key = [*VERSION, "partition", "episode"]
    gravest = pl.col("level") == pl.col("level").max()
    # Data comes or does not: whoever says that it came need not be who said that it did not.
    raised = (pl.col("level") >= WARN) & (pl.col("episode") != "pipeline")
    grouped = found.sort("level", "net", descending=True, nulls_last=True).group_by(key, maintain_order=True)
    return grouped.agg(
        pl.col("level").first(),
        pl.col("reached").filter(gravest).sum(),
        pl.col("columns").sum(),
        pl.col("worst", "net", "threshold", "reason").first(),
        pl.col("shift", "weekly").drop_nulls().first(),
        raised=pl.col("asset").filter(raised),
        clear=pl.col("asset").filter(pl.col("level") == CLEAR),
    ).sort(key)


def seen(together: pl.DataFrame) -> list[Seen]:
    """One partition after another of one version and kind of episode, as the rules see them."""
    shifts, weeks = (together[name].fill_null(math.nan).to_list() for name in ("shift", "weekly"))
    raised, clear = (together[name].to_list() for name in ("raised", "clear"))
    return list(map(Seen, together["level"].to_list(), shifts, weeks, raised, clear))


def why(finding: Mapping[str, Any]) -> str:
    """Half a sentence: the columns, or what the result says itself."""
    if not finding["worst"]:
        return str(finding["reason"] or "")
    reached, columns, threshold = finding["reached"], finding["columns"], finding["threshold"]
    return f"{reached} of {columns} columns at or above {threshold:g}, worst {finding['worst']} {finding['net']:.3g}"


def _limits(policies: Mapping[tuple[str, str], Policy]) -> pl.DataFrame:
    rows = [
        (model, version, *limits, policy.tier, policy.rules("drift").week)
        for (model, version), policy in policies.items()
        for limits in [(policy.psi.warn, policy.psi.critical, policy.csi.warn, policy.csi.critical)]
    ]
    names = [*VERSION, "psi_warn", "psi_critical", "csi_warn", "csi_critical", "tier", "week"]
    types = [*(2 * [pl.String]), *(4 * [pl.Float64]), *(2 * [pl.Int64])]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")


def _filled(found: pl.DataFrame) -> pl.DataFrame:
    missing = [pl.lit(None, kind).alias(name) for name, kind in FOUND.items() if name not in found.columns]
    return found.with_columns(missing).select(pl.col(name).cast(kind) for name, kind in FOUND.items())


def _metrics(results: pl.DataFrame) -> pl.DataFrame:
    """The measured metrics of the whole population, and the ``row`` of their result."""
    each = results.select("metrics").with_row_index("row").explode("metrics", empty_as_null=False).unnest("metrics")
    measured = pl.col("segment").is_null() & pl.col("net_value").is_not_null()
    return each.select("row", "segment", *METRIC).filter(measured).drop("segment")


def _drift(results: pl.DataFrame, metrics: pl.DataFrame) -> pl.DataFrame:
    results = results.with_row_index("number")
    limits = [
        pl.when(pl.col("kind") == "psi").then(f"psi_{name}").otherwise(f"csi_{name}").alias(name)
        for name in ("warn", "critical")
    ]
    asked = results.select("row", "number", "kind", "week", "tier", *limits)
    metrics = metrics.join(asked, on="row", maintain_order="left")
    judged = metrics.filter((pl.col("metric") == pl.col("kind")) & (pl.col("status") != "insufficient_data"))
    found = levels(_shifts(judged), results.height)
    worst = judged[np.maximum(found.worst, 0)] if judged.height else judged.clear(results.height)
    grave = pl.Series(found.level == CRITICAL)
    table = results.select("row", "episode", "reason").with_columns(
        level=found.level,
        reached=found.reached,
        columns=found.columns,
        worst=worst["column"],
        net=worst["net_value"],
        threshold=worst["critical"].zip_with(grave, worst["warn"]),
    )
    above = pl.col("level") >= WARN
    table = table.with_columns(pl.when(above).then(pl.col("worst", "net", "threshold")))
    return _score_of_tier_1(table.with_row_index("number"), metrics.filter(pl.col("tier") == 1), judged)


def _score_of_tier_1(table: pl.DataFrame, metrics: pl.DataFrame, judged: pl.DataFrame) -> pl.DataFrame:
    """Add what only tier 1 is asked for: the shift of the mean, the week's net PSI, the approval rate."""
    number = pl.col("number")
    means = metrics.filter(pl.col("metric") == "mean_log_odds").select(number, shift="net_value")
    weeks = judged.filter(pl.col("window") == pl.col("week"), pl.col("kind") == "psi").select(
        number, weekly="net_value"
    )
    moved = metrics.filter(pl.col("metric") == "approval_rate", pl.col("status") == "warn").select(
        number,
        approval=pl.format(
            "the approval rate moved by {} points to {}%",
            (100 * pl.col("net_value")).round(1),
            (100 * pl.col("value")).round(1),
        ),
    )
    joined = table.join(means, on="number", how="left").join(weeks, on="number", how="left")
    joined = joined.join(moved, on="number", how="left", maintain_order="left")
    only_approval = pl.col("approval").is_not_null() & (pl.col("level") < WARN)
    return joined.with_columns(
        level=pl.when(only_approval).then(WARN).otherwise("level"),
        reason=pl.when(only_approval).then("approval").otherwise("reason"),
        # A net PSI that is too small to be recorded is below any limit.
        weekly=pl.when(pl.col("shift").is_not_null()).then(pl.col("weekly").fill_null(0.0)),
    ).drop("number", "approval")


def _shifts(judged: pl.DataFrame) -> Shifts:
    def numbers(name: str) -> Any:
        return judged[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    def flags(name: str) -> Any:
        return judged[name].fill_null(value=False).to_numpy()

    return Shifts(
        result=judged["number"].cast(pl.Int64).to_numpy(),
        column=judged["column"].fill_null("").rank("dense").cast(pl.Int64).to_numpy(),
        window=judged["window"].fill_null(0).cast(pl.Int64).to_numpy(),
        net=numbers("net_value"),
        significant=flags("significant"),
        without_worst=numbers("net_without_worst"),
        season_net=numbers("season_net_value"),
        season_significant=flags("season_significant"),
        warn=numbers("warn"),
        critical=numbers("critical"),
    )
