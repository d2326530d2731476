"""From a manifest to its asset group: the specs, their lineage and checks, and the one op that materialises them."""

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, assert_never

import dagster as dg

from airflow_bridge.graph import CPU_TAG, IMAGE_METADATA, MEMORY_TAG
from monitoring_assets.assets.events import Reporter, asset_key, held_open, reference_metadata
from monitoring_assets.assets.passes import passes
from monitoring_assets.assets.pipeline import ORDER, UPSTREAM, Recorded, run
from monitoring_assets.heartbeats import MODEL_TAG, VERSION_TAG
from monitoring_assets.instance import PROCESS_TAG, process_tags
from monitoring_assets.manifest import Manifest
from monitoring_assets.onboarding import onboard, pinned, utc_now
from monitoring_assets.quarantine import Quarantined, keep_back, release_if_kept_back
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
from resources.errors import BadInput
from resources.settings import Settings

RESOURCE = "scorewatch"
STAGE_TAG = "scorewatch/stage"
TRIGGER_TAG = "scorewatch/trigger"
PARTITIONS_TAG = "scorewatch/partitions"
"""Partitions of a run that Dagster does not know to be partitioned: it would plan an event for each of them."""
WORK_TAG = "scorewatch/work"
OUTCOME_TAG = "scorewatch/outcome"
"""Of a failed run that trying again would not help: what was found is in the results."""
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
    """The resource that assets run with: settings, clock, and for a caller in the same process what became of it.

    ``on_live`` is called when live results were written, with the manifest of their version.
    """

    settings: Settings
    clock: Clock = utc_now
    version: ModelVersion | None = None
    trigger: Trigger | None = None
    force: bool = False
    partitions: tuple[str, ...] = ()
    recorded: list[Recorded] = field(default_factory=list)
    on_recorded: Any = None
    on_live: Callable[[Manifest], None] | None = None

    def model_version(self, model: str, version: str, digest: str | None) -> ModelVersion:
        """The version to work on: the caller's, else the one planned with, else as the registry has it now.

        Raises BadInput when its manifest, artefact or reference is bad.
        """
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


@dataclass(frozen=True)
class Plan:
    """What a group's runs work with: the manifest as pinned by ``digest``, or without one as the registry has it then.

    ``files`` are those of the version's folder, by digest: a run that cannot begin keeps these back.
    """

    manifest: Manifest
    digest: str | None = None
    files: str = ""


