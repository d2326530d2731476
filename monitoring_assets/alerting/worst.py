"""The columns that an incident is about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.levels import CRITICAL, WARN, FloatArray, IntArray, Shifts, of_each
from monitoring_assets.alerting.policy import Limits
from monitoring_assets.alerting.state import Told
from monitoring_assets.results import Metric, newest_of_asset
from resources.object_store import ObjectStore


def worst_columns(store: ObjectStore, about: About, told: Told) -> tuple[Metric, ...]:
    """The metrics that made a drift episode as grave as it is, the largest first, each with the threshold of the policy
    that it reached. Raises InfrastructureError.
    """
    if told.track != "drift":
        return ()
    found: list[Metric] = []
    for kind, limits in (("psi", about.policy.psi), ("csi", about.policy.csi)):
        folder = layout.results(about.model, about.version, layout.encoded(told.at), kind)
        result = newest_of_asset(store, folder, kind)
        of_kind = [each for each in result.metrics if each.metric == kind] if result else []
        found += _reached(of_kind, limits)
    return tuple(sorted(found, key=lambda each: -(each.net_value or 0.0)))


def _reached(metrics: Iterable[Metric], limits: Limits) -> Iterator[Metric]:
    """Of each column that reaches a threshold, the metric of the window that is the gravest."""
    # Not by their status: that is by the manifest's thresholds, and the fleet's may decide.
    judged = [
        each
        for each in metrics
        if each.segment is None and each.net_value is not None and each.status != "insufficient_data"
    ]
    gravest: dict[str | None, tuple[int, Metric]] = {}
    for each, level in zip(judged, of_each(_shifts(judged, limits)).tolist(), strict=True):
        # The first one of a column is that of its deciding window.
        if level >= WARN and level > gravest.get(each.column, (0, each))[0]:
            gravest[each.column] = level, each
    for level, each in gravest.values():
        threshold = limits.critical if level == CRITICAL else limits.warn
        yield each.model_copy(update={"threshold": threshold})


def _shifts(judged: Sequence[Metric], limits: Limits) -> Shifts:
    def numbers(values: Iterable[float | None]) -> FloatArray:
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)

    def all_equal(value: float) -> FloatArray:
        return np.full(len(judged), value)

    rows: IntArray = np.arange(len(judged))
    return Shifts(
        result=np.zeros_like(rows),
        column=rows,
        window=rows,
        net=numbers(each.net_value for each in judged),
        significant=np.array([bool(each.significant) for each in judged], dtype=bool),
        without_worst=numbers(each.net_without_worst for each in judged),
        season_net=numbers(each.season_net_value for each in judged),
        season_significant=np.array([bool(each.season_significant) for each in judged], dtype=bool),
        warn=all_equal(limits.warn),
        critical=all_equal(limits.critical),
    )
