"""What the environment says: where things are. Read once, at the start of a process, and passed on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from resources.errors import BadInput
from resources.object_store import ObjectStore, open_store, parse_uri
from resources.secrets import Secret, read_secret

Orchestrator = Literal["dagster", "airflow"]

_PREFIX = "SCOREWATCH_"
_OWN_NAMES = (
    "HOME",
    "STORE",
    "REGISTRY",
    "ALLOWED_SOURCES",
    "S3_ENDPOINT",
    "ENV",
    "ORCHESTRATOR",
    "SHARDS",
    "SHARD",
    "ONLY",
    "WORKSPACE",
    "POSTGRES_URL",
    "POSTGRES_URL_FILE",
    "PAGERDUTY_ROUTING_KEY",
    "PAGERDUTY_ROUTING_KEY_FILE",
    "PAGERDUTY_URL",
    "DATADOG_URL",
    "DAGIT_URL",
    "AIRFLOW_URL",
    "AIRFLOW_USER",
    "AIRFLOW_PASSWORD",
    "AIRFLOW_PASSWORD_FILE",
)
# Read by the models' own containers, and by Dagster's configuration on a cluster.
_OTHER_NAMES = ("FEATURES_URI", "SCORES_URI", "IMAGE", "MAX_CPU", "MAX_MEMORY_MIB", "MODEL_IMAGES")
KNOWN_NAMES = tuple(_PREFIX + name for name in _OWN_NAMES + _OTHER_NAMES)
MAX_SHARDS = 100


class Settings(BaseModel):
    """The settings of one process. Paths are absolute, URIs have no slash at their end."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    home: Path
    store_uri: str
    registry_uri: str
    allowed_sources: tuple[str, ...]
    s3_endpoint: str | None
    env: str
    """What this installation is called in alerts and metrics."""
    dagster_home: Path
    orchestrator: Orchestrator
    """Who schedules; the other one shows, backfills and re-runs."""
    shards: int
    """Code locations that the model versions are spread over; at most 300 versions fit well into one."""
    shard: int
    """The one of them that this process serves, from 0."""
    only: tuple[str, str] | None
    """Model and version of the one run that this process is for; it builds no other group."""
    workspace: Path
    """Dagster's workspace file, which says where the code servers are reached."""
    postgres_url: Secret | None
    """Where Dagster's storage is; without it in SQLite below ``dagster_home``."""
    dagit_url: str
    """Where people open Dagster's pages; alerts link to it."""
    airflow_url: str | None
    """Where Airflow's API is, for the runs that are asked for when it schedules."""
    airflow_user: str | None
    airflow_password: Secret | None
    pagerduty_key: Secret | None
    """Without it no page is sent."""
    pagerduty_url: str
    datadog_key: Secret | None
    """Without it no metric is sent."""
    datadog_app_key: Secret | None
    """For dashboards and monitors only."""
    datadog_site: str
    datadog_url: str | None
    """Where metrics go instead of to the site, such as a relay."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], cwd: Path) -> Settings:
        """Settings from SCOREWATCH_* (and DAGSTER_HOME, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, DD_API_KEY, DD_APP_KEY,
        DD_SITE). A key is read from the file that its variable with _FILE at the end names, if that one is set.

        Relative paths start at `cwd`. An empty variable counts as unset, except SCOREWATCH_ALLOWED_SOURCES: nobody
        means "everything" by it.
        Raises BadInput that names the variable.
        """
        _refuse_unknown(environ)
        shards = _number(environ, "SCOREWATCH_SHARDS", 1, range(1, MAX_SHARDS + 1))
        home = _absolute(cwd, environ.get("SCOREWATCH_HOME") or ".scorewatch")
        store = _store_uri("SCOREWATCH_STORE", environ.get("SCOREWATCH_STORE") or f"file://{home}/store")
        registry = _store_uri("SCOREWATCH_REGISTRY", environ.get("SCOREWATCH_REGISTRY") or f"{store}/registry")
        return cls(
            home=home,
            store_uri=store,
            registry_uri=registry,
            allowed_sources=_allowed_sources(environ.get("SCOREWATCH_ALLOWED_SOURCES"), store),
            s3_endpoint=_s3_endpoint(environ),
            env=_env(environ.get("SCOREWATCH_ENV") or "local"),
            dagster_home=_absolute(cwd, environ.get("DAGSTER_HOME") or home / "dagster"),
            orchestrator=_orchestrator(environ.get("SCOREWATCH_ORCHESTRATOR") or "dagster"),
            shards=shards,
            shard=_number(environ, "SCOREWATCH_SHARD", 0, range(shards)),
            only=_only(environ.get("SCOREWATCH_ONLY")),
            workspace=_absolute(cwd, environ.get("SCOREWATCH_WORKSPACE") or home / "workspace.yaml"),
            postgres_url=_postgres_url(environ, cwd),
            dagit_url=_url(environ, "SCOREWATCH_DAGIT_URL") or "http://127.0.0.1:3000",
            airflow_url=_url(environ, "SCOREWATCH_AIRFLOW_URL"),
            airflow_user=environ.get("SCOREWATCH_AIRFLOW_USER") or None,
            airflow_password=read_secret(environ, "SCOREWATCH_AIRFLOW_PASSWORD", cwd),
            pagerduty_key=read_secret(environ, "SCOREWATCH_PAGERDUTY_ROUTING_KEY", cwd),
            pagerduty_url=_url(environ, "SCOREWATCH_PAGERDUTY_URL") or "https://events.pagerduty.com",
            datadog_key=read_secret(environ, "DD_API_KEY", cwd),
            datadog_app_key=read_secret(environ, "DD_APP_KEY", cwd),
            datadog_site=_site(environ.get("DD_SITE") or "datadoghq.com"),
            datadog_url=_url(environ, "SCOREWATCH_DATADOG_URL"),
        )

    def open_store(self) -> ObjectStore:
        """The store of everything but the registry."""
        return open_store(self.store_uri, s3_endpoint=self.s3_endpoint)

    def open_registry(self) -> ObjectStore:
        """The store of the deployed model versions; its root is what the store's `registry/` is by default."""
        return open_store(self.registry_uri, s3_endpoint=self.s3_endpoint)