def group(manifest: Manifest, digest: str | None = None, files: str = "") -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The asset group of a model version: source and reference, and the assets that a partition goes through.

    The arguments are those of `Plan`.
    """
    plan = Plan(manifest, digest, files)
    return [_source(manifest), _reference(plan), _stages(plan)]


def quiet(level: int = logging.CRITICAL) -> dict[str, Any]:
    """Run configuration that keeps Dagster's events off the process's output; they are in the instance."""
    return {"loggers": {"console": {"config": {"log_level": logging.getLevelName(level)}}}}


def _key(manifest: Manifest, asset: str) -> dg.AssetKey:
    return asset_key(manifest.model, manifest.version, asset)


def _tags(manifest: Manifest, **more: str) -> dict[str, str]:
    return {
        MODEL_TAG: manifest.model,
        VERSION_TAG: manifest.version,
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


def _reference(plan: Plan) -> dg.AssetsDefinition:
    manifest = plan.manifest
    spec = dg.AssetSpec(
        _key(manifest, "reference"),
        group_name=manifest.slug,
        description="The training population, frozen at onboarding: bins, counts, canary. Never recomputed.",
        tags=_tags(manifest),
        metadata={"sample": manifest.reference.sample, "population": manifest.reference.population},
    )

    # No version's slug has three underscores in a row, so this is no other version's name of its stages.
    @dg.multi_asset(name=f"{manifest.slug}___reference", specs=[spec], required_resource_keys={RESOURCE})
    def reference(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        version = _opened(context, getattr(context.resources, RESOURCE), plan)
        data_version = dg.DataVersion(version.reference_digest[:32])
        return dg.MaterializeResult(metadata=reference_metadata(version), data_version=data_version)

    return reference


def _stages(plan: Plan) -> dg.AssetsDefinition:
    manifest = plan.manifest
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
        # A model's container scores one partition, before the run begins.
        backfill_policy=dg.BackfillPolicy.multi_run(1) if manifest.score.image else dg.BackfillPolicy.single_run(),
    )
    def stages(context: dg.AssetExecutionContext) -> Iterator[Any]:
        with held_open(context.instance, context.run.run_id):
            _run_stages(context, getattr(context.resources, RESOURCE), plan)
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
        tags=_tags(
            manifest,
            **{
                STAGE_TAG: STAGE[asset],
                CPU_TAG: f"{manifest.resources.cpu:g}",
                MEMORY_TAG: str(manifest.resources.memory_mib),
            },
        ),
        metadata={
            "owner": manifest.owner,
            **({IMAGE_METADATA: manifest.score.image} if asset == SCORES and manifest.score.image else {}),
            **{f"link {name}": dg.MetadataValue.url(url) for name, url in manifest.links.items()},
        },
        kinds={manifest.score.kind if asset == SCORES else KINDS[asset]},
    )


def _run_stages(context: dg.AssetExecutionContext, work: Work, plan: Plan) -> None:
    selected = {key.path[-1] for key in context.selected_asset_keys}
    _import_early(selected)
    version = _opened(context, work, plan)
    reporter = Reporter(context, plan.manifest.model, plan.manifest.version)
    trigger = work.trigger or _trigger(context)
    blocked: dict[str, str] = {}
    for assets, partitions, why in passes(version, selected, sorted(_partitions(context, work)), trigger):
        live = False
        for recorded in run(version, assets, partitions, trigger=why, force=work.force):
            reporter.report(recorded)
            work.recorded.extend(recorded)
            if work.on_recorded is not None:
                work.on_recorded(recorded)
            for each in recorded:
                if each.outcome.state == "blocked":
                    blocked.setdefault(each.outcome.partition, f"{each.outcome.asset}: {each.outcome.reason}")
            live |= any(each.result.live for each in recorded)
        if live and work.on_live is not None:
            work.on_live(plan.manifest)
    if blocked:
        listed = "\n".join(f"{partition}: {reason}" for partition, reason in list(blocked.items())[:20])
        context.instance.add_run_tags(context.run.run_id, {OUTCOME_TAG: "blocked"})
        raise dg.Failure(f"A blocking check failed in {len(blocked)} partitions:\n{listed}", allow_retries=False)


def _opened(context: dg.AssetExecutionContext, work: Work, plan: Plan) -> ModelVersion:
    """The version to work on; one whose artefact or reference is bad is kept back, and the run fails for good."""
    model, version, store = plan.manifest.model, plan.manifest.version, work.settings.open_store()
    if PROCESS_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, process_tags())
    try:
        found = work.model_version(model, version, plan.digest)
    except BadInput as error:
        bad = Quarantined(model=model, version=version, stage="onboarding", of=plan.files, reason=str(error))
        keep_back(store, bad, work.clock)
        context.instance.add_run_tags(context.run.run_id, {OUTCOME_TAG: "quarantined"})
        raise dg.Failure(str(error), allow_retries=False) from error
    release_if_kept_back(store, "onboarding", model, version, work.clock)
    return found


def _import_early(selected: set[str]) -> None:
    """Import Great Expectations, which takes seconds, while the first stages wait for the disk and the store."""
    if selected & {DISTRIBUTION, PSI, CSI}:
        module = "monitoring_assets.expectations.suite"
        threading.Thread(target=importlib.import_module, args=(module,), daemon=True).start()


def _partitions(context: dg.AssetExecutionContext, work: Work) -> list[str]:
    tag = context.run.tags.get(PARTITIONS_TAG)
    if work.partitions or tag is None:
        return list(work.partitions or context.partition_keys)
    return [each for each in tag.split(",") if each]


def _trigger(context: dg.AssetExecutionContext) -> Trigger:
    """What started a run of Dagster's own: a sensor says so in a tag; a person's run is never live."""
    tag = context.run.tags.get(TRIGGER_TAG)
    return tag if tag in ("arrival", "catch-up", "onboarding") else "backfill"  # type: ignore[return-value]
