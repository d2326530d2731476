"""What each role may do in the buckets: enough for its work, which is done here, and nothing else."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring_assets import layout
from resources.object_store.s3 import s3_client
from resources.settings import Settings
from tests.conftest import Lender
from tests.deploy import iam_story
from tests.deploy.iam_gate import Gate
from tests.deploy.iam_policies import LAKE, PLACEHOLDERS, REGISTRY, ROLES, STORE, Asked, Grant, Policies, arn, rendered
from tests.recorders import Recorder
from tests.recorders.airflow import AirflowRecorder

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "iam"
READS, WRITES, DELETES = "s3:GetObject", "s3:PutObject", "s3:DeleteObject"
MODEL = "ke-nano-loan/1.0.0"
POLICIES = Policies(FOLDER)


@pytest.fixture
def lender(s3_server: Any, tmp_path: Path) -> Lender:
    """Of an installation whose store, registry and lake have a bucket each."""
    client = s3_client(s3_server.endpoint)
    for bucket in (STORE, REGISTRY, LAKE):
        client.create_bucket(Bucket=bucket)
    environ = {
        "SCOREWATCH_STORE": f"s3://{STORE}/scorewatch",
        "SCOREWATCH_REGISTRY": f"s3://{REGISTRY}/registry",
        "SCOREWATCH_ALLOWED_SOURCES": f"s3://{LAKE}/ke",
        "SCOREWATCH_S3_ENDPOINT": s3_server.endpoint,
    }
    return Lender(Settings.from_environment(environ, tmp_path), f"s3://{LAKE}/ke", tmp_path / "models")


@pytest.fixture
def airflow() -> Iterator[AirflowRecorder]:
    service = AirflowRecorder()
    service.start()
    try:
        yield service
    finally:
        service.stop()


def test_every_role_can_do_its_work_and_has_no_right_that_the_work_does_not_need(
    s3_server: Any, lender: Lender, recorder: Recorder, airflow: AirflowRecorder, tmp_path: Path
) -> None:
    gate = Gate(s3_server, POLICIES)
    with gate.open(ROLES):
        scene = iam_story.Installation(gate, lender, recorder.environ, tmp_path)
        iam_story.live(scene, recorder, airflow)
        iam_story.big(scene, tmp_path / "big")
        iam_story.read_by_airflow(scene)

    assert {role: refused for role, refused in gate.refused.items() if refused} == {}
    assert "\n".join(unused(gate)) == ""


def unused(gate: Gate) -> list[str]:
    """Grants that nobody used. Roles that share a statement share its code: it is enough that one of them did."""
    uses, sharing = defaultdict[Grant, int](int), defaultdict[Grant, list[str]](list)
    for role in ROLES:
        for grant in POLICIES.grants(role):
            sharing[grant].append(role)
            uses[grant] += sum(grant.covers(asked) for asked in gate.used[role])
    return [f"{'/'.join(sharing[each])}: {each}" for each, number in uses.items() if not number]


DENIED = [
    # What, where, and who may all the same.
    (WRITES, REGISTRY, f"registry/{MODEL}/model.yaml", {"owners"}),
    (DELETES, REGISTRY, f"registry/{MODEL}/model.yaml", set()),
    (WRITES, LAKE, "ke/2026-01-01/a.parquet", set()),
    (READS, LAKE, "ke/2026-01-01/a.parquet", {"stages"}),
    (READS, STORE, f"scorewatch/data/scores/{MODEL}/d/part-0.parquet", {"stages"}),
    (WRITES, STORE, f"scorewatch/data/psi/{MODEL}/d/current.json", {"stages"}),
    (WRITES, STORE, f"scorewatch/results/{MODEL}/d/psi/0001.json", {"control", "models", "stages"}),
    (DELETES, STORE, f"scorewatch/results/{MODEL}/d/psi/0001.json", set()),
    ("s3:DeleteObjectVersion", STORE, f"scorewatch/results/{MODEL}/d/psi/0001.json", set()),
    (DELETES, STORE, f"scorewatch/alerts/{MODEL}.json", {"control"}),
    (WRITES, STORE, "scorewatch/airflow/plans/0.json", {"control"}),
    (WRITES, STORE, "scorewatch/dagster/state/latest.json", {"control"}),
    (WRITES, STORE, "scorewatch/fleet.yaml", set()),
    (READS, STORE, "another-application/secret", set()),
]


@pytest.mark.parametrize(("action", "bucket", "key", "allowed"), DENIED)
def test_what_is_not_a_roles_work_is_denied(action: str, bucket: str, key: str, allowed: set[str]) -> None:
    asked = Asked(action, f"arn:aws:s3:::{bucket}/{key}")

    assert {role for role in ROLES if POLICIES.allow(role, asked)} == allowed


def test_a_role_that_somebody_gave_every_right_still_writes_no_version_and_reads_no_row(tmp_path: Path) -> None:
    everything = {"Sid": "All", "Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    for role in ROLES:
        (tmp_path / f"role-{role}.json").write_text(json.dumps({"Statement": [everything]}))
    for path in FOLDER.glob("bucket-policy-*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    careless = Policies(tmp_path)
    version = f"arn:aws:s3:::{REGISTRY}/registry/{MODEL}/model.yaml"

    assert [role for role in ROLES if careless.allow(role, Asked(WRITES, version))] == ["owners"]
    assert not careless.allow("owners", Asked(READS, f"arn:aws:s3:::{STORE}/scorewatch/data/scores/{MODEL}/a.parquet"))
    plain = Asked(READS, version, {"aws:SecureTransport": "false"})
    assert not any(careless.allow(role, plain) for role in ROLES)


def test_policies_name_actions_and_places_one_by_one() -> None:
    for role in ROLES:
        for grant in POLICIES.grants(role):
            assert "*" not in grant.action
            bucket, _, key = grant.pattern.removeprefix("arn:aws:s3:::").partition("/")
            assert bucket in (STORE, REGISTRY, LAKE), grant
            assert key != "*" or bucket == LAKE, grant
            assert (key == "") == (grant.action == "s3:ListBucket"), grant


def test_every_placeholder_is_one_that_the_page_says_how_to_fill() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = {word for path in FOLDER.glob("*.json") for word in re.findall(r"\b[A-Z]+_[A-Z]+\b", path.read_text())}
    found |= {"NAMESPACE"}

    assert found == set(PLACEHOLDERS)
    assert all(each in page for each in PLACEHOLDERS)


def test_the_role_of_a_service_account_is_for_that_account_alone() -> None:
    [trust] = rendered(FOLDER / "trust-policy.json")["Statement"]
    provider = PLACEHOLDERS["OIDC_PROVIDER"]

    assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert trust["Condition"] == {
        "StringEquals": {
            f"{provider}:aud": "sts.amazonaws.com",
            f"{provider}:sub": "system:serviceaccount:scorewatch:scorewatch-stages",
        }
    }


def test_with_pod_identity_it_is_so_too_and_the_session_may_be_tagged_with_what_is_asked_for() -> None:
    [trust] = rendered(FOLDER / "trust-policy-pod-identity.json")["Statement"]

    assert trust["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert trust["Action"] == ["sts:AssumeRole", "sts:TagSession"]
    assert trust["Condition"] == {
        "StringEquals": {
            "aws:RequestTag/eks-cluster-name": "lending",
            "aws:RequestTag/kubernetes-namespace": "scorewatch",
            "aws:RequestTag/kubernetes-service-account": "scorewatch-stages",
        }
    }


def test_every_service_account_of_the_eks_overlay_has_a_role_and_every_role_a_line_in_the_table() -> None:
    accounts = yaml.safe_load_all((REPOSITORY / "deploy/kubernetes/overlays/eks/accounts.yaml").read_text())
    named = {each["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].partition("role/")[2] for each in accounts}
    page = (FOLDER / "README.md").read_text(encoding="utf-8")

    assert {f"scorewatch-{role}" for role in ROLES} - named == {"scorewatch-airflow", "scorewatch-owners"}
    assert all(f"`{arn(role).rpartition('/')[2]}`" in page for role in ROLES)


def test_only_what_holds_applicants_expires() -> None:
    rules = rendered(FOLDER / "lifecycle-store.json")["Rules"]
    expiring = {each["Filter"]["Prefix"]: each["Expiration"]["Days"] for each in rules if "Days" in _expiration(each)}

    assert set(expiring) == {"scorewatch/data/features/", "scorewatch/data/scores/"}
    # The arrivals sensor looks back six months at monthly versions, and would make again what it does not find.
    assert min(expiring.values()) >= 200


def _expiration(rule: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = rule.get("Expiration", {})
    return found


def test_what_was_deleted_leaves_nothing_behind_for_ever() -> None:
    """In a bucket with versioning a deletion adds a marker, and listings have to pass over all of them."""
    rules = rendered(FOLDER / "lifecycle-store.json")["Rules"]
    kept = {
        each["Filter"]["Prefix"]: each["NoncurrentVersionExpiration"]["NoncurrentDays"]
        for each in rules
        if "NoncurrentVersionExpiration" in each
    }
    [markers] = [each for each in rules if _expiration(each).get("ExpiredObjectDeleteMarker")]

    assert markers["Filter"] == {"Prefix": ""}, "of all keys"
    assert _expiration(markers).keys() == {"ExpiredObjectDeleteMarker"}, "S3 takes no days beside it"
    # A marker expires once no older version is left, and these are made and deleted by every run.
    assert kept == {"": 35, f"scorewatch/{layout.PENDING}": 1, f"scorewatch/{layout.LEASES}": 1}


def test_s3_takes_the_rules_as_they_are(s3_server: Any, bucket: str) -> None:
    client, rules = s3_client(s3_server.endpoint), rendered(FOLDER / "lifecycle-store.json")
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)

    stored = {each["ID"]: each for each in client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert stored == {each["ID"]: each for each in rules["Rules"]}
