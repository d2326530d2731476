"""Silences: until when, and why, nothing about a model is triggered. What is over is resolved all the same."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from monitoring_assets import layout
from resources.object_store import ObjectStore


class Silence(BaseModel):
    """Of all versions of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    until: AwareDatetime
    reason: str


def put_silence(store: ObjectStore, silence: Silence) -> None:
    """Begin a silence; it takes the place of the model's present one."""
    store.put(layout.silence(silence.model), silence.model_dump_json().encode())


def end_silence(store: ObjectStore, silence: Silence) -> None:
    """Remove a silence, unless another one has taken its place."""
    if silences(store).get(silence.model) == silence:
        store.delete(layout.silence(silence.model))


def silences(store: ObjectStore) -> dict[str, Silence]:
    """Every silence, by model, also those that have expired. One that is damaged silences nobody."""
    found = {}
    for info in store.list(layout.SILENCES):
        blob = store.get(info.key)
        try:
            silence = Silence.model_validate_json(blob.data) if blob else None
        except ValidationError as error:
            logging.getLogger(__name__).warning("%s/%s silences nobody: %s", store.uri, info.key, error)
            continue
        if silence is not None:
            found[silence.model] = silence
    return found


def in_force(silence: Silence | None, now: datetime) -> bool:
    """Whether nothing is to be triggered now."""
    return silence is not None and now < silence.until


class Quiet:
    """The models that are silent now, and those whose silence is ``over``: what still fires of them is told."""

    def __init__(self, store: ObjectStore, now: datetime) -> None:
        self._store, self._all = store, silences(store)
        self.silent = {model for model, silence in self._all.items() if in_force(silence, now)}
        self.over = self._all.keys() - self.silent

    def end(self, untold: Collection[str]) -> None:
        """Remove the silences that are over, but those of models that somebody is still to be told of."""
        for model in self.over - set(untold):
            end_silence(self._store, self._all[model])
