"""Where a version's policy comes from: its manifest, then `fleet.yaml`, then what is usual."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from monitoring_assets import layout
from monitoring_assets.alerting.episodes import Rules
from monitoring_assets.alerting.policies import policy_instead, policy_of
from monitoring_assets.alerting.policy import Limits, Policy
from monitoring_assets.fleet_defaults import (
    USUAL,
    DefaultsFile,
    FleetDefaults,
    FleetPolicy,
    fleet_defaults,
    parse_defaults,
)
from monitoring_assets.manifest import Manifest
from monitoring_assets.manifest_yaml import parse_manifest
from resources.errors import BadInput
from resources.object_store import LocalStore


def manifest(**changes: Any) -> Manifest:
    document = {
        "apiVersion": "scorewatch/v1",
        "model": "ke-nano-loan",
        "version": "3.2.0",
        "owner": "credit-risk@lender.example",
        "partitions": {"every": "day", "start": "2026-01-01"},
        "source": {"uri": "s3://lake/{partition:%Y-%m-%d}/*.parquet", "key": "application_id"},
        "score": {"kind": "precomputed", "column": "score"},
        "reference": {"sample": "holdout"},
    }
    return parse_manifest(
        yaml.safe_dump(document | changes).encode().replace(b"'2026-01-01'", b"2026-01-01"), where="m"
    )


def fleet(text: str) -> FleetPolicy:
    return parse_defaults(text.encode(), "fleet.yaml").policy


STRICT = "policy: {psi: {warn: 0.05, critical: 0.15}, csi: {warn: 0.2, critical: 0.5}, warnings: 1, calm: 3}"


def test_where_nobody_states_anything_the_usual_policy_holds() -> None:
    assert policy_of(manifest(), FleetPolicy()) == Policy(tier=2)
    assert policy_of(manifest(), fleet("policy: {}")) == Policy(tier=2)


def test_the_fleets_defaults_fill_in_what_a_manifest_leaves_open() -> None:
    found = policy_of(manifest(policy={"csi": {"warn": 0.3, "critical": 0.6}}), fleet(STRICT))
    assert found == Policy(psi=Limits(0.05, 0.15), csi=Limits(0.3, 0.6), tier=2, warnings=1, calm=3)


def test_what_a_manifest_states_wins_even_where_it_states_the_usual() -> None:
    stated = {"psi": {"warn": 0.1, "critical": 0.25}, "csi": {"warn": 0.1}}
    found = policy_of(manifest(policy=stated), fleet(STRICT))
    assert (found.psi, found.csi) == (Limits(0.1, 0.25), Limits(0.1, 0.25))
    assert (found.warnings, found.calm) == (1, 3), "of which it says nothing"


def test_a_model_may_have_rules_of_its_own() -> None:
    stated = {"warnings": 3, "among": 5, "cooldown": 0}
    found = policy_of(manifest(policy=stated), fleet(STRICT))
    assert (found.warnings, found.among, found.calm, found.cooldown) == (3, 5, 3, 0)
    assert found.rules("drift") == Rules(warnings=3, among=5, calm=3, cooldown=0)
    usual = policy_of(manifest(policy={"warnings": 2, "among": 3}), fleet(STRICT))
    assert usual.warnings == 2, "even where it states the usual"


def test_what_a_manifest_states_is_still_stated_after_the_store_has_kept_it(store: LocalStore) -> None:
    from datetime import UTC, datetime

    from monitoring_assets.fleet import Fleet, Member, Registered
    from monitoring_assets.fleet_file import FleetFile

    stated = manifest(policy={"psi": {"warn": 0.1, "critical": 0.25}, "warnings": 2, "among": 3})
    member = Member(manifest=stated, digest="", files="", deployed_at=datetime(2026, 1, 1, tzinfo=UTC))
    registered = Registered(model=stated.model, version=stated.version, fingerprint="", files="", member=member)
    FleetFile(store).write(Fleet(registered=(registered,)))
    [read] = FleetFile(store).read().members
    found = policy_of(read.manifest, fleet(STRICT))
    assert (found.psi, found.csi) == (Limits(0.1, 0.25), Limits(0.2, 0.5))
    assert (found.warnings, found.among, found.calm) == (2, 3, 3)


def test_tier_role_and_rhythm_are_the_manifests() -> None:
    found = policy_of(manifest(tier=3, role="challenger"), fleet(STRICT))
    assert (found.tier, found.role, found.every) == (3, "challenger", "day")


def test_a_tried_policy_overrules_manifest_and_fleet_in_what_it_states() -> None:
    own = manifest(policy={"psi": {"warn": 0.3, "critical": 0.6}})
    found = policy_instead(own, fleet(STRICT), fleet("policy: {psi: {warn: 0.2, critical: 0.4}, among: 5}"))
    assert found == Policy(psi=Limits(0.2, 0.4), csi=Limits(0.2, 0.5), tier=2, warnings=1, among=5, calm=3)


def test_a_tried_policy_leaves_no_rule_that_nothing_could_meet() -> None:
    own = manifest(policy={"warnings": 4, "among": 5})
    found = policy_instead(own, fleet(STRICT), fleet("policy: {among: 3}"))
    assert (found.warnings, found.among) == (3, 3)


def test_a_tried_policy_may_state_what_is_usual() -> None:
    found = policy_instead(manifest(), fleet(STRICT), fleet("policy: {warnings: 2, psi: {warn: 0.1, critical: 0.25}}"))
    assert (found.warnings, found.psi, found.csi) == (2, Limits(0.1, 0.25), Limits(0.2, 0.5))


def test_a_tried_policy_that_states_nothing_is_the_present_one() -> None:
    own = manifest(policy={"psi": {"warn": 0.3, "critical": 0.6}}, tier=1)
    assert policy_instead(own, fleet(STRICT), FleetPolicy()) == policy_of(own, fleet(STRICT))


def test_without_the_file_the_fleet_has_the_usual_defaults(store: LocalStore) -> None:
    assert fleet_defaults(store) == FleetDefaults()
    store.put(layout.FLEET_DEFAULTS, STRICT.encode())
    assert fleet_defaults(store).policy == fleet(STRICT)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("policy: {psi: {warn: high}}", "policy.psi.warn: "),
        ("policy: {psi: {warn: 0.3, critical: 0.2}}", "policy.psi"),
        ("policy: {csi: {warn: 0.00001, critical: 0.2}}", "policy.csi.warn: "),
        ("policy: {warnings: 0}", "policy.warnings: "),
        ("policy: {warnings: 6, among: 6}", "policy.among: "),
        ("policy: {warnings: 3, among: 2}", "policy: "),
        ("policy: {calm: 1.5}", "policy.calm: "),
        ("policy: {calm: .nan}", "policy.calm: "),
        ("policy: {cooldown: -1}", "policy.cooldown: "),
        ("policy: {warning: 2}", "policy.warning: "),
        ("policies: {}", "policies: "),
        ("grace_hours: {day: 0}", "grace_hours.day: "),
        ("grace_hours: {hour: 745}", "grace_hours.hour: "),
        ("grace_hours: {minute: 1}", "grace_hours.minute: "),
        ("policy: 3", "policy: "),
        ("policy: {calm: 1, calm: 2}", "calm"),
        ("policy: [", ""),
        ("- policy", ""),
    ],
)
def test_a_bad_file_is_refused_with_its_place_and_key(store: LocalStore, text: str, key: str) -> None:
    store.put(layout.FLEET_DEFAULTS, text.encode())
    with pytest.raises(BadInput) as refused:
        fleet_defaults(store)
    for line in str(refused.value).splitlines():
        assert line.startswith(f"{store.uri}/fleet.yaml: ")
    assert key in str(refused.value)


def test_the_grace_of_partitions_is_the_fleets_by_their_rhythm() -> None:
    from datetime import timedelta
    from typing import get_args

    from monitoring_assets.partitions import Frequency

    stated = parse_defaults(b"grace_hours: {week: 0.5, hour: 3}", "fleet.yaml").grace_hours
    assert [stated.of(every) / timedelta(hours=1) for every in get_args(Frequency)] == [3, 24, 0.5, 24]


def test_a_bad_file_is_the_usual_one_for_who_works_on_and_its_warning_is_logged_once(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    file = DefaultsFile(store)
    store.put(layout.FLEET_DEFAULTS, b"policy: {calm: 0}")
    assert [file.read() for _ in range(3)] == [FleetDefaults()] * 3
    assert len(caplog.records) == 1
    store.put(layout.FLEET_DEFAULTS, STRICT.encode())
    assert file.read().policy == fleet(STRICT)
    store.delete(layout.FLEET_DEFAULTS)
    assert file.read() == FleetDefaults()


def test_a_file_with_a_wrong_key_is_answered_with_all_the_keys_there_are() -> None:
    with pytest.raises(BadInput, match="all that it can say, with its usual values: ") as refused:
        fleet("policy: {warning: 2}")
    example = str(refused.value).partition("usual values: ")[2]
    stated = fleet(example)
    assert parse_defaults(example.encode(), "").model_fields_set == set(FleetDefaults.model_fields)
    assert stated.model_fields_set == set(FleetPolicy.model_fields)
    assert policy_of(manifest(), stated) == policy_of(manifest(), FleetPolicy())
    assert example == USUAL


def test_a_rule_that_nothing_could_meet_says_what_to_write_instead() -> None:
    with pytest.raises(BadInput, match="3 is more than among, which is 2"):
        fleet("policy: {warnings: 3, among: 2}")


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n\n  # policy:\n"])
def test_a_file_that_states_nothing_changes_nothing(store: LocalStore, text: str) -> None:
    store.put(layout.FLEET_DEFAULTS, text.encode())
    assert fleet_defaults(store) == FleetDefaults()
