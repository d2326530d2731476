from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets.stability.binning import CategoricalBins, NumericBins
from monitoring_assets.stability.profile import WHOLE, Canary, ColumnProfile, ReferenceProfile

property_test = settings(deadline=None, max_examples=80)

numbers = st.floats(allow_nan=False, allow_infinity=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
# What a Parquet file can hold: any text but lone surrogates, among it markup, quotes, control characters and emoji.
texts = st.one_of(
    st.sampled_from(["<script>alert(1)</script>", "null", "inf", "Ñairobi – «est»", '"\\\n\t\x00', "\u2028", "🚗", ""]),
    st.text(st.characters(codec="utf-8"), max_size=12),
)
count = st.integers(0, 2**53)


def lists(element: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(element, min_size=size, max_size=size).map(tuple)


def sorted_tuples(element: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(element, max_size=6, unique=True).map(lambda found: tuple(sorted(found)))


numeric = st.builds(
    NumericBins,
    points=sorted_tuples(numbers),
    edges=sorted_tuples(finite),
    specials=sorted_tuples(numbers),
    unseen=st.booleans(),
)
categorical = st.builds(CategoricalBins, categories=sorted_tuples(texts), specials=sorted_tuples(texts))


@st.composite
def columns(draw: st.DrawFn, role: str, name: str) -> ColumnProfile:
    bins = draw(st.one_of(numeric, categorical))
    width = len(bins.kinds())
    segments = draw(st.lists(st.tuples(texts, texts), max_size=3, unique=True))
    return ColumnProfile(
        name=name,
        role=role,  # type: ignore[arg-type]
        physical=draw(st.sampled_from(["number", "text", "boolean", "integer"])),
        bins=bins,
        counts={key: draw(lists(count, width)) for key in [WHOLE, *segments]},
        score_sums=draw(lists(st.integers(-(2**60), 2**60), width)),
        groups=draw(lists(st.integers(0, 30), width)),
        tails=draw(st.none() | lists(finite, 4)),
        tail_counts=draw(lists(count, 4)),
        dispersion=draw(st.floats(1, 100)),
        unusable=draw(texts),
    )


@st.composite
def profiles(draw: st.DrawFn) -> ReferenceProfile:
    names = draw(st.lists(texts, min_size=1, max_size=3, unique=True))
    features = tuple(draw(columns("feature", name)) for name in names)
    cell = {
        feature.name: st.none() | (finite if feature.numeric else st.one_of(texts, st.booleans()))
        for feature in features
    }
    rows = draw(st.integers(0, 4))
    canary = Canary(
        rows={name: list(draw(lists(element, rows))) for name, element in cell.items()},
        scores=draw(lists(finite, rows)),
    )
    return ReferenceProfile(
        model=draw(texts),
        version=draw(texts),
        identity=draw(texts),
        sample=draw(st.sampled_from(["holdout", "oot", "production", "train"])),
        population=draw(st.sampled_from(["applied", "booked"])),
        rows=draw(count),
        score="score",
        columns=(*features, draw(columns("score", "score"))),
        segments=draw(st.dictionaries(texts, st.lists(texts, max_size=3).map(tuple), max_size=3)),
        reference_sha256=draw(texts),
        artefact_sha256=draw(texts),
        repeat_share=draw(st.floats(0, 1)),
        score_cells=draw(st.dictionaries(st.integers(0, 9_999), count, max_size=5)),
        canary=draw(st.none() | st.just(canary)),
    )


def small_profile(**changes: Any) -> ReferenceProfile:
    income = ColumnProfile(
        name="income",
        role="feature",
        physical="number",
        bins=NumericBins((0.0,), (10.0, 20.0), (-999.0,), unseen=False),
        counts={WHOLE: (5, 30, 30, 33, 1, 1), ("product", "loan"): (1, 2, 3, 4, 0, 0)},
        score_sums=(1, 2, 3, 4, 5, 6),
        groups=(0, 1, 2, 3, 4, 5),
        tails=(0.0, 0.5, 90.0, 100.0),
        tail_counts=(0, 1, 1, 0),
    )
    region = ColumnProfile(
        name="region",
        role="feature",
        physical="text",
        bins=CategoricalBins(("rural", "urban"), ()),
        counts={WHOLE: (40, 60, 0, 0)},
        score_sums=(0, 0, 0, 0),
        groups=(0, 1, 2, 3),
        tails=None,
        tail_counts=(),
    )
    score = replace(income, name="score", role="score")
    profile = ReferenceProfile(
        model="ke-nano-loan",
        version="3.2.0",
        identity="abc",
        sample="holdout",
        population="applied",
        rows=100,
        score="score",
        columns=(income, region, score),
        segments={"product": ("loan", "card"), "channel": ("app",)},
        reference_sha256="0" * 64,
        score_cells={17: 3, 5: 97},
        canary=Canary(rows={"income": [12.5, None], "region": ["urban", None]}, scores=(0.25, 0.5)),
    )
    return replace(profile, **changes)


# JSON


@property_test
@given(profiles())
def test_a_profile_survives_json_to_the_byte(profile: ReferenceProfile) -> None:
    written = profile.to_json()
    read = ReferenceProfile.from_json(written)
    assert read == profile
    assert read.to_json() == written
    assert read.digest == profile.digest


@property_test
@given(profiles())
def test_the_json_is_strict_and_utf_8(profile: ReferenceProfile) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(profile.to_json().decode("utf-8"), parse_constant=refuse)


def test_infinities_are_bins_like_others() -> None:
    bins = NumericBins((-math.inf, math.inf), (), (), unseen=True)
    column = replace(small_profile().columns[0], bins=bins, counts={WHOLE: (1, 2, 0, 0)}, groups=(0, 1, 2, 3))
    profile = small_profile(columns=(column, *small_profile().columns[1:]))
    assert ReferenceProfile.from_json(profile.to_json()).columns[0].bins == bins


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_number_that_json_does_not_have_is_refused_in_the_canary(number: float) -> None:
    canary = Canary(rows={"income": [number], "region": ["urban"]}, scores=(0.1,))
    with pytest.raises(ValueError, match="not JSON compliant"):
        small_profile(canary=canary).to_json()


def test_equal_profiles_give_equal_bytes_whatever_order_they_were_filled_in() -> None:
    profile = small_profile()
    income = profile.columns[0]
    other_way_round = replace(income, counts=dict(reversed(income.counts.items())))
    same = small_profile(
        columns=(other_way_round, *profile.columns[1:]),
        segments=dict(reversed(profile.segments.items())),
        score_cells=dict(reversed(profile.score_cells.items())),
    )
    assert same.to_json() == profile.to_json()


@pytest.mark.parametrize(
    "change", [{"rows": 101}, {"version": "3.2.1"}, {"score_cells": {5: 100}}, {"canary": None}, {"segments": {}}]
)
def test_every_change_changes_the_digest(change: dict[str, Any]) -> None:
    assert small_profile(**change).digest != small_profile().digest


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_refused(schema: object) -> None:
    document = json.loads(small_profile().to_json()) | {"schema": schema}
    with pytest.raises(ValueError, match="a reference profile of schema 1 was expected"):
        ReferenceProfile.from_json(json.dumps(document).encode())


def test_a_profile_without_a_schema_is_refused() -> None:
    document = json.loads(small_profile().to_json())
    del document["schema"]
    with pytest.raises(ValueError, match="schema 1"):
        ReferenceProfile.from_json(json.dumps(document).encode())


# What a profile answers


def test_features_and_score_are_told_apart() -> None:
    profile = small_profile()
    assert [column.name for column in profile.features] == ["income", "region"]
    assert profile.score_column.name == "score"
    assert [column.numeric for column in profile.columns] == [True, False, True]


def test_reference_counts_are_of_the_whole_population_or_of_one_segment_value() -> None:
    income = small_profile().columns[0]
    assert income.reference_counts().tolist() == [5, 30, 30, 33, 1, 1]
    assert income.reference_counts(("product", "loan")).tolist() == [1, 2, 3, 4, 0, 0]


def test_a_segment_value_the_reference_did_not_have_has_no_rows() -> None:
    assert small_profile().columns[0].reference_counts(("product", "card")).tolist() == [0] * 6


def test_groups_and_kinds_line_up_with_the_bins() -> None:
    income = small_profile().columns[0]
    assert income.group_array.tolist() == [0, 1, 2, 3, 4, 5]
    assert income.bin_kinds == ("valid", "valid", "valid", "valid", "special", "null")
