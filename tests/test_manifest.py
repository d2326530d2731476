from __future__ import annotations

import copy
import itertools
import re
import subprocess
import sys
import typing
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from monitoring_assets.manifest import MUTABLE, Manifest, identity_digest, mutable_changes
from monitoring_assets.partitions import PartitionCalendar
from resources.errors import BadInput

DIGEST = "sha256:" + "0a" * 32


def example() -> dict[str, Any]:
    """The manifest of the design, as YAML gives it."""
    return {
        "apiVersion": "scorewatch/v1",
        "model": "ke-nano-loan",
        "version": "3.2.0",
        "owner": "credit-risk@lender.example",
        "tier": 1,
        "role": "champion",
        "status": "active",
        "partitions": {"every": "day", "timezone": "Africa/Nairobi", "start": date(2026, 1, 1)},
        "source": {
            "uri": "s3://lake/ke/applications/{partition:%Y/%m/%d}/*.parquet",
            "key": "application_id",
            "ready": "_SUCCESS",
            "sla_hours": 6,
        },
        "features": [
            {"name": "income", "kind": "numeric", "special_values": [-999], "max_null_rate": 0.05},
            {"name": "region", "kind": "categorical"},
        ],
        "score": {
            "kind": "onnx",
            "artefact": "model.onnx",
            "column": "score",
            "scale": "pd",
            "higher_is": "risk",
            "range": [0, 1],
            "cutoffs": [{"from": date(2026, 1, 1), "value": 0.12}],
        },
        "reference": {
            "uri": "reference.parquet",
            "sample": "holdout",
            "population": "applied",
            "label": "defaulted",
            "timestamp": "applied_at",
        },
        "outcomes": {
            "uri": "s3://lake/ke/outcomes/{partition:%Y-%m-%d}.parquet",
            "key": "application_id",
            "label": "defaulted",
            "bad_value": 1,
            "states": {"indeterminate": [2], "excluded": [9]},
            "month_on_book": 2,
            "matures_after_days": 60,
            "partition_is": "scoring_date",
        },
        "segments": ["product", "channel"],
        "policy": {"psi": {"warn": 0.10, "critical": 0.25}, "csi": {"warn": 0.10, "critical": 0.25}}
        | {"warnings": 2, "among": 3, "calm": 2, "cooldown": 3},
        "resources": {"cpu": 1, "memory": "2Gi", "engine": "polars"},
        "links": {"runbook": "https://wiki.lender.example/scorewatch"},
    }


def smallest() -> dict[str, Any]:
    return {
        "apiVersion": "scorewatch/v1",
        "model": "m",
        "version": "1",
        "owner": "risk",
        "partitions": {"every": "day", "start": date(2026, 1, 1)},
        "source": {"uri": "file:///data/{partition}.parquet", "key": "id"},
        "score": {"kind": "precomputed"},
        "reference": {"sample": "oot"},
    }


MISSING = object()


