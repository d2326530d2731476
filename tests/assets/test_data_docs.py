from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from monitoring_assets.assets.data_docs import build
from resources.errors import BadInput

DAYS = ["2026-01-01", "2026-01-02"]


def test_the_docs_of_a_partition_show_every_column_s_verdict_with_the_windows_before_it(
    lender: Any, run: Any, tmp_path: Path
) -> None:
    version = lender.onboard()
    lender.land(DAYS[0], lender.rows(DAYS[0], 400))
    lender.land(DAYS[1], lender.rows(DAYS[1], 400).with_columns(income=pl.col("income") + 8.0))
    run(version, DAYS)
    page = build(version, DAYS[1], tmp_path / "site").read_text()
    assert all(escape(column.name) in page for column in version.profile.columns)
    assert "breach: net PSI" in page
    quiet = build(version, DAYS[0], tmp_path / "quiet").read_text()
    assert "breach" not in quiet


def test_a_partition_that_was_not_counted_has_no_docs(lender: Any, tmp_path: Path) -> None:
    version = lender.onboard()
    with pytest.raises(BadInput, match=r"no distribution of 2026-01-01; run it first: scorewatch run "):
        build(version, DAYS[0], tmp_path / "site")
