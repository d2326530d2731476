"""ReferenceProfile: what is frozen of the population a model version was trained on.

It is computed once per version, stored under its digest and never recomputed silently: every PSI of the version's
life is measured against these counts in these bins.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from monitoring_assets.stability.binning import BinKind, CategoricalBins, NumericBins
from monitoring_assets.stability.psi import IntArray

SCHEMA = 1
Tails = tuple[float, float, float, float]
SegmentKey = tuple[str, str]
WHOLE: SegmentKey = ("", "")
"""The (segment, value) of the whole population."""


@dataclass(frozen=True)
class ColumnProfile:
    """One feature, or the score, in the reference.

    ``counts`` holds, per (segment, value), the reference's rows in every bin; ``groups`` maps bins to the groups that
    the PSI is computed over; ``tail_counts`` are the rows below the minimum and the 0.1 % quantile, above the 99.9 %
    quantile and the maximum; ``dispersion`` is the between-day X²/df, 1 without a timestamp. ``physical`` is the type
    that the reference stored (``number``, ``text``, ``boolean``, ``integer``). ``unusable`` says why the column's
    PSI would mean nothing, and is empty otherwise.
    """

    name: str
    role: Literal["feature", "score"]
    physical: str
    bins: NumericBins | CategoricalBins
    counts: dict[SegmentKey, tuple[int, ...]]
    score_sums: tuple[int, ...]
    groups: tuple[int, ...]
    tails: Tails | None
    tail_counts: tuple[int, ...]
    dispersion: float = 1.0
    unusable: str = ""

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers; otherwise they are categories."""
        return isinstance(self.bins, NumericBins)

    @property
    def bin_kinds(self) -> tuple[BinKind, ...]:
        """What each bin holds."""
        return self.bins.kinds()

    @property
    def group_array(self) -> IntArray:
        """Bin → PSI group, [B]."""
        return np.asarray(self.groups, dtype=np.int64)

    @property
    def group_kinds(self) -> tuple[BinKind, ...]:
        """What each PSI group holds, [K]; only valid bins are ever pooled."""
        kinds = dict(zip(self.groups, self.bin_kinds, strict=True))
        return tuple(kinds[group] for group in range(len(kinds)))

    def reference_counts(self, segment: SegmentKey = WHOLE) -> IntArray:
        """Counts of the reference in every bin [B]; zeros for a segment value that the reference did not have."""
        return np.asarray(self.counts.get(segment, (0,) * len(self.groups)), dtype=np.int64)


@dataclass(frozen=True)
class Canary:
    """Reference rows (feature → values, row by row) and the scores that the artefact gave them at onboarding."""

    rows: dict[str, list[Any]]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class ReferenceProfile:
    """The frozen reference of one model version; ``digest`` names it in the store and in every result's inputs."""

    model: str
    version: str
    identity: str
    sample: str
    population: str
    rows: int
    score: str
    columns: tuple[ColumnProfile, ...]
    segments: dict[str, tuple[str, ...]]
    reference_sha256: str
    artefact_sha256: str = ""
    repeat_share: float = 0.0
    score_cells: dict[int, int] = field(default_factory=dict)
    canary: Canary | None = None

    @property
    def features(self) -> tuple[ColumnProfile, ...]:
        """The feature columns, in the manifest's order."""
        return tuple(column for column in self.columns if column.role == "feature")

    @property
    def score_column(self) -> ColumnProfile:
        """The score's profile."""
        return next(column for column in self.columns if column.role == "score")

    def to_json(self) -> bytes:
        """Canonical JSON: equal profiles give equal bytes."""
        document = _shallow(self) | {
            "columns": [_column_to_json(column) for column in self.columns],
            "score_cells": sorted(self.score_cells.items()),
            "canary": self.canary and _shallow(self.canary),
        }
        return json.dumps(
            {"schema": SCHEMA, **document}, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def from_json(cls, data: bytes) -> ReferenceProfile:
        """Read what ``to_json`` wrote. Raises ValueError for a schema that this code does not know."""
        document = json.loads(data)
        if document.pop("schema", None) != SCHEMA:
            raise ValueError(f"a reference profile of schema {SCHEMA} was expected")
        canary = document.pop("canary")
        return cls(
            **document
            | {
                "columns": tuple(_column_from_json(column) for column in document["columns"]),
                "segments": {name: tuple(values) for name, values in document["segments"].items()},
                "score_cells": {int(cell): int(count) for cell, count in document["score_cells"]},
                "canary": canary and Canary(rows=canary["rows"], scores=tuple(canary["scores"])),
            }
        )


def _shallow(instance: ReferenceProfile | ColumnProfile | Canary) -> dict[str, Any]:
    """Field by field; ``asdict`` would copy every count."""
    return {each.name: getattr(instance, each.name) for each in fields(instance)}


def _column_to_json(column: ColumnProfile) -> dict[str, Any]:
    counts = [[*key, counts] for key, counts in sorted(column.counts.items())]
    return _shallow(column) | {"counts": counts, "bins": _bins_to_json(column.bins)}


def _bins_to_json(bins: NumericBins | CategoricalBins) -> dict[str, Any]:
    if isinstance(bins, CategoricalBins):
        return {"categories": bins.categories, "specials": bins.specials}
    numbers = {name: [_finite(value) for value in getattr(bins, name)] for name in ("points", "edges", "specials")}
    return {**numbers, "unseen": bins.unseen}


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _column_from_json(column: dict[str, Any]) -> ColumnProfile:
    bins = column["bins"]
    if "categories" in bins:
        parsed: NumericBins | CategoricalBins = CategoricalBins(tuple(bins["categories"]), tuple(bins["specials"]))
    else:
        points, edges, specials = (tuple(map(float, bins[name])) for name in ("points", "edges", "specials"))
        parsed = NumericBins(points, edges, specials, unseen=bins["unseen"])
    lists = {name: tuple(column[name]) for name in ("score_sums", "groups", "tail_counts")}
    tails = column["tails"]
    counts = {(segment, value): tuple(numbers) for segment, value, numbers in column["counts"]}
    return ColumnProfile(
        **column | lists | {"bins": parsed, "counts": counts, "tails": None if tails is None else tuple(tails)}
    )