def changed(base: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `base` in which the dotted `key` has this value, or is left out."""
    result = copy.deepcopy(base)
    *parents, last = (int(part) if part.isdecimal() else part for part in key.split("."))
    target: Any = result
    for parent in parents:
        target = target[parent]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return result


def problems_of(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Dotted key and text of everything that is refused."""
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(data)
    found = []
    for error in caught.value.errors():
        key = ".".join(map(str, error["loc"]))
        for below, message, fix in error.get("ctx", {}).get("problems", [("", error["msg"], "")]):
            found.append((f"{key}.{below}".strip("."), f"{message}; {fix}"))
    return found


def test_the_manifest_of_the_design_is_accepted_with_every_value_it_states() -> None:
    manifest = Manifest.model_validate(example())
    assert manifest.slug == "ke_nano_loan__3_2_0"
    assert manifest.partitions.start == date(2026, 1, 1)
    assert type(manifest.partitions.start) is date
    assert manifest.partitions.calendar == PartitionCalendar("day", "Africa/Nairobi", date(2026, 1, 1))
    assert manifest.features is not None
    assert [feature.name for feature in manifest.features] == ["income", "region"]
    assert manifest.features[0].special_values == (-999.0,)
    assert manifest.score.range == (0.0, 1.0)
    assert manifest.score.cutoffs[0].from_ == date(2026, 1, 1)
    assert manifest.outcomes is not None
    assert manifest.outcomes.bad_value == 1
    assert manifest.outcomes.states.excluded == (9,)
    start = manifest.partitions.calendar.start_local("2026-03-09")
    assert manifest.source.uri_for(start) == "s3://lake/ke/applications/2026/03/09/*.parquet"
    assert manifest.outcomes.uri_for(start) == "s3://lake/ke/outcomes/2026-03-09.parquet"
    assert manifest.segments == ("product", "channel")


def test_what_a_manifest_leaves_out_has_the_documented_default() -> None:
    manifest = Manifest.model_validate(smallest())
    assert (manifest.tier, manifest.role, manifest.status) == (2, "champion", "active")
    assert manifest.partitions.timezone == "UTC"
    assert manifest.source.ready is None
    assert manifest.source.sla_hours is None
    assert manifest.features is None
    assert (manifest.score.column, manifest.score.scale, manifest.score.higher_is) == ("score", "pd", "risk")
    assert (manifest.score.range, manifest.score.cutoffs) == ((0.0, 1.0), ())
    assert (manifest.reference.uri, manifest.reference.population) == ("reference.parquet", "applied")
    assert manifest.outcomes is None
    assert manifest.segments == ()
    assert (manifest.policy.psi.warn, manifest.policy.psi.critical) == (0.10, 0.25)
    assert (manifest.policy.csi.warn, manifest.policy.csi.critical) == (0.10, 0.25)
    assert (manifest.policy.warnings, manifest.policy.among) == (2, 3)
    assert (manifest.policy.calm, manifest.policy.cooldown) == (2, 3)
    assert (manifest.resources.cpu, manifest.resources.memory, manifest.resources.engine) == (1.0, "2Gi", "polars")
    assert manifest.links == {}


def test_the_policy_tells_what_the_manifest_states_from_what_it_leaves_to_the_fleet() -> None:
    manifest = Manifest.model_validate({**smallest(), "policy": {"psi": {"critical": 0.4}}})
    assert manifest.policy.model_fields_set == {"psi"}
    assert manifest.policy.psi.model_fields_set == {"critical"}


def test_a_manifest_survives_being_dumped_and_read_again() -> None:
    for data in (example(), smallest()):
        manifest = Manifest.model_validate(data)
        assert Manifest.model_validate(manifest.model_dump(by_alias=True)) == manifest


def test_a_manifest_cannot_be_changed_in_place() -> None:
    manifest = Manifest.model_validate(example())
    with pytest.raises(ValidationError, match="frozen"):
        manifest.tier = 3
    with pytest.raises(ValidationError, match="frozen"):
        manifest.score.column = "other"


def test_importing_and_using_the_module_gives_no_warning() -> None:
    code = "import monitoring_assets.manifest, monitoring_assets.manifest_yaml"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.filterwarnings("error")
def test_dumping_gives_no_warning() -> None:
    for data in (example(), smallest()):
        manifest = Manifest.model_validate(data)
        assert manifest.model_dump(mode="json", by_alias=True)["score"]["range"] == [0.0, 1.0]
        identity_digest(manifest)


REFUSED: list[tuple[str, Any, str]] = [
    ("apiVersion", "scorewatch/v2", "scorewatch/v1"),
    ("model", "", "1 to 63"),
    ("model", "KE_Nano Loan", "write ke-nano-loan"),
    ("model", "a--b", "write a-b"),
    ("model", "-a", "write a"),
    ("model", "a" * 64, "1 to 63"),
    ("model", "modèle", "1 to 63"),
    ("model", "a\n", "write a"),
    ("version", 3.2, "valid string"),
    ("version", "", 'write "1.0.0"'),
    ("version", "V1.0-RC1", 'write "v1.0-rc1"'),
    ("version", "1_0", 'write "1-0"'),
    ("version", "1..0", 'write "1-0"'),
    ("version", "1.-0", 'write "1-0"'),
    ("version", "../1", 'write "1"'),
    ("version", "1" * 64, "1 to 63"),
    ("version", "1.0\n", 'write "1.0"'),
    ("owner", "", "is empty"),
    ("owner", "  ", "is empty"),
    ("owner", "x" * 201, "at most 200"),
    ("owner", "a\x1b[31mb", "cannot be printed"),
    ("tier", 0, "greater than or equal to 1"),
    ("tier", 4, "less than or equal to 3"),
    ("tier", True, "valid integer"),
    ("tier", "1", "valid integer"),
    ("role", "leader", "'champion', 'challenger' or 'shadow'"),
    ("status", "paused", "'active' or 'retired'"),
    ("partitions.every", "year", "'hour', 'day', 'week' or 'month'"),
    ("partitions.start", "2026-01-01", "valid date"),
    ("partitions.start", datetime(2026, 1, 1), "valid date"),  # noqa: DTZ001
    ("source.uri", "s3://lake/*.parquet", "no partition field"),
    ("source.uri", "s3://lake/{partition:%Y-%m}.parquet", "write the date as {partition:%Y/%m/%d}"),
    ("source.key", "", "is empty"),
    ("source.key", "income", "leave it out of features"),
    ("source.key", "score", "is source.key as well"),
    ("source.ready", "a/_SUCCESS", "plain file name"),
    ("source.ready", "..", "plain file name"),
    ("source.ready", "*", "plain file name"),
    ("source.sla_hours", 0, "greater than 0"),
    ("source.sla_hours", float("inf"), "finite"),
    ("source.sla_hours", 1e300, "less than or equal to 8784"),
    ("features", [], "at least 1 item"),
    ("features", [{"name": f"f{number}", "kind": "numeric"} for number in range(5001)], "at most 5000"),
    ("features", [{"name": "a", "kind": "numeric"}, {"name": "a", "kind": "numeric"}], "'a' occurs more than once"),
    ("features.0.name", "score", "'score' is a feature as well"),
    ("features.0.name", "application_id", "is source.key"),
    ("features.0.name", "a\x00", "cannot be printed"),
    ("features.0.name", "n" * 201, "at most 200"),
    ("features.0.kind", "ordinal", "'numeric' or 'categorical'"),
    ("features.0.special_values", ["none"], "cannot occur in a numeric feature"),
    ("features.0.special_values", [float("nan")], "not a finite number"),
    ("features.0.special_values", [10**400], "not a finite number"),
    ("features.0.special_values", [True], "not a number or text"),
    ("features.0.special_values", [None], "nothing is not a number or text"),
    ("features.0.special_values", [-1, -1.0], "more than once"),
    ("features.0.special_values", list(range(101)), "at most 100"),
    ("features.0.special_values", -999, "valid tuple"),
    ("features.1.special_values", [-1], "cannot occur in a categorical feature"),
    ("features.1.special_values", ["\x07"], "cannot be printed"),
    ("features.0.max_null_rate", 1.01, "less than or equal to 1"),
    ("features.0.max_null_rate", -0.01, "greater than or equal to 0"),
    ("score.kind", "pickle", "'onnx', 'precomputed' or 'container'"),
    ("score.kind", "precomputed", "leave artefact out"),
    ("score.kind", "container", "write image: name@sha256:"),
    ("score.artefact", MISSING, "kind: onnx needs it"),
    ("score.artefact", "../model.onnx", "inside the version's folder"),
    ("score.artefact", "a/../../model.onnx", "inside the version's folder"),
    ("score.artefact", "/etc/passwd", "inside the version's folder"),
    ("score.artefact", "a//b", "inside the version's folder"),
    ("score.artefact", "./model.onnx", "inside the version's folder"),
    ("score.artefact", "..\\model.onnx", "inside the version's folder"),
    ("score.artefact", "s3://bucket/model.onnx", "inside the version's folder"),
    ("score.artefact", "C:model.onnx", "inside the version's folder"),
    ("score.artefact", "model.onnx\n", "inside the version's folder"),
    ("score.artefact", "", "inside the version's folder"),
    ("score.artefact", "m" * 513, "inside the version's folder"),
    ("score.image", f"ecr.example/risk@{DIGEST}", "leave image out"),
    ("score.column", "region", "'region' is a feature as well"),
    ("score.range", [1, 0], "not an interval"),
    ("score.range", [0.5, 0.5], "not an interval"),
    ("score.range", [0, float("inf")], "not a finite number"),
    ("score.range", [-1.7e308, 1.7e308], "not an interval"),
    ("score.range", [0], "not a list of two numbers"),
    ("score.range", ["0", "1"], "holds text"),
    ("score.range", [0, 100], "no probability"),
    ("score.cutoffs.0.value", 1.5, "outside range [0.0, 1.0]"),
    ("score.cutoffs.0.from", "2026-01-01", "valid date"),
    ("score.cutoffs", [{"from": date(2026, 1, 1), "value": 0.1}] * 2, "is not after 2026-01-01"),
    ("reference.uri", "s3://lake/reference.parquet", "inside the version's folder"),
    ("reference.sample", MISSING, "required"),
    ("reference.sample", "test", "'holdout', 'oot', 'production' or 'train'"),
    ("reference.population", "all", "'applied' or 'booked'"),
    ("outcomes.uri", "s3://lake/{partition:%G-%V}.parquet", "is the same for several partitions"),
    ("outcomes.bad_value", None, "nothing is not a number or text"),
    ("outcomes.bad_value", float("nan"), "not a finite number"),
    ("outcomes.bad_value", [1], "not a number or text"),
    ("outcomes.states.excluded", [1], "1 occurs more than once"),
    ("outcomes.states.excluded", [2], "2 occurs more than once"),
    ("outcomes.month_on_book", 0, "greater than or equal to 1"),
    ("outcomes.matures_after_days", 0, "greater than or equal to 1"),
    ("outcomes.matures_after_days", 10**6, "less than or equal to"),
    ("outcomes.matures_after_days", 60.0, "valid integer"),
    ("outcomes.partition_is", "outcome_date", "'scoring_date'"),
    ("segments", ["a", "a"], "more than once"),
    ("segments", [f"s{number}" for number in range(11)], "at most 10"),
    ("segments", "product", "valid tuple"),
    ("policy.psi.warn", 0.25, "is not below critical, which is 0.25"),
    ("policy.psi.warn", 0.019, "greater than or equal to 0.02"),
    ("policy.csi.critical", 0.05, "is not below critical, which is 0.05"),
    ("policy.csi.critical", float("inf"), "finite"),
    ("policy.warnings", 4, "4 is more than among, which is 3; write at most as many as among"),
    ("policy.warnings", 0, "greater than or equal to 1"),
    ("policy.warnings", 2.0, "valid integer"),
    ("policy.warnings", MISSING, "is missing, and among is stated; write both, such as warnings: 2 and among: 3"),
    ("policy.among", MISSING, "is missing, and warnings is stated"),
    ("policy.among", 6, "less than or equal to 5"),
    ("policy.calm", 31, "less than or equal to 30"),
    ("policy.cooldown", -1, "greater than or equal to 0"),
    ("resources.cpu", 0.05, "greater than or equal to 0.1"),
    ("resources.cpu", 65, "less than or equal to 64"),
    ("resources.memory", "2GB", "such as 2Gi"),
    ("resources.memory", "0Mi", "such as 2Gi"),
    ("resources.memory", 2, "valid string"),
    ("resources.engine", "pandas", "'polars' or 'spark'"),
    ("links.runbook", "javascript:alert(1)", "begins with https://"),
    ("links.runbook", "file:///etc/passwd", "begins with https://"),
    ("links.runbook", "https://", "begins with https://"),
    ("links.runbook", "https://[x", "begins with https://"),
    ("links.runbook", "https://user:secret@wiki.example/", "no user name or password"),
    ("links.runbook", 'https://x/"><script>', "begins with https://"),
    ("links.runbook", "https://x/ y", "begins with https://"),
    ("links.runbook", 7, "begins with https://"),
    ("links", {"a b": "https://x.example"}, "'a b' is not 1 to 50"),
    ("links", {f"l{number}": "https://x.example" for number in range(21)}, "at most 20"),
    ("links", ["https://x.example"], "not a mapping"),
]


@pytest.mark.parametrize(("key", "value", "said"), REFUSED)
def test_a_value_that_breaks_a_rule_is_refused_under_its_key(key: str, value: Any, said: str) -> None:
    found = problems_of(changed(example(), key, value))
    assert any(said in text for _, text in found), found
    section = key.partition(".")[0]
    other = {"source.key": "features"}.get(key, section)  # what a section says may break what a later one says
    assert {where.partition(".")[0] for where, _ in found} <= {section, other, "score"}, found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "a"),
        ("model", "a" * 63),
        ("version", "2026-01-31"),
        ("version", "v1.0-rc1"),
        ("version", "0"),
        ("owner", "Zespół Ryzyka"),
        ("tier", 3),
        ("partitions.timezone", "America/Argentina/Buenos_Aires"),
        ("source.sla_hours", 0.5),
        ("source.ready", ".done"),
        ("features.0.name", "=1+1"),
        ("features.0.name", "<b>income</b>"),
        ("features.0.special_values", [-999, -1.5, 0]),
        ("features.1.special_values", ["", "none"]),
        ("score.artefact", "onnx/model v2.onnx"),
        ("score.range", [0.001, 0.999]),
        ("score.cutoffs", []),
        ("reference.score", "pd_at_training"),
        ("outcomes.bad_value", False),
        ("outcomes.bad_value", "charged off"),
        ("outcomes", None),
        ("features", None),
        ("resources.memory", "512Mi"),
        ("resources.cpu", 0.1),
        ("links.runbook", "http://wiki.lender.example:8080/a?b=c#d"),
        ("links", {}),
    ],
)
def test_a_value_at_the_edge_of_a_rule_is_accepted(key: str, value: Any) -> None:
    Manifest.model_validate(changed(example(), key, value))


