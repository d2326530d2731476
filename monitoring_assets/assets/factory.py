"""From a manifest to its asset group: the specs, their lineage and checks, and the one op that materialises them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, assert_never

import dagster as dg

from monitoring_assets.assets.events import Reporter, asset_key, held_open, reference_metadata
from monitoring_assets.assets.pipeline import ORDER, UPSTREAM, Recorded, run
from monitoring_assets.manifest import Manifest
from monitoring_assets.onboarding import onboard, pinned, utc_now
from monitoring_assets.results import Trigger
from monitoring_assets.version import (
    CHECKS,
    CODE_VERSIONS,
    CSI,
    DISTRIBUTION,
    FEATURES,
    PSI,
    SCORES,
    Clock,
    ModelVersion,
)
from resources.settings import Settings

RESOURCE = "scorewatch"
TRIGGER_TAG = "scorewatch/trigger"
STAGE = {FEATURES: "features", SCORES: "scores", DISTRIBUTION: "monitoring", PSI: "monitoring", CSI: "monitoring"}
KINDS = {
    FEATURES: "parquet",
    DISTRIBUTION: "polars",
    PSI: "greatexpectations",
    CSI: "greatexpectations",
}
DESCRIPTIONS = {
    FEATURES: "The partition's applications, validated against the reference.",
    SCORES: "The model's score of every application.",
    DISTRIBUTION: "Counts in the reference's frozen bins: monitoring's one read of the rows.",
    PSI: "Population Stability Index of the score, over windows of partitions.",
    CSI: "Characteristic Stability Index of every feature, over windows of partitions.",
}


@dataclass
class Work:
    """The resource that assets run with: settings, clock, and for a caller in the same process what became of it."""

    settings: Settings
    clock: Clock = utc_now
    version: ModelVersion | None = None
    trigger: Trigger | None = None
    force: bool = False
    partitions: tuple[str, ...] = ()
    recorded: list[Recorded] = field(default_factory=list)
    on_recorded: Any = None

    def model_version(self, model: str, version: str, digest: str | None) -> ModelVersion:
        """The version to work on: the caller's, else the one planned with, else as the registry has it now."""
        if self.version is not None:
            return self.version
        if digest is not None:
            return pinned(self.settings, digest, self.clock)
        return onboard(self.settings, model, version, self.clock)


def partitions_definition(manifest: Manifest) -> dg.PartitionsDefinition[str]:
    """Dagster's definition of the manifest's partitions; its keys are the calendar's."""
    start, timezone = manifest.partitions.start.isoformat(), manifest.partitions.timezone
    match manifest.partitions.every:
        case "hour":
            return dg.HourlyPartitionsDefinition(f"{start}-00:00", timezone=timezone)
        case "day":
            return dg.DailyPartitionsDefinition(start, timezone=timezone)
        case "week":
            return dg.WeeklyPartitionsDefinition(start, day_offset=1, timezone=timezone)
        case "month":
            return dg.MonthlyPartitionsDefinition(start, timezone=timezone)
        case never:
            assert_never(never)


