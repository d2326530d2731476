"""Plan sets in the store, as Airflow's side reads them: nothing in them is trusted."""

from __future__ import annotations

import json
import re

from pydantic import ValidationError

from airflow_bridge.export import CURRENT, set_key
from airflow_bridge.schema import PlanSet, digest
from resources.errors import BadInput
from resources.object_store import ObjectStore

SET_LIMIT = 2_000_000
"""Bytes of a plan set: some 10,000 DAGs."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def current_set(store: ObjectStore) -> str:
    """The digest of the set in force. Raises BadInput when the store names none."""
    try:
        found = json.loads(fetched(store, CURRENT, 1_000))
    except ValueError:
        found = None
    current = found.get("set") if isinstance(found, dict) else None
    if not isinstance(current, str) or not _DIGEST.fullmatch(current):
        raise BadInput(f"{store.uri}/{CURRENT} does not name a plan set. Export the DAGs again.")
    return current


def plan_set(store: ObjectStore, sha256: str) -> PlanSet:
    """The set with this digest. Raises BadInput when it is not there, or not as it should be."""
    data = fetched(store, set_key(sha256), SET_LIMIT)
    if digest(data) != sha256:
        raise BadInput(f"The plan set {sha256} has the digest {digest(data)}: it was changed after it was exported.")
    try:
        return PlanSet.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the set"
        raise BadInput(f"The plan set {sha256} cannot be used: {where}: {first['msg']}. Export it again.") from None


def fetched(store: ObjectStore, key: str, limit: int) -> bytes:
    """An object of the store. Raises BadInput when it is not there, or longer than ``limit``."""
    found = store.head(key)
    if found is not None and found.size > limit:
        raise BadInput(f"{store.uri}/{key} has {found.size} bytes; at most {limit} are read.")
    blob = store.get(key)
    if blob is None:
        raise BadInput(f"There is no {store.uri}/{key}. Export the DAGs, or restore it if it was deleted.")
    return blob.data
