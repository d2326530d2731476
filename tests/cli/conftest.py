"""The command on a lender's store, with models whose results are written by hand."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring_assets import cli
from monitoring_assets.refresh import Refresher
from monitoring_assets.results import Metric, Result, write_result

MODEL = "ke-nano-loan"
NETS = {"ok": 0.01, "hold": 0.09, "warn": 0.15, "breach": 1.82}
"""Net PSI of the only column."""


@dataclass(frozen=True)
class Said:
    """What a command ended with and printed."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass
class Desk:
    """Where somebody sits who types commands; it is the first of February, six o'clock."""

    lender: Any
    environ: dict[str, str]
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str, **more: str) -> Said:
        """``scorewatch ARGUMENTS`` as a process runs it, with ``more`` environment variables."""
        self.capsys.readouterr()
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["scorewatch", *arguments])
            for name, value in (self.environ | more).items():
                patch.setenv(name, value)
            code = cli._run()
        said = self.capsys.readouterr()
        return Said(code, said.out, said.err)

    def register(self, *models: str, **changes: Any) -> None:
        """Deploy the first version of each and look at the registry, as `scorewatch up` does."""
        for model in models or [MODEL]:
            document = self.lender.manifest(precomputed=True, model=model, version="1", **changes)
            where = self.lender.deploy_manifest(yaml.safe_dump(document).encode(), model, "1")
            # Long ago, by the clock of the test too: what was deployed of late is told.
            os.utime(where.removeprefix("file://"), (0, 0))
        Refresher(self.lender.settings, self.lender.clock).look()

    def day(self, day: int, state: str, *, model: str = MODEL, column: str = "income", **more: Any) -> None:
        """Write a live csi result of a day of January 2026; its state is one of `NETS`."""
        status = "ok" if state == "hold" else state
        metric = Metric(
            metric="csi", column=column, window=1, net_value=NETS[state], significant=True, n=900, status=status
        )
        usual = {"kind": "csi", "asset": "csi", "trigger": "arrival", "live": True, "metrics": (metric,)}
        self.write(f"2026-01-{day:02d}", status=status, model=model, **usual | more)

    def write(self, partition: str, **said: Any) -> None:
        result = Result(version="1", partition=partition, recorded_at=self.lender.now, **said)
        write_result(self.lender.store, result, partition)


@pytest.fixture
def desk(lender: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    lender.now = datetime(2026, 2, 1, 6, tzinfo=UTC)
    monkeypatch.setattr("monitoring_assets.onboarding.utc_now", lender.clock)
    environ = {
        "SCOREWATCH_HOME": f"{tmp_path}/home",
        "SCOREWATCH_STORE": lender.settings.store_uri,
        "SCOREWATCH_REGISTRY": lender.settings.registry_uri,
        "SCOREWATCH_ALLOWED_SOURCES": lender.lake_uri,
        "COLUMNS": "200",
    }
    return Desk(lender, environ, monkeypatch, capsys)
