"""Silences: until when, and why, nothing about a model is triggered. What is over is resolved all the same."""

from __future__ import annotations

import logging
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
