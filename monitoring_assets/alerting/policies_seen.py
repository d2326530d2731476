"""Which policy every version was last looked at with, so that one that changed is looked at though nothing landed."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import RootModel, ValidationError

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from monitoring_assets.fleet import Name
from resources.object_store import ObjectStore


class _Seen(RootModel[dict[str, str]]):
    """Digests by ``model/version``."""


class Policies:
    """The policies of one round. Two publishers that overwrite each other look at a version once more than needed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        blob = store.get(layout.policies_seen())
        try:
            self._known = _Seen.model_validate_json(blob.data).root if blob else {}
        except ValidationError:
            self._known = {}

    def changed(self, abouts: Mapping[Name, About]) -> set[Name]:
        """The versions whose policy is another one than the last time."""
        return {
            name
            for name, about in abouts.items()
            if about.monitored and self._known.get("/".join(name)) != about.policy.digest
        }

    def seen(self, abouts: Mapping[Name, About]) -> None:
        """Note that versions were looked at."""
        found = self._known | {"/".join(name): about.policy.digest for name, about in abouts.items()}
        if found != self._known:
            self._store.put(layout.policies_seen(), _Seen(found).model_dump_json().encode())
            self._known = found
