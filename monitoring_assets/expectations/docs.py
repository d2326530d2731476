"""Data Docs of the newest partition: Great Expectations' static site, made self-contained and safe to open.

The site names features and categories, which are the customer's data. Great Expectations puts column names into its
pages as they are, and its pages load scripts, styles and a logo from other hosts. Here names are escaped before they
reach it, whatever would be loaded is taken out, and a content security policy forbids the rest.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from html import escape
from pathlib import Path

import great_expectations as gx
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

from monitoring_assets.expectations.batch import CountHistory, to_frame
from monitoring_assets.expectations.suite import (
    KINDS,
    add_counts,
    chosen_expectations,
    refuse_exceptions,
    suite_parameters,
)
from monitoring_assets.stability.profile import ReferenceProfile
from monitoring_assets.stability.psi import IntArray

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_HEAD = f"""<meta charset="UTF-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<style>
body {{ font-family: sans-serif; margin: 1em }}
table {{ border-collapse: collapse; margin: .5em 0 }}
td, th {{ border: 1px solid #bbb; padding: .2em .6em; text-align: left; vertical-align: top }}
.card:has(.btn-group-toggle) {{ display: none }}
.fa-check-circle::before {{ content: "✔" }}
.fa-times::before {{ content: "✘" }}
</style>
"""
_LOADED = re.compile(
    r"<script\b.*?</script\s*>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer\s*>|<label\b[^>]*onclick.*?</label\s*>|url\('http[^']*'\)",
    re.DOTALL | re.IGNORECASE,
)


def build_docs(
    suite: gx.ExpectationSuite,
    profile: ReferenceProfile,
    history: CountHistory,
    targets: IntArray,
    folder: Path,
    weekday_history: IntArray | None = None,
) -> Path:
    """Write the Data Docs of the newest of ``targets`` [T] into ``folder`` and return its ``index.html``.

    Every kind that the batch can answer is shown. The pages need no network and hold no script. Raises SuiteError
    like ``validate``.
    """
    newest = targets[-1:]
    earlier = None if weekday_history is None else weekday_history[-1:]
    expectations = chosen_expectations(suite, profile, history, KINDS, earlier)
    renamed = [each.copy(update={"column": escape(each.column)}) for each in expectations]
    frame = to_frame(history, newest).rename(columns=escape)
    partition = history.partitions[int(newest[0])]
    with tempfile.TemporaryDirectory() as temporary:
        context = gx.get_context(mode="file", project_root_dir=temporary)
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(
                name=suite.name,
                data=add_counts(context),
                suite=context.suites.add(gx.ExpectationSuite(name=suite.name, expectations=renamed)),
            )
        )
        result = definition.run(
            batch_parameters={"dataframe": frame},
            expectation_parameters=suite_parameters(earlier),
            result_format="COMPLETE",
            run_id=gx.RunIdentifier(run_name=partition.replace(":", "-")),
        )
        refuse_exceptions(profile, result.results)
        context.build_data_docs()
        site = Path(context.root_directory, "uncommitted", "data_docs", "local_site")
        pages = [page.relative_to(site) for page in sorted(site.rglob("*.html")) if page.name != "index.html"]
        for page in pages:
            target = folder / page
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_self_contained((site / page).read_text(encoding="utf-8")), encoding="utf-8")
    index = folder / "index.html"
    # The index that Great Expectations makes is a table that only scripts from other hosts can draw.
    index.write_text(_index(profile, partition, result, pages), encoding="utf-8")
    return index


def _self_contained(page: str) -> str:
    return _LOADED.sub("", page).replace("<head>", f"<head>{_HEAD}", 1)


def _index(
    profile: ReferenceProfile, partition: str, result: ExpectationSuiteValidationResult, pages: Iterable[Path]
) -> str:
    title = escape(f"{profile.model} {profile.version}, {partition}")
    links = "".join(f'<li><a href="{escape(str(page))}">{escape(page.parts[0])}</a></li>' for page in pages)
    rows = "".join(_index_row(each) for each in sorted(result.results, key=lambda each: bool(each.success)))
    return (
        f"<!DOCTYPE html><html><head>{_HEAD}<title>{title}</title></head><body><h1>{title}</h1><ul>{links}</ul>"
        f"<table><tr><th>Status</th><th>Kind</th><th>Column</th><th>Observed</th></tr>{rows}</table></body></html>"
    )


def _index_row(result: ExpectationValidationResult) -> str:
    configuration = result.expectation.configuration
    kind, column = (configuration.meta or {})["kind"], configuration.kwargs["column"]
    observed = result.result.get("observed_value") or result.result.get("unexpected_list") or "within its bounds"
    status = "passed" if result.success else "failed"
    # The column's name is escaped already.
    return f"<tr><td>{status}</td><td>{kind}</td><td>{column}</td><td>{escape(str(observed))}</td></tr>"
