"""Messages that their service will never take: kept until a person has dealt with them, and deletes them or has them
sent again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from monitoring_assets import layout
from monitoring_assets.fleet import Name
from resources.delivery import Refused
from resources.object_store import ObjectStore


@dataclass(frozen=True)
class DeadLetter:
    """Where one is kept, and what the service said. Of a storm ``model`` is fleet, ``version`` the partition."""

    model: str
    version: str
    key: str
    refused: str


def bury(store: ObjectStore, about: Name, identity: str, letter: Mapping[str, object], refused: Refused) -> None:
    """Keep a message; once for the same ``identity``."""
    content = json.dumps({**letter, "refused": refused.reason}, indent=1)
    store.put(_key(about, identity), content.encode())


def unbury(store: ObjectStore, about: Name, identity: str) -> None:
    """The message was taken after all."""
    store.delete(_key(about, identity))


def _key(about: Name, identity: str) -> str:
    return layout.dead_letter(*about, hashlib.sha256(identity.encode()).hexdigest()[:16])


def dead_letters(store: ObjectStore) -> Iterator[DeadLetter]:
    """All of them, in the order of model and version."""
    for info in store.list(layout.DEAD_LETTERS):
        blob = store.get(info.key)
        try:
            refused = str(json.loads(blob.data)["refused"]) if blob else ""
        except (ValueError, KeyError, TypeError):
            refused = "it cannot be read"
        model, version, _ = info.key.removeprefix(layout.DEAD_LETTERS).split("/", 2)
        yield DeadLetter(model, version, info.key, refused)
