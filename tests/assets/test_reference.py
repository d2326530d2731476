from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from monitoring_assets.stability.profile import WHOLE, ReferenceProfile
from resources.errors import BadInput
from resources.registry import VersionFiles

INCOME, REGION = {"name": "income", "kind": "numeric"}, {"name": "region", "kind": "categorical"}


@pytest.fixture
def freeze(lender: Any) -> Any:
    """``freeze(frame=None, artefact=None, **manifest)``: the profile of a model folder."""
    from monitoring_assets.assets.reference import build_profile
    from monitoring_assets.manifest import Manifest
    from monitoring_assets.manifest_yaml import parse_manifest

    def freeze(
        frame: pl.DataFrame | None = None, *, artefact: bytes | None = None, data: bytes | None = None, **changes: Any
    ) -> ReferenceProfile:
        folder = lender.model_folder(lender.manifest(**changes), rows=frame, artefact=artefact)
        if data is not None:
            (folder / "reference.parquet").write_bytes(data)
        manifest: Manifest = parse_manifest((folder / "model.yaml").read_bytes(), where="model.yaml")
        return build_profile(manifest, VersionFiles.in_folder(folder))

    return freeze


def rows(count: int = 3_000) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    return pl.DataFrame(
        {
            "application_id": np.arange(count),
            "income": rng.normal(50, 10, count),
            "age": rng.integers(20, 70, count),
            "region": rng.choice(["north", "south", "east"], count),
            "owner": rng.choice([True, False], count),
            "vendor_score": rng.uniform(0, 1, count),
        }
    )


def column(profile: ReferenceProfile, name: str) -> Any:
    return next(each for each in profile.columns if each.name == name)


def test_the_same_files_freeze_to_the_same_bytes(freeze: Any) -> None:
    one, other = (freeze(segments=["product"]) for _ in range(2))
    assert one.to_json() == other.to_json()
    assert ReferenceProfile.from_json(one.to_json()).digest == one.digest


def test_every_column_is_frozen_with_its_counts(freeze: Any, bin_positions: Any) -> None:
    frame = rows()
    profile = freeze(frame, precomputed=True)
    assert [(each.name, each.role, each.physical) for each in profile.columns] == [
        ("income", "feature", "number"),
        ("age", "feature", "integer"),
        ("region", "feature", "text"),
        ("vendor_score", "score", "number"),
    ]
    for name in ("income", "age", "vendor_score"):
        bins = column(profile, name).bins
        found = np.bincount(bin_positions(bins, frame[name].cast(float).to_numpy()), minlength=len(bins.kinds()))
        assert column(profile, name).reference_counts().tolist() == found.tolist()
        assert column(profile, name).tails[::3] == (frame[name].min(), frame[name].max())
    assert sum(profile.score_cells.values()) == profile.rows == 3_000
    assert profile.canary is None
    assert profile.artefact_sha256 == ""


def test_features_are_inferred_from_the_columns_that_are_nothing_else(freeze: Any) -> None:
    frame = rows().with_columns(
        defaulted=pl.lit(0),
        seen_at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)),
        nothing=pl.lit(None),
        nested=pl.concat_list("income"),
        given=pl.lit(date(2026, 1, 1)),
    )
    reference = {"sample": "holdout", "label": "defaulted", "timestamp": "seen_at"}
    profile = freeze(frame, precomputed=True, features=None, reference=reference)
    assert [(each.name, each.numeric) for each in profile.features] == [
        ("income", True),
        ("age", True),
        ("region", False),
        ("owner", False),
    ]
    assert column(profile, "owner").bins.categories == ("false", "true")


def test_a_reference_with_timestamps_knows_how_much_days_differ(freeze: Any) -> None:
    frame = rows(3_000)
    first = datetime(2026, 1, 1, 21, 30, tzinfo=UTC)
    stamps = pl.Series([first + timedelta(days=number % 30) for number in range(3_000)])
    noisy = frame.with_columns(seen_at=stamps, income=pl.col("income") + 15 * (stamps.dt.day() % 2))
    reference = {"sample": "holdout", "timestamp": "seen_at"}
    profile = freeze(noisy, precomputed=True, reference=reference)
    assert column(profile, "income").dispersion > 5
    assert column(profile, "region").dispersion < 1.5
    assert {segment for segment, _ in column(profile, "income").counts} == {""}, "days are no segments"


def test_segments_are_the_most_frequent_values_and_the_rest(freeze: Any) -> None:
    names = [f"branch {number:02d}" for number in range(25)]
    frame = rows(3_000).with_columns(
        branch=pl.Series([names[min(number % 40, 24)] for number in range(2_990)] + [None] * 10)
    )
    profile = freeze(frame, precomputed=True, segments=["branch"])
    assert len(profile.segments["branch"]) == 20
    assert profile.segments["branch"][0] == "branch 24"
    counts = column(profile, "income").counts
    assert sum(counts["branch", "null"]) == 10
    assert sum(counts["branch", "other"]) == 5 * 75
    assert sum(sum(counts[key]) for key in counts if key != WHOLE) == 3_000


def test_the_canary_is_two_hundred_rows_spread_over_the_reference(freeze: Any) -> None:
    profile = freeze()
    assert len(profile.canary.scores) == 200
    assert set(profile.canary.rows) == {"income", "age", "region"}
    assert profile.artefact_sha256


