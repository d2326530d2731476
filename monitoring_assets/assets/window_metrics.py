"""From window verdicts to the metrics of a result: few enough to read, enough to replay another policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from monitoring_assets.assets.history import History
from monitoring_assets.assets.judging import thresholds
from monitoring_assets.results import Metric, Status
from monitoring_assets.stability.profile import WHOLE, ColumnProfile, SegmentKey
from monitoring_assets.stability.psi import IntArray, decompose, merge_bins
from monitoring_assets.stability.seasons import SeasonVerdicts
from monitoring_assets.stability.significance import alpha, no_drift_band, smallest_detectable_psi
from monitoring_assets.stability.windows import (
    BREACH,
    MIN_ROWS_PER_BIN,
    NOT_ELIGIBLE,
    OK,
    RECORDED_NET,
    WARN,
    WindowVerdicts,
)
from monitoring_assets.version import ModelVersion

SHOWN_PART = 0.005
SCORE_BINS = "score_bins"

STATUS: dict[int, Status] = {NOT_ELIGIBLE: "insufficient_data", OK: "ok", WARN: "warn", BREACH: "breach"}


@dataclass(frozen=True)
class WindowMetrics:
    """Makes the metrics of one kind (psi or csi) from verdicts over ``history``, and seasonal ones by column."""

    version: ModelVersion
    kind: str
    history: History
    seasons: Mapping[str, SeasonVerdicts]

    def of(
        self, column: str, segment: SegmentKey, verdicts: WindowVerdicts, number: int, position: int
    ) -> list[Metric]:
        """Metrics of one column at target ``number``, which is partition ``position`` of the history.

        The deciding window comes first, then the shortest eligible one (which clears) and every larger shift; of
        segments only those that moved.
        """
        levels = verdicts.level[number]
        deciding = int(verdicts.deciding()[number])
        if segment != WHOLE and levels[deciding] <= OK:
            return []
        if levels[deciding] == NOT_ELIGIBLE:
            return [self._insufficient(column, verdicts, number)]
        eligible = levels != NOT_ELIGIBLE
        large = np.flatnonzero(eligible & (verdicts.net[number] >= RECORDED_NET)).tolist()
        others = sorted({int(np.flatnonzero(eligible)[0]), *large} - {deciding})
        return [self._metric(column, segment, verdicts, number, window, position) for window in (deciding, *others)]

    def bins(self, column: str, position: int) -> Metric:
        """The rows of one partition alone, and of the reference, in each of the groups that a column's PSI is of."""
        now, then = self._groups(column, WHOLE, position, 1)
        return Metric(
            metric=SCORE_BINS,
            column=column,
            window=1,
            n=int(now.sum()),
            counts=tuple(now.tolist()),
            reference_counts=tuple(then.tolist()),
        )

    @cached_property
    def _profiles(self) -> dict[str, ColumnProfile]:
        return {each.name: each for each in self.version.profile.columns}

    def _metric(
        self, column: str, segment: SegmentKey, verdicts: WindowVerdicts, number: int, window: int, position: int
    ) -> Metric:
        level, length = int(verdicts.level[number, window]), verdicts.lengths[window]
        limits = thresholds(self.version, self.kind)
        return Metric(
            metric=self.kind,
            column=column,
            segment=None if segment == WHOLE else f"{segment[0]}={segment[1]}",
            window=length,
            partitions=self._carried(position, length) if level in (WARN, BREACH) else (),
            value=float(verdicts.value[number, window]),
            net_value=float(verdicts.net[number, window]),
            n=int(verdicts.rows[number, window]),
            p_value=float(verdicts.p_value[number, window]),
            threshold=limits.critical if level == BREACH else limits.warn,
            significant=bool(verdicts.significant[number, window]),
            net_without_worst=_known(verdicts.net_without_worst[number, window]),
            status=STATUS[level],
            note=self._note(column, segment, verdicts, number, window, position),
            band=self._band(column, segment, verdicts, number, window),
            **self._season(column, segment, number, window),
            # Not by the level alone: the fleet's thresholds may be lower than the manifest's.
            **(self._nulls(column, segment, position, length) if verdicts.net[number, window] >= RECORDED_NET else {}),
        )

    def _season(self, column: str, segment: SegmentKey, number: int, window: int) -> dict[str, Any]:
        season = self.seasons.get(column) if segment == WHOLE else None
        if season is None or window >= season.net.shape[1] or np.isnan(season.net[number, window]):
            return {}
        return {
            "season_net_value": float(season.net[number, window]),
            "season_significant": bool(season.significant[number, window]),
        }

    def _band(self, column: str, segment: SegmentKey, verdicts: WindowVerdicts, number: int, window: int) -> float:
        reference_rows = int(self._profiles[column].reference_counts(segment).sum())
        return float(no_drift_band(verdicts.bins[number, window], verdicts.rows[number, window], reference_rows))

    def _nulls(self, column: str, segment: SegmentKey, position: int, length: int) -> dict[str, Any]:
        null = np.asarray(self._profiles[column].group_kinds) == "null"
        now, then = self._groups(column, segment, position, length)
        return {
            "null_share": float(now[null].sum() / now.sum()),
            "reference_null_share": float(then[null].sum() / then.sum()),
        }

    def _groups(self, column: str, segment: SegmentKey, position: int, length: int) -> tuple[IntArray, IntArray]:
        """Rows in the window and in the reference, by the groups that the PSI is computed over, both [K]."""
        profile = self._profiles[column]
        now = self.history.bins[segment][column][max(0, position + 1 - length) : position + 1].sum(axis=0)
        then = profile.reference_counts(segment)
        return merge_bins(now, profile.group_array), merge_bins(then, profile.group_array)

    def _carried(self, position: int, length: int) -> tuple[str, ...]:
        window = slice(max(0, position + 1 - length), position + 1)
        there = zip(self.history.partitions[window], self.history.present[window], strict=True)
        return tuple(partition for partition, present in there if present)

    def _note(
        self, column: str, segment: SegmentKey, verdicts: WindowVerdicts, number: int, window: int, position: int
    ) -> str | None:
        level, without_worst = verdicts.level[number, window], _known(verdicts.net_without_worst[number, window])
        large = verdicts.net[number, window] >= thresholds(self.version, self.kind).warn
        notes = []
        if level in (WARN, BREACH):
            notes.append(self._parts(column, segment, position, verdicts.lengths[window]))
        if large and without_worst is not None:
            notes.append(f"net PSI without the worst partition {without_worst:.4f}")
        if level == OK and not notes:
            notes.append(f"a PSI of {self._detectable(verdicts, number, window):.3g} would have been seen")
        return "; ".join(filter(None, notes)) or None

    def _parts(self, column: str, segment: SegmentKey, position: int, length: int) -> str:
        """What the PSI is made of, where it is not of valid values alone."""
        split = decompose(*self._groups(column, segment, position, length), self._profiles[column].group_kinds)
        shares = {kind: getattr(split, kind) for kind in ("null", "special", "unseen")}
        listed = ", ".join(f"{kind} {part:.3f}" for kind, part in shares.items() if part >= SHOWN_PART)
        return f"of the PSI {listed}; among the valid values alone {split.within_valid:.3f}" if listed else ""

    def _insufficient(self, column: str, verdicts: WindowVerdicts, number: int) -> Metric:
        rows, bins = int(verdicts.rows[number, -1]), int(verdicts.bins[number, -1])
        note = f"{rows} rows over the longest window; {MIN_ROWS_PER_BIN * bins} are needed for {bins} bins"
        if rows:
            seen = self._detectable(verdicts, number, len(verdicts.lengths) - 1)
            note += f"; a PSI below {seen:.3g} would not have been seen"
        return Metric(
            metric=self.kind,
            column=column,
            window=verdicts.lengths[-1],
            value=float(verdicts.value[number, -1]) if rows else None,
            n=rows,
            threshold=thresholds(self.version, self.kind).warn,
            status="insufficient_data",
            note=note,
        )

    def _detectable(self, verdicts: WindowVerdicts, number: int, window: int) -> float:
        """The smallest PSI that 80 % of such samples would have shown."""
        bins, rows = int(verdicts.bins[number, window]), int(verdicts.rows[number, window])
        level, profile = alpha(len(self.version.profile.columns)), self.version.profile
        warn = thresholds(self.version, self.kind).warn
        return float(smallest_detectable_psi(bins, rows, profile.rows, warn, level))


def _known(number: float) -> float | None:
    return None if np.isnan(number) else float(number)
