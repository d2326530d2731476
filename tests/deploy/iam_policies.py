"""What policies allow, decided as IAM does it: nothing by default, and a Deny beats every Allow.

It knows the condition operators that ours use, and fails on any other, so that none is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROLES = ("control", "models", "daemon", "webserver", "stages", "airflow", "owners")
ACCOUNT = "111122223333"
STORE, REGISTRY, LAKE = "the-store", "the-registry", "the-lake"
PLACEHOLDERS = {
    "ACCOUNT_ID": ACCOUNT,
    "STORE_BUCKET": STORE,
    "REGISTRY_BUCKET": REGISTRY,
    "LAKE_BUCKET": LAKE,
    "OIDC_PROVIDER": "oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF",
    "CLUSTER_NAME": "lending",
    "NAMESPACE": "scorewatch",
    "SERVICE_ACCOUNT": "scorewatch-stages",
}


@dataclass(frozen=True)
class Asked:
    """One request: ``s3:GetObject`` of an ARN, with what conditions may ask for."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Grant:
    """An action on a pattern of ARNs that a statement of an identity policy allows."""

    statement: str
    action: str
    pattern: str

    def covers(self, asked: Asked) -> bool:
        return self.action == asked.action and like(self.pattern, asked.resource)


class Policies:
    """The policies of a folder: of roles, and of the buckets."""

    def __init__(self, folder: Path) -> None:
        self.of_roles = {role: rendered(folder / f"role-{role}.json") for role in ROLES}
        self.of_buckets = [rendered(path) for path in sorted(folder.glob("bucket-policy-*.json"))]

    def allow(self, role: str, asked: Asked) -> bool:
        """Whether a request of a role is let through."""
        own = list(statements(self.of_roles[role]))
        buckets = [each for policy in self.of_buckets for each in statements(policy)]
        context = {"aws:SecureTransport": "true", "aws:PrincipalArn": arn(role), **asked.context}
        found = Asked(asked.action, asked.resource, context)
        if any(each["Effect"] == "Deny" and _applies(each, found) for each in own + buckets):
            return False
        # A bucket's policy that allows something would let others in too: ours only deny.
        assert {each["Effect"] for each in buckets} == {"Deny"}
        return any(_applies(each, found) for each in own)

    def grants(self, role: str) -> Iterator[Grant]:
        """Everything that a role's policy allows."""
        for each in statements(self.of_roles[role]):
            for action in listed(each["Action"]):
                for pattern in listed(each["Resource"]):
                    yield Grant(each["Sid"], action, pattern)


def arn(role: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:role/scorewatch-{role}"


def rendered(path: Path) -> Any:
    """A file of the folder with our values in the place of its placeholders."""
    text = path.read_text(encoding="utf-8")
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    return json.loads(text)


def statements(policy: Any) -> Iterator[dict[str, Any]]:
    for each in policy["Statement"]:
        unknown = set(each) - {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
        assert not unknown, f"{each['Sid']} has {unknown}, which nobody evaluates"
        yield each


def listed(one_or_more: Any) -> list[str]:
    return [one_or_more] if isinstance(one_or_more, str) else list(one_or_more)


def like(pattern: str, text: str) -> bool:
    parts = (".*" if sign == "*" else "." if sign == "?" else re.escape(sign) for sign in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def _applies(statement: dict[str, Any], asked: Asked) -> bool:
    assert statement.get("Principal", "*") == "*", "no other principal is evaluated"
    return (
        any(like(each, asked.action) for each in listed(statement["Action"]))
        and any(like(each, asked.resource) for each in listed(statement["Resource"]))
        and all(
            _holds(operator, listed(wanted), asked.context.get(key))
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, wanted: list[str], given: str | None) -> bool:
    if operator == "Null":
        return (given is None) == (wanted == ["true"])
    if operator == "StringNotEquals":
        return given not in wanted
    if operator == "Bool":
        return given is not None and given in wanted
    raise AssertionError(f"the condition {operator} is not evaluated")
