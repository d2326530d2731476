"""Onboarding a deployed version: pin its manifest, freeze its reference. Idempotent, and the same for every caller."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from monitoring_assets import layout
from monitoring_assets.manifest import Manifest, identity_digest
from monitoring_assets.manifest_yaml import parse_manifest
from monitoring_assets.stability.profile import ReferenceProfile
from monitoring_assets.version import Clock, ModelVersion
from resources.errors import BadInput, InfrastructureError
from resources.lake import check_allowed
from resources.object_store import ObjectStore
from resources.registry import VersionFiles
from resources.settings import Settings


def utc_now() -> datetime:
    """The clock that processes are started with."""
    return datetime.now(UTC)


def onboard(settings: Settings, model: str, version: str, clock: Clock = utc_now) -> ModelVersion:
    """The version as it stands in the registry now, onboarded if it was not yet.

    Raises BadInput when there is no such version, its manifest or files are bad, or its unchangeable part was changed.
    """
    registry, store = settings.open_registry(), settings.open_store()
    files = deployed_files(registry, model, version)
    where = files.where(layout.MANIFEST_FILE)
    blob = files.get(layout.MANIFEST_FILE)
    if blob is None:
        raise BadInput(
            f"{model} {version} is not in the registry: {where} does not exist. "
            f"Deploy it with `scorewatch register DIR`{_known(registry, model)}."
        )
    manifest = deployed_manifest(blob.data, where, model, version, settings)
    digest = pin(store, blob.data)
    profile = load_profile(store, manifest) or _freeze(store, files, manifest)
    return ModelVersion(manifest, digest, store, settings, clock, profile, files)


def pinned(settings: Settings, digest: str, clock: Clock = utc_now) -> ModelVersion:
    """A version by the digest of its pinned manifest: what a planned run works with, whatever the registry says now.

    Its reference is frozen if it was not yet. Raises BadInput when the digest is unknown, or the version's files are
    bad.
    """
    store = settings.open_store()
    blob = store.get(layout.manifest(digest)) if digest.isalnum() else None
    if blob is None:
        raise BadInput(
            f"No manifest {digest!r} was onboarded in {store.uri}. Leave --manifest-digest out to onboard the version "
            "from the registry first."
        )
    if hashlib.sha256(blob.data).hexdigest() != digest:
        raise InfrastructureError(
            f"{store.uri}/{layout.manifest(digest)} does not have the content that its name says."
        )
    manifest = parse_manifest(blob.data, where=layout.manifest(digest))
    check_supported(manifest, settings)
    files = deployed_files(settings.open_registry(), manifest.model, manifest.version)
    profile = load_profile(store, manifest) or _freeze(store, files, manifest)
    return ModelVersion(manifest, digest, store, settings, clock, profile, files)


def deployed_files(registry: ObjectStore, model: str, version: str) -> VersionFiles:
    """The files of a version in the registry."""
    return VersionFiles(registry, layout.registry_folder(model, version))


def pin(store: ObjectStore, manifest: bytes) -> str:
    """Keep the manifest's bytes under their SHA-256, which is returned."""
    digest = hashlib.sha256(manifest).hexdigest()
    store.put_if_absent(layout.manifest(digest), manifest)
    return digest


def deployed_manifest(data: bytes, where: str, model: str, version: str, settings: Settings) -> Manifest:
    """The manifest that lies at ``where``, in the folder of ``model`` and ``version``; raises BadInput."""
    manifest = parse_manifest(data, where=where)
    if (manifest.model, manifest.version) != (model, version):
        raise BadInput(
            f"{where}: model and version: it says {manifest.model} {manifest.version}, and lies in the folder of "
            f"{model} {version}; correct them, or move it."
        )
    try:
        check_supported(manifest, settings)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    return manifest


def check_supported(manifest: Manifest, settings: Settings) -> None:
    """Raises BadInput when the manifest's data lies outside what the operator allows, or it asks for Spark."""
    if manifest.resources.engine != "polars":
        raise BadInput(
            f"{manifest.model} {manifest.version}: resources.engine: {manifest.resources.engine} is not available in "
            "this release; write engine: polars."
        )
    for key, part in (("source.uri", manifest.source), ("outcomes.uri", manifest.outcomes)):
        if part is not None:
            try:
                check_allowed(part.uri, settings.allowed_sources)
            except BadInput as error:
                raise BadInput(f"{manifest.model} {manifest.version}: {key}: {error}") from error


def load_profile(store: ObjectStore, manifest: Manifest) -> ReferenceProfile | None:
    """The version's frozen reference; None when it has none yet.

    Raises BadInput when the manifest's unchangeable part is not the one that the reference was frozen with.
    """
    folder = layout.references(manifest.model, manifest.version)
    keys = [info.key for info in store.list(folder)]
    if not keys:
        return None
    if len(keys) > 1:
        raise InfrastructureError(
            f"{manifest.model} {manifest.version} has {len(keys)} frozen references in {store.uri}/{folder}, and may "
            "have one. Keep the one that results name as their input, and move the others away."
        )
    blob = store.get(keys[0])
    if blob is None or keys[0] != layout.reference(
        manifest.model, manifest.version, hashlib.sha256(blob.data).hexdigest()
    ):
        raise InfrastructureError(f"{store.uri}/{keys[0]} does not have the content that its name says; restore it.")
    profile = ReferenceProfile.from_json(blob.data)
    if profile.identity != identity_digest(manifest):
        raise BadInput(
            f"{manifest.model} {manifest.version}: artefact, reference, features, score or partitions of its manifest "
            "changed after it was onboarded. Restore the manifest, and register the change as a new version."
        )
    return profile


def _freeze(store: ObjectStore, files: VersionFiles, manifest: Manifest) -> ReferenceProfile:
    from monitoring_assets.assets.reference import build_profile  # noqa: PLC0415

    profile = build_profile(manifest, files)
    store.put_if_absent(layout.reference(manifest.model, manifest.version, profile.digest), profile.to_json())
    return profile


def _known(registry: ObjectStore, model: str) -> str:
    versions = ", ".join(registry.list_folders(model)) if model in registry.list_folders("") else ""
    if versions:
        return f"; {model} has the versions {versions}"
    models = ", ".join(list(registry.list_folders(""))[:10])
    return f"; the registry has the models {models}" if models else "; the registry is empty"
