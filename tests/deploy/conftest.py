"""The clusters that deploy/kubernetes describes, and pods of the images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.containers import Pod
from tests.deploy.manifests import OVERLAYS, Cluster, cluster

pytest.register_assert_rewrite("tests.deploy.iam_story")


@pytest.fixture(name="cluster", params=OVERLAYS)
def _cluster(request: pytest.FixtureRequest) -> Cluster:
    """Each overlay in turn."""
    return cluster(request.param)


@pytest.fixture
def pods() -> Iterator[list[Pod]]:
    """Pods that a test starts: killed in the end, and none may have changed anything outside of its volumes."""
    started: list[Pod] = []
    yield started
    for each in started:
        each.kill()
    assert [change for each in started for change in each.changes()] == []
