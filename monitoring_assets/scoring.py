"""How rows get their score: the version's ONNX artefact, a precomputed column, or what its own container wrote.

Also the artefact's identity and the canary: reference rows that must get their frozen scores again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from monitoring_assets.manifest import Manifest
from monitoring_assets.stability.profile import Canary, ReferenceProfile
from resources.engines.onnx_model import OnnxModel
from resources.errors import BadInput
from resources.registry import VersionFiles

if TYPE_CHECKING:
    import polars as pl

Scores = npt.NDArray[np.float64]
Scorer = Callable[["pl.DataFrame"], Scores]
CANARY_ROWS = 200
CANARY_TOLERANCE = 1e-5
FEATURES_URI, SCORES_URI = "SCOREWATCH_FEATURES_URI", "SCOREWATCH_SCORES_URI"


def load_artefact(files: VersionFiles, manifest: Manifest) -> bytes:
    """The artefact's bytes; raises BadInput when the version's folder has none of that name."""
    return files.read(str(manifest.score.artefact), named_by=f"{manifest.model} {manifest.version}: score.artefact")


def sha256(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=4)
def onnx_model(data: bytes, features: tuple[tuple[str, bool], ...], where: str) -> OnnxModel:
    """A scoring session, kept for the next partition; ``features`` are (name, numeric) pairs."""
    return OnnxModel(data, dict(features), where=where)


def onnx_scorer(manifest: Manifest, data: bytes, features: tuple[tuple[str, bool], ...]) -> Scorer:
    """Scores frames with the artefact; raises BadInput when its inputs are not the features."""
    where = f"{manifest.model} {manifest.version}: {manifest.score.artefact}"
    return onnx_model(data, features, where).score


def column_scorer(column: str) -> Scorer:
    """Takes the scores from a column of the frame; null becomes nan."""
    return lambda frame: np.asarray(frame[column].cast(float).fill_null(np.nan).to_numpy(), dtype=np.float64)


def container_scores_location() -> str:
    """Where the version's own container wrote its scores; raises BadInput outside its pod."""
    location = os.environ.get(SCORES_URI)
    if not location:
        raise BadInput(
            f"score.kind is container: the model's own image reads {FEATURES_URI} and writes {SCORES_URI} "
            f"before this stage runs, and {SCORES_URI} is not set. Run it in the version's pod, or set it by hand."
        )
    return location


def canary_difference(canary: Canary, scorer: Scorer, features: tuple[tuple[str, bool], ...]) -> float:
    """Largest difference between the canary's frozen scores and what its rows get now; infinite where they get none."""
    now = scorer(canary_frame(canary.rows, features))
    difference = np.abs(now - np.asarray(canary.scores))
    return float(np.max(np.where(np.isnan(difference), np.inf, difference), initial=0.0))


def canary_frame(rows: dict[str, list[object]], features: tuple[tuple[str, bool], ...]) -> pl.DataFrame:
    """The canary's rows as stages see them: numbers as float64, categories as strings."""
    import polars as pl  # noqa: PLC0415

    return pl.DataFrame(rows, schema={name: pl.Float64 if numeric else pl.String for name, numeric in features})


def feature_kinds(profile: ReferenceProfile) -> tuple[tuple[str, bool], ...]:
    """(name, numeric) of the features, in the manifest's order."""
    return tuple((column.name, column.numeric) for column in profile.features)
