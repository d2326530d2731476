"""Data Docs of one partition: the whole suite of its version, psi, csi and quality, as a site to open."""

from __future__ import annotations

from pathlib import Path

from monitoring_assets.assets import judging, quality
from monitoring_assets.assets.drift_inputs import look_back
from monitoring_assets.assets.history import Distributions
from monitoring_assets.expectations.docs import build_docs
from monitoring_assets.expectations.suite import build_suite
from monitoring_assets.version import ModelVersion
from resources.errors import BadInput


def build(version: ModelVersion, partition: str, folder: Path) -> Path:
    """Build the site of ``partition`` in ``folder``; its index page. Raises BadInput when it has no distribution."""
    distributions = Distributions(version)
    if distributions.current(partition) is None:
        raise BadInput(
            f"{version.name} has no distribution of {partition}; run it first: scorewatch run "
            f"{version.manifest.model} {version.manifest.version} --partition {partition}"
        )
    earlier = [*version.calendar.same_weekday(partition, quality.WEEKS_BACK), partition]
    first = min(earlier[0], version.calendar.previous(partition, look_back(version))[0])
    history = distributions.history(version.calendar.keys(first, partition))
    targets = history.positions([partition])
    batch = judging.batch_of(history, quality.measures(version, [partition], targets, len(history.partitions)))
    suite = build_suite(version.profile, judging.suite_policy(version))
    weekdays = quality.weekday_positions(version, [partition], history.partitions)
    return build_docs(suite, version.profile, batch, targets, folder, weekdays)
