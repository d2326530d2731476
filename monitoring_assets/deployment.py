"""Deploying model versions to the registry: validate, register, update."""

from __future__ import annotations

from pathlib import Path

from monitoring_assets import layout
from monitoring_assets.manifest import Manifest, mutable_changes
from monitoring_assets.manifest_yaml import parse_manifest
from monitoring_assets.onboarding import check_supported, deployed_files
from monitoring_assets.scoring import sha256
from monitoring_assets.stability.profile import ReferenceProfile
from resources.errors import BadInput
from resources.registry import VersionFiles
from resources.settings import Settings


def check_folder(folder: Path, settings: Settings) -> tuple[Manifest, ReferenceProfile]:
    """The manifest and the reference profile of a model folder; raises BadInput for everything onboarding would."""
    from monitoring_assets.assets.reference import build_profile  # noqa: PLC0415

    manifest = _read(folder / layout.MANIFEST_FILE)
    check_supported(manifest, settings)
    return manifest, build_profile(manifest, VersionFiles.in_folder(folder))


def register(folder: Path, settings: Settings) -> tuple[Manifest, bool]:
    """Upload a model folder, the manifest last; False when exactly this version was registered before.

    Raises BadInput when the version exists with other content.
    """
    manifest, _ = check_folder(folder, settings)
    target = deployed_files(settings.open_registry(), manifest.model, manifest.version)
    existing = target.get(layout.MANIFEST_FILE)
    for name in _files(manifest):
        data = (folder / name).read_bytes()
        if not _same_or_new(target, name, data, replace=existing is None):
            raise BadInput(
                f"{manifest.model} {manifest.version} is registered with another {name}. A version never changes: "
                "give this one a new version in model.yaml."
            )
    document = (folder / layout.MANIFEST_FILE).read_bytes()
    if target.store.put_if_absent(target.key(layout.MANIFEST_FILE), document):
        return manifest, True
    stored = target.get(layout.MANIFEST_FILE)
    if stored is None or stored.data != document:
        raise BadInput(
            f"{manifest.model} {manifest.version} is registered with another {layout.MANIFEST_FILE}. Use `scorewatch "
            "update` for owner, tier, role, status, policy, links; give anything else a new version."
        )
    return manifest, False


def update(path: Path, settings: Settings) -> tuple[list[str], str]:
    """Swap a registered manifest for a changed one; the changed top-level keys, and the new manifest's digest.

    The platform pins it when it sees it: owners of a version need no right to the store. Raises BadInput when the
    version is not registered, a key that never changes differs, or another update came first.
    """
    manifest = _read(path)
    check_supported(manifest, settings)
    target = deployed_files(settings.open_registry(), manifest.model, manifest.version)
    where = target.where(layout.MANIFEST_FILE)
    stored = target.get(layout.MANIFEST_FILE)
    if stored is None:
        raise BadInput(
            f"{manifest.model} {manifest.version} is not registered: {where} does not exist. Use `scorewatch register`."
        )
    old = parse_manifest(stored.data, where=where)
    mutable_changes(old, manifest)
    before, after = (each.model_dump(mode="json", by_alias=True) for each in (old, manifest))
    changed = [name for name in after if after[name] != before.get(name)]
    data = path.read_bytes()
    if changed and target.store.compare_and_swap(target.key(layout.MANIFEST_FILE), data, stored.etag) is None:
        raise BadInput(
            f"{manifest.model} {manifest.version} was updated by somebody else meanwhile. Look at {where} "
            "and try again."
        )
    return changed, sha256(data if changed else stored.data)


def _read(path: Path) -> Manifest:
    if not path.is_file():
        raise BadInput(f"{path} does not exist; a model folder holds a {layout.MANIFEST_FILE}.")
    return parse_manifest(path.read_bytes(), where=str(path))


def _files(manifest: Manifest) -> list[str]:
    return [name for name in (manifest.score.artefact, manifest.reference.uri) if name]


def _same_or_new(target: VersionFiles, name: str, data: bytes, *, replace: bool) -> bool:
    """Put a file that is not there; one that is must have the same bytes, unless it was never deployed."""
    if target.store.put_if_absent(target.key(name), data):
        return True
    stored = target.get(name)
    if stored is not None and sha256(stored.data) == sha256(data):
        return True
    if replace:
        # Left by a registration that died before its manifest: nobody has read it.
        target.store.put(target.key(name), data)
    return replace