def group(manifest: Manifest, digest: str | None = None) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The asset group of a model version: source and reference, and the assets that a partition goes through.

    ``digest`` pins the runs to that onboarded manifest; without it they onboard what the registry has.
    """
    return [_source(manifest), _reference(manifest), _stages(manifest, digest)]


def _key(manifest: Manifest, asset: str) -> dg.AssetKey:
    return asset_key(manifest.model, manifest.version, asset)


def _tags(manifest: Manifest, **more: str) -> dict[str, str]:
    return {
        "scorewatch/model": manifest.model,
        "scorewatch/version": manifest.version,
        "scorewatch/tier": str(manifest.tier),
        "scorewatch/role": manifest.role,
        **more,
    }


def _source(manifest: Manifest) -> dg.AssetSpec:
    return dg.AssetSpec(
        _key(manifest, "source"),
        group_name=manifest.slug,
        description=f"Where the applications land: {manifest.source.uri}",
        partitions_def=partitions_definition(manifest),
        tags=_tags(manifest),
        kinds={"parquet"},
    )


def _reference(manifest: Manifest) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        _key(manifest, "reference"),
        group_name=manifest.slug,
        description="The training population, frozen at onboarding: bins, counts, canary. Never recomputed.",
        tags=_tags(manifest),
        metadata={"sample": manifest.reference.sample, "population": manifest.reference.population},
    )

    @dg.multi_asset(name=f"{manifest.slug}__reference", specs=[spec], required_resource_keys={RESOURCE})
    def reference(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        work: Work = getattr(context.resources, RESOURCE)
        return dg.MaterializeResult(
            metadata=reference_metadata(work.model_version(manifest.model, manifest.version, None))
        )

    return reference


def _stages(manifest: Manifest, digest: str | None) -> dg.AssetsDefinition:
    partitions = partitions_definition(manifest)
    specs = [_spec(manifest, asset, partitions) for asset in ORDER]
    checks = [
        dg.AssetCheckSpec(
            CHECKS[asset],
            asset=_key(manifest, asset),
            description=f"{CHECKS[asset]} of each partition; the result object in the store says all of it",
            partitions_def=partitions,
        )
        for asset in ORDER
    ]

    @dg.multi_asset(
        name=manifest.slug,
        specs=specs,
        check_specs=checks,
        can_subset=True,
        required_resource_keys={RESOURCE},
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def stages(context: dg.AssetExecutionContext) -> Iterator[Any]:
        with held_open(context.instance, context.run.run_id):
            _run_stages(context, getattr(context.resources, RESOURCE), manifest, digest)
        # The evaluations are reported already; Dagster still counts the outputs of checks that were asked for.
        for key in context.selected_asset_check_keys:
            yield dg.Output(None, context.assets_def.get_output_name_for_asset_check_key(key))

    return stages


def _spec(manifest: Manifest, asset: str, partitions: dg.PartitionsDefinition[str]) -> dg.AssetSpec:
    upstream = ["source", "reference"] if asset == FEATURES else [UPSTREAM[asset]]
    if asset in (DISTRIBUTION, PSI, CSI):
        upstream.append("reference")
    if asset == DISTRIBUTION:
        upstream.append(FEATURES)
    return dg.AssetSpec(
        _key(manifest, asset),
        deps=[_key(manifest, name) for name in upstream],
        group_name=manifest.slug,
        description=DESCRIPTIONS[asset],
        partitions_def=partitions,
        skippable=True,
        code_version=CODE_VERSIONS[asset],
        tags=_tags(manifest, **{"scorewatch/stage": STAGE[asset]}),
        metadata={
            "owner": manifest.owner,
            **{f"link {name}": dg.MetadataValue.url(url) for name, url in manifest.links.items()},
        },
        kinds={manifest.score.kind if asset == SCORES else KINDS[asset]},
    )


def _run_stages(context: dg.AssetExecutionContext, work: Work, manifest: Manifest, digest: str | None) -> None:
    selected = {key.path[-1] for key in context.selected_asset_keys}
    partitions = sorted(work.partitions or context.partition_keys)
    version = work.model_version(manifest.model, manifest.version, digest)
    reporter = Reporter(context, manifest.model, manifest.version)
    trigger = work.trigger or _trigger(context)
    blocked: dict[str, str] = {}
    for recorded in run(version, selected, partitions, trigger=trigger, force=work.force):
        reporter.report(recorded)
        work.recorded.extend(recorded)
        if work.on_recorded is not None:
            work.on_recorded(recorded)
        for each in recorded:
            if each.outcome.state == "blocked":
                blocked.setdefault(each.outcome.partition, f"{each.outcome.asset}: {each.outcome.reason}")
    if blocked:
        listed = "\n".join(f"{partition}: {reason}" for partition, reason in list(blocked.items())[:20])
        raise dg.Failure(f"A blocking check failed in {len(blocked)} partitions:\n{listed}", allow_retries=False)


def _trigger(context: dg.AssetExecutionContext) -> Trigger:
    """What started a run of Dagster's own: a sensor says so in a tag; a person's run is never live."""
    tag = context.run.tags.get(TRIGGER_TAG)
    return tag if tag in ("arrival", "catch-up", "onboarding") else "backfill"  # type: ignore[return-value]
