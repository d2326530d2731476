"""What became of one partition of one asset: the stages return it, the recorder makes results and events of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from monitoring_assets.results import Input, Kind, Metric, Status, gravest

State = Literal["materialised", "reused", "missing", "blocked", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """One asset, one partition.

    ``materialised`` wrote new data, ``reused`` found the same inputs and code already done, ``missing`` had no
    source data, ``blocked`` failed a blocking check and published nothing, ``skipped`` had no usable upstream.
    ``plots`` are numbers for the materialisation's metadata, which Dagit draws over partitions. ``arrived_at`` is when
    the data of blocked features arrived: there is no stored partition that could tell.
    """

    asset: str
    partition: str
    kind: Kind
    state: State
    metrics: tuple[Metric, ...] = ()
    inputs: tuple[Input, ...] = ()
    reason: str = ""
    rows: int = 0
    digest: str = ""
    plots: dict[str, Any] = field(default_factory=dict)
    forced_status: Status | None = None
    arrived_at: datetime | None = None

    @property
    def usable(self) -> bool:
        """Whether downstream assets may read the partition."""
        return self.state in ("materialised", "reused")

    @property
    def status(self) -> Status:
        """The gravest status of the metrics of the whole population; segments are shown, not judged."""
        if self.forced_status is not None:
            return self.forced_status
        return gravest(metric.status for metric in self.metrics if metric.segment is None)


def missing(asset: str, partition: str, reason: str) -> Outcome:
    """There is no source data (yet)."""
    return Outcome(asset, partition, "quality", "missing", reason=reason, forced_status="insufficient_data")


def blocked(asset: str, partition: str, metrics: tuple[Metric, ...], reason: str, inputs: tuple[Input, ...]) -> Outcome:
    """A blocking check failed: nothing was published."""
    return Outcome(asset, partition, "quality", "blocked", metrics, inputs, reason, forced_status="breach")


def skipped(asset: str, partition: str, kind: Kind, upstream: Outcome | None, upstream_asset: str) -> Outcome:
    """The upstream partition is missing, or failed a blocking check."""
    why = f"{upstream.state}: {upstream.reason}" if upstream else "not materialised; run that stage first"
    return Outcome(
        asset, partition, kind, "skipped", reason=f"{upstream_asset} is {why}", forced_status="insufficient_data"
    )
