"""The scores asset: batch scoring of a partition's features, row by row in the same order."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from monitoring_assets import scoring
from monitoring_assets.assets import features, handing_over
from monitoring_assets.assets.claim import claim
from monitoring_assets.assets.outcome import Outcome, blocked, skipped
from monitoring_assets.assets.stored import reading
from monitoring_assets.datasets import Current, content_digest, data_file, locations, publish
from monitoring_assets.results import Input, Metric
from monitoring_assets.version import CODE_VERSIONS, FEATURES, SCORES, ModelVersion
from resources.errors import BadInput


@dataclass(frozen=True)
class Scoring:
    """The scorer of a version, and what is wrong with its artefact (an empty list when nothing is)."""

    scorer: scoring.Scorer
    digest: str
    metrics: tuple[Metric, ...]


def prepare(version: ModelVersion) -> Callable[[], Scoring]:
    """Loads the artefact and re-scores the canary once, at first use, for all partitions of a run."""
    prepared: list[Scoring] = []
    lock = threading.Lock()

    def get() -> Scoring:
        with lock:
            if not prepared:
                prepared.append(_prepare(version))
            return prepared[0]

    return get


def materialise(
    version: ModelVersion, partition: str, upstream: Outcome | None, prepared: Callable[[], Scoring], *, force: bool
) -> Outcome:
    """Score one partition. Invalid scores, a swapped artefact and a failing canary block it, with the names."""
    rows = version.current(FEATURES, partition)
    if rows is None or (upstream is not None and not upstream.usable):
        return skipped(SCORES, partition, "quality", upstream, FEATURES)
    inputs = (Input(asset=FEATURES, partition=partition, digest=rows.digest),)
    try:
        return _score(version, rows, prepared(), inputs, force=force)
    except BadInput as error:
        metric = Metric(metric="scoring", status="breach", note=str(error))
        return blocked(SCORES, partition, (metric,), str(error), inputs)


def _score(version: ModelVersion, rows: Current, how: Scoring, inputs: tuple[Input, ...], *, force: bool) -> Outcome:
    if how.digest:
        inputs = (*inputs, Input(asset="artefact", digest=how.digest))
    bad = [metric for metric in how.metrics if metric.status == "breach"]
    if bad:
        return blocked(SCORES, rows.partition, how.metrics, "; ".join(str(metric.note) for metric in bad), inputs)
    digest = content_digest([SCORES, CODE_VERSIONS[SCORES], version.identity, rows.digest, how.digest])
    with claim(version, SCORES, rows.partition, digest, force=force) as mine:
        if mine.done and mine.current is not None:
            return _outcome(mine.current, "reused", how)
        return _make(version, rows, how, inputs, digest, mine.etag)


def _make(
    version: ModelVersion, rows: Current, how: Scoring, inputs: tuple[Input, ...], digest: str, etag: str | None
) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="scorewatch-") as folder:
        paths, counts, invalid = _write(version, rows, how, Path(folder))
        if sum(invalid.values()):
            return _invalid(version, rows.partition, invalid, rows.rows, inputs)
        done = Current(
            asset=SCORES,
            partition=rows.partition,
            input_digest=digest,
            inputs=inputs,
            files=tuple(data_file(each, count) for each, count in zip(paths, counts, strict=True)),
            measured={"invalid_scores": 0} | {metric.metric: metric.value for metric in how.metrics},
        )
        path = version.path(SCORES, rows.partition)
        return _outcome(publish(version.store, path, done, paths, etag), "materialised", how)


def parts(version: ModelVersion, current: Current) -> list[str]:
    """What Polars can scan of a scores partition."""
    return locations(version.store, version.path(SCORES, current.partition), current)


def _prepare(version: ModelVersion) -> Scoring:
    manifest, profile = version.manifest, version.profile
    if manifest.score.kind != "onnx":
        return Scoring(scoring.column_scorer(manifest.score.column), "", ())
    data, kinds = scoring.load_artefact(version.files, manifest), scoring.feature_kinds(profile)
    found = scoring.sha256(data)
    matches = Metric(metric="artefact_matches", value=1.0, threshold=1.0)
    if found != profile.artefact_sha256:
        digests = f"{found[:12]} ≠ {profile.artefact_sha256[:12]}"
        note = f"{manifest.score.artefact} is not the artefact that was onboarded ({digests})"
        wrong = matches.model_copy(
            update={"value": 0.0, "status": "breach", "note": f"{note}; restore it, or register a new version"}
        )
        return Scoring(lambda frame: np.full(frame.height, np.nan), found, (wrong,))
    scorer = scoring.onnx_scorer(manifest, data, kinds)
    if profile.canary is None:
        return Scoring(scorer, found, (matches,))
    difference = scoring.canary_difference(profile.canary, scorer, kinds)
    value = difference if np.isfinite(difference) else None
    canary = Metric(metric="canary_difference", value=value, threshold=scoring.CANARY_TOLERANCE)
    if difference > scoring.CANARY_TOLERANCE:
        rows, found = len(profile.canary.scores), "some get none" if value is None else f"off by up to {value:.3g}"
        note = f"{rows} reference rows no longer get their frozen scores ({found})"
        canary = canary.model_copy(update={"status": "breach", "note": f"{note}; compare the runtime's version"})
    return Scoring(scorer, found, (matches, canary))


def _write(
    version: ModelVersion, rows: Current, how: Scoring, folder: Path
) -> tuple[list[Path], list[int], dict[str, int]]:
    manifest, options = version.manifest, version.store.storage_options() or None
    low, high = manifest.score.range
    frames = _container_frames(version, rows) if manifest.score.kind == "container" else None
    paths: list[Path] = []
    counts: list[int] = []
    invalid = {"missing": 0, "infinite": 0, "outside the range": 0}
    for location in features.parts(version, rows):
        with reading(version, FEATURES, rows.partition):
            frame = pl.read_parquet(location, glob=False, storage_options=options)
        scores = how.scorer(frame if frames is None else frames(frame))
        finite = np.isfinite(scores)
        invalid["missing"] += int(np.isnan(scores).sum())
        invalid["infinite"] += int(np.isinf(scores).sum())
        invalid["outside the range"] += int((finite & ((scores < low) | (scores > high))).sum())
        path = folder / f"part-{len(paths):05d}.parquet"
        scored = frame.select(manifest.source.key).with_columns(pl.Series(manifest.score.column, scores, pl.Float64))
        scored.write_parquet(path, compression="zstd", statistics=False)
        paths.append(path)
        counts.append(frame.height)
    return paths, counts, invalid


def _container_frames(version: ModelVersion, rows: Current) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """The container's scores, joined to the features by key; every row must have exactly one."""
    key, column = version.manifest.source.key, version.manifest.score.column
    location = scoring.container_scores_location()
    handing_over.check_still_current(version, rows)
    try:
        scores = pl.read_parquet(location, glob=False).select(key, column)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(
            f"The container's scores at {location} cannot be read with {key!r} and {column!r}: {error}"
        ) from error
    if scores.height != rows.rows or scores[key].n_unique() != scores.height:
        raise BadInput(f"The container wrote {scores.height} scores for {rows.rows} rows, or repeats a {key!r}.")
    return lambda frame: frame.select(key).join(scores, on=key, how="left", maintain_order="left")


def _invalid(
    version: ModelVersion, partition: str, invalid: dict[str, int], rows: int, inputs: tuple[Input, ...]
) -> Outcome:
    column, (low, high) = version.manifest.score.column, version.manifest.score.range
    found = ", ".join(f"{count} {what}" for what, count in invalid.items() if count)
    reason = f"{column!r}: {found}, of {rows} rows; score.range is [{low:g}, {high:g}] and every row needs a score"
    metric = Metric(metric="invalid_scores", column=column, value=sum(invalid.values()), n=rows, threshold=0.0)
    return blocked(SCORES, partition, (metric.model_copy(update={"status": "breach", "note": reason}),), reason, inputs)


def _outcome(current: Current, state: Any, how: Scoring) -> Outcome:
    checked = Metric(metric="invalid_scores", value=0.0, n=current.rows, threshold=0.0)
    return Outcome(
        SCORES,
        current.partition,
        "quality",
        state,
        (Metric(metric="rows", value=current.rows, n=current.rows), checked, *how.metrics),
        current.inputs,
        rows=current.rows,
        digest=current.digest,
        plots={"rows": current.rows},
    )
