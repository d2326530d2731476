"""What Airflow's own configuration says: its section ``[scorewatch]``, or AIRFLOW__SCOREWATCH__* in the environment.

Images, accounts and limits come from here and never from a plan: plans are made of what data scientists deploy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from airflow_bridge.schema import Image
from resources.errors import BadInput
from resources.object_store import open_store

SECTION = "scorewatch"

_PREFIX = f"AIRFLOW__{SECTION.upper()}__"
_NEEDED_BY_PODS = ("image", "namespace", "service_account")
_ELSEWHERE = {"store_uri": "SCOREWATCH_STORE", "s3_endpoint": "SCOREWATCH_S3_ENDPOINT"}
_NAME = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"


def _store(uri: str) -> str:
    try:
        return open_store(uri).uri
    except BadInput as error:
        raise ValueError(str(error)) from None


def _names(text: object) -> object:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if isinstance(text, str) else text


Name = Annotated[str, StringConstraints(pattern=rf"^{_NAME}$")]
Names = Annotated[tuple[Name, ...], BeforeValidator(_names)]
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]{0,250}$")]
ImageNames = Annotated[tuple[ImageName, ...], BeforeValidator(_names)]
Endpoint = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+/?$")]

_EXPECTED = {
    "image": "an image with its digest, such as registry.example/scorewatch@sha256:… (64 hexadecimal digits)",
    "namespace": "the name of a Kubernetes namespace, such as scorewatch",
    "service_account": "the name of a Kubernetes service account, such as scorewatch-stages",
    "env_from_secret": "names of Kubernetes secrets with commas between them",
    "env_from_optional_secret": "names of Kubernetes secrets with commas between them",
    "env_from_config_map": "names of Kubernetes config maps with commas between them",
    "model_images": "registries, or names of images without tag or digest, with commas between them",
    "s3_endpoint": "http(s)://host:port, without a user name",
}


class Config(BaseModel):
    """The options, all of which have a default that serves on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    execution: Literal["local", "kubernetes"] = "local"
    """Whether a task is a process of the worker or a pod."""
    command: Annotated[str, Field(min_length=1)] = "scorewatch"
    """The runner: an executable of the worker or of the image, without arguments."""

    image: Image | None = None
    namespace: Annotated[Name, Field(max_length=63)] | None = None
    service_account: Name | None = None
    """Of the pods, by which they get their rights to the store."""
    env_from_secret: Names = ()
    env_from_optional_secret: Names = ()
    env_from_config_map: Names = ()
    """What the pods take their environment from; the secrets win. Of the optional ones none need be there."""
    max_cpu: Annotated[float, Field(gt=0, le=256)] = 4
    """Cores that a plan may ask for."""
    max_memory_mib: Annotated[int, Field(ge=64, le=4_194_304)] = 16_384
    """Memory that a plan may ask for."""
    model_images: ImageNames = ()
    """Registries, folders or names of the images that may run as models; none without any."""

    pool: Annotated[str, Field(min_length=1, max_length=256)] = "default_pool"
    """Of tasks whose plan names none."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    timeout_s: Annotated[int, Field(ge=60, le=7 * 86_400)] = 4 * 3_600
    """What one try of a task may take."""
    jitter_minutes: Annotated[int, Field(ge=0, le=59)] = 10
    """Over which the starts of the DAGs are spread."""
    shards: Annotated[int, Field(ge=1, le=1_000)] = 16
    """Files that the DAGs are spread over; 50 to 100 of them fit well into one. Another number moves DAGs."""

    wait_days: Annotated[int, Field(ge=1, le=365)] = 7
    """How long a run waits for its data."""
    store_uri: Annotated[str, AfterValidator(_store)] | None = None
    """Where `control` says which data is there; SCOREWATCH_STORE when it is not set."""
    s3_endpoint: Endpoint | None = None
    """Of S3 services other than Amazon's; SCOREWATCH_S3_ENDPOINT when it is not set."""

    @classmethod
    def read(cls) -> Config:
        """The options of this process's Airflow. Raises BadInput that names the option."""
        from airflow.sdk.configuration import conf  # noqa: PLC0415

        named = {name.removeprefix(_PREFIX).lower() for name in os.environ if name.startswith(_PREFIX)}
        if conf.has_section(SECTION):
            named.update(conf.options(SECTION))
        return cls.parse({name: conf.get(SECTION, name, fallback="") for name in named}, os.environ)

    @classmethod
    def parse(cls, options: Mapping[str, str], environ: Mapping[str, str]) -> Config:
        """The options as they are written; an empty one counts as not set. Raises BadInput that names the option."""
        given = {name: value for name, value in options.items() if value}
        for name, variable in _ELSEWHERE.items():
            if environ.get(variable):
                given.setdefault(name, environ[variable])
        try:
            config = cls.model_validate(given)
        except ValidationError as error:
            raise BadInput(_explained(error)) from None
        missing = [name for name in _NEEDED_BY_PODS if getattr(config, name) is None]
        if config.execution == "kubernetes" and missing:
            raise BadInput(f"{_option(missing[0])} is not set, and pods need it. Write {_EXPECTED[missing[0]]}.")
        return config


def _option(name: str) -> str:
    return f"The option {name} of [{SECTION}] in Airflow's configuration ({_PREFIX}{name.upper()})"


def _explained(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        closest = get_close_matches(name, Config.model_fields, n=1, cutoff=0)[0]
        return f"{_option(name)} is not known. The closest known one is {closest}."
    expected = _EXPECTED.get(name)
    return f"{_option(name)} cannot be used: {first['msg']}." + (f" Write {expected}." if expected else "")
