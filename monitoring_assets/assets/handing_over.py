"""A partition's features as one file, for a model's own container: it scores them before the run that takes the scores.

The file says in its Parquet metadata which features they are, so that scores of others are not taken for theirs.
"""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from monitoring_assets import scoring
from monitoring_assets.assets import features
from monitoring_assets.assets.stored import reading
from monitoring_assets.datasets import Current
from monitoring_assets.version import FEATURES, ModelVersion
from resources.errors import BadInput, InfrastructureError

_DIGEST = "scorewatch.features"


def hand_over(version: ModelVersion, partition: str, path: Path) -> int:
    """Make the partition's features, if they are not up to date, and write them to a Parquet file; their rows.

    The columns are the key, the features (numbers as float64, categories as strings) and the segments. When the source
    is missing or bad the file has them and no row: what there is to say about that, the run says that comes after.
    """
    outcome = features.materialise(version, partition)
    current = version.current(FEATURES, partition) if outcome.usable else None
    if current is None:
        _empty(version).write_parquet(path)
        return 0
    options = version.store.storage_options() or None
    with reading(version, FEATURES, partition):
        rows = pl.scan_parquet(features.parts(version, current), glob=False, storage_options=options)
        rows.sink_parquet(path, metadata={_DIGEST: current.digest})
    return current.rows


def check_still_current(version: ModelVersion, rows: Current) -> None:
    """Raises InfrastructureError when a container was given other features than these: it is to score these first.

    Who set the place of the scores by hand has to know what they are of.
    """
    place = os.environ.get(scoring.FEATURES_URI)
    if not place:
        return
    try:
        found = pl.read_parquet_metadata(local_path(place)).get(_DIGEST)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"The features that the container was given cannot be read at {place}: {error}") from error
    if found != rows.digest:
        raise InfrastructureError(
            f"{version.name}: the features of {rows.partition} are not those that its container was given: they "
            "were made again meanwhile, or of another partition. Run the partition again, in a new pod."
        )


def local_path(uri: str) -> Path:
    """The file at a ``file://`` URI or a path. Raises BadInput for another one."""
    path = uri.removeprefix("file://")
    if "://" in path or not path.startswith("/"):
        raise BadInput(f"{uri!r} is no file of this machine. Write file:///folder/name.parquet.")
    return Path(path)


def _empty(version: ModelVersion) -> pl.DataFrame:
    kinds = dict(scoring.feature_kinds(version.profile))
    columns = {name: pl.Float64 if numeric else pl.String for name, numeric in kinds.items()}
    segments = {name: pl.String for name in version.profile.segments if name not in columns}
    return pl.DataFrame(schema={version.manifest.source.key: pl.String, **columns, **segments})
