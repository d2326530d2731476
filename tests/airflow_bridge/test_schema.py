"""A plan that was written is read as it was; anything else is refused with a message that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from airflow_bridge.schema import (
    ID_LENGTH,
    PLAN_LIMIT,
    Asset,
    DagPlan,
    Every,
    Partitions,
    PlanSet,
    Resources,
    Task,
    canonical,
    decode,
    digest,
    encode,
)
from resources.errors import BadInput

PLAN = DagPlan(
    dag_id="ke_nano_loan__3_2_0",
    group="ke_nano_loan__3_2_0",
    description="Psi of é, ü and 世.\n\tIndented { not a template }",
    tags=("tier:1",),
    links={"runbook": "https://wiki.example/runbook?x=1#y"},
    partitions=Partitions(every="day", timezone="Africa/Nairobi", start=date(2026, 1, 1)),
    scheduled=True,
    waits=True,
    reasons={"backfill": ("--trigger", "backfill")},
    sla_s=3600,
    tasks=(
        Task(id="features", assets=(Asset(key="ke/features", checks=("quality",)),), arguments=("run", "features")),
        Task(
            id="psi",
            assets=(Asset(key="ke/psi", upstream=("ke/features",)),),
            arguments=("run", "psi"),
            upstream=("features",),
            resources=Resources(cpu=1, memory_mib=2048),
            pool="gx",
        ),
    ),
)


def written() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encode(PLAN))
    return document


def refusal(document: object) -> str:
    data = canonical(document)
    with pytest.raises(BadInput) as refused:
        decode(data, digest(data))
    return str(refused.value)


def changed(path: str, value: object) -> dict[str, Any]:
    document = written()
    *above, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place: Any = document
    for part in above:
        place = place[part]
    place[last] = value
    return document


def test_a_plan_is_read_as_it_was_written() -> None:
    data = encode(PLAN)

    assert decode(data, digest(data)) == PLAN


def test_the_order_in_which_a_plan_was_put_together_does_not_show_in_its_bytes() -> None:
    backwards = dict(reversed(PLAN.model_dump().items()))

    assert encode(DagPlan(**backwards)) == encode(PLAN)
    assert json.loads(encode(PLAN)) == PLAN.model_dump(mode="json")


HOSTILE_IDS = [
    "",
    "a/b",
    "../up",
    ".hidden",
    "-rf",
    "a b",
    "a\n",
    "a\nb",
    "a\x00",
    "naïve",
    "ａ",
    "a{{ x }}",
    "x" * (ID_LENGTH + 1),
    "x" * 300,
]


@pytest.mark.parametrize("field", ["dag_id", "group", "tasks.0.id", "tasks.0.assets.0.checks.0", "tasks.1.pool"])
@pytest.mark.parametrize("value", HOSTILE_IDS)
def test_a_hostile_id_is_refused(field: str, value: str) -> None:
    message = refusal(changed(field, value))

    assert field in message
    assert "\n" not in message


@pytest.mark.parametrize("value", ["a", "_a", "a.b-c", "x" * ID_LENGTH])
def test_a_plain_id_is_taken(value: str) -> None:
    assert DagPlan.model_validate_json(canonical(changed("dag_id", value))).dag_id == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "a b",
        "a\n",
        "a\\/b",
        "ä",
        "x" * 101,
        "/".join("abcdefghi"),
        "{{ x }}",
        "a:b",
        "a@b",
    ],
)
@pytest.mark.parametrize("field", ["tasks.0.assets.0.key", "tasks.1.assets.0.upstream.0"])
def test_a_hostile_key_is_refused(field: str, value: str) -> None:
    assert field in refusal(changed(field, value))


TEXTS = ["description", "tasks.0.assets.0.description", "tasks.0.arguments.0", "reasons.backfill.0"]


@pytest.mark.parametrize("field", [*TEXTS, "owner", "tags.0", "links.runbook"])
@pytest.mark.parametrize(
    "value", ["{{ x }}", "https://x.example/{{ conn.x }}", "{% raw %}", "{# x #}", "a\x00b", "a\x1b[2J"]
)
def test_a_template_or_a_control_character_is_refused_in_every_text(field: str, value: str) -> None:
    assert field in refusal(changed(field, value))


@pytest.mark.parametrize("field", ["description", "tasks.0.assets.0.description"])
@pytest.mark.parametrize("value", ["/etc/passwd.md", "../../secret.MD", "a.md\n "])
def test_a_text_that_airflow_takes_for_the_name_of_a_markdown_file_is_refused(field: str, value: str) -> None:
    assert field in refusal(changed(field, value))


@pytest.mark.parametrize(
    "value",
    ["javascript:alert(1)", "file:///etc/passwd", "//x.example", "https://x example", 'https://x"onclick=', "https://"],
)
def test_a_link_that_is_no_web_address_is_refused(value: str) -> None:
    assert "links.runbook" in refusal(changed("links.runbook", value))


@pytest.mark.parametrize(
    "command", ["silence", "publish", "register", "update", "storage", "up", "features", "Run", "run ", "--help", "-c"]
)
def test_a_task_runs_partitions_and_has_no_other_command_of_the_runner(command: str) -> None:
    message = refusal(changed("tasks.0.arguments.0", command))

    assert f"it would have the runner {command!r}, and may have it 'run'" in message


@pytest.mark.parametrize("command", ["run", "silence", "backfill"])
def test_for_an_image_features_are_prepared_and_nothing_else_is_done(command: str) -> None:
    before = {"image": f"registry.example/models/score@sha256:{'ab' * 32}", "arguments": [command, "ke"]}

    assert "may have it 'features'" in refusal(changed("tasks.1.before", before))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("description", "x" * 4_001, "description"),
        ("tasks.0.arguments.0", "x" * 301, "tasks.0.arguments.0"),
        ("tasks.0.arguments.0", "", "tasks.0.arguments.0"),
        ("tasks.0.arguments", ["x"] * 41, "tasks.0.arguments"),
        ("tasks.0.arguments", [], "tasks.0.arguments"),
        ("tasks.0.arguments", "run", "tasks.0.arguments"),
        ("tasks.0.arguments.0", 1, "tasks.0.arguments.0"),
        ("tasks.0.assets", [], "tasks.0.assets"),
        ("tasks", [], "tasks"),
        ("waits", 1, "waits"),
        ("reasons.backfill", ["x"] * 11, "reasons.backfill"),
        ("reasons", {"a b": []}, "reasons.a b.[key]"),
        ("schema_version", 2, "schema_version"),
        ("scheduled", "yes", "scheduled"),
        ("scheduled", 1, "scheduled"),
        ("sla_s", 0, "sla_s"),
        ("sla_s", 1.5, "sla_s"),
        ("partitions.every", "minute", "partitions.every"),
        ("partitions.timezone", "Mars/Olympus", "partitions.timezone"),
        ("partitions.timezone", "../../etc/passwd", "partitions.timezone"),
        ("partitions.start", "2026-13-01", "partitions.start"),
        ("tasks.1.resources.cpu", 0, "tasks.1.resources.cpu"),
        ("tasks.1.resources.cpu", 257, "tasks.1.resources.cpu"),
        ("tasks.1.resources.memory_mib", 63, "tasks.1.resources.memory_mib"),
        ("tasks.1.resources.memory_mib", "2Gi", "tasks.1.resources.memory_mib"),
        ("unknown", 1, "unknown"),
        ("partitions.cron", "* * * * *", "partitions.cron"),
        ("tasks.0.image", "evil", "tasks.0.image"),
        ("tasks.0.assets.0.sql", "x", "tasks.0.assets.0.sql"),
        ("tasks.1.resources.gpu", 1, "tasks.1.resources.gpu"),
    ],
)
def test_a_value_that_is_not_as_stated_is_refused_by_its_field(field: str, value: object, said: str) -> None:
    message = refusal(changed(field, value))

    assert f": {said}: " in message
    assert message.endswith("Export it again.")


def twice(document: dict[str, Any]) -> None:
    document["tasks"].append({**document["tasks"][0], "assets": [{"key": "ke/other"}]})


def asset_twice(document: dict[str, Any]) -> None:
    document["tasks"][1]["assets"].append(document["tasks"][0]["assets"][0])


def circle(document: dict[str, Any]) -> None:
    document["tasks"][0]["upstream"] = ["psi"]


def itself(document: dict[str, Any]) -> None:
    document["tasks"][0]["upstream"] = ["features"]


def nowhere(document: dict[str, Any]) -> None:
    document["tasks"][1]["upstream"] = ["nowhere"]


def backwards(document: dict[str, Any]) -> None:
    document["tasks"].reverse()


def hours_elsewhere(document: dict[str, Any]) -> None:
    document["partitions"]["every"] = "hour"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (twice, "features is there twice"),
        (asset_twice, "an asset is materialised by two"),
        (circle, "features waits for psi"),
        (itself, "features waits for features"),
        (nowhere, "psi waits for nowhere"),
        (backwards, "psi waits for features"),
        (hours_elsewhere, "hours are in UTC"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change: Callable[[dict[str, Any]], None], said: str) -> None:
    document = written()
    change(document)

    assert said in refusal(document)


@pytest.mark.parametrize("field", ["dag_id", "group", "partitions", "scheduled", "tasks"])
def test_a_field_that_is_missing_is_refused(field: str) -> None:
    document = written()
    del document[field]

    assert f": {field}: " in refusal(document)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"{", b'{"dag_id": NaN}', b"[" * 10_000])
def test_bytes_that_are_no_plan_are_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match=digest(data)):
        decode(data, digest(data))


def test_a_plan_that_was_changed_after_the_export_is_refused() -> None:
    data = encode(PLAN)

    with pytest.raises(BadInput, match="was changed after it was exported"):
        decode(data.replace(b"features", b"FEATURES"), digest(data))


def test_a_plan_that_is_too_large_is_refused_before_it_is_read() -> None:
    data = encode(PLAN) + b" " * PLAN_LIMIT

    with pytest.raises(BadInput, match=f"at most {PLAN_LIMIT}"):
        decode(data, digest(data))


@pytest.mark.parametrize(
    "plans", [{"a/b": "0" * 64}, {"a": "0" * 63}, {"a": "../" + "0" * 61}, {"a": "A" * 64}, {"a": 1}]
)
def test_a_set_holds_names_of_dags_and_digests_only(plans: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PlanSet.model_validate_json(canonical({"plans": plans}))
    with pytest.raises(ValidationError):
        PlanSet.model_validate_json(canonical({"plans": {}, "more": 1}))


@pytest.mark.parametrize(
    ("every", "definition"),
    [
        ("hour", dg.HourlyPartitionsDefinition("2026-01-01-00:00")),
        ("day", dg.DailyPartitionsDefinition("2026-01-01")),
        ("week", dg.WeeklyPartitionsDefinition("2026-01-01", day_offset=1)),
        ("month", dg.MonthlyPartitionsDefinition("2026-01-01")),
    ],
)
def test_partitions_begin_and_are_written_as_dagster_does_it(
    every: Every, definition: dg.TimeWindowPartitionsDefinition
) -> None:
    partitions = Partitions(every=every, timezone="UTC", start=date(2026, 1, 1))

    assert (partitions.cron, partitions.key_format) == (definition.cron_schedule, definition.fmt)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", "registry.example/score:latest"),
        ("image", f"registry.example/{{{{ params.x }}}}@sha256:{'ab' * 32}"),
        ("image", f"-v/score@sha256:{'ab' * 32}"),
        ("image", f"registry.example/models/score@sha256:{'ab' * 32}\n"),
        ("arguments", []),
        ("arguments", ["{{ conn.x }}"]),
        ("command", "sh"),
        ("env", {}),
    ],
)
def test_what_runs_before_a_task_is_an_image_by_its_digest_and_plain_arguments(field: str, value: object) -> None:
    good = {"image": f"registry.example/models/score@sha256:{'ab' * 32}", "arguments": ["features", "ke"]}

    data = canonical(changed("tasks.1.before", good))
    assert decode(data, digest(data)).tasks[1].before is not None
    assert f"tasks.1.before.{field}" in refusal(changed("tasks.1.before", {**good, field: value}))
