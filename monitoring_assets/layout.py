"""Where everything lies in the store: one function a kind of object, so that no other module spells a path."""

from __future__ import annotations

import re

MANIFEST_FILE = "model.yaml"
FLEET = "fleet/snapshot/"
FLEET_DEFAULTS = "fleet.yaml"
REGISTRY_PARTITION = "registry"
"""Stands for the partition in results about a version as a whole; no calendar has a key like it."""
DATA = "data/"
REJUDGE = "rejudge/"
PENDING = "pending/"
UNCOMPACTED = "uncompacted/"
HISTORY = "history/"
ALERTS = "alerts/"
SILENCES = "silences/"
DEAD_LETTERS = "dead-letters/"
OUTBOX = "outbox/"
BREACHING = "breaching/"
STORMS = "storms/"
ANNOUNCED = "announced/"
LEASES = "leases/"
HEARTBEATS = f"{LEASES}runs/"
DAGSTER_STATES = "dagster/state/latest.json"
"""The newest version of each state that Dagster builds code locations from."""
POINTER_FILE = "current.json"

_IN_DATASET = re.compile(rf"({DATA}[^/]+/[^/]+/[^/]+/[^/]+)/({re.escape(POINTER_FILE)}|[0-9a-f]{{64}}/[^/]+)")


def encoded(partition: str) -> str:
    """A partition's key as a part of a path."""
    return partition.replace(":", "-")


def fleet_part(number: int) -> str:
    """One of the files in which the fleet is kept."""
    return f"{FLEET}{number:02d}.json"


def registry_folder(model: str, version: str) -> str:
    """Folder of a deployed version in the registry (relative to the registry's root)."""
    return f"{model}/{version}"


def manifest(digest: str) -> str:
    """The manifest as it was when the version was onboarded or changed."""
    return f"manifests/{digest}.yaml"


def references(model: str, version: str) -> str:
    """Folder of a version's frozen reference profile."""
    return f"reference/{model}/{version}/"


def reference(model: str, version: str, digest: str) -> str:
    """A version's frozen reference profile."""
    return f"{references(model, version)}{digest}.json"


def datasets(asset: str, model: str, version: str) -> str:
    """Folder of an asset's partitions, by their encoded keys."""
    return f"{DATA}{asset}/{model}/{version}"


def dataset(asset: str, model: str, version: str, partition: str) -> str:
    """Folder of one partition of one asset; ``partition`` is the encoded key."""
    return f"{datasets(asset, model, version)}/{partition}"


def attempt(asset: str, model: str, version: str, partition: str, input_digest: str) -> str:
    """Folder of the files that one set of inputs gave."""
    return f"{dataset(asset, model, version, partition)}/{input_digest}"


def current(asset: str, model: str, version: str, partition: str) -> str:
    """The pointer to the files of an asset's partition, swapped last."""
    return f"{dataset(asset, model, version, partition)}/{POINTER_FILE}"


def lease(asset: str, model: str, version: str, partition: str) -> str:
    """Who is at a partition of an asset now; ``partition`` is the encoded key."""
    return f"{LEASES}{asset}/{model}/{version}/{partition}.json"


def heartbeat(run: str) -> str:
    """The sign of life of the process of one of Dagster's runs, by the run's id."""
    return f"{HEARTBEATS}{run}.json"


def dagster_state(key: str, version: str) -> str:
    """One version of what a code location is built from; ``key`` is a part of a path."""
    return f"dagster/state/{key}/{version}"


def in_dataset(key: str) -> tuple[str, str] | None:
    """The `dataset` that a key lies in, and the rest of it: ``current.json`` or ``<input digest>/<file>``.

    None for a key of any other shape.
    """
    found = _IN_DATASET.fullmatch(key)
    return (found[1], found[2]) if found else None


def results(model: str, version: str, partition: str, kind: str) -> str:
    """Folder of the attempts of one kind of result."""
    return f"results/{model}/{version}/{partition}/{kind}/"


