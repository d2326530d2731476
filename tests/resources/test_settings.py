from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from resources.errors import BadInput
from resources.secrets import Secret
from resources.settings import KNOWN_NAMES, Settings

CWD = Path("/work-of/somebody")


def settings(**environ: str) -> Settings:
    return Settings.from_environment(environ, CWD)


def test_an_empty_environment_keeps_everything_below_the_current_folder() -> None:
    assert settings() == Settings(
        home=CWD / ".scorewatch",
        store_uri=f"file://{CWD}/.scorewatch/store",
        registry_uri=f"file://{CWD}/.scorewatch/store/registry",
        allowed_sources=("file://", "s3://"),
        s3_endpoint=None,
        env="local",
        dagster_home=CWD / ".scorewatch/dagster",
        orchestrator="dagster",
        shards=1,
        shard=0,
        only=None,
        workspace=CWD / ".scorewatch/workspace.yaml",
        postgres_url=None,
        dagit_url="http://127.0.0.1:3000",
        airflow_url=None,
        airflow_user=None,
        airflow_password=None,
        pagerduty_key=None,
        pagerduty_url="https://events.pagerduty.com",
        datadog_key=None,
        datadog_app_key=None,
        datadog_site="datadoghq.com",
        datadog_url=None,
    )


def test_the_home_moves_what_is_not_set_by_itself() -> None:
    moved = settings(SCOREWATCH_HOME="../elsewhere/home")
    assert moved.home == Path("/work-of/elsewhere/home")
    assert moved.store_uri == "file:///work-of/elsewhere/home/store"
    assert moved.dagster_home == Path("/work-of/elsewhere/home/dagster")
    assert settings(SCOREWATCH_HOME="/abs", DAGSTER_HOME="d").dagster_home == CWD / "d"


def test_production_is_two_buckets() -> None:
    production = settings(
        SCOREWATCH_STORE="s3://scorewatch-store/prod/",
        SCOREWATCH_REGISTRY="s3://scorewatch-registry",
        SCOREWATCH_ENV="production",
    )
    assert production.open_store().uri == production.store_uri == "s3://scorewatch-store/prod"
    assert production.open_registry().uri == production.registry_uri == "s3://scorewatch-registry"
    assert production.env == "production"


def test_the_registry_is_in_the_store_by_default() -> None:
    assert settings(SCOREWATCH_STORE="s3://store/prod").registry_uri == "s3://store/prod/registry"


def test_with_a_store_on_s3_local_files_are_no_sources_by_default() -> None:
    assert settings(SCOREWATCH_STORE="s3://store").allowed_sources == ("s3://",)


def test_allowed_sources_are_a_list_of_prefixes() -> None:
    found = settings(SCOREWATCH_ALLOWED_SOURCES=" s3://lake/ke/ ,file:///data, s3://,file://,")
    assert found.allowed_sources == ("s3://lake/ke", "file:///data", "s3://", "file:///")


@pytest.mark.parametrize("value", ["", " ", ",", "lake/ke", "https://lake", "s3://lake/../x", "s3://lake/ke,*"])
def test_allowed_sources_that_are_no_prefixes_are_refused(value: str) -> None:
    with pytest.raises(BadInput, match="SCOREWATCH_ALLOWED_SOURCES"):
        settings(SCOREWATCH_ALLOWED_SOURCES=value)


