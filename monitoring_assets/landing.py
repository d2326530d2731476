"""What has landed of a partition: its source files, whether they are complete, and what is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from monitoring_assets.datasets import content_digest
from monitoring_assets.results import Input
from monitoring_assets.version import CODE_VERSIONS, FEATURES, DeployedVersion
from resources.lake import SourceFile, check_allowed, list_files, marker_present

SETTLED_AFTER = timedelta(seconds=30)
SETTLED_AFTER_ONE = timedelta(seconds=2)


@dataclass(frozen=True)
class Landing:
    """The source of one partition as it lies in the lake now; ``why_none`` says why there are no files to read."""

    uri: str
    files: tuple[SourceFile, ...]
    why_none: str
    has_marker: bool

    @property
    def digest(self) -> str:
        """Changes whenever a file is added, removed or rewritten."""
        return content_digest([file.fingerprint for file in self.files])

    @property
    def landed_at(self) -> datetime | None:
        """When the newest file was written; None without files."""
        return max((file.last_modified for file in self.files), default=None)

    def settled(self, now: datetime) -> bool:
        """Whether the files are all there: a marker says so, or nothing has changed for a while.

        A URI without a wildcard names one file, which an object store shows whole or not at all.
        """
        if self.landed_at is None:
            return False
        if self.has_marker:
            return True
        quiet = SETTLED_AFTER if "*" in self.uri or "?" in self.uri else SETTLED_AFTER_ONE
        return self.landed_at + quiet <= now

    def why_unsettled(self, now: datetime) -> str:
        """Why nobody believes that they are all there."""
        ahead = [file for file in self.files if file.last_modified > now]
        if ahead:
            return f"{ahead[0].uri} is dated in the future; put it there again, or a marker (source.ready)"
        return f"what matches {self.uri} is still being written; a marker (source.ready) would say when it is complete"


def landing(version: DeployedVersion, partition: str) -> Landing:
    """Look at the source of a partition. Raises BadInput when it lies outside the allowed prefixes."""
    source, endpoint = version.manifest.source, version.settings.s3_endpoint
    uri = source.uri_for(version.calendar.start_local(partition))
    check_allowed(uri, version.settings.allowed_sources)
    if source.ready and not marker_present(uri, source.ready, s3_endpoint=endpoint):
        return Landing(uri, (), f"the marker {source.ready} is not there yet beside {uri}", has_marker=False)
    files = tuple(list_files(uri, s3_endpoint=endpoint))
    return Landing(uri, files, "" if files else f"no file matches {uri}", has_marker=source.ready is not None)


def source_input(partition: str, found: Landing) -> Input:
    """The source as an input of what is made from it."""
    return Input(asset="source", partition=partition, digest=found.digest)


def features_digest(version: DeployedVersion, found: Landing) -> str:
    """Digest of what a partition's features are made from: the source's files, the manifest, this code."""
    listed = [[file.uri, file.fingerprint] for file in found.files]
    return content_digest([FEATURES, CODE_VERSIONS[FEATURES], version.identity, listed])
