"""The clusters that deploy/kubernetes describes."""

from __future__ import annotations

import pytest

from tests.deploy.manifests import OVERLAYS, Cluster, cluster


@pytest.fixture(name="cluster", params=OVERLAYS)
def _cluster(request: pytest.FixtureRequest) -> Cluster:
    """Each overlay in turn."""
    return cluster(request.param)