SECTIONS = ["", "partitions", "source", "features.0", "score", "score.cutoffs.0", "reference", "outcomes"]
SECTIONS += ["outcomes.states", "policy", "policy.psi", "resources"]


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_is_refused_in_every_section(section: str) -> None:
    key = f"{section}.surprise".strip(".")
    assert problems_of(changed(example(), key, 1)) == [(key, "Extra inputs are not permitted; ")]


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in typing.get_args(annotation) for found in sections_in(each)]


def test_every_section_that_there_is_has_been_tried() -> None:
    def count(model: type[BaseModel]) -> int:
        inner = [each for field in model.model_fields.values() for each in sections_in(field.annotation)]
        return 1 + sum(count(each) for each in inner)

    assert count(Manifest) == len(SECTIONS) + 1  # policy.csi is policy.psi's model


@pytest.mark.parametrize("field", ["api_version", "from_"])
def test_a_key_has_one_spelling(field: str) -> None:
    assert problems_of({**example(), field: "scorewatch/v1"}) == [(field, "Extra inputs are not permitted; ")]


def test_weekly_and_monthly_partitions_begin_where_the_calendar_does() -> None:
    weekly = changed(example(), "partitions", {"every": "week", "start": date(2026, 1, 7)})
    [(key, text)] = problems_of(weekly)
    assert key == "partitions.start"
    assert "write start: 2026-01-12, or start: 2026-01-05" in text
    Manifest.model_validate(changed(weekly, "partitions.start", date(2026, 1, 5)))
    monthly = changed(example(), "partitions", {"every": "month", "start": date(2026, 1, 7)})
    assert "write start: 2026-02-01, or start: 2026-01-01" in problems_of(monthly)[0][1]