def result(model: str, version: str, partition: str, kind: str, attempt_number: int) -> str:
    """One immutable result."""
    return f"{results(model, version, partition, kind)}{attempt_number:04d}.json"


def pending(model: str, version: str, partition: str, kind: str, attempt_number: int) -> str:
    """The marker that a result is not published yet."""
    return f"{PENDING}{_attempt(model, version, partition, kind, attempt_number)}"


def uncompacted(model: str, version: str, partition: str, kind: str, attempt_number: int) -> str:
    """The marker that a result is published, and not in `history_month` yet."""
    return f"{UNCOMPACTED}{_attempt(model, version, partition, kind, attempt_number)}"


def _attempt(model: str, version: str, partition: str, kind: str, attempt_number: int) -> str:
    return f"{model}/{version}/{partition}/{kind}/{attempt_number:04d}"


def history_month(month: str, number: int) -> str:
    """Results about the partitions of a month (``yyyy-mm``): one of the parts that the versions are spread over."""
    return f"{HISTORY}{month}/{number:02d}.parquet"


def results_of(model: str, version: str) -> str:
    """Folder of everything that was found out about a version, by encoded partition."""
    return f"results/{model}/{version}"


def alerts(model: str, version: str) -> str:
    """What the publisher knows of a version's alerts."""
    return f"{ALERTS}{model}/{version}.json"


def silence(model: str) -> str:
    """Until when, and why, nothing about a model is triggered."""
    return f"{SILENCES}{model}.json"


def breaching(partition: str, model: str, version: str, track: str) -> str:
    """The marker of an episode that pages, or would, by the encoded key of the partition that made it do so."""
    return f"{BREACHING}{partition}/{model}/{version}/{track}"


def storm(partition: str) -> str:
    """The incident of the fleet about one partition; there while it lasts."""
    return f"{STORMS}{partition}.json"


def announcements(service: str) -> str:
    """Folder of the markers of deployments that a service was told of."""
    return f"{ANNOUNCED}{service}/"


def announced(service: str, model: str, version: str) -> str:
    """The marker of a deployment that a service was told of."""
    return f"{announcements(service)}{model}/{version}"


def versions_sent() -> str:
    """When Datadog was last told how every version stands."""
    return "publisher/versions-sent"


def policies_seen() -> str:
    """By version the digest of the policy under which its episodes were last looked at."""
    return "publisher/policies.json"


def dashboards() -> str:
    """Where the dashboards at Datadog are."""
    return "publisher/dashboards.json"


def dead_letter(model: str, version: str, name: str) -> str:
    """A message that its service will never take."""
    return f"{DEAD_LETTERS}{model}/{version}/{name}.json"


def outbox(name: str) -> str:
    """A message that would have been sent, where no service is configured."""
    return f"{OUTBOX}{name}.json"


def rejudges(model: str, version: str) -> str:
    """Folder of the markers of a version's partitions that later ones are to be judged again because of."""
    return f"{REJUDGE}{model}/{version}/"


def rejudge(model: str, version: str, partition: str) -> str:
    """The marker that windows of later partitions may hold old data of this one: a run is at it, or was killed."""
    return f"{rejudges(model, version)}{partition}"


def scheduler() -> str:
    """Who schedules the versions, once DAGs were exported: dagster or airflow."""
    return "fleet/scheduler"


def fleet_missing() -> str:
    """What is hard to believe of the registry: versions that are gone from it at once. Empty when all is well."""
    return "fleet/missing.json"


def history_done(model: str, version: str) -> str:
    """Marker of a version that was given its history, as far as there was data."""
    return f"fleet/history-done/{model}/{version}"


def quarantines(stage: str) -> str:
    """Folder of the versions that one stage of becoming monitored keeps back."""
    return f"quarantine/{stage}/"


def quarantine(stage: str, model: str, version: str) -> str:
    """Why a version is kept back; there while it is."""
    return f"{quarantines(stage)}{model}/{version}.json"
