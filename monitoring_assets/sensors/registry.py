"""The registry sensor: a manifest that appears, changes or goes becomes a group that appears, changes or goes."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import dagster as dg

from monitoring_assets.datasets import content_digest
from monitoring_assets.fleet import Fleet, shard_of
from monitoring_assets.missing import Missing
from monitoring_assets.onboarding import utc_now
from monitoring_assets.quarantine import ASSETS, Markers, Quarantined
from monitoring_assets.refresh import Refresher
from monitoring_assets.sensors.reloader import Reloader
from monitoring_assets.sensors.reloading import Servers, latest_states, location, publish_states
from monitoring_assets.version import Clock
from resources.settings import Settings

REGISTRY = dg.AssetKey("registry")
CHECK = "all_versions_monitored"
SHARD_LIMIT = 300
TICK_LIMIT_S = 40.0
"""Locations that have not loaded until then are told again: Dagster gives a tick sixty seconds."""
MAX_ROWS = 100


def registry_sensor(settings: Settings, clock: Clock = utc_now) -> dg.SensorDefinition:
    """The sensor. Its cursor says which state each code location was told to load, and what Dagit was told."""
    refresher, reloader = Refresher(settings, clock), Reloader()
    published: list[Fleet] = []

    @dg.sensor(
        name="registry",
        minimum_interval_seconds=3,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Onboards, changes and retires model versions as the registry does.",
    )
    def registry(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        begun = time.monotonic()
        cursor = json.loads(context.cursor) if context.cursor else {}
        found = refresher.look()
        if found.complete and (not published or published[-1] is not found.fleet):
            publish_states(context.instance, found.fleet, settings.shards, *published)
            published[:] = [found.fleet]
        latest = latest_states(context.instance, settings.shards)
        left_s = TICK_LIMIT_S - (time.monotonic() - begun)
        told = reloader.tell(latest, cursor.get("told", {}), Servers(settings.workspace).reload, left_s)
        problems = reloader.problems([name for name in latest if name not in told])
        report = Report(settings, found.fleet, refresher.markers, found.missing, problems)
        news = report.digest != cursor.get("reported")
        return dg.SensorResult(
            asset_events=report.events() if news else [],
            cursor=json.dumps({"told": told, "reported": report.digest}),
            skip_reason=None if news else _reason(found.left, latest, told),
        )

    return registry


def _reason(left: int, latest: dict[str, str], told: dict[str, str]) -> str:
    if left:
        return f"{left} changed manifests are still to be read"
    behind = sorted(set(latest) - set(told))
    return f"still to be reloaded: {', '.join(behind)}" if behind else "nothing changed in the registry"


class Report:
    """The state of the registry, as the asset `registry` and its check show it."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        markers: Markers | None = None,
        missing: Missing | None = None,
        problems: Mapping[str, str] | None = None,
    ) -> None:
        self._kept_back = (markers or Markers(settings.open_store())).of(*ASSETS)
        self._missing = missing.text(settings.registry_uri, settings.store_uri) if missing else ""
        self._problems = dict(problems or {})
        members = list(fleet.members)
        self.counts = {
            "active versions": len(members),
            "retired versions": sum(each.member is not None for each in fleet.registered) - len(members),
            "kept back": len(self._kept_back),
        }
        loads = Counter(shard_of(each.manifest.model, each.manifest.version, settings.shards) for each in members)
        self._full = [location(number, settings.shards) for number, load in loads.items() if load > SHARD_LIMIT]

    @property
    def digest(self) -> str:
        """Changes with what there is to show."""
        marked = [each.model_dump() for each in self._kept_back]
        return content_digest([self.counts, self._full, marked, self._missing, self._problems])

    def events(self) -> Sequence[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        """The registry as it is now, and whether everything in it is monitored."""
        return [
            dg.AssetMaterialization(REGISTRY, metadata=self.counts),
            dg.AssetCheckEvaluation(
                REGISTRY,
                CHECK,
                passed=self.passed,
                metadata=self.metadata(),
                severity=self.severity,
                description=self.description,
            ),
        ]

    @property
    def passed(self) -> bool:
        """Whether nobody is missing or kept back, and every location has loaded, with no more than it loads well."""
        return not (self._grave or self._full)

    @property
    def _grave(self) -> bool:
        return bool(self._missing or self._problems or self._kept_back)

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """A version that nobody monitors is grave; a full location is not yet."""
        return dg.AssetCheckSeverity.ERROR if self._grave else dg.AssetCheckSeverity.WARN

    @property
    def description(self) -> str:
        """What is wrong, the gravest only; the reasons are in the metadata."""
        if self._missing:
            return self._missing
        if self._problems:
            return f"not loaded, and served as it was before or not at all: {', '.join(sorted(self._problems))}"
        if self._kept_back:
            names = ", ".join(f"{each.model} {each.version}" for each in self._kept_back[:5])
            more = f" and {len(self._kept_back) - 5} more" if len(self._kept_back) > 5 else ""
            return f"kept back: {names}{more}"
        if self._full:
            return f"more than {SHARD_LIMIT} versions in {', '.join(self._full)}: raise SCOREWATCH_SHARDS"
        return f"all {self.counts['active versions']} active versions are monitored"

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """Counts, and a table of who is kept back and why."""
        found: dict[str, dg.MetadataValue] = {name: dg.MetadataValue.int(count) for name, count in self.counts.items()}
        if self._problems:
            found["not loaded because"] = dg.MetadataValue.table(
                [
                    dg.TableRecord({"location": name, "reason": why[:2000]})
                    for name, why in sorted(self._problems.items())
                ]
            )
        if self._kept_back:
            found["kept back because"] = dg.MetadataValue.table([_row(each) for each in self._kept_back[:MAX_ROWS]])
        return found


def _row(found: Quarantined) -> dg.TableRecord:
    return dg.TableRecord(
        {"model": found.model, "version": found.version, "stage": found.stage, "reason": found.reason[:2000]}
    )
