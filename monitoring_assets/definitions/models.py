"""A `models` code location: an asset group for every active version of its shard, and their arrivals."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs, build_defs_for_component

from monitoring_assets.alerting.fast_path import alerting
from monitoring_assets.assets.factory import RESOURCE, Work, group
from monitoring_assets.definitions.fitting import fitting
from monitoring_assets.fleet import Fleet, Member, Name, Shard, scan, shard_of
from monitoring_assets.onboarding import utc_now
from monitoring_assets.quarantine import Quarantined, Stage, keep_back, names_kept_back, release_if_kept_back
from monitoring_assets.sensors.arrivals import arrivals_sensor
from monitoring_assets.sensors.reloading import state_key
from resources.errors import ScorewatchError
from resources.settings import Settings

STAGE: Stage = "definitions"

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


@lru_cache(maxsize=1)
def _built(settings: Settings, state: bytes) -> dg.Definitions:
    # Dagster asks twice while it loads a location.
    members = Shard.model_validate_json(state).members
    if settings.only:
        return _definitions(settings, [each for each in members if each.name == settings.only])
    marked = _marked(settings)
    dagster = Dagster(settings)
    # Those that did not fit the last time come last: nobody has to look for them once more.
    fit = fitting([], [each for each in members if each.name not in marked], dagster.takes)
    fit = fitting(fit, [each for each in members if each.name in marked], dagster.takes)
    names = {each.name for each in fit}
    keep_back_refused(settings, {each.name: each.files for each in members if each.name not in names}, dagster.why)
    release_taken(settings, names & marked)
    return dagster.definitions(fit)


class Dagster:
    """What it takes of some versions, and why it does not take the others."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._taken: tuple[list[Member], dg.Definitions] | None = None
        self.why: dict[Name, str] = {}

    def takes(self, members: list[Member]) -> bool:
        """Whether a location of these loads. A bug of ours, or two of a name: the others must not pay for it."""
        try:
            found = _definitions(self._settings, members)
            # The server loads the same object afterwards, and finds all of it made.
            found.get_repository_def().load_all_definitions()
        except Exception as error:
            self.why[members[-1].name] = f"Dagster does not take its assets: {error}"
            return False
        self._taken = (members, found)
        return True

    def definitions(self, members: list[Member]) -> dg.Definitions:
        """Definitions of those that it takes."""
        if self._taken and self._taken[0] == members:
            return self._taken[1]
        return _definitions(self._settings, members)


def _definitions(settings: Settings, members: Sequence[Member]) -> dg.Definitions:
    return dg.Definitions(
        assets=[asset for each in members for asset in group(each.manifest, each.digest, each.files)],
        sensors=[] if settings.only else [arrivals_sensor(settings, members)],
        resources={RESOURCE: Work(settings, on_live=alerting(settings))},
        executor=dg.in_process_executor,
    )


def _marked(settings: Settings) -> set[Name]:
    try:
        return names_kept_back(settings.open_store(), STAGE)
    except ScorewatchError as error:
        logging.getLogger(__name__).warning("who did not fit the last time is not known: %s", error)
        return set()


def keep_back_refused(settings: Settings, refused: Mapping[Name, str], why: Mapping[Name, str]) -> None:
    """Say in the store who is not monitored because of its definitions: by name, the files that they are of."""
    for name, files in refused.items():
        model, version = name
        logging.getLogger(__name__).error("%s %s: %s", model, version, why[name])
        bad = Quarantined(model=model, version=version, stage=STAGE, of=files, reason=why[name])
        _say(partial(keep_back, settings.open_store(), bad, utc_now))


def release_taken(settings: Settings, names: set[Name]) -> None:
    """Let versions go on that were kept back because of their definitions."""
    for name in names:
        _say(partial(release_if_kept_back, settings.open_store(), STAGE, *name, utc_now))


def _say(say: Callable[[], None]) -> None:
    try:
        say()
    except ScorewatchError as error:
        # It is said at the next load. Those that fit are not to wait for that.
        logging.getLogger(__name__).warning("who does not fit could not be said: %s", error)


@dg.definitions
def defs() -> dg.Definitions:
    """Definitions of the shard that this process is to serve, or of the version that its run is about."""
    return build_defs_for_component(ModelGroups(Settings.from_environment(os.environ, Path.cwd())))