def test_the_canary_holds_only_rows_with_a_score(freeze: Any, onnx_model_bytes: Any) -> None:
    inf = float("inf")
    frame = rows(400).with_columns(income=pl.when(pl.col("application_id") < 100).then(-inf).otherwise("income"))
    score = {"kind": "onnx", "artefact": "model.onnx", "scale": "points", "higher_is": "safety", "range": [-10, 10]}
    with pytest.raises(BadInput, match="100 of 400 rows get a score that is missing or outside"):
        freeze(frame, artefact=onnx_model_bytes(raw=True), score=score)
    # The model clips infinities, and the canary cannot store them: it holds these rows' incomes as null.
    profile = freeze(frame)
    assert all(np.isfinite(profile.canary.scores))
    assert profile.canary.rows["income"].count(None) == 50
    ReferenceProfile.from_json(profile.to_json())


def test_a_model_that_has_no_score_for_null_leaves_infinite_rows_out_of_the_canary(
    freeze: Any, onnx_model_bytes: Any
) -> None:
    import onnx

    clipping = onnx.load_from_string(onnx_model_bytes())
    for node in clipping.graph.node:
        if list(node.output) == ["income_kept"]:
            node.input[0] = "income"  # nan stays nan, infinite is clipped
    frame = rows(400).with_columns(
        income=pl.when(pl.col("application_id") % 4 == 0).then(float("inf")).otherwise("income")
    )
    profile = freeze(frame, artefact=clipping.SerializeToString())
    assert len(profile.canary.scores) == 100
    assert all(np.isfinite(profile.canary.scores))
    assert {len(values) for values in profile.canary.rows.values()} == {100}


def test_special_values_are_no_ordinary_values(freeze: Any) -> None:
    frame = rows().with_columns(
        income=pl.when(pl.col("age") < 25).then(-999.0).otherwise("income"),
        region=pl.when(pl.col("age") > 60).then(pl.lit("n/a")).otherwise("region"),
    )
    features = [INCOME | {"special_values": [-999]}, REGION | {"special_values": ["n/a"]}]
    profile = freeze(frame, precomputed=True, features=features)
    income, region = column(profile, "income"), column(profile, "region")
    assert income.bins.specials == (-999.0,)
    assert income.tails[0] > -999
    assert (region.bins.categories, region.bins.specials) == (("east", "north", "south"), ("n/a",))


@pytest.mark.parametrize(
    ("change", "manifest", "words"),
    [
        (lambda frame: frame.drop("income"), {}, "has no column 'income', which features lists; it has application_id"),
        (
            lambda frame: frame.with_columns(income=pl.lit("much")),
            {},
            "'income' is numeric in the manifest and stored as String; store numbers or text, or change its kind",
        ),
        (
            lambda frame: frame.with_columns(region=pl.lit(date(2026, 1, 1))),
            {},
            "'region' is categorical in the manifest and stored as Date",
        ),
        (lambda frame: frame, {"segments": ["product"]}, "has no column 'product', which segments lists"),
        (lambda frame: frame, {"segments": ["age"]}, "the segment 'age' is a numeric feature"),
        (lambda frame: frame.drop("vendor_score"), {}, "has no numeric column 'vendor_score' with the model's score"),
        (
            lambda frame: frame.with_columns(vendor_score=pl.lit(1.5)),
            {},
            "3000 of 3000 rows get a score that is missing or outside score.range [0, 1]",
        ),
        (
            lambda frame: frame.with_columns(vendor_score=pl.when(pl.col("age") > 60).then("vendor_score")),
            {},
            "correct the model, the reference or the range",
        ),
        (lambda frame: frame.head(0), {}, "has no rows"),
        (lambda frame: frame.select("application_id", "vendor_score"), {"features": None}, "list them under features"),
        (
            lambda _: rows(10_001).with_columns(region=pl.col("application_id").cast(pl.String)),
            {},
            "'region' has 10001 categories, and at most 10000 can be followed",
        ),
        (
            lambda frame: frame,
            {"reference": {"sample": "oot", "timestamp": "age"}},
            "reference.timestamp names 'age', stored as Int64; it must be a date or a timestamp",
        ),
        (
            lambda frame: frame.rename({"income": "(partition) rows"}),
            {"features": [{"name": "(partition) rows", "kind": "numeric"}]},
            "names that start with '(partition) ' are kept for measures of a whole partition; rename the feature",
        ),
    ],
)
def test_a_reference_that_is_not_what_the_manifest_says_is_refused(
    freeze: Any, change: Any, manifest: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput) as refused:
        freeze(change(rows()), precomputed=True, **manifest)
    assert words in str(refused.value)
    assert "ke-nano-loan 1.0.0" in str(refused.value) or "rename the feature" in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _: b"", "is not a Parquet file that can be read"),
        (lambda data: data[:1_000], "is not a Parquet file that can be read"),
        (
            lambda data: data[:100] + bytes(byte ^ 0x5A for byte in data[100:60_000]) + data[60_000:],
            "cannot be read to its end",
        ),
    ],
)
def test_a_damaged_reference_is_refused_in_one_line(freeze: Any, parquet: Any, spoil: Any, words: str) -> None:
    with pytest.raises(BadInput) as refused:
        freeze(precomputed=True, data=spoil(parquet(rows())))
    assert str(refused.value).startswith(f"ke-nano-loan 1.0.0: reference.parquet {words}: ")
    assert "\n" not in str(refused.value)


def test_names_that_the_platform_uses_itself_are_names_like_others(freeze: Any) -> None:
    frame = rows().rename({"income": "(day)", "region": "value"}).with_columns(seen_at=pl.lit(date(2026, 1, 2)))
    features = [{"name": "(day)", "kind": "numeric"}, {"name": "value", "kind": "categorical"}]
    section = {"sample": "oot", "timestamp": "seen_at"}
    profile = freeze(frame, precomputed=True, features=features, segments=["value"], reference=section)
    assert sum(column(profile, "(day)").reference_counts()) == 3_000
    assert sum(column(profile, "(day)").reference_counts(("value", "north"))) == frame["value"].eq("north").sum()
