"""The second verdict of psi and csi: short windows that moved, against the earlier cycles of their partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from monitoring_assets.assets.drift_inputs import Drift, look_back
from monitoring_assets.assets.history import Distributions, History
from monitoring_assets.assets.judging import thresholds
from monitoring_assets.partitions import PartitionCalendar, cycle_length, windows_for
from monitoring_assets.stability.profile import WHOLE
from monitoring_assets.stability.psi import BoolArray, IntArray, merge_bins
from monitoring_assets.stability.seasons import SeasonVerdicts, judge_seasons
from monitoring_assets.stability.significance import alpha
from monitoring_assets.stability.windows import Column, WindowVerdicts
from monitoring_assets.version import ModelVersion


def judge(
    version: ModelVersion,
    kind: Drift,
    targets: Sequence[str],
    verdicts: Mapping[str, WindowVerdicts],
    history: History,
    distributions: Distributions,
) -> dict[str, SeasonVerdicts]:
    """Seasonal verdicts of the columns that moved in a window shorter than a cycle, over these windows alone.

    ``verdicts`` are those of the whole population at ``targets``, over ``history``. Distributions from before it are
    read only if something moved, and only the earlier cycles: of most partitions none.
    """
    every = version.manifest.partitions.every
    lengths = [length for length in windows_for(every) if length < cycle_length(every)]
    asked = {column: found.moved()[:, : len(lengths)] for column, found in verdicts.items()}
    asked = {column: windows for column, windows in asked.items() if windows.any()}
    if not asked:
        return {}
    cycles = _cycles(version.calendar, targets, lengths, np.any(list(asked.values()), axis=0))
    longer = distributions.history(
        sorted({*history.partitions, *(each for found in cycles.values() for each in found)})
    )
    earlier, positions = _positions(longer, cycles), longer.positions(targets)
    level, limits = alpha(len(version.profile.columns)), thresholds(version, kind)
    found = {}
    for profile in version.profile.columns:
        if profile.name in asked:
            groups = profile.group_array
            counts = merge_bins(longer.bins[WHOLE][profile.name], groups)
            column = Column(counts, merge_bins(profile.reference_counts(), groups), profile.dispersion)
            found[profile.name] = judge_seasons(
                column, positions, lengths, asked[profile.name], earlier, look_back(version), limits, level
            )
    return found


def _cycles(
    calendar: PartitionCalendar, targets: Sequence[str], lengths: Sequence[int], asked: BoolArray
) -> dict[str, list[str]]:
    """The earlier cycles of every partition in the windows ``asked`` [T, W]."""
    windows = (calendar.previous(targets[t], lengths[w]) for t, w in np.argwhere(asked))
    return {each: calendar.earlier_cycles(each) for each in {each for window in windows for each in window}}


def _positions(history: History, cycles: Mapping[str, list[str]]) -> IntArray:
    position = {partition: number for number, partition in enumerate(history.partitions)}
    found = np.full((len(position), max(map(len, cycles.values()))), -1, dtype=np.int64)
    for partition, earlier in cycles.items():
        found[position[partition], : len(earlier)] = [position[each] for each in earlier]
    return found
