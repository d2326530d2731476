"""The fleet as Airflow's DAGs: every active version is a source of plans, built when it is new or has changed."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Iterable
from functools import partial
from importlib import resources
from importlib.metadata import version as release
from pathlib import Path
from typing import TYPE_CHECKING

from monitoring_assets import layout
from monitoring_assets.datasets import content_digest
from monitoring_assets.fleet import Fleet, Member
from monitoring_assets.results import Trigger
from resources.errors import BadInput
from resources.object_store import ObjectStore
from resources.settings import Orchestrator, Settings

if TYPE_CHECKING:
    from airflow_bridge.export import Exported
    from airflow_bridge.schema import DagPlan


CODE = ("airflow_bridge", "monitoring_assets")
"""The packages that plans are made by."""
REASONS: dict[str, Trigger] = {
    "scheduled": "arrival",
    "backfill": "backfill",
    "manual": "backfill",
    "arrival": "arrival",
    "catch-up": "catch-up",
    "onboarding": "onboarding",
}
"""Why Airflow's runs are there, by their types, or as arrivals asked for them; what people start is never live."""


def scheduler(store: ObjectStore) -> str | None:
    """Who schedules the versions of a store; None as long as no DAG was exported: Dagster then."""
    blob = store.get(layout.scheduler())
    return blob.data.decode(errors="replace") if blob else None


def export_fleet(settings: Settings, fleet: Fleet, *, take_over: bool = False) -> Exported:
    """Put the DAGs of the fleet's active versions into force, and no others.

    Raises BadInput when the other orchestrator schedules in this store, unless that is to be taken over from it.
    """
    from airflow_bridge.export import Source, export  # noqa: PLC0415

    store = settings.open_store()
    _claim(store, settings.orchestrator, take_over=take_over)
    sources = {
        "/".join(member.name): Source(_fingerprint(settings, member), partial(_plans, settings, member))
        for member in fleet.members
    }
    return export(store, sources)


def _claim(store: ObjectStore, orchestrator: Orchestrator, *, take_over: bool) -> None:
    other = scheduler(store)
    if other == orchestrator:
        return
    if other is not None and not take_over:
        raise BadInput(
            f"{other} schedules the versions in {store.uri}, and SCOREWATCH_ORCHESTRATOR is {orchestrator}: both would "
            f"materialise each partition. Set SCOREWATCH_ORCHESTRATOR={other} here, or have {orchestrator} schedule "
            "from now on: scorewatch export-dags --take-over"
        )
    store.put(layout.scheduler(), orchestrator.encode())


def _fingerprint(settings: Settings, member: Member) -> str:
    """Changes with anything that the plan of a version says."""
    return content_digest([code_digest(), settings.orchestrator, settings.dagit_url, member.digest])


@functools.cache
def code_digest() -> str:
    """Of all that plans are made by: an image may hold other code under the same release."""
    files = {
        f"{package}/{path.relative_to(root)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for package in CODE
        for root in [Path(str(resources.files(package)))]
        for path in root.rglob("*.py")
    }
    return content_digest([release("scorewatch"), release("dagster"), sorted(files.items())])


def _plans(settings: Settings, member: Member) -> Iterable[DagPlan]:
    import dagster as dg  # noqa: PLC0415

    warnings.filterwarnings("ignore", category=dg.PreviewWarning)

    from airflow_bridge.plan import About, plans  # noqa: PLC0415
    from monitoring_assets.assets.factory import STAGE_TAG, group  # noqa: PLC0415

    manifest = member.manifest

    def arguments(_group: str, stage: str, _assets: Iterable[dg.AssetKey]) -> list[str]:
        return ["run", *member.name, "--stage", stage, "--manifest-digest", member.digest]

    def preparing(_group: str, _stage: str, _assets: Iterable[dg.AssetKey]) -> list[str]:
        return ["features", *member.name, "--manifest-digest", member.digest]

    about = About(
        description=f"{manifest.model} {manifest.version}: {manifest.role}, tier {manifest.tier}",
        waits=True,
        reasons={reason: ["--trigger", trigger] for reason, trigger in REASONS.items()},
        # It freezes the reference of a model with an image of its own, and takes no scores.
        unprepared=["onboarding"],
        links={"Dagit": f"{settings.dagit_url}/assets/{manifest.model}/{manifest.version}"},
    )
    # Of a location's sensors and schedules only `arrivals` materialises anything, and leaves it to Airflow; a test of
    # the real definitions says so, which take long to build.
    return plans(
        group(manifest, member.digest, member.files),
        stage_tag=STAGE_TAG,
        runner=arguments,
        preparing=preparing,
        scheduled=settings.orchestrator == "airflow",
        about=lambda _: about,
    )