def test_hourly_partitions_are_in_utc_and_name_the_hour_in_both_uris() -> None:
    hourly = changed(
        example(), "partitions", {"every": "hour", "timezone": "Africa/Nairobi", "start": date(2026, 1, 1)}
    )
    assert problems_of(hourly)[0][0] == "partitions.timezone"
    found = problems_of(changed(hourly, "partitions.timezone", "UTC"))
    assert [key for key, _ in found] == ["source.uri", "outcomes.uri"]
    assert all("{partition:%Y/%m/%d/%H}" in text for _, text in found)


def test_points_and_log_odds_must_say_their_range_and_direction() -> None:
    for scale in ("points", "logodds"):
        found = problems_of(changed(example(), "score", {"kind": "onnx", "artefact": "m.onnx", "scale": scale}))
        assert [key for key, _ in found] == ["score.higher_is", "score.range"]
    points = {"kind": "precomputed", "scale": "points", "higher_is": "safety", "range": [300, 850]}
    assert Manifest.model_validate(changed(example(), "score", points)).score.range == (300.0, 850.0)


def test_a_container_is_pinned_by_its_digest() -> None:
    def container(image: str) -> dict[str, Any]:
        return changed(example(), "score", {"kind": "container", "image": image})

    for image in (f"risk@{DIGEST}", f"123.dkr.ecr.example:5000/risk/model:3.2@{DIGEST}"):
        assert Manifest.model_validate(container(image)).score.image == image
    for image in (
        "risk",
        "risk:latest",
        f"risk@{DIGEST[:-1]}",
        f"risk@{DIGEST.upper()}",
        f"@{DIGEST}",
        f"a b@{DIGEST}",
    ):
        assert problems_of(container(image))[0][0] == "score.image"


