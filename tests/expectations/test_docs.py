from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitoring_assets.expectations.batch import CountHistory
from monitoring_assets.stability.binning import CategoricalBins
from monitoring_assets.stability.profile import ReferenceProfile
from monitoring_assets.stability.psi import merge_bins, psi
from monitoring_assets.stability.windows import Thresholds

SCRIPT, IMAGE = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>"
QUOTE = "\"'><svg onload=alert(3)>"
MOVED = [100, 1_800, 50, 30, 5, 15]
Drawn = Callable[..., CountHistory]


class Page(HTMLParser):
    """Every tag with its attributes, and the text as a browser would show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.shown += data


@pytest.fixture(scope="session")
def hostile(profile: ReferenceProfile) -> ReferenceProfile:
    """Markup in the names of features and categories."""
    region = profile.columns[1]
    return replace(
        profile,
        columns=(
            replace(profile.columns[0], name=SCRIPT),
            replace(region, name=IMAGE, bins=CategoricalBins((SCRIPT, IMAGE, QUOTE, "b & c"), specials=())),
            replace(profile.columns[0], name=QUOTE),
            profile.columns[3],
        ),
    )


@pytest.fixture(scope="session")
def site(hostile: ReferenceProfile, tmp_path_factory: pytest.TempPathFactory, drawn: Drawn) -> Path:
    from monitoring_assets.expectations.docs import build_docs
    from monitoring_assets.expectations.suite import SuitePolicy, build_suite

    policy = SuitePolicy(Thresholds(0.1, 0.25), Thresholds(0.1, 0.25), (1, 2, 7), 1e-5)
    history = drawn(hostile, 30)
    counts = history.counts[IMAGE]
    counts[29] = MOVED
    measured = replace(history, measures={"duplicate_keys": np.where(np.arange(30) == 29, 12.0, 0.0)})
    index = build_docs(
        build_suite(hostile, policy),
        hostile,
        measured,
        np.array([28, 29]),
        tmp_path_factory.mktemp("docs"),
        np.array([[21, 14, 7, 0], [22, 15, 8, 1]]),
    )
    assert index.name == "index.html"
    return index.parent


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[str, str]:
    found = {str(page.relative_to(site)): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert sorted(name.split("/")[0] for name in found) == ["expectations", "index.html", "validations"]
    return found


def verdict_page(pages: dict[str, str]) -> str:
    return next(text for name, text in pages.items() if name.startswith("validations"))


def test_no_label_reaches_a_page_as_markup(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        for label in (SCRIPT, IMAGE, QUOTE):
            assert label not in text, name
        page = Page(text)
        assert {"script", "img", "svg"}.isdisjoint(tag for tag, _ in page.tags), name
        assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")], name


def test_labels_are_shown_as_they_are(pages: dict[str, str]) -> None:
    text = verdict_page(pages)
    shown = Page(text).shown
    for label in (SCRIPT, IMAGE, QUOTE):
        assert escape(label) in text
        assert label in shown
    assert "b & c" in shown
    assert "&amp;amp;" not in text
    assert "&amp;lt;" not in text


def test_a_page_needs_no_network_and_allows_no_script(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        for tag, attributes in Page(text).tags:
            assert tag != "link", name
            assert not (attributes.get("src") or "").startswith(("http", "//")), name
        assert "url('http" not in text, name
        assert "utm_" not in text, name
        assert "dataContextId" not in text, name
        assert """http-equiv="Content-Security-Policy" content="default-src 'none';""" in text, name


def test_the_newest_partition_is_shown_with_its_verdicts_thresholds_and_bins(
    hostile: ReferenceProfile, pages: dict[str, str]
) -> None:
    shown = re.sub(r"\s+", " ", Page(verdict_page(pages)).shown)
    assert "2026-01-30" in shown
    assert "net PSI below 0.25 (a warning from 0.1) in every window of 1, 2, 7 partitions" in shown
    region = hostile.columns[1]
    groups = region.group_array
    moved = psi(merge_bins(np.array(MOVED), groups), merge_bins(region.reference_counts(), groups))
    assert f"breach: net PSI {moved.net:.4f}, PSI {moved.value:.4f}, p 0, 2,000 rows in a window of 1" in shown
    assert f"{IMAGE}38.00%90.00%" in shown
    assert "null_rate1.20%0.75%ok" in shown
    assert "ok: 1.00 of the median" in shown


def test_the_index_lists_failures_first_and_links_to_the_pages(site: Path, pages: dict[str, str]) -> None:
    index = Page(pages["index.html"])
    links = [attributes["href"] or "" for tag, attributes in index.tags if tag == "a"]
    assert len(links) == 2
    for name, text in pages.items():
        targets = [attributes["href"] or "" for tag, attributes in Page(text).tags if tag == "a"]
        inside = [target for target in targets if not target.startswith(("#", "https://greatexpectations.io"))]
        assert inside
        assert all((site / name).parent.joinpath(target).is_file() for target in inside), name
    assert "ke-nano-loan 3.2.0, 2026-01-30" in index.shown
    verdicts = re.findall(r"passed|failed", index.shown)
    assert verdicts == sorted(verdicts)
    assert verdicts.count("failed") == 2
    assert f"failedcsi{IMAGE}breach: net PSI" in index.shown
    assert "failedquality(partition) duplicate_keys[12.0]" in index.shown


def test_docs_of_an_incomplete_suite_are_not_built(profile: ReferenceProfile, drawn: Drawn, tmp_path: Path) -> None:
    from monitoring_assets.expectations import suite
    from monitoring_assets.expectations.docs import build_docs

    policy: Any = suite.SuitePolicy(Thresholds(0.1, 0.25), Thresholds(0.1, 0.25), (1,), 1e-5)
    built = suite.build_suite(profile, policy)
    built.expectations = built.expectations[1:]
    with pytest.raises(suite.SuiteError, match="lacking"):
        build_docs(built, profile, drawn(profile, 2), np.array([1]), tmp_path)
    assert list(tmp_path.iterdir()) == []
