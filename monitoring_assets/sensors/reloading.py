"""What the `models` code locations are built from, and telling their servers that it is another thing now.

The parts of Dagster that are not public and concern code servers are in this module only.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient

from monitoring_assets.fleet import Fleet
from resources.errors import InfrastructureError
from resources.settings import Settings

RELOAD_LIMIT_S = 50
"""A sensor's tick has sixty seconds; a location of 300 versions loads in ten."""


def location(shard: int, shards: int) -> str:
    """Name of the code location of a shard."""
    return f"models-{shard}" if shards > 1 else "models"


def state_key(shard: int, shards: int) -> str:
    """Key of what a shard is built from, in Dagster's storage of definitions' state."""
    return f"scorewatch-models-{shard}-of-{shards}"


def publish_states(instance: DagsterInstance, fleet: Fleet, shards: int) -> dict[str, str]:
    """Store what each shard is built from; the newest version of each location's state.

    One writer at a time: Dagster keeps the newest versions of all keys in one value (1.13).
    """
    versions = {}
    for number in range(shards):
        content = fleet.shard(number, shards).model_dump_json(by_alias=True, exclude_defaults=True).encode()
        version = hashlib.sha256(content).hexdigest()[:32]
        versions[location(number, shards)] = version
        _store_state(instance, state_key(number, shards), version, content)
    return versions


def latest_states(instance: DagsterInstance, shards: int) -> dict[str, str]:
    """The newest stored version of each location's state."""
    storage = _storage(instance)
    found = {
        location(number, shards): storage.get_latest_version(state_key(number, shards)) for number in range(shards)
    }
    return {name: version for name, version in found.items() if version is not None}


def _store_state(instance: DagsterInstance, key: str, version: str, content: bytes) -> None:
    storage = _storage(instance)
    if storage.get_latest_version(key) == version:
        return
    with tempfile.TemporaryDirectory(prefix="scorewatch-") as folder:
        path = Path(folder) / "state"
        path.write_bytes(content)
        storage.upload_state_from_path(key, version, path)


def _storage(instance: DagsterInstance) -> Any:
    storage = instance.defs_state_storage
    if storage is None:
        raise InfrastructureError("This Dagster instance has no defs_state_storage; remove that key from dagster.yaml.")
    return storage


class Servers:
    """The code servers of a workspace file."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.workspace

    def reload(self, name: str) -> bool:
        """Make a location's server load its code again; False when it cannot be reached."""
        entry = self._entries().get(name)
        if entry is None:
            logging.getLogger(__name__).warning(
                "%s names no code server of the location %s; reload it in Dagit, or set SCOREWATCH_WORKSPACE.",
                self._path,
                name,
            )
            return False
        client = DagsterGrpcClient(
            host=entry.get("host", "localhost"),
            port=entry.get("port"),
            socket=entry.get("socket"),
            use_ssl=bool(entry.get("ssl")),
        )
        try:
            client.reload_code(timeout=RELOAD_LIMIT_S)
        except DagsterUserCodeUnreachableError as error:
            logging.getLogger(__name__).warning("the code server of %s could not be reached: %s", name, error)
            return False
        return True

    def _entries(self) -> Mapping[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        listed = (yaml.safe_load(self._path.read_text()) or {}).get("load_from", [])
        servers = [entry["grpc_server"] for entry in listed if "grpc_server" in entry]
        return {str(server.get("location_name")): server for server in servers}
