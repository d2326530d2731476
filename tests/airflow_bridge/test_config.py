"""Airflow's side of the configuration: defaults that serve one machine, and messages that name the option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from airflow_bridge.config import Config
from resources.errors import BadInput
from tests.airflow_bridge.conftest import Inside

IMAGE = f"registry.example:5000/risk/scorewatch@sha256:{'0f' * 32}"
PODS = {"execution": "kubernetes", "image": IMAGE, "namespace": "scoring", "service_account": "scorewatch-stages"}


def test_with_no_option_set_tasks_are_processes_of_this_machine() -> None:
    config = Config.parse({}, {})

    assert (config.execution, config.command, config.pool, config.shards) == ("local", "scorewatch", "default_pool", 16)
    assert config.store_uri is None


def test_options_are_read_as_they_are_written() -> None:
    text = {
        **PODS,
        "max_cpu": "2.5",
        "retries": "0",
        "env_from_secret": "datadog, pagerduty",
        "wait_days": "",
        "model_images": "ecr.example, r.example/risk/",
    }
    config = Config.parse(text, {})

    assert (config.image, config.namespace) == (IMAGE, "scoring")
    assert (config.max_cpu, config.retries, config.wait_days) == (2.5, 0, 7)
    assert config.env_from_secret == ("datadog", "pagerduty")
    assert config.model_images == ("ecr.example", "r.example/risk/")


def test_nobody_changes_what_was_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config.parse({}, {}).image = "evil"


def test_the_store_is_scorewatchs_own_unless_the_option_names_another() -> None:
    environ = {"SCOREWATCH_STORE": "s3://scores/live", "SCOREWATCH_S3_ENDPOINT": "http://127.0.0.1:9000"}

    inherited = Config.parse({}, environ)
    own = Config.parse({"store_uri": "file:///srv/store/"}, environ)

    assert (inherited.store_uri, inherited.s3_endpoint) == ("s3://scores/live", "http://127.0.0.1:9000")
    assert own.store_uri == "file:///srv/store"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"execution": "docker"}, "AIRFLOW__SCOREWATCH__EXECUTION.*local.*kubernetes"),
        ({"image": "registry.example/scorewatch:latest"}, "option image .*with its digest"),
        ({"image": f"{IMAGE}\n"}, "option image .*with its digest"),
        ({"image": f"registry.example/{{{{ params.x }}}}@sha256:{'0f' * 32}"}, "option image .*with its digest"),
        ({"namespace": "Scoring"}, "option namespace .*name of a Kubernetes namespace"),
        ({"namespace": "n" * 64}, "option namespace "),
        ({"service_account": "a/b"}, "option service_account .*name of a Kubernetes service account"),
        ({"env_from_optional_secret": "not ok"}, "option env_from_optional_secret .*commas"),
        ({"model_images": "registry.example/a b"}, "option model_images .*without tag or digest"),
        ({"model_images": IMAGE}, "option model_images .*without tag or digest"),
        ({"env_from_secret": "ok,not ok"}, "option env_from_secret .*commas"),
        ({"max_cpu": "0"}, "option max_cpu .*greater than 0"),
        ({"max_memory_mib": "2Gi"}, "option max_memory_mib .*integer"),
        ({"timeout_s": "5"}, "option timeout_s "),
        ({"jitter_minutes": "60"}, "option jitter_minutes "),
        ({"shards": "0"}, "option shards "),
        ({"store_uri": "gs://scores"}, "option store_uri .*s3://bucket/prefix"),
        ({"s3_endpoint": "https://user:secret@s3.example"}, "option s3_endpoint .*without a user name"),
        ({"executoin": "local"}, "option executoin .*closest known one is execution"),
    ],
)
def test_an_option_that_cannot_be_used_is_named_with_what_to_write(options: dict[str, str], expected: str) -> None:
    with pytest.raises(BadInput, match=expected) as raised:
        Config.parse(options, {})

    assert "secret@" not in str(raised.value)
    assert "user:" not in str(raised.value)


@pytest.mark.parametrize("option", ["image", "namespace", "service_account"])
def test_pods_need_an_image_a_namespace_and_an_account_of_their_own(option: str) -> None:
    with pytest.raises(BadInput, match=f"option {option} .*is not set, and pods need it"):
        Config.parse({**PODS, option: ""}, {})


def test_airflows_file_and_environment_are_where_it_is_read_from(
    start_inside: Callable[..., Inside], tmp_path: Path
) -> None:
    written = tmp_path / "airflow.cfg"
    written.write_text("[scorewatch]\nretries = 5\npool = from-the-file\n", encoding="utf-8")

    found = start_inside(AIRFLOW_CONFIG=str(written), AIRFLOW__SCOREWATCH__POOL="from-the-environment")("options.read")

    assert found == Config(retries=5, pool="from-the-environment").model_dump(mode="json")


def test_an_unknown_option_in_airflows_environment_is_refused(start_inside: Callable[..., Inside]) -> None:
    process = start_inside(AIRFLOW__SCOREWATCH__IMGE=IMAGE)

    with pytest.raises(AssertionError, match=r"option imge .*closest known one is image"):
        process("options.read")
