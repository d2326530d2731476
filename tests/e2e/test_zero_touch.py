"""Nobody touches anything: what is put into the registry and the lake is monitored, on S3 and through kills."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.e2e.world import LANDED_DAYS, NOON, World, applications, day, land, manifest
from tests.processes import command_line

# A busy machine of two cores may need it; the tests wait for conditions with limits of their own.
pytestmark = pytest.mark.timeout(1800)

VERSIONS = 20


def registry_check(stack: Any) -> dict[str, Any] | None:
    """The newest evaluation of the registry's check, as Dagit shows it."""
    found = stack.ask(
        """query($k: AssetKeyInput!) { assetCheckExecutions(assetKey: $k, checkName: "all_versions_monitored",
             limit: 1) { status evaluation { description metadataEntries { label
               ... on TableMetadataEntry { table { records } } } } } }""",
        k={"path": ["registry"]},
    )["assetCheckExecutions"]
    return found[0] if found else None


def test_a_version_is_onboarded_monitored_and_retired_with_nobody_touching_anything(
    s3_world: World, running: Callable[[World], Any], eventually: Callable[..., Any]
) -> None:
    stack = running(s3_world)

    s3_world.put("ke-loan")
    eventually(lambda: s3_world.judged("ke-loan"), "the first psi partition")
    assert s3_world.judged("ke-loan") >= {str(day(2))}, "the newest one comes first"
    assert "ke_loan__1_0_0" in stack.groups()
    eventually(
        lambda: s3_world.judged("ke-loan") == {str(day(back)) for back in range(2, LANDED_DAYS + 1)},
        "all of its history",
        limit=300,
    )
    assert not any(result.live for result in s3_world.results("ke-loan", "psi")), "the past pages nobody"
    first, *_ = [result for result in s3_world.results("ke-loan", "psi") if result.partition == str(day(2))]
    assert len([each for each in first.inputs if each.asset == "distribution"]) == 28, "with its longest window"

    land(s3_world.lake, day(1))
    [arrived] = eventually(
        lambda: [result for result in s3_world.results("ke-loan", "psi") if result.partition == str(day(1))],
        "the partition that landed",
    )
    assert (arrived.trigger, arrived.live) == ("arrival", True)

    s3_world.put("zm-payroll", tier=9)
    bad = eventually(lambda: (found := registry_check(stack)) and found["status"] == "FAILED" and found, "a quarantine")
    [record] = [entry for entry in bad["evaluation"]["metadataEntries"] if entry["label"] == "kept back because"]
    row = json.loads(record["table"]["records"][0])
    assert (row["model"], row["stage"]) == ("zm-payroll", "manifest")
    assert "zm-payroll/1.0.0/model.yaml: tier" in row["reason"]
    [kept_back] = s3_world.results("zm-payroll", "pipeline")
    assert (kept_back.status, kept_back.live) == ("quarantined", True)
    code, out, err = s3_world.machine.run("status", "--json", **s3_world.environ)
    assert code == 0, err
    assert "zm-payroll/1.0.0/model.yaml: tier" in out

    s3_world.put("zm-payroll")
    eventually(lambda: s3_world.judged("zm-payroll"), "the corrected version's first psi partition")
    assert registry_check(stack)["status"] == "SUCCEEDED"
    assert [each.status for each in s3_world.results("zm-payroll", "pipeline")] == ["quarantined", "ok"]

    s3_world.put("ke-loan", status="retired")
    eventually(lambda: "ke_loan__1_0_0" not in stack.groups(), "the retired version's group is gone")
    assert "zm_payroll__1_0_0" in stack.groups()
    assert str(day(1)) in s3_world.judged("ke-loan"), "its history stays"


