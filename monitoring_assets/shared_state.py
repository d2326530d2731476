"""What code locations are built from, kept in our store: code servers, daemon and run pods share it on S3.

Dagster's own storage of definitions' state would need a second S3 client, and loses a key when two write at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from dagster._core.storage.defs_state.base import DefsStateStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData, deserialize_value, serialize_value
from dagster_shared.serdes.objects.models.defs_state_info import DefsStateInfo

from monitoring_assets import layout
from resources.errors import InfrastructureError
from resources.object_store import Blob, ObjectStore
from resources.settings import Settings

ATTEMPTS = 20


class StoreState(DefsStateStorage[DagsterInstance], ConfigurableClass):
    """Set as ``defs_state_storage`` in dagster.yaml; it has no configuration: SCOREWATCH_STORE says where it is."""

    def __init__(self, store: ObjectStore, inst_data: ConfigurableClassData | None = None) -> None:
        self._store, self._inst_data = store, inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What Dagster makes another one of it from."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing to configure."""
        return {}

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData,
        config_value: Mapping[str, Any],  # noqa: ARG003 - Dagster's signature
    ) -> StoreState:
        """As Dagster makes it, from the environment. Raises BadInput when that is not as it should be."""
        return cls(Settings.from_environment(os.environ, Path.cwd()).open_store(), inst_data)

    def get_latest_defs_state_info(self) -> DefsStateInfo | None:
        """The newest version of every key; None before the first."""
        return _info(self._store.get(layout.DAGSTER_STATES))

    def download_state_to_path(self, key: str, version: str, path: Path) -> None:
        """Write one version of a key's state to a file. Raises MissingObject when it was never uploaded."""
        self._store.fetch(self._place(key, version), path)

    def upload_state_from_path(self, key: str, version: str, path: Path) -> None:
        """Store a file as a version of a key's state, and make it the newest."""
        self._store.put_file(self._place(key, version), path)
        self.set_latest_version(key, version)

    def set_latest_version(self, key: str, version: str | None) -> None:
        """Make a version the newest of its key; with None the key has none. Other keys stay, whoever writes them."""
        self._swap(
            lambda info: (
                DefsStateInfo.remove_key(info, key)
                if version is None
                else DefsStateInfo.add_version(info, key, version)
            )
        )

    def _swap(self, change: Callable[[DefsStateInfo | None], DefsStateInfo]) -> None:
        for _ in range(ATTEMPTS):
            blob = self._store.get(layout.DAGSTER_STATES)
            changed = serialize_value(change(_info(blob))).encode()
            etag = blob.etag if blob else None
            if self._store.compare_and_swap(layout.DAGSTER_STATES, changed, etag) is not None:
                return
        raise InfrastructureError(
            f"{self._store.uri}/{layout.DAGSTER_STATES} was changed by others {ATTEMPTS} times in a row. Try again."
        )

    def _place(self, key: str, version: str) -> str:
        return layout.dagster_state(self._sanitize_key(key), version)


def _info(blob: Blob | None) -> DefsStateInfo | None:
    return deserialize_value(blob.data.decode(), DefsStateInfo) if blob else None