def test_the_score_of_the_reference_comes_from_its_column_unless_the_artefact_makes_it() -> None:
    assert Manifest.model_validate(example()).reference_score_column is None
    assert Manifest.model_validate(smallest()).reference_score_column == "score"
    for base in (example(), smallest()):
        named = changed(base, "reference.score", "pd")
        assert Manifest.model_validate(named).reference_score_column == "pd"


def test_problems_of_several_sections_are_told_together_with_those_between_sections() -> None:
    data = changed(example(), "tier", 9)
    data = changed(data, "source.key", "income")
    data = changed(data, "outcomes.uri", "s3://lake/{partition:%Y}.parquet")
    data = changed(
        data, "score.cutoffs", [{"from": date(2026, 1, 1), "value": 7}, {"from": date(2025, 1, 1), "value": 8}]
    )
    assert {key for key, _ in problems_of(data)} == {
        "tier",
        "features.0.name",
        "outcomes.uri",
        "score.cutoffs.0.value",
        "score.cutoffs.1.value",
        "score.cutoffs.1.from",
    }


def manifest_named(model: str, version: str) -> Manifest:
    return Manifest.model_validate({**smallest(), "model": model, "version": version})


MODELS = st.from_regex(r"[a-z0-9]{1,3}(-[a-z0-9]{1,3}){0,4}", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9a-z]{1,3}([.-][0-9a-z]{1,3}){0,4}", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(model=MODELS, version=VERSIONS)
def test_a_slug_is_a_group_name_from_which_model_and_version_can_be_told(model: str, version: str) -> None:
    slug = manifest_named(model, version).slug
    assert slug.isascii()
    assert slug.replace("_", "a").isalnum()
    name, _, rest = slug.partition("__")
    assert name.replace("_", "-") == model
    assert rest.replace("__", "-").replace("_", ".") == version