def test_a_version_whose_reference_is_bad_is_kept_back_until_it_is_replaced(
    local_world: World, running: Callable[[World], Any], eventually: Callable[..., Any]
) -> None:
    stack = running(local_world)
    local_world.registry.put("ke-loan/1.0.0/reference.parquet", b"no parquet")
    local_world.registry.put("ke-loan/1.0.0/model.yaml", manifest("ke-loan", local_world.lake_uri))
    bad = eventually(lambda: (found := registry_check(stack)) and found["status"] == "FAILED" and found, "a quarantine")
    assert bad["evaluation"]["description"] == "kept back: ke-loan 1.0.0"
    [kept_back] = local_world.results("ke-loan", "pipeline")
    assert (kept_back.status, kept_back.asset) == ("quarantined", "reference")
    assert "reference.parquet" in kept_back.reason
    local_world.registry.put("ke-loan/1.0.0/reference.parquet", applications(0, 2000))
    eventually(lambda: local_world.judged("ke-loan"), "the first psi partition")
    eventually(lambda: registry_check(stack)["status"] == "SUCCEEDED", "the check passes")


def test_twenty_versions_are_onboarded_once_each_whatever_is_killed_meanwhile(
    local_world: World, running: Callable[[World], Any], eventually: Callable[..., Any]
) -> None:
    stack = running(local_world)
    models = [f"model-{number:02d}" for number in range(VERSIONS)]
    for model in models:
        local_world.put(model, partitions={"every": "day", "timezone": NOON, "start": day(9)})
    rng = random.Random(20261123)  # noqa: S311
    killed: Counter[str] = Counter()

    def all_kinds_twice() -> bool:
        kill_one(stack, rng, killed)
        pause = time.monotonic() + rng.uniform(0, 3)
        eventually(lambda: time.monotonic() > pause, "the next kill")
        return all(killed[kind] >= 2 for kind in KINDS)

    eventually(all_kinds_twice, "every kind killed twice", limit=300)
    newest = str(day(2))
    eventually(
        lambda: all(newest in local_world.judged(model) for model in models), f"all onboarded after {killed}", limit=900
    )
    runs = eventually(lambda: onboardings(stack), "every onboarding run ended", limit=300)
    for model in models:
        assert len(list(local_world.store.list(f"reference/{model}/1.0.0/"))) == 1
        own = Counter(run["status"] for run in runs if run["scorewatch/work"].startswith(f"onboarding/{model}/"))
        assert own["SUCCESS"] == 1, own
        results = [each for each in local_world.results(model, "psi") if each.partition == newest]
        assert len({each.digest for each in results}) == len(results), "the same finding is written once"


def kill_one(stack: Any, rng: random.Random, killed: Counter[str]) -> None:
    """Send SIGKILL to one process of the stack, chosen at random among the kinds that run."""
    kinds: dict[str, list[psutil.Process]] = {}
    for each in stack.process.family().values():
        line = " ".join(command_line(each))
        kind = next((name for name, word in KINDS.items() if word in line), None)
        if kind is not None and each.is_running():
            kinds.setdefault(kind, []).append(each)
    # Rarely what can be killed only when work is done: it would never get to that.
    kind = rng.choice([*kinds, *(["run"] * 3 if "run" in kinds else []), *[""] * 2])
    if kind and killed[kind] < KILLS:
        with suppress(psutil.NoSuchProcess):
            rng.choice(kinds[kind]).kill()
            killed[kind] += 1


KILLS = 2
KINDS = {
    "run": "monitoring_assets.worker",
    "daemon": "dagster._daemon",
    "control": "definitions.control",
    "models": "definitions.models",
}


def onboardings(stack: Any) -> list[dict[str, str]] | None:
    """Status and work of every onboarding run, once none is unfinished."""
    found = stack.ask("{ runsOrError(limit: 1000) { ... on Runs { results { status tags { key value } } } } }")
    named = ({tag["key"]: tag["value"] for tag in run["tags"]} | run for run in found["runsOrError"]["results"])
    runs = [run for run in named if run.get("scorewatch/trigger") == "onboarding"]
    return runs if all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in runs) else None
