"""From a version's frozen columns to what the counting engine counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monitoring_assets.stability.binning import NumericBins
from monitoring_assets.stability.profile import ColumnProfile
from resources.engines.counting import CategoricalColumn, CountPlan, NumericColumn, SegmentColumn


def count_plan(
    columns: Sequence[ColumnProfile],
    score: str,
    score_range: tuple[float, float],
    segments: Mapping[str, Sequence[str]],
) -> CountPlan:
    """The plan that counts ``columns`` in their bins, overall and for each segment's values."""
    return CountPlan(
        columns=tuple(_column(column) for column in columns),
        score=score,
        score_range=score_range,
        segments=tuple(SegmentColumn(name, tuple(values)) for name, values in segments.items()),
    )


def _column(column: ColumnProfile) -> NumericColumn | CategoricalColumn:
    bins = column.bins
    if isinstance(bins, NumericBins):
        return NumericColumn(column.name, bins.points, bins.edges, bins.specials, bins.unseen, column.tails)
    return CategoricalColumn(column.name, bins.categories, bins.specials)
