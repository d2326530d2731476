"""The reference asset: freezing the population a model version was trained on, once, at onboarding."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from monitoring_assets import scoring
from monitoring_assets.assets import source
from monitoring_assets.assets.counting import count_plan
from monitoring_assets.assets.source import NUMBERS, column_expression, physical
from monitoring_assets.expectations.batch import refuse_measure_names
from monitoring_assets.manifest import Feature, Manifest, identity_digest
from monitoring_assets.stability.binning import CategoricalBins, NumericBins, numeric_bins, psi_groups, tail_limits
from monitoring_assets.stability.profile import WHOLE, Canary, ColumnProfile, ReferenceProfile, Tails
from monitoring_assets.stability.significance import between_day_dispersion
from resources.engines.counting import Counts
from resources.engines.polars_counting import count_parquet
from resources.errors import BadInput
from resources.registry import VersionFiles

TOP_SEGMENTS = 20
MAX_CATEGORIES = 10_000
REPEAT_ROWS = 10_000
DAY = "day\t"  # no manifest can name a column so: a tab is not printable
SCORED_ON_TRAINING = (
    "reference.sample is train: rows that the model was fitted on are a false reference for its score; "
    "give a holdout, oot or production sample"
)


def build_profile(manifest: Manifest, files: VersionFiles) -> ReferenceProfile:
    """Freeze the reference of a version from its files.

    Raises BadInput, naming column and fix, when the reference or the artefact is not what the manifest says.
    """
    where = f"{manifest.model} {manifest.version}: {manifest.reference.uri}"
    with tempfile.TemporaryDirectory(prefix="scorewatch-") as folder:
        path = Path(folder) / "source.parquet"
        files.fetch(manifest.reference.uri, path, named_by=f"{manifest.model} {manifest.version}: reference.uri")
        reference_sha256 = scoring.sha256(path.read_bytes())
        schema = _schema(path, where)
        features = _features(manifest, schema, where)
        frame = _read(manifest, schema, features, path, where)
        artefact = scoring.load_artefact(files, manifest) if manifest.score.kind == "onnx" else b""
        kinds = tuple((feature.name, feature.kind == "numeric") for feature in features)
        scorer = _scorer(manifest, artefact, kinds)
        frame = _scored(manifest, frame, scorer, where)
        columns = [_column(frame, feature, physical(schema[feature.name]), where) for feature in features]
        columns.append(_score_column(manifest, frame))
        refuse_measure_names(column.name for column in columns)
        segments = {name: _top_values(frame, name) for name in manifest.segments}
        counts = _count(manifest, frame, columns, segments, Path(folder))
    return ReferenceProfile(
        model=manifest.model,
        version=manifest.version,
        identity=identity_digest(manifest),
        sample=manifest.reference.sample,
        population=manifest.reference.population,
        rows=frame.height,
        score=manifest.score.column,
        columns=tuple(_counted(column, counts, segments) for column in columns),
        segments=segments,
        reference_sha256=reference_sha256,
        artefact_sha256=scoring.sha256(artefact) if artefact else "",
        repeat_share=_repeat_share(frame, [name for name, _ in kinds]),
        score_cells={int(cell): int(counts.score_cells[cell]) for cell in np.flatnonzero(counts.score_cells)},
        canary=_canary(frame, kinds, scorer) if artefact else None,
    )


def _schema(path: Path, where: str) -> pl.Schema:
    try:
        return pl.scan_parquet(path, glob=False).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{where} is not a Parquet file that can be read: {source.first_line(error)}.") from error


def _features(manifest: Manifest, schema: pl.Schema, where: str) -> tuple[Feature, ...]:
    features = manifest.features if manifest.features is not None else _inferred(manifest, schema)
    if not features:
        raise BadInput(f"{where} has no column to infer features from; list them under features.")
    for feature in features:
        if feature.name not in schema:
            raise BadInput(f"{where} has no column {feature.name!r}, which features lists; it has {_some(schema)}.")
        stored = physical(schema[feature.name])
        wrong = stored == "other" or (feature.kind == "numeric" and stored == "text")
        if wrong:
            raise BadInput(
                f"{where}: {feature.name!r} is {feature.kind} in the manifest and stored as {schema[feature.name]}; "
                "store numbers or text, or change its kind."
            )
    kinds = {feature.name: feature.kind for feature in features}
    for segment in manifest.segments:
        if segment not in schema:
            raise BadInput(f"{where} has no column {segment!r}, which segments lists; it has {_some(schema)}.")
        if kinds.get(segment) == "numeric":
            raise BadInput(f"{where}: the segment {segment!r} is a numeric feature; segments need categories.")
    return features


def _inferred(manifest: Manifest, schema: pl.Schema) -> tuple[Feature, ...]:
    reference, others = manifest.reference, {manifest.source.key, manifest.score.column}
    others |= {name for name in (reference.label, reference.timestamp, manifest.reference_score_column) if name}
    found = []
    for name, dtype in schema.items():
        if name not in others and physical(dtype) not in ("other", "null"):
            kind = "numeric" if physical(dtype) in NUMBERS else "categorical"
            found.append(Feature.model_validate({"name": name, "kind": kind}))
    return tuple(found)


def _read(manifest: Manifest, schema: pl.Schema, features: Sequence[Feature], path: Path, where: str) -> pl.DataFrame:
    expressions = {each.name: column_expression(each.name, numeric=each.kind == "numeric") for each in features}
    for segment in manifest.segments:
        expressions.setdefault(segment, column_expression(segment, numeric=False))
    if (score := manifest.reference_score_column) is not None and manifest.score.kind != "onnx":
        if score not in schema or physical(schema[score]) not in NUMBERS:
            raise BadInput(f"{where} has no numeric column {score!r} with the model's score; it has {_some(schema)}.")
        expressions[manifest.score.column] = column_expression(score, numeric=True)
    if manifest.reference.timestamp is not None:
        expressions[DAY] = _day(manifest, schema, where)
    try:
        frame = pl.scan_parquet(path, glob=False).select(**expressions).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{where} cannot be read to its end: {source.first_line(error)}. Write it again.") from error
    if frame.height == 0:
        raise BadInput(f"{where} has no rows.")
    return frame


def _day(manifest: Manifest, schema: pl.Schema, where: str) -> pl.Expr:
    name = str(manifest.reference.timestamp)
    dtype = schema.get(name)
    if isinstance(dtype, pl.Datetime):
        column = pl.col(name) if dtype.time_zone else pl.col(name).dt.replace_time_zone("UTC")
        return column.dt.convert_time_zone(manifest.partitions.timezone).dt.date().cast(pl.String)
    if dtype == pl.Date:
        return pl.col(name).cast(pl.String)
    raise BadInput(f"{where}: reference.timestamp names {name!r}, stored as {dtype}; it must be a date or a timestamp.")


def _scorer(manifest: Manifest, artefact: bytes, kinds: tuple[tuple[str, bool], ...]) -> scoring.Scorer:
    if manifest.score.kind == "onnx":
        return scoring.onnx_scorer(manifest, artefact, kinds)
    return scoring.column_scorer(manifest.score.column)


def _scored(manifest: Manifest, frame: pl.DataFrame, scorer: scoring.Scorer, where: str) -> pl.DataFrame:
    scores = scorer(frame)
    low, high = manifest.score.range
    invalid = int((~np.isfinite(scores) | (scores < low) | (scores > high)).sum())
    if invalid:
        raise BadInput(
            f"{where}: {invalid} of {frame.height} rows get a score that is missing or outside score.range "
            f"[{low:g}, {high:g}]; correct the model, the reference or the range."
        )
    return frame.with_columns(pl.Series(manifest.score.column, scores, pl.Float64))


def _column(frame: pl.DataFrame, feature: Feature, stored: str, where: str) -> ColumnProfile:
    values = frame[feature.name]
    tails = None
    if feature.kind == "numeric":
        specials = tuple(float(value) for value in feature.special_values)
        valid = values.drop_nulls().drop_nans()
        numbers = valid.filter(~valid.is_in(specials)).to_numpy()
        bins: NumericBins | CategoricalBins = numeric_bins(numbers, frame.height, specials)
        tails = tail_limits(numbers)
    else:
        texts = tuple(str(value) for value in feature.special_values)
        categories = sorted(set(values.drop_nulls().unique().to_list()) - set(texts))
        if len(categories) > MAX_CATEGORIES:
            raise BadInput(
                f"{where}: {feature.name!r} has {len(categories)} categories, and at most {MAX_CATEGORIES} can be "
                "followed; leave identifiers out of features, or group the values."
            )
        bins = CategoricalBins(tuple(categories), texts)
    return _uncounted(feature.name, "feature", "number" if stored == "null" else stored, bins, tails)


def _score_column(manifest: Manifest, frame: pl.DataFrame) -> ColumnProfile:
    scores = frame[manifest.score.column].to_numpy()
    column = _uncounted(
        manifest.score.column, "score", "number", numeric_bins(scores, frame.height, ()), tail_limits(scores)
    )
    return replace(column, unusable=SCORED_ON_TRAINING if manifest.reference.sample == "train" else "")


def _uncounted(
    name: str, role: Literal["feature", "score"], stored: str, bins: NumericBins | CategoricalBins, tails: Tails | None
) -> ColumnProfile:
    return ColumnProfile(name, role, stored, bins, {}, (), (), tails, ())


def _top_values(frame: pl.DataFrame, name: str) -> tuple[str, ...]:
    counts = frame[name].drop_nulls().value_counts(name="rows").sort(["rows", name], descending=[True, False])
    return tuple(counts[name].head(TOP_SEGMENTS).to_list())


def _count(
    manifest: Manifest,
    frame: pl.DataFrame,
    columns: Sequence[ColumnProfile],
    segments: dict[str, tuple[str, ...]],
    folder: Path,
) -> Counts:
    """Count the reference with the code that counts every partition, so that both sides agree bit for bit."""
    path = folder / "reference.parquet"
    frame.write_parquet(path)
    if DAY in frame.columns:
        segments = {**segments, DAY: tuple(frame[DAY].drop_nulls().unique().sort().to_list())}
    plan = count_plan(columns, manifest.score.column, manifest.score.range, segments)
    return count_parquet([str(path)], plan, score_paths=None)


def _counted(column: ColumnProfile, counts: Counts, segments: dict[str, tuple[str, ...]]) -> ColumnProfile:
    by_segment = {key: counts.bins[key][column.name] for key in counts.bins if key == WHOLE or key[0] in segments}
    days = [counts.bins[key][column.name] for key in counts.bins if key[0] == DAY]
    pool = not column.numeric
    whole = by_segment[WHOLE]
    return replace(
        column,
        counts={key: tuple(map(int, vector)) for key, vector in by_segment.items()},
        score_sums=tuple(map(int, counts.score_sums[WHOLE][column.name])),
        groups=tuple(map(int, psi_groups(whole, column.bin_kinds, pool=pool))),
        tail_counts=tuple(map(int, counts.tails[WHOLE][column.name])),
        dispersion=between_day_dispersion(np.stack(days)) if days else 1.0,
    )


def _repeat_share(frame: pl.DataFrame, features: Sequence[str]) -> float:
    """Share of the reference's own rows that also occur in another part of it: repeats that are natural."""
    hashes = frame.select(features).hash_rows().to_numpy()
    one, other = hashes[0::2][:REPEAT_ROWS], hashes[1::2][:REPEAT_ROWS]
    return float(np.isin(one, other).mean()) if len(one) and len(other) else 0.0


def _canary(frame: pl.DataFrame, kinds: tuple[tuple[str, bool], ...], scorer: scoring.Scorer) -> Canary:
    """Rows spread over the reference; those without a score once infinite features are null cannot be compared."""
    step = max(1, frame.height // scoring.CANARY_ROWS)
    sample = frame.gather_every(step).head(scoring.CANARY_ROWS).select([name for name, _ in kinds])
    finite = [pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name, numeric in kinds if numeric]
    rows = sample.with_columns(finite)
    scores = scorer(rows)
    kept = np.isfinite(scores)
    return Canary(rows.filter(kept).to_dict(as_series=False), tuple(scores[kept].tolist()))


def _some(schema: pl.Schema) -> str:
    names = list(schema)
    return ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