def test_no_two_of_all_short_names_share_a_slug() -> None:
    def accepted(key: str, alphabet: str) -> list[str]:
        texts = ("".join(each) for length in range(1, 6) for each in itertools.product(alphabet, repeat=length))
        return [text for text in texts if is_accepted({**smallest(), key: text})]

    models, versions = accepted("model", "a-"), accepted("version", "a.-")
    assert "a-a-a" in models
    assert "a-a.a" in versions
    slugs = {manifest_named(model, version).slug for model in models for version in versions}
    assert len(slugs) == len(models) * len(versions)


def is_accepted(data: dict[str, Any]) -> bool:
    try:
        Manifest.model_validate(data)
    except ValidationError:
        return False
    return True


MUTATIONS: list[tuple[str, Any, bool]] = [
    ("model", "ke-nano", False),
    ("version", "3.2.1", False),
    ("owner", "somebody else", True),
    ("tier", 2, True),
    ("role", "shadow", True),
    ("status", "retired", True),
    ("partitions.every", "hour", False),
    ("partitions.timezone", "UTC", False),
    ("partitions.start", date(2026, 1, 2), False),
    ("source.uri", "s3://lake/other/{partition}.parquet", False),
    ("source.key", "loan_id", False),
    ("source.ready", "_DONE", False),
    ("source.sla_hours", 12, True),
    ("features.0.name", "salary", False),
    ("features.1.kind", "numeric", False),
    ("features.0.special_values", [-1], False),
    ("features.0.max_null_rate", 0.5, False),
    ("score.kind", "precomputed", False),
    ("score.artefact", "other.onnx", False),
    ("score.image", f"risk@{DIGEST}", False),
    ("score.column", "pd", False),
    ("score.scale", "points", False),
    ("score.higher_is", "safety", False),
    ("score.range", [0, 0.5], False),
    ("score.cutoffs", [{"from": date(2026, 1, 1), "value": 0.12}, {"from": date(2026, 2, 1), "value": 0.2}], True),
    ("reference.uri", "other.parquet", False),
    ("reference.sample", "oot", False),
    ("reference.population", "booked", False),
    ("reference.label", "bad", False),
    ("reference.timestamp", "decided_at", False),
    ("reference.score", "pd", False),
    ("outcomes.uri", "s3://lake/other/{partition}.parquet", False),
    ("outcomes.key", "loan_id", False),
    ("outcomes.label", "bad", False),
    ("outcomes.bad_value", True, False),
    ("outcomes.states", {"indeterminate": [3]}, False),
    ("outcomes.month_on_book", 3, False),
    ("outcomes.matures_after_days", 90, False),
    ("segments", ["product"], False),
    ("policy.psi.warn", 0.2, True),
    ("policy.calm", 5, True),
    ("resources.cpu", 2, True),
    ("links", {}, True),
]
HAVE_ONE_VALUE = ["apiVersion", "outcomes.partition_is"]
NEEDS: dict[str, dict[str, Any]] = {
    "partitions.every": {
        "partitions.timezone": "UTC",
        "source.uri": "s3://lake/{partition:%Y%m%d%H}",
        "outcomes": None,
    },
    "score.kind": {"score.artefact": MISSING},
    "score.image": {"score.kind": "container", "score.artefact": MISSING},
}


