"""Which partitions have work left: their source, code or upstream is not what their stored data was made from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from monitoring_assets.assets.drift_inputs import Drift, expected_digest, look_back
from monitoring_assets.assets.history import Distributions
from monitoring_assets.datasets import Current
from monitoring_assets.landing import features_digest, landing
from monitoring_assets.version import FEATURES, PSI, SCORES, ModelVersion
from resources.at_once import at_once

_DRIFT: tuple[Drift, ...] = ("psi", "csi")


class Freshness:
    """Looks at pointers and source listings only; no rows are read."""

    def __init__(self, version: ModelVersion) -> None:
        self._version = version
        self._distributions = Distributions(version)

    def stale(self, partitions: Sequence[str]) -> list[str]:
        """The partitions that a run of all assets would write something for, or that have no data yet."""
        return _without(self._fresh, partitions)

    def reach(self, partitions: Sequence[str]) -> dict[str, list[str]]:
        """Of each partition, the judged ones whose windows may hold it: itself, and those that follow."""
        judged = set(self._version.materialised(PSI))
        known, length = sorted(judged.union(partitions)), look_back(self._version)
        starts = ((each, bisect_left(known, each)) for each in partitions)
        return {each: [other for other in known[at : at + length] if other in judged] for each, at in starts}

    def stale_behind(self, partitions: Sequence[str]) -> list[str]:
        """Judged partitions whose windows hold data of ``partitions`` that changed since, these themselves included."""
        reached = {each for judged in self.reach(partitions).values() for each in judged}
        return _without(self._judged, sorted(reached))

    def _fresh(self, partition: str) -> bool:
        found = landing(self._version, partition)
        rows = self._version.current(FEATURES, partition)
        if found.why_none or rows is None or rows.input_digest != features_digest(self._version, found):
            return False
        scored, counted = self._version.current(SCORES, partition), self._distributions.current(partition)
        if scored is None or counted is None:
            return False
        return _made_from(scored, rows) and _made_from(counted, scored) and self._judged(partition)

    def _judged(self, partition: str) -> bool:
        for kind in _DRIFT:
            current = self._version.current(kind, partition)
            expected = expected_digest(self._version, kind, partition, self._distributions)
            if current is None or current.input_digest != expected:
                return False
        return True


def _made_from(current: Current, upstream: Current) -> bool:
    return any(each.asset == upstream.asset and each.digest == upstream.digest for each in current.inputs)


def _without(holds: Callable[[str], bool], partitions: Sequence[str]) -> list[str]:
    """The partitions of which something does not hold."""
    return [each for each, found in zip(partitions, at_once(holds, partitions), strict=True) if not found]
