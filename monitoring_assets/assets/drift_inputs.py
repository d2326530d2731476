"""What a partition of psi or csi is made from, and so whether a stored one is up to date. Cheap to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from monitoring_assets.assets.history import Distributions
from monitoring_assets.datasets import content_digest
from monitoring_assets.partitions import windows_for
from monitoring_assets.results import Input
from monitoring_assets.version import CODE_VERSIONS, DISTRIBUTION, ModelVersion

Drift = Literal["psi", "csi"]


def look_back(version: ModelVersion) -> int:
    """Partitions in the longest window."""
    return max(windows_for(version.manifest.partitions.every))


def input_digest(kind: Drift, inputs: Sequence[Input]) -> str:
    """Digest of what a partition of psi or csi is made from; thresholds are not in it, they change no number."""
    return content_digest([kind, CODE_VERSIONS[kind], *([each.asset, each.partition, each.digest] for each in inputs)])


def expected_digest(version: ModelVersion, kind: Drift, partition: str, distributions: Distributions) -> str | None:
    """The input digest that a partition would have now; None when it has no distribution."""
    if distributions.current(partition) is None:
        return None
    window = version.calendar.previous(partition, look_back(version))
    used = [
        Input(asset=DISTRIBUTION, partition=each, digest=current.digest)
        for each in window
        if (current := distributions.current(each)) is not None
    ]
    reference = Input(asset="reference", partition=None, digest=version.reference_digest)
    return input_digest(kind, (*used, reference))