@pytest.mark.parametrize(("key", "value", "allowed"), MUTATIONS)
def test_only_what_may_change_can_change_and_only_the_rest_is_in_the_digest(
    key: str, value: Any, allowed: bool
) -> None:
    old = Manifest.model_validate(example())
    data = changed(example(), key, value)
    for other, needed in NEEDS.get(key, {}).items():
        data = changed(data, other, needed)
    new = Manifest.model_validate(data)
    assert (identity_digest(new) == identity_digest(old)) is allowed
    if allowed:
        mutable_changes(old, new)
        return
    with pytest.raises(BadInput) as caught:
        mutable_changes(old, new)
    first, *lines, last = str(caught.value).splitlines()
    assert first.startswith("ke-nano-loan 3.2.0 is registered")
    assert last == "Undo these changes, or register them as a new version."
    named = {line.strip().partition(": was ")[0] for line in lines}
    assert any(name == key or name.startswith(f"{key}.") for name in named), named


def test_every_key_of_the_manifest_is_in_that_table() -> None:
    keys = set()
    for name, field in Manifest.model_fields.items():
        key = field.alias or name
        whole = key in ("policy", "resources")
        inner = [each for model in sections_in(field.annotation) for each in model.model_fields]
        keys |= {key} if whole or not inner else {f"{key}.{each}" for each in inner}
    tried = [key for key, _, _ in MUTATIONS] + HAVE_ONE_VALUE
    without_numbers = {re.sub(r"\.[0-9]+", "", key) for key in tried}
    assert {key for key in keys if key not in without_numbers} == {"policy", "resources"}  # whole, by one key in each
    assert {key.partition(".")[0] for key in keys} >= set(MUTABLE)


