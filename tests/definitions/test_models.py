"""What a `models` location makes of versions that do not fit together, and names that no two versions share."""

from __future__ import annotations

import itertools
import re
from typing import Any

import dagster as dg
import pytest
import yaml

from monitoring_assets.assets.factory import group
from monitoring_assets.definitions import models
from monitoring_assets.definitions.fitting import fitting
from monitoring_assets.fleet import Fleet, scan
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.manifest import Manifest
from monitoring_assets.onboarding import utc_now
from monitoring_assets.quarantine import kept_back
from monitoring_assets.refresh import Refresher
from monitoring_assets.results import Result
from monitoring_assets.sensors.registry import Report
from monitoring_assets.status import statuses


def deploy(lender: Any, model: str, version: str = "1") -> None:
    document = lender.manifest(model=model, version=version, precomputed=True)
    lender.deploy_manifest(yaml.safe_dump(document).encode(), model, version)


def load(lender: Any) -> set[str]:
    """The versions that a location of the whole registry has groups of; it is loaded as its server loads it."""
    state = scan(lender.settings, Fleet()).fleet.shard(0, 1).model_dump_json(by_alias=True, exclude_unset=True)
    models._built.cache_clear()
    repository = models._built(lender.settings, state.encode()).get_repository_def()
    repository.load_all_definitions()
    return {"/".join(key.path[:2]) for key in repository.asset_graph.get_all_asset_keys()}


@pytest.fixture
def clash(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Models whose group is that of `good-1`, as of a bug that gives two versions one name; tests add to them."""
    found = set[str]()

    def of(manifest: Manifest, *more: str) -> Any:
        return group(manifest.model_copy(update={"model": "good-1"} if manifest.model in found else {}), *more)

    monkeypatch.setattr(models, "group", of)
    return found


def texts(alphabet: str, longest: int, pattern: str) -> list[str]:
    every = ("".join(each) for length in range(1, longest + 1) for each in itertools.product(alphabet, repeat=length))
    return [each for each in every if re.fullmatch(pattern, each)]


def test_no_two_versions_share_a_name_of_a_group_or_an_op(lender: Any) -> None:
    document = lender.manifest(model="m", version="1", precomputed=True)
    manifest = Manifest.model_validate(document)
    taken: dict[str, str] = {}
    versions = [
        *texts("a0.-", 5, r"[0-9a-z]+([.-][0-9a-z]+)*"),
        "0-reference",
        "0.reference",
        "reference",
        "0-0-reference",
    ]
    for model in texts("a0-", 4, r"[a-z0-9]+(-[a-z0-9]+)*"):
        for version in versions:
            each = manifest.model_copy(update={"model": model, "version": version})
            for name in (each.slug, f"{each.slug}___reference"):
                assert taken.setdefault(name, f"{model} {version}") == f"{model} {version}", name


def test_a_version_that_is_called_like_another_one_s_reference_is_monitored_as_that_is(lender: Any) -> None:
    for version in ("1", "1-reference", "1.reference", "1.0", "1-0"):
        deploy(lender, "ke-nano-loan", version)
    names = {name for each in scan(lender.settings, Fleet()).fleet.members for name in ops(each.manifest)}
    assert len(names) == 10
    assert len(load(lender)) == 5
    assert kept_back(lender.store, "definitions") == []


def ops(manifest: Manifest) -> list[str]:
    return [each.op.name for each in group(manifest) if isinstance(each, dg.AssetsDefinition)]


def test_versions_that_do_not_fit_are_kept_back_and_said_to_be_and_all_others_are_monitored(
    lender: Any, clash: set[str]
) -> None:
    for number in range(6):
        deploy(lender, f"good-{number}")
    for model in ("as-bad", "worse"):
        deploy(lender, model)
        clash.add(model)
    registered = Refresher(lender.settings, utc_now).look().fleet.registered
    assert load(lender) == {f"good-{number}/1" for number in range(6)}
    found = {each.model: each.reason for each in kept_back(lender.store, "definitions")}
    assert list(found) == ["good-1", "worse"], "of those that clash the first one stays"
    assert "Dagster does not take its assets: " in found["worse"]
    report = Report(lender.settings, FleetFile(lender.store).read())
    assert (report.passed, report.description) == (False, "kept back: good-1 1, worse 1")
    states = {each.model: each.state for each in statuses(lender.settings, registered, utc_now)}
    assert {model for model, state in states.items() if state == "quarantined"} == {"good-1", "worse"}
    [result] = results(lender, "worse")
    assert (result.kind, result.status, result.live) == ("pipeline", "quarantined", True)


def results(lender: Any, model: str) -> list[Result]:
    keys = lender.listed(f"results/{model}/1/registry/pipeline/")
    return [Result.model_validate_json(lender.store.get(key).data) for key in keys]


def test_one_that_fits_again_is_let_go_and_one_that_still_does_not_is_not_looked_for_again(
    lender: Any, clash: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        deploy(lender, f"good-{number}")
    deploy(lender, "worse")
    clash.add("worse")
    load(lender)
    built, real = [], models._definitions
    monkeypatch.setattr(models, "_definitions", lambda *given: built.append(len(given[1])) or real(*given))
    load(lender)
    assert built == [8, 9]
    clash.clear()
    assert "worse/1" in load(lender)
    assert kept_back(lender.store, "definitions") == []
    assert [each.status for each in results(lender, "worse")] == ["quarantined", "ok"]


def test_one_whose_files_change_or_that_goes_is_let_go(lender: Any, clash: set[str]) -> None:
    for model in ("good-1", "worse", "worst"):
        deploy(lender, model)
    clash |= {"worse", "worst"}
    refresher = Refresher(lender.settings, utc_now)
    refresher.look()
    load(lender)
    assert len(kept_back(lender.store, "definitions")) == 2
    lender.registry.delete("worst/1/model.yaml")
    lender.registry.put("worse/1/reference.parquet", b"another one")
    refresher.look()
    assert kept_back(lender.store, "definitions") == []


def test_a_store_that_cannot_be_written_keeps_no_location_from_loading(
    lender: Any, clash: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources.errors import InfrastructureError

    def fails(*_: Any) -> None:
        raise InfrastructureError("Slow down.")

    deploy(lender, "good-1")
    deploy(lender, "worse")
    clash.add("worse")
    for name in ("keep_back", "names_kept_back"):
        monkeypatch.setattr(models, name, fails)
    assert load(lender) == {"good-1/1"}


@pytest.mark.parametrize("bad", [(), (0,), (99,), (3, 4), (0, 50, 51, 99)])
def test_what_does_not_fit_is_found_in_few_attempts(bad: tuple[int, ...]) -> None:
    attempts: list[int] = []

    def fits(items: list[int]) -> bool:
        attempts.append(len(items))
        return not set(items) & set(bad)

    assert fitting([], range(100), fits) == [each for each in range(100) if each not in bad]
    assert len(attempts) <= 1 + 16 * len(bad)


def test_of_two_that_clash_with_each_other_the_first_stays() -> None:
    assert fitting([], range(100), lambda items: not {20, 70} <= set(items)) == [n for n in range(100) if n != 70]
