"""Doing a partition of an asset once: it is done already, or this process is the one at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from monitoring_assets.datasets import Current, read_current
from monitoring_assets.leases import Leases
from monitoring_assets.version import ModelVersion


class Claim(NamedTuple):
    """What the partition's pointer says and the etag to swap it with; ``done``: there is nothing to do."""

    current: Current | None
    etag: str | None
    done: bool


@contextmanager
def claim(version: ModelVersion, asset: str, partition: str, digest: str, *, force: bool) -> Iterator[Claim]:
    """Claim a partition, to be made from the inputs and code of a digest, unless it is.

    With ``force`` it is made again, but not if another process made it while this one waited for it. Raises
    InfrastructureError when another one is at it for long.
    """
    path, name = version.path(asset, partition), (version.manifest.model, version.manifest.version)
    current, etag = read_current(version.store, path)
    if current is not None and current.input_digest == digest and not force:
        yield Claim(current, etag, done=True)
        return
    with Leases(version.store, *name, version.clock).hold(asset, partition) as waited:
        made = False
        if waited:
            before = etag
            current, etag = read_current(version.store, path)
            made = current is not None and current.input_digest == digest and (etag != before or not force)
        yield Claim(current, etag, done=made)
