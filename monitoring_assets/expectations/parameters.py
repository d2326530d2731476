"""What crosses Great Expectations as JSON: a column's frozen reference on the way in, verdicts on the way out."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any, TypeVar, get_type_hints

import numpy as np

from monitoring_assets.stability.profile import WHOLE, ColumnProfile, ReferenceProfile
from monitoring_assets.stability.psi import BoolArray, FloatArray, IntArray
from monitoring_assets.stability.rates import RateVerdicts, VolumeVerdicts
from monitoring_assets.stability.windows import WindowVerdicts

Verdicts = TypeVar("Verdicts", WindowVerdicts, RateVerdicts, VolumeVerdicts)
_DTYPES = {IntArray: np.int64, FloatArray: np.float64, BoolArray: np.bool_}
_ARRAYS = {
    kind: {name: _DTYPES[hint] for name, hint in get_type_hints(kind).items() if hint in _DTYPES}
    for kind in (WindowVerdicts, RateVerdicts, VolumeVerdicts)
}


def column_document(profile: ReferenceProfile, column: ColumnProfile) -> dict[str, Any]:
    """The profile's JSON with this column alone, over the whole population: enough to judge it years later."""
    whole = {WHOLE: tuple(column.reference_counts().tolist())}
    alone = (replace(column, counts=whole, score_sums=()),)
    document: dict[str, Any] = json.loads(
        replace(profile, columns=alone, segments={}, score_cells={}, canary=None).to_json()
    )
    return document


def column_profile(document: dict[str, Any]) -> ColumnProfile:
    """Read what ``column_document`` wrote. Raises ValueError for a schema that this code does not know."""
    return ReferenceProfile.from_json(json.dumps(document).encode()).columns[0]


def to_lists(verdicts: WindowVerdicts | RateVerdicts | VolumeVerdicts) -> dict[str, Any]:
    """Verdicts as JSON: arrays as nested lists, nan as None."""
    return {field.name: _listed(getattr(verdicts, field.name)) for field in fields(verdicts)}


def from_lists(kind: type[Verdicts], lists: dict[str, Any]) -> Verdicts:
    """The same verdicts again, bit for bit."""
    dtypes = _ARRAYS[kind]
    parts: dict[str, Any] = {
        name: np.array(values, dtype=dtypes[name]) if name in dtypes else tuple(values)
        for name, values in lists.items()
    }
    return kind(**parts)


def _listed(values: Any) -> Any:
    if not isinstance(values, np.ndarray):
        return list(values)
    unknown = np.isnan(values) if values.dtype.kind == "f" else np.False_
    if not unknown.any():
        return values.tolist()
    listed = values.astype(object)
    listed[unknown] = None
    return listed.tolist()
