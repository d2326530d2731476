"""The columns that an incident is about."""

from __future__ import annotations

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.state import Told
from monitoring_assets.results import Metric, newest_of_asset
from resources.object_store import ObjectStore


def worst_columns(store: ObjectStore, about: About, told: Told) -> tuple[Metric, ...]:
    """The metrics that made a drift episode as grave as it is, the largest first. Raises InfrastructureError."""
    if told.track != "drift":
        return ()
    found: dict[str | None, Metric] = {}
    for kind in ("psi", "csi"):
        folder = layout.results(about.model, about.version, layout.encoded(told.at), kind)
        result = newest_of_asset(store, folder, kind)
        for each in result.metrics if result else ():
            if each.metric == kind and each.segment is None and each.status in ("warn", "breach"):
                # The first metric of a column is that of its deciding window.
                found.setdefault(each.column, each)
    return tuple(sorted(found.values(), key=lambda each: -(each.net_value or 0.0)))