def test_all_forbidden_changes_are_named_at_once_and_long_values_are_cut() -> None:
    old = Manifest.model_validate(example())
    data = changed(example(), "features.0.name", "x" * 200)
    data = changed(data, "segments", None)
    new = Manifest.model_validate({**data, "segments": []})
    with pytest.raises(BadInput) as caught:
        mutable_changes(old, new)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == ["features.0.name", "segments"]
    assert all(len(line) < 250 for line in lines)


def test_cutoffs_can_be_added_at_the_end_and_nowhere_else() -> None:
    def cutoffs(*pairs: tuple[int, float]) -> Manifest:
        rows = [{"from": date(2026, month, 1), "value": value} for month, value in pairs]
        return Manifest.model_validate(changed(example(), "score.cutoffs", rows))

    old = cutoffs((2, 0.1), (4, 0.2))
    mutable_changes(old, old)
    mutable_changes(old, cutoffs((2, 0.1), (4, 0.2), (5, 0.3)))
    mutable_changes(cutoffs(), old)
    for new in (cutoffs(), cutoffs((2, 0.1)), cutoffs((2, 0.1), (4, 0.3)), cutoffs((1, 0.1), (2, 0.1), (4, 0.2))):
        with pytest.raises(BadInput, match=r"score\.cutoffs: cut-offs can be added at the end"):
            mutable_changes(old, new)


def test_the_digest_is_the_same_on_every_machine_and_in_every_release() -> None:
    assert identity_digest(Manifest.model_validate(example())) == (
        "f60f003f7c85498bd199b5c4cf94bf60f22833cc9f4bc4a66086c6e0664c34f0"
    )


def test_writing_a_default_out_or_an_integer_as_a_float_does_not_change_the_digest() -> None:
    small = Manifest.model_validate(smallest())
    data = changed(smallest(), "score", {"kind": "precomputed", "column": "score", "scale": "pd", "range": [0.0, 1]})
    data = changed(data, "partitions", {"start": date(2026, 1, 1), "every": "day", "timezone": "UTC"})
    written = Manifest.model_validate({**data, "tier": 2, "features": None, "segments": []})
    assert identity_digest(written) == identity_digest(small)
    mutable_changes(small, written)


def test_the_label_of_a_bad_loan_keeps_its_type() -> None:
    digests = set()
    for value in (1, 1.5, True, "1"):
        manifest = Manifest.model_validate({**example(), "outcomes": {**example()["outcomes"], "bad_value": value}})
        assert manifest.outcomes is not None
        assert manifest.outcomes.bad_value == value
        assert type(manifest.outcomes.bad_value) is type(value)
        digests.add(identity_digest(manifest))
    assert len(digests) == 4