@pytest.mark.parametrize("name", ["SCOREWATCH_STORE", "SCOREWATCH_REGISTRY"])
@pytest.mark.parametrize("value", ["/x/y", "s3://", "file://", "gs://bucket", "file://relative/path", "s3://b_d/x"])
def test_a_store_that_is_no_uri_is_refused_by_the_variable_s_name(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: "):
        settings(**{name: value})


def test_an_empty_variable_counts_as_unset() -> None:
    names = [name for name in KNOWN_NAMES if name != "SCOREWATCH_ALLOWED_SOURCES"]
    others = ("DAGSTER_HOME", "DD_API_KEY", "DD_API_KEY_FILE", "DD_APP_KEY", "DD_APP_KEY_FILE", "DD_SITE")
    assert settings(**dict.fromkeys((*names, *others), "")) == settings()


def test_the_own_endpoint_goes_before_amazon_s_variables() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://c:3"}
    assert settings(**environ).s3_endpoint == "http://c:3"
    environ["AWS_ENDPOINT_URL_S3"] = "https://b:2/"
    assert settings(**environ).s3_endpoint == "https://b:2"
    environ["SCOREWATCH_S3_ENDPOINT"] = "http://a:1"
    assert settings(**environ).s3_endpoint == "http://a:1"


def test_the_endpoint_reaches_the_stores() -> None:
    found = settings(
        SCOREWATCH_STORE="s3://store", SCOREWATCH_REGISTRY="s3://registry", SCOREWATCH_S3_ENDPOINT="http://a:1"
    )
    for store in (found.open_store(), found.open_registry()):
        assert store.storage_options()["aws_endpoint_url"] == "http://a:1"


@pytest.mark.parametrize("value", ["localhost:9000", "s3://bucket", "http://", "https://user:hunter2@host"])
def test_an_endpoint_that_is_none_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(BadInput, match="AWS_ENDPOINT_URL_S3 is not an endpoint") as refused:
        settings(AWS_ENDPOINT_URL_S3=value)
    assert value not in str(refused.value)


def test_an_unknown_name_is_refused_with_the_closest_known_one() -> None:
    with pytest.raises(BadInput, match=r"SCOREWATCH_STROE \(.*SCOREWATCH_STORE\)"):
        settings(SCOREWATCH_STROE="s3://store")
    with pytest.raises(BadInput, match=r"SCOREWATCH_ALLOWED_SOURCE \(.*ALLOWED_SOURCES\).*SCOREWATCH_HOEM \(.*_HOME\)"):
        settings(SCOREWATCH_HOEM="x", SCOREWATCH_ALLOWED_SOURCE="y")


def test_a_fleet_is_spread_over_code_locations_and_run_by_one_orchestrator() -> None:
    found = settings(
        SCOREWATCH_ORCHESTRATOR="airflow",
        SCOREWATCH_SHARDS="10",
        SCOREWATCH_SHARD="9",
        SCOREWATCH_ONLY="ke-nano-loan/3.2.0",
        SCOREWATCH_WORKSPACE="deploy/workspace.yaml",
    )
    assert (found.orchestrator, found.shards, found.shard) == ("airflow", 10, 9)
    assert found.only == ("ke-nano-loan", "3.2.0")
    assert found.workspace == CWD / "deploy/workspace.yaml"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ORCHESTRATOR", "cron", "Write dagster or airflow"),
        ("SHARDS", "0", "from 1 to 100"),
        ("SHARDS", "many", "from 1 to 100"),
        ("SHARDS", "-1", "from 1 to 100"),
        ("SHARDS", "²", "from 1 to 100"),
        ("SHARD", "1", "from 0 to 0"),
        ("ONLY", "ke-nano-loan", "Write MODEL/VERSION"),
        ("ONLY", "/1", "Write MODEL/VERSION"),
        ("ONLY", "m/", "Write MODEL/VERSION"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(name: str, value: str, expected: str) -> None:
    with pytest.raises(BadInput, match=f"SCOREWATCH_{name} is .*{expected}"):
        settings(**{f"SCOREWATCH_{name}": value})


@pytest.mark.parametrize("name", ["FEATURES_URI", "SCORES_URI"])
def test_names_that_other_parts_read_are_known(name: str) -> None:
    assert settings(**{f"SCOREWATCH_{name}": "x", "HOME": "/root", "SCOREWATCHER": "x"}) == settings()


def test_the_services_that_alerts_go_to_are_off_without_keys_and_elsewhere_on_demand() -> None:
    found = settings(
        SCOREWATCH_PAGERDUTY_ROUTING_KEY="routing",
        SCOREWATCH_PAGERDUTY_URL="http://relay:8080/pagerduty/",
        SCOREWATCH_DATADOG_URL="https://relay",
        SCOREWATCH_DAGIT_URL="https://dagit.lender.example/prod/",
        DD_API_KEY="api",
        DD_APP_KEY="app",
        DD_SITE="us5.datadoghq.com",
    )
    assert (found.pagerduty_key, found.datadog_key, found.datadog_app_key) == tuple(
        map(Secret, ("routing", "api", "app"))
    )
    assert found.pagerduty_url == "http://relay:8080/pagerduty"
    assert found.datadog_url == "https://relay"
    assert found.dagit_url == "https://dagit.lender.example/prod"
    assert found.datadog_site == "us5.datadoghq.com"


@pytest.mark.parametrize("name", ["SCOREWATCH_PAGERDUTY_URL", "SCOREWATCH_DATADOG_URL", "SCOREWATCH_DAGIT_URL"])
@pytest.mark.parametrize(
    "value",
    ["relay:8080", "ftp://relay", "http://", "https://user:hunter2@relay", "https://relay?key=hunter2", "http://r:x"],
)
def test_an_address_that_is_none_is_refused_without_being_shown(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"{name} is not an address. Write http") as refused:
        settings(**{name: value})
    assert value not in str(refused.value)


@pytest.mark.parametrize("value", ["Production", "kenya prod", "p" * 51, "prod/ke", "produção"])
def test_the_name_of_an_installation_fits_into_tags_and_keys(value: str) -> None:
    with pytest.raises(BadInput, match=r"SCOREWATCH_ENV is .* a-z, 0-9"):
        settings(SCOREWATCH_ENV=value)


@pytest.mark.parametrize("value", ["https://app.datadoghq.eu", "eu", "datadoghq.com/", "api.datadoghq.com:443"])
def test_a_site_is_the_name_of_a_host(value: str) -> None:
    with pytest.raises(BadInput, match=r"DD_SITE is .* such as datadoghq\.com"):
        settings(DD_SITE=value)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().env = "production"


def test_settings_touch_no_file(tmp_path: Path) -> None:
    found = Settings.from_environment({}, tmp_path)
    found.open_store()
    found.open_registry()
    assert list(tmp_path.iterdir()) == []


CANARY = "canary-of-a-password"


def test_the_database_is_a_secret_that_settings_do_not_show(tmp_path: Path) -> None:
    address = f"postgresql+psycopg2://scorewatch:{CANARY}@db.example:5432/scorewatch?sslmode=require"
    (tmp_path / "url").write_text(f"{address}\n")
    for found in (
        settings(SCOREWATCH_POSTGRES_URL=address),
        settings(SCOREWATCH_POSTGRES_URL_FILE=str(tmp_path / "url")),
        settings(SCOREWATCH_POSTGRES_URL=address + "&options=" + "x" * 400),
    ):
        assert found.postgres_url is not None
        assert found.postgres_url.reveal().startswith(address)
        assert CANARY not in repr(found)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://scorewatch:{CANARY}@db/scorewatch",
        f"postgres://scorewatch:{CANARY}@db/scorewatch",
        f"mysql://scorewatch:{CANARY}@db/scorewatch",
        f"postgresql+psycopg2://scorewatch:{CANARY}@db",
        f"postgresql+psycopg2://scorewatch:{CANARY}@db:port/scorewatch",
        f"postgresql+psycopg2://scorewatch:{CANARY} @db/scorewatch",
        CANARY,
    ],
)
def test_an_address_that_dagster_cannot_use_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(BadInput, match="SCOREWATCH_POSTGRES_URL") as raised:
        settings(SCOREWATCH_POSTGRES_URL=url)
    assert CANARY not in str(raised.value)
