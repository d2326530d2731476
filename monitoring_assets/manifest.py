"""The manifest of a model version, `model.yaml`: what a data scientist declares, checked before anything is done.

Values and how they fit together are checked here; whether the artefact and the reference exist, and hold what they
should, is found out at onboarding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from monitoring_assets import uri_template
from monitoring_assets.manifest_sections import (
    Cutoff,
    Feature,
    LabelStates,
    Outcomes,
    Part,
    Partitions,
    Policy,
    Reference,
    Resources,
    Score,
    Source,
    Thresholds,
    refuse_repeated,
)
from monitoring_assets.manifest_types import ColumnName, Links, ModelName, Text, Version, refuse
from monitoring_assets.problems import Problem, shown
from resources.errors import BadInput

__all__ = [
    "MUTABLE",
    "SLA",
    "Cutoff",
    "Feature",
    "LabelStates",
    "Manifest",
    "Outcomes",
    "Partitions",
    "Policy",
    "Reference",
    "Resources",
    "Score",
    "Source",
    "Thresholds",
    "identity_digest",
    "mutable_changes",
]

SLA, SLA_HOURLY = timedelta(hours=24), timedelta(hours=2)
"""How long after a partition's end its data may come, where a manifest says nothing."""

MAX_FEATURES = 5_000
MAX_SEGMENTS = 10

# The keys that `scorewatch update` may change. The rest is the version's identity.
MUTABLE: dict[str, bool | set[str]] = {
    "owner": True,
    "tier": True,
    "role": True,
    "status": True,
    "policy": True,
    "source": {"sla_hours"},
    "score": {"cutoffs"},
    "resources": True,
    "links": True,
}


class Manifest(Part):
    """One model version. Every section below has been checked against the sections above it."""

    api_version: Literal["scorewatch/v1"] = Field(alias="apiVersion", examples=["apiVersion: scorewatch/v1"])
    model: ModelName = Field(examples=["model: ke-nano-loan"])
    version: Version = Field(examples=['version: "3.2.0"'])
    owner: Text = Field(examples=["owner: credit-risk@lender.example"])
    tier: Annotated[int, Field(ge=1, le=3)] = 2
    role: Literal["champion", "challenger", "shadow"] = "champion"
    status: Literal["active", "retired"] = "active"
    partitions: Partitions = Field(examples=["partitions: {every: day, timezone: Africa/Nairobi, start: 2026-01-01}"])
    source: Source = Field(
        examples=['source: {uri: "s3://lake/applications/{partition:%Y/%m/%d}/*.parquet", key: application_id}']
    )
    features: Annotated[tuple[Feature, ...], Field(strict=False, min_length=1, max_length=MAX_FEATURES)] | None = None
    score: Score = Field(examples=["score: {kind: onnx, artefact: model.onnx}"])
    reference: Reference = Field(examples=["reference: {uri: reference.parquet, sample: holdout}"])
    outcomes: Outcomes | None = None
    segments: Annotated[tuple[ColumnName, ...], Field(strict=False, max_length=MAX_SEGMENTS)] = ()
    policy: Policy = Policy()
    resources: Resources = Resources()
    links: Links = Field(default_factory=dict)

    @field_validator("source", "outcomes")
    @classmethod
    def _partitions_have_their_own_files(
        cls, part: Source | Outcomes | None, info: ValidationInfo
    ) -> Source | Outcomes | None:
        partitions: Partitions | None = info.data.get("partitions")
        if part and partitions and not uri_template.tells_apart(part.uri, partitions.every):
            message = f"{shown(part.uri)} is the same for several partitions of every: {partitions.every}"
            refuse(Problem("uri", message, f"write the date as {uri_template.suggested_field(partitions.every)}"))
        return part

    @field_validator("features")
    @classmethod
    def _features_are_columns_of_their_own(
        cls, features: tuple[Feature, ...] | None, info: ValidationInfo
    ) -> tuple[Feature, ...] | None:
        names = [feature.name for feature in features or ()]
        refuse_repeated("", names)
        source: Source | None = info.data.get("source")
        if source and source.key in names:
            message = f"{shown(source.key)} is source.key, which identifies a row"
            refuse(Problem(f"{names.index(source.key)}.name", message, "leave it out of features"))
        return features

    @field_validator("score")
    @classmethod
    def _the_score_is_a_column_of_its_own(cls, score: Score, info: ValidationInfo) -> Score:
        taken = {feature.name: "a feature" for feature in info.data.get("features") or ()}
        source: Source | None = info.data.get("source")
        if source:
            taken[source.key] = "source.key"
        if score.column in taken:
            message = f"{shown(score.column)} is {taken[score.column]} as well"
            refuse(Problem("column", message, "write the name of a column that holds nothing but the score"))
        return score

    @field_validator("segments")
    @classmethod
    def _segments_differ(cls, segments: tuple[str, ...]) -> tuple[str, ...]:
        refuse_repeated("", segments)
        return segments

    @property
    def slug(self) -> str:
        """The version's asset group, such as `ke_nano_loan__3_2_0`: letters, digits and `_`, one for each version.

        The first `__` ends the model, whose hyphens are single; after it `__` is a hyphen and `_` a dot.
        """
        version = self.version.replace("-", "__").replace(".", "_")
        return f"{self.model.replace('-', '_')}__{version}"

    @property
    def sla(self) -> timedelta:
        """How long after a partition's end its data may come."""
        if self.source.sla_hours is not None:
            return timedelta(hours=self.source.sla_hours)
        return SLA_HOURLY if self.partitions.every == "hour" else SLA

    @property
    def reference_score_column(self) -> str | None:
        """The column of the reference that holds the model's score; None if the artefact is to score the reference."""
        if self.reference.score is None and self.score.kind != "onnx":
            return self.score.column
        return self.reference.score


def identity_digest(manifest: Manifest) -> str:
    """SHA-256, in hex, of what never changes in a version: everything but the keys of `MUTABLE`.

    A key left out and the same key written with its default are the same, and a key that a later release adds changes
    no digest of a manifest without it.
    """
    content = manifest.model_dump(mode="json", by_alias=True, exclude=MUTABLE, exclude_defaults=True)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def mutable_changes(old: Manifest, new: Manifest) -> None:
    """Accepts a change of a registered version, or raises `BadInput` that names each key that may not change."""
    before, after = (each.model_dump(mode="json", by_alias=True, exclude=MUTABLE) for each in (old, new))
    problems = [f"{key}: was {shown(was)}, is now {shown(now)}" for key, was, now in _differences("", before, after)]
    kept = new.score.cutoffs[: len(old.score.cutoffs)]
    if kept != old.score.cutoffs:
        problems.append("score.cutoffs: cut-offs can be added at the end, but not changed or taken out")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise BadInput(
            f"{old.model} {old.version} is registered, and these keys of it never change:\n{lines}\n"
            "Undo these changes, or register them as a new version."
        )


def _differences(key: str, old: Any, new: Any) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _differences(f"{key}.{name}" if key else name, old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{key}.{number}", was, now)
    elif json.dumps(old) != json.dumps(new):  # unlike ==, tells 1, 1.0 and true apart, as the digest does
        yield key, old, new
