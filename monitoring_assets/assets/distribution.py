"""The distribution asset: counts in the reference's frozen bins, monitoring's one read of the rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from monitoring_assets.assets import features, scores
from monitoring_assets.assets.claim import claim
from monitoring_assets.assets.counting import count_plan
from monitoring_assets.assets.history import Distributions, to_frame
from monitoring_assets.assets.outcome import Outcome, blocked, skipped
from monitoring_assets.assets.stored import reading
from monitoring_assets.datasets import Current, content_digest, data_file, publish
from monitoring_assets.results import Input, Metric
from monitoring_assets.version import CODE_VERSIONS, DISTRIBUTION, FEATURES, SCORES, ModelVersion
from resources.engines.polars_counting import count_parquet


def materialise(
    version: ModelVersion, partition: str, upstream: Outcome | None, distributions: Distributions, *, force: bool
) -> Outcome:
    """Count one partition's features and scores; the quality verdict on the counts comes after, for all partitions."""
    rows, scored = version.current(FEATURES, partition), version.current(SCORES, partition)
    if rows is None or scored is None or (upstream is not None and not upstream.usable):
        return skipped(DISTRIBUTION, partition, "quality", upstream, SCORES)
    inputs = (
        Input(asset=FEATURES, partition=partition, digest=rows.digest),
        Input(asset=SCORES, partition=partition, digest=scored.digest),
        Input(asset="reference", partition=None, digest=version.reference_digest),
    )
    if all(each.digest != rows.digest for each in scored.inputs):
        reason = "the scores were made from other features than there are now; run the scores stage again"
        metric = Metric(metric="scores_match_features", status="breach", note=reason)
        return blocked(DISTRIBUTION, partition, (metric,), reason, inputs)
    digest = content_digest([DISTRIBUTION, CODE_VERSIONS[DISTRIBUTION], *(each.digest for each in inputs)])
    with claim(version, DISTRIBUTION, partition, digest, force=force) as mine:
        if mine.done and mine.current is not None:
            distributions.remember(partition, mine.current)
            return _outcome(mine.current, "reused")
        counts = _count(version, rows, scored)
        frame = to_frame(counts)
        with tempfile.TemporaryDirectory(prefix="scorewatch-") as folder:
            file = Path(folder) / "part-00000.parquet"
            frame.write_parquet(file, compression="zstd", statistics=False)
            done = Current(
                asset=DISTRIBUTION,
                partition=partition,
                input_digest=digest,
                inputs=inputs,
                files=(data_file(file, frame.height),),
                measured={"rows": counts.rows},
            )
            done = publish(version.store, version.path(DISTRIBUTION, partition), done, [file], mine.etag)
    distributions.remember(partition, done, frame)
    return _outcome(done, "materialised")


def _count(version: ModelVersion, rows: Current, scored: Current) -> Any:
    profile = version.profile
    plan = count_plan(profile.columns, profile.score, version.manifest.score.range, profile.segments)
    with reading(version, "features and scores", rows.partition):
        return count_parquet(
            features.parts(version, rows),
            plan,
            score_paths=scores.parts(version, scored),
            storage_options=version.store.storage_options() or None,
        )


def _outcome(current: Current, state: Any) -> Outcome:
    rows = int(current.measured["rows"])
    return Outcome(
        DISTRIBUTION, current.partition, "quality", state, (), current.inputs, rows=rows, digest=current.digest
    )
