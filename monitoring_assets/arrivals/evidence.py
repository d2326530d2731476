"""What the store says of how far a version's partitions have come. Results are written last: these are what counts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from monitoring_assets import layout
from monitoring_assets.datasets import Current
from monitoring_assets.landing import Landing
from monitoring_assets.results import Input, Result, newest_of_asset
from monitoring_assets.version import CHECKS, CSI, DISTRIBUTION, FEATURES, PSI, DeployedVersion
from resources.object_store import ObjectStore

RUN = "run"
"""The asset of results about runs that die."""


def arrived_at(version: DeployedVersion, partition: str) -> datetime | None:
    """When the partition's first data arrived that was good; None when there was none yet."""
    rows = version.current(FEATURES, partition)
    return None if rows is None else datetime.fromisoformat(rows.measured["arrived_at"])


def ended(version: DeployedVersion) -> tuple[set[str], set[str]]:
    """Partitions that a run came to the end of, good or bad, and others that killed every run so far.

    The results of csi come last. One listing, and a read of each partition that was overdue or worse.
    """
    folder = f"{layout.results_of(version.manifest.model, version.manifest.version)}/"
    found: dict[str, set[str]] = {CHECKS[CSI]: set(), "pipeline": set()}
    for info in version.store.list(folder):
        partition, kind, _ = info.key.removeprefix(folder).split("/")
        if kind in found and partition != layout.REGISTRY_PARTITION:
            found[kind].add(version.calendar.decode(partition))
    through, others = found[CHECKS[CSI]], found["pipeline"] - found[CHECKS[CSI]]
    return through, {each for each in others if died_of(version, each) is not None}


def died_of(version: DeployedVersion, partition: str) -> str | None:
    """Digest of the data that killed every run of a partition so far; None of one that did no such thing."""
    newest = newest_of_asset(version.store, _results(version, partition, "pipeline"), RUN)
    if newest is None or newest.status != "error":
        return None
    return next((each.digest for each in newest.inputs), "")


def has_been_through(version: DeployedVersion, partition: str, found: Landing, *, live: bool) -> bool:
    """Whether this data has been through everything, down to results of psi and csi; ``live`` ones, if asked for."""
    rows, counted = version.current(FEATURES, partition), version.current(DISTRIBUTION, partition)
    if rows is None or counted is None:
        return False
    if not (_names(rows.inputs, "source", found.digest) and _names(counted.inputs, FEATURES, rows.digest)):
        return False
    return all(_is_judged(version, kind, partition, counted, live=live) for kind in (PSI, CSI))


def was_read(version: DeployedVersion, partition: str, source_digest: str) -> bool:
    """Whether the newest run that read the partition's source read this data, whatever it found."""
    newest = newest_of_asset(version.store, _results(version, partition, CHECKS[FEATURES]), FEATURES)
    return newest is not None and _names(newest.inputs, "source", source_digest)


def _is_judged(version: DeployedVersion, kind: str, partition: str, counted: Current, *, live: bool) -> bool:
    """Whether the newest result is about these counts, and any of them is live if that is asked for."""
    for number, result in enumerate(_attempts(version, partition, kind)):
        about = any(
            (each.asset, each.partition, each.digest) == (DISTRIBUTION, partition, counted.digest)
            for each in result.inputs
        )
        if about and (result.live or not live):
            return True
        if number == 0 and not about:
            return False
    return False


def _attempts(version: DeployedVersion, partition: str, kind: str) -> Iterator[Result]:
    """The newest first."""
    for info in reversed(list(version.store.list(_results(version, partition, kind)))):
        blob = version.store.get(info.key)
        if blob is not None:
            yield Result.model_validate_json(blob.data)


def _results(version: DeployedVersion, partition: str, kind: str) -> str:
    encoded = version.calendar.encode(partition)
    return layout.results(version.manifest.model, version.manifest.version, encoded, kind)


def _names(inputs: tuple[Input, ...], asset: str, digest: str) -> bool:
    return any(each.asset == asset and each.digest == digest for each in inputs)


def to_be_judged_again(store: ObjectStore) -> dict[tuple[str, str], list[str]]:
    """Partitions (encoded) that a killed run left others to be judged again behind, by model and version."""
    found: dict[tuple[str, str], list[str]] = {}
    for info in store.list(layout.REJUDGE):
        model, _, rest = info.key.removeprefix(layout.REJUDGE).partition("/")
        version, _, partition = rest.partition("/")
        found.setdefault((model, version), []).append(partition)
    return found