def _number(environ: Mapping[str, str], name: str, default: int, allowed: range) -> int:
    value = environ.get(name) or str(default)
    if not (value.isascii() and value.isdigit() and len(value) < 5 and int(value) in allowed):
        raise BadInput(f"{name} is {value[:40]!r}. Write a whole number from {allowed[0]} to {allowed[-1]}.")
    return int(value)


def _orchestrator(value: str) -> Orchestrator:
    for known in get_args(Orchestrator):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise BadInput(f"SCOREWATCH_ORCHESTRATOR is {value[:40]!r}. Write dagster or airflow.")


def _only(value: str | None) -> tuple[str, str] | None:
    if not value:
        return None
    model, _, version = value.partition("/")
    if not model or not version:
        raise BadInput(f"SCOREWATCH_ONLY is {value[:80]!r}. Write MODEL/VERSION, such as ke-nano-loan/3.2.0.")
    return model, version


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    unknown = sorted(name for name in environ if name.startswith(_PREFIX) and name not in KNOWN_NAMES)
    if unknown:
        raise BadInput(f"Unknown in the environment: {'; '.join(map(_with_closest, unknown))}.")


def _with_closest(name: str) -> str:
    closest = get_close_matches(name, KNOWN_NAMES, n=1, cutoff=0)
    return f"{name} (the closest known name is {closest[0]})"


def _absolute(cwd: Path, path: str | Path) -> Path:
    return Path(os.path.normpath(cwd / path))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def _store_uri(name: str, value: str) -> str:
    with _naming(name):
        return open_store(value).uri


def _allowed_sources(value: str | None, store: str) -> tuple[str, ...]:
    if value is None:
        return ("file://", "s3://") if store.startswith("file://") else ("s3://",)
    prefixes = [prefix.strip() for prefix in value.split(",") if prefix.strip()]
    if not prefixes:
        raise BadInput("SCOREWATCH_ALLOWED_SOURCES names no prefix. Unset it, or write some, such as s3://lake/ke.")
    with _naming("SCOREWATCH_ALLOWED_SOURCES"):
        return tuple(str(parse_uri(prefix)) for prefix in prefixes)


def _s3_endpoint(environ: Mapping[str, str]) -> str | None:
    for name in ("SCOREWATCH_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if value := environ.get(name):
            if not _is_url(value):
                # The value is left out: it may hold a password.
                raise BadInput(f"{name} is not an endpoint. Write http(s)://host:port, without a user name.")
            return value.removesuffix("/")
    return None


def _env(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,50}", value):
        raise BadInput(f"SCOREWATCH_ENV is {value[:60]!r}. Write up to 50 of a-z, 0-9, - and _, such as production.")
    return value


def _site(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", value):
        raise BadInput(f"DD_SITE is {value[:80]!r}. Write a site of Datadog, such as datadoghq.com or datadoghq.eu.")
    return value


def _url(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name)
    if not value:
        return None
    if not _is_url(value) or "?" in value or "#" in value:
        # As above.
        raise BadInput(f"{name} is not an address. Write http(s)://host:port/path, without a user name.")
    return value.rstrip("/")


def _postgres_url(environ: Mapping[str, str], cwd: Path) -> Secret | None:
    found = read_secret(environ, "SCOREWATCH_POSTGRES_URL", cwd, longest=1000)
    if found is None:
        return None
    try:
        url = urlsplit(found.reveal())
        usable = url.scheme == "postgresql+psycopg2" and url.path.strip("/") and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        # The value is left out: it holds a password. Dagster's own processes read it too, so it is not put right here.
        raise BadInput(
            "SCOREWATCH_POSTGRES_URL is not an address of a database that Dagster can use. Write "
            "postgresql+psycopg2://user:password@host:5432/database, with what is not a letter or digit in the user "
            "and password percent-encoded; plain postgresql:// would mean another driver."
        )
    return found


def _is_url(value: str) -> bool:
    try:
        url = urlsplit(value)
        return url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc and url.port != 0
    except ValueError:
        return False
