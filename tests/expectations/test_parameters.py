from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from monitoring_assets.expectations.parameters import column_document, column_profile, from_lists, to_lists
from monitoring_assets.stability.binning import NumericBins
from monitoring_assets.stability.profile import WHOLE, ReferenceProfile
from monitoring_assets.stability.rates import RateVerdicts, VolumeVerdicts
from monitoring_assets.stability.windows import WindowVerdicts

SHAPE = (3, 2)
FLOATS = arrays.arrays(np.float64, SHAPE, elements=st.floats(allow_infinity=False))
INTS = arrays.arrays(np.int64, SHAPE, elements=st.integers(-1, 2**53))


def equal(left: Any, right: Any) -> bool:
    pairs = [(getattr(left, field.name), getattr(right, field.name)) for field in fields(left)]
    return all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        if isinstance(a, np.ndarray)
        else a == b
        for a, b in pairs
    )


def test_a_column_comes_back_as_it_is_judged(profile: ReferenceProfile) -> None:
    for column in profile.columns:
        document = json.loads(json.dumps(column_document(profile, column), allow_nan=False))
        whole = {WHOLE: tuple(column.reference_counts().tolist())}
        assert column_profile(document) == replace(column, counts=whole, score_sums=())


def test_a_bin_of_infinite_values_survives_json(profile: ReferenceProfile) -> None:
    bins = NumericBins(points=(1.0, float("inf")), edges=(), specials=(), unseen=True)
    column = replace(profile.columns[0], bins=bins, counts={WHOLE: (5, 4, 0, 1)}, groups=(0, 1, 2, 3))
    document = json.loads(json.dumps(column_document(profile, column), allow_nan=False))
    assert column_profile(document).bins == bins


def test_a_document_names_model_and_version_and_leaves_the_applicants_out(profile: ReferenceProfile) -> None:
    document = column_document(profile, profile.columns[0])
    assert (document["model"], document["version"]) == (profile.model, profile.version)
    assert document["canary"] is None
    assert document["segments"] == {}


def test_a_document_of_another_schema_is_refused(profile: ReferenceProfile) -> None:
    with pytest.raises(ValueError, match="schema"):
        column_profile({**column_document(profile, profile.columns[0]), "schema": 99})


@given(floats=FLOATS, ints=INTS)
def test_verdicts_come_back_bit_for_bit_from_json(floats: Any, ints: Any) -> None:
    measures, first = ("null_rate", "special_rate <b>"), floats[0]
    verdicts: tuple[Any, ...] = (
        WindowVerdicts((1, 28), ints, ints, floats, floats, floats, floats, ints, ints > 1),
        RateVerdicts(measures, ints[:, 0], floats, first, floats, first, ints),
        VolumeVerdicts(floats[:, 0], floats[:, 1], ints[:, 0]),
    )
    for each in verdicts:
        lists = json.loads(json.dumps(to_lists(each), allow_nan=False))
        assert equal(from_lists(type(each), lists), each)
