"""What the `models` code locations are built from, and telling their servers that it is another thing now.

The parts of Dagster that are not public and concern code servers are in this module only.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Any, Literal

import grpc  # type: ignore[import-untyped]
import yaml
from dagster import DagsterInstance, deserialize_value
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.__generated__ import dagster_api_pb2
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import ListRepositoriesResponse
from dagster_shared.error import SerializableErrorInfo

from monitoring_assets.fleet import Fleet
from resources.errors import InfrastructureError

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


State = Literal["well", "silent", "absent", "dead"]
"""A server that is ``silent`` may be busy, and where one is ``absent`` nobody listens, or not yet. A ``dead`` one does,
and has not the process that serves its code: it lost that, or could not start it."""


def _reached(call: Callable[[], Any]) -> str:
    try:
        call()
    except DagsterUserCodeUnreachableError as error:
        return f"its code server could not be reached: {error}"
    return ""


def _load_error(client: DagsterGrpcClient, limit_s: int) -> str:
    """Why a server has no definitions: it answers that it was reloaded all the same."""
    answers: list[Any] = []
    request = dagster_api_pb2.ListRepositoriesRequest
    problem = _reached(lambda: answers.append(client._query("ListRepositories", request, timeout=limit_s)))
    if problem:
        return problem
    kinds = (ListRepositoriesResponse, SerializableErrorInfo)
    found = deserialize_value(answers[0].serialized_list_repositories_response_or_error, kinds)
    return f"its code does not load: {_causes(found)}" if isinstance(found, SerializableErrorInfo) else ""


def _causes(error: SerializableErrorInfo) -> str:
    """Its message, and those of what it came from: only the last one is about our code."""
    first = error.cause or error.context
    return error.message.strip() + (f" because of {_causes(first)}" if first else "")


def _unwell(error: DagsterUserCodeUnreachableError) -> State:
    # Its own message does not say it of all (1.13).
    if not isinstance(error.__cause__, grpc.RpcError):
        return "dead"
    codes: dict[Any, State] = {
        grpc.StatusCode.DEADLINE_EXCEEDED: "silent",
        grpc.StatusCode.UNAVAILABLE: "absent",
    }
    return codes.get(error.__cause__.code(), "dead")


class Servers:
    """The code servers of a workspace file."""

    def __init__(self, workspace: Path) -> None:
        self._path = workspace

    def reload(self, name: str, limit_s: float) -> str:
        """Make a location's server load its code again; what is wrong when that does not load, or nobody answers."""
        client = self._client(name)
        if client is None:
            problem = f"{self._path} names no code server of it; reload it in Dagit, or set SCOREWATCH_WORKSPACE"
        else:
            limit = time.monotonic() + limit_s
            problem = _reached(lambda: client.reload_code(timeout=ceil(limit_s))) or _load_error(
                client, max(1, ceil(limit - time.monotonic()))
            )
        if problem:
            logging.getLogger(__name__).warning("the location %s: %s", name, problem)
        return problem

    def problems(self) -> dict[str, str]:
        """What is wrong with locations whose code did not load, or that do not answer."""
        clients = {name: client for name in self._entries() if (client := self._client(name))}
        found = {name: _load_error(client, PING_LIMIT_S) for name, client in clients.items()}
        return {name: problem for name, problem in found.items() if problem}

    def states(self) -> dict[str, State]:
        """How the locations' servers are."""
        return {name: self._state(name) for name in self._entries()}

    def _state(self, name: str) -> State:
        client = self._client(name)
        try:
            if client is not None:
                client.get_server_id(timeout=PING_LIMIT_S)
        except DagsterUserCodeUnreachableError as error:
            return _unwell(error)
        return "well"

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
