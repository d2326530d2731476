"""The fleet: every version that the registry holds, and those that cannot be read, with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from monitoring_assets import layout
from monitoring_assets.manifest import Manifest
from monitoring_assets.onboarding import deployed_files, deployed_manifest
from resources.errors import BadInput
from resources.settings import Settings


@dataclass(frozen=True)
class Snapshot:
    """Active versions in the order of their names; quarantined manifests by their place, with every problem."""

    versions: tuple[Manifest, ...]
    quarantined: dict[str, str]


def snapshot(settings: Settings) -> Snapshot:
    """Read the registry. One bad manifest hides no other; a folder without a manifest is not deployed yet."""
    registry = settings.open_registry()
    versions, quarantined = [], {}
    for model in registry.list_folders(""):
        for version in registry.list_folders(model):
            files = deployed_files(registry, model, version)
            where = files.where(layout.MANIFEST_FILE)
            try:
                blob = files.get(layout.MANIFEST_FILE)
                if blob is None:
                    continue
                manifest = deployed_manifest(blob.data, where, model, version, settings)
            except BadInput as error:
                quarantined[where] = str(error)
                continue
            if manifest.status == "active":
                versions.append(manifest)
    return Snapshot(tuple(versions), quarantined)
