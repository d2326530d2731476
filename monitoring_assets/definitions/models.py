"""A `models` code location: an asset group for every active version of its shard, and their arrivals."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs, build_defs_for_component

from monitoring_assets.alerting.fast_path import alerting
from monitoring_assets.assets.factory import RESOURCE, Work, group
from monitoring_assets.fleet import Fleet, Member, Shard, scan, shard_of
from monitoring_assets.sensors.arrivals import arrivals_sensor
from monitoring_assets.sensors.reloading import state_key
from resources.settings import Settings

warnings.filterwarnings("ignore", category=dg.PreviewWarning)


class ModelGroups(dg.StateBackedComponent):
    """The groups of a shard, built from the state that the registry sensor stores.

    Dagster keeps with every run which version of the state it was planned with, and a run's process builds from that.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # A run's process knows its version, whichever shard it was planned in.
        self._shard = shard_of(*settings.only, settings.shards) if settings.only else settings.shard

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Stored with Dagster's instance, in versions."""
        stored = DefsStateConfigArgs.versioned_state_storage()
        return DefsStateConfig.from_args(stored, default_key=state_key(self._shard, self._settings.shards))

    def write_state_to_path(self, state_path: Path) -> None:
        """Look at the registry: what `dagster dev` does whenever it loads a location."""
        found = scan(self._settings, Fleet())
        while not found.complete:
            found = scan(self._settings, found.fleet)
        shard = found.fleet.shard(self._shard, self._settings.shards)
        state_path.write_text(shard.model_dump_json(by_alias=True, exclude_unset=True))

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:  # noqa: ARG002
        """The groups; none before the registry was looked at for the first time."""
        return _built(self._settings, state_path.read_bytes() if state_path else b"{}")


@functools.lru_cache(maxsize=1)
def _built(settings: Settings, state: bytes) -> dg.Definitions:
    # Dagster asks twice while it loads a location.
    members = [each for each in Shard.model_validate_json(state).members if settings.only in (None, _name(each))]
    return dg.Definitions(
        assets=[asset for member in members for asset in _group(member)],
        sensors=[] if settings.only else [arrivals_sensor(settings, members)],
        resources={RESOURCE: Work(settings, on_live=alerting(settings))},
        executor=dg.in_process_executor,
    )


def _name(member: Member) -> tuple[str, str]:
    return member.manifest.model, member.manifest.version


def _group(member: Member) -> Sequence[dg.AssetsDefinition | dg.AssetSpec]:
    try:
        return group(member.manifest, member.digest, member.files)
    except Exception:
        # A bug of ours on one version out of hundreds: the others must not pay for it.
        logging.getLogger(__name__).exception("the group of %s %s cannot be built", *_name(member))
        return []


@dg.definitions
def defs() -> dg.Definitions:
    """Definitions of the shard that this process is to serve, or of the version that its run is about."""
    return build_defs_for_component(ModelGroups(Settings.from_environment(os.environ, Path.cwd())))
