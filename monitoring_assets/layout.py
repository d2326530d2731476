"""Where everything lies in the store: one function a kind of object, so that no other module spells a path."""

from __future__ import annotations

MANIFEST_FILE = "model.yaml"


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
    return f"data/{asset}/{model}/{version}"


def dataset(asset: str, model: str, version: str, partition: str) -> str:
    """Folder of one partition of one asset; ``partition`` is the encoded key."""
    return f"{datasets(asset, model, version)}/{partition}"


def attempt(asset: str, model: str, version: str, partition: str, input_digest: str) -> str:
    """Folder of the files that one set of inputs gave."""
    return f"{dataset(asset, model, version, partition)}/{input_digest}"


def current(asset: str, model: str, version: str, partition: str) -> str:
    """The pointer to the files of an asset's partition, swapped last."""
    return f"{dataset(asset, model, version, partition)}/current.json"


def results(model: str, version: str, partition: str, kind: str) -> str:
    """Folder of the attempts of one kind of result."""
    return f"results/{model}/{version}/{partition}/{kind}/"


def result(model: str, version: str, partition: str, kind: str, attempt_number: int) -> str:
    """One immutable result."""
    return f"{results(model, version, partition, kind)}{attempt_number:04d}.json"


def pending(model: str, version: str, partition: str, kind: str, attempt_number: int) -> str:
    """The marker that a result is not published yet."""
    return f"pending/{model}/{version}/{partition}/{kind}/{attempt_number:04d}"
