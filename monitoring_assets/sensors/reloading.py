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

RELOAD_LIMIT_S = 50
"""A sensor's tick has sixty seconds; a location of 300 versions loads in ten."""
PING_LIMIT_S = 2


def location(shard: int, shards: int) -> str:
    """Name of the code location of a shard."""
    return f"models-{shard}" if shards > 1 else "models"


def state_key(shard: int, shards: int) -> str:
    """Key of what a shard is built from, in Dagster's storage of definitions' state."""
    return f"scorewatch-models-{shard}-of-{shards}"


def publish_states(instance: DagsterInstance, fleet: Fleet, shards: int, published: Fleet | None = None) -> None:
    """Store what each shard is built from, but for the shards that are as in the fleet ``published`` before.

    One writer at a time: Dagster's own storage keeps the newest versions of all keys in one value (1.13).
    """
    before = published.split(shards) if published else [None] * shards
    for number, (shard, old) in enumerate(zip(fleet.split(shards), before, strict=True)):
        if shard != old:
            content = shard.model_dump_json(by_alias=True, exclude_unset=True).encode()
            _store_state(instance, state_key(number, shards), hashlib.sha256(content).hexdigest()[:32], content)


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

    def __init__(self, workspace: Path) -> None:
        self._path = workspace

    def reload(self, name: str) -> bool:
        """Make a location's server load its code again; False when it cannot be reached."""
        client = self._client(name)
        if client is None:
            logging.getLogger(__name__).warning(
                "%s names no code server of the location %s; reload it in Dagit, or set SCOREWATCH_WORKSPACE.",
                self._path,
                name,
            )
            return False
        try:
            client.reload_code(timeout=RELOAD_LIMIT_S)
        except DagsterUserCodeUnreachableError as error:
            logging.getLogger(__name__).warning("the code server of %s could not be reached: %s", name, error)
            return False
        return True

    def dead(self) -> list[str]:
        """Locations whose server has lost the process that serves its code; a busy one is not dead."""
        return [name for name in self._entries() if not self._answers(name)]

    def _answers(self, name: str) -> bool:
        client = self._client(name)
        try:
            if client is not None:
                client.get_server_id(timeout=PING_LIMIT_S)
        except DagsterUserCodeUnreachableError as error:
            return "DEADLINE_EXCEEDED" in str(error)
        return True

    def _client(self, name: str) -> DagsterGrpcClient | None:
        entry = self._entries().get(name)
        if entry is None:
            return None
        return DagsterGrpcClient(
            host=entry.get("host", "localhost"),
            port=entry.get("port"),
            socket=entry.get("socket"),
            use_ssl=bool(entry.get("ssl")),
        )

    def _entries(self) -> Mapping[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        listed = (yaml.safe_load(self._path.read_text()) or {}).get("load_from", [])
        servers = [entry["grpc_server"] for entry in listed if "grpc_server" in entry]
        return {str(server.get("location_name")): server for server in servers}
