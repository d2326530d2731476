"""Days of a small installation, in which every role does all that it is there for, each through its own endpoint."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from monitoring_assets import cli, deployment, layout, onboarding
from monitoring_assets.alerting import dashboards, storms
from monitoring_assets.alerting.publisher import publish, resolve_again
from monitoring_assets.arrivals.agenda import Attempt, Capacity, Task
from monitoring_assets.arrivals.airflow_runs import AirflowRuns
from monitoring_assets.arrivals.watch import Watch
from monitoring_assets.assets.factory import RESOURCE, TRIGGER_TAG, Work, group
from monitoring_assets.cli.execution import execute
from monitoring_assets.cli.run import STAGES
from monitoring_assets.definitions import models
from monitoring_assets.exporting import export_fleet
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.heartbeats import Heartbeats, heartbeat
from monitoring_assets.instance import open_instance
from monitoring_assets.leases import Lease
from monitoring_assets.past.compaction import compact
from monitoring_assets.refresh import Refresher
from monitoring_assets.sensors.registry import Report
from monitoring_assets.shared_state import StoreState
from monitoring_assets.sweep import sweep
from resources.airflow import Airflow
from resources.settings import Settings
from tests.conftest import Lender, applications
from tests.deploy.iam_gate import Gate
from tests.recorders import Recorder, failing
from tests.recorders.airflow import AirflowRecorder

MODEL, VENDOR, BROKEN = "ke-nano-loan", "zm-payroll", "ug-broken"
TYPED_INTO_CONTROL = (
    ("status", "--json"),
    ("alerts", "--json"),
    ("silence", MODEL, "--until", "4h", "--reason", "a test"),
    ("silence", MODEL, "--end"),
    ("policy", "backtest", "--json"),
    ("export-dags", "--json"),
    ("publish", "--once"),
)
"""What docs/operations.md says that people run in the pod of `control`."""


class Done:
    """An orchestrator that has done everything that it was ever asked for."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def busy(self) -> Mapping[tuple[str, str], set[str]]:
        return {}

    def of(self, keys: Sequence[str]) -> Mapping[str, Attempt]:
        return {key: Attempt("done", 1, datetime.now(UTC)) for key in keys if key in self.keys}

    def capacity(self) -> Capacity:
        return Capacity()


class Installation:
    """Store, registry and lake in a bucket each, everything reached through the gate, in the role that does it."""

    def __init__(self, gate: Gate, lender: Lender, services: Mapping[str, str], folder: Path) -> None:
        self.gate, self.lender, self._services, self._folder = gate, lender, services, folder
        lender.now = datetime.now(UTC)
        self.today = lender.now.date()
        self._done = Done()

    def environ(self, role: str, *, told: bool = True) -> dict[str, str]:
        """The environment of a role's processes; unless somebody is to be ``told``, events go to the outbox."""
        lender = self.lender
        return {
            "SCOREWATCH_STORE": lender.settings.store_uri,
            "SCOREWATCH_REGISTRY": lender.settings.registry_uri,
            "SCOREWATCH_ALLOWED_SOURCES": lender.lake_uri,
            "SCOREWATCH_S3_ENDPOINT": self.gate.endpoints[role],
            "SCOREWATCH_HOME": str(self._folder),
            **(self._services if told else {}),
        }

    def settings(self, role: str, *, told: bool = True) -> Settings:
        return Settings.from_environment(self.environ(role, told=told), self._folder)

    def command(self, role: str, *arguments: str, told: bool = True) -> int:
        """``scorewatch ARGUMENTS`` in a role; its exit code."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environ(role, told=told).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["scorewatch", *arguments])
            return cli._run()

    def day(self, back: int) -> str:
        return str(self.today - timedelta(days=back))

    def land(self, back: int, **changes: Any) -> None:
        """A day's applications; ``shift`` moves their incomes."""
        rows = applications(400, back)
        if shift := changes.get("shift"):
            rows = rows.with_columns(income=rows["income"] + shift)
        self.lender.land(self.day(back), rows)
        self.lender.lake.put(f"{self.day(back)}/_SUCCESS", b"")

    def register(self, model: str, **changes: Any) -> None:
        """As its owners do; the lender's folder has a file for everything."""
        source = {"uri": f"{self.lender.lake_uri}/{{partition:%Y-%m-%d}}/*.parquet", "key": "application_id"}
        days = {"every": "day", "timezone": "UTC", "start": self.today - timedelta(days=5)}
        usual = {"model": model, "tier": 1, "partitions": days, "source": {**source, "ready": "_SUCCESS"}}
        folder = self.lender.model_folder(self.lender.manifest(**usual | changes))
        deployment.register(folder, self.settings("owners"))

    def look(self) -> None:
        """The registry sensor's look, and what the asset `registry` shows; the servers of the models are reloaded."""
        # What landed until now is older than what is deployed now: S3 dates objects by the real clock.
        self.lender.now = max(self.lender.now, datetime.now(UTC))
        settings = self.settings("control")
        Refresher(settings, self.lender.clock).look()
        file = FleetFile(settings.open_store())
        Report(settings, file.read()).events()
        self.members = list(file.read().members)
        self._watch = Watch(self.members, self.settings("models"), self.lender.clock)

    def go_on(self, *, told: bool = True, ticks: int = 4) -> set[str]:
        """Ticks of the arrivals sensors, a minute between them, and every run that they ask for; why these were."""
        why = set()
        for _ in range(ticks):
            self.lender.now += timedelta(minutes=1)
            for task in self._watch.tick(self._done):
                self.work(task, told=told)
                self._done.keys.add(task.key)
                why.add(task.trigger)
        return why

    def has(self, prefix: str) -> bool:
        """Whether there is anything below a prefix of the store, for somebody who may see everything."""
        return bool(self.lender.listed(prefix))

    def work(self, task: Task, *, told: bool = True) -> None:
        """The pod of a run."""
        version = onboarding.pinned(self.settings("stages", told=told), task.digest, self.lender.clock)
        with open_instance(version.settings) as instance:
            execute(
                version,
                instance,
                STAGES["all"],
                sorted(task.partitions),
                trigger=task.trigger,
                force=False,
                on_recorded=lambda _: None,
            )

    def freeze(self, model: str) -> bool:
        """The run of onboarding, as Dagster's launcher starts it; whether it succeeded."""
        [member] = [each for each in self.members if each.manifest.model == model]
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize(
                [each for each in group(member.manifest, member.digest, member.files) if hasattr(each, "keys")],
                selection=dg.AssetSelection.assets([model, "1.0.0", "reference"]),
                instance=instance,
                resources={RESOURCE: Work(self.settings("stages"), self.lender.clock)},
                tags={TRIGGER_TAG: "onboarding"},
                raise_on_error=False,
            ).success


def live(scene: Installation, recorder: Recorder, airflow: AirflowRecorder) -> None:
    """From the first registration to the nightly job."""
    for back in (5, 4, 3):
        scene.land(back)
    scene.register(MODEL)
    scene.look()
    assert scene.freeze(MODEL)
    assert scene.go_on() == {"catch-up"}
    detected(scene, recorder)
    stormy(scene, recorder)
    kept_back(scene, recorder)
    handled_by_people(scene)
    killed(scene)
    assert scene.command("stages", "run", VENDOR, "1.0.0", "--partition", scene.day(4), "--force", "--json") == 0
    assert scene.command("stages", "backfill", VENDOR, "1.0.0", "--from", scene.day(4), "--to", scene.day(3)) == 0
    in_airflow(scene, airflow)
    built_from(scene)
    at_night(scene)
    days_later(scene, recorder)


def detected(scene: Installation, recorder: Recorder) -> None:
    """Data that is overdue, data that comes with a shift; a service that refuses it."""
    recorder.pagerduty.faults.lasting = failing(400)
    scene.land(2, shift=30)
    assert scene.go_on() == {"arrival"}
    assert scene.has("dead-letters/")
    recorder.pagerduty.faults.lasting = None
    scene.land(1, shift=30)
    assert scene.go_on() == {"arrival"}
    assert not scene.has("dead-letters/"), "with the next news it is taken"
    publish(scene.settings("control"), scene.lender.clock)


def stormy(scene: Installation, recorder: Recorder) -> None:
    """In a fleet in which one model is a storm: it comes while the service is down, and goes with a correction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storms, "LEAST", 0)
        patch.setattr(storms, "SHARE", 0)
        publish(scene.settings("control"), scene.lender.clock)
        assert scene.has("storms/")
        for back in (2, 1):
            scene.land(back)
        scene.lender.now += timedelta(hours=3)
        scene.go_on()
        publish(scene.settings("control"), scene.lender.clock)
        publish(scene.settings("control"), scene.lender.clock)
    scene.register(VENDOR, precomputed=True)
    scene.look()
    scene.go_on(told=False)
    publish(scene.settings("control", told=False), scene.lender.clock)


def kept_back(scene: Installation, recorder: Recorder) -> None:
    """A bad artefact, of which a service hears when asked again, definitions that clash, a bad manifest; all mended."""
    files, bad = f"{BROKEN}/1.0.0", b"no model"
    registry = scene.settings("owners").open_registry()
    scene.register(BROKEN)
    good = registry.get(f"{files}/model.onnx").data
    registry.put(f"{files}/model.onnx", bad)
    scene.look()
    assert not scene.freeze(BROKEN)
    recorder.pagerduty.faults.lasting = failing(400)
    publish(scene.settings("control"), scene.lender.clock)
    assert scene.has("dead-letters/")
    recorder.pagerduty.faults.lasting = None
    publish(scene.settings("control"), scene.lender.clock, refused=True)
    registry.put(f"{files}/model.onnx", good)
    assert scene.freeze(BROKEN)
    models.keep_back_refused(scene.settings("models"), {(BROKEN, "1.0.0"): "0"}, {(BROKEN, "1.0.0"): "a clash"})
    models.release_taken(scene.settings("models"), {(BROKEN, "1.0.0")})
    manifest = registry.get(f"{files}/model.yaml").data
    registry.put(f"{files}/model.yaml", b"model: [")
    scene.look()
    registry.put(f"{files}/model.yaml", manifest)
    scene.look()
    changed = yaml.safe_load(manifest) | {"tier": 2}
    path = scene.lender.folder / "changed.yaml"
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    assert scene.command("owners", "update", str(path)) == 0


def handled_by_people(scene: Installation) -> None:
    """What is typed into the pod of `control`."""
    for arguments in TYPED_INTO_CONTROL:
        assert scene.command("control", *arguments) == 0, arguments
    dashboards.keep(scene.settings("control").open_store(), {"fleet": "/dashboard/abc"})
    assert scene.command("control", "alerts", "--json", told=False) == 0


def killed(scene: Installation) -> None:
    """What a run leaves that was killed in another pod."""
    begun = datetime.now(UTC) - timedelta(hours=1)
    left = Lease(host="another", process=1, since=begun, until=begun + timedelta(minutes=1), token="another's")
    scene.lender.store.put(layout.lease("features", VENDOR, "1.0.0", scene.day(4)), left.stored())


def in_airflow(scene: Installation, airflow: AirflowRecorder) -> None:
    settings = scene.settings("control")
    export_fleet(settings, FleetFile(settings.open_store()).read())
    airflow.dags |= {"ke_nano_loan__1_0_0", "zm_payroll__1_0_0", "ug_broken__1_0_0"}
    airflow.add("ke_nano_loan__1_0_0", scene.day(1))
    runs = AirflowRuns(Airflow(airflow.url), scene.settings("models").open_store(), scene.members)
    arrival = Task(MODEL, "1.0.0", "0", "arrival", (scene.day(1),), f"arrival/{MODEL}/1.0.0/{scene.day(1)}/01234567")
    runs.request([arrival])
    runs.of([arrival.key])
    runs.let_go({(MODEL, "1.0.0"): {scene.day(3)}})


def built_from(scene: Installation) -> None:
    """What the locations are built from: stored by the registry sensor, read by whoever loads or shows a location."""
    path = scene.lender.folder / "state"
    path.write_bytes(b"{}")
    StoreState(scene.settings("control").open_store()).upload_state_from_path("models", "1", path)
    for role in ("models", "daemon", "webserver", "stages"):
        state = StoreState(scene.settings(role).open_store())
        assert state.get_latest_version("models") == "1"
        state.download_state_to_path("models", "1", path)


def at_night(scene: Installation) -> None:
    """The job `keep_house`, which is a run; a week later for the orphans, and twice for the second part of a month."""
    settings = scene.settings("stages")
    later = scene.lender.now + timedelta(days=10)
    assert compact(settings.open_store(), scene.lender.clock).results
    assert scene.command("stages", "run", VENDOR, "1.0.0", "--partition", scene.day(3), "--force", "--json") == 0
    publish(scene.settings("control"), scene.lender.clock)
    assert compact(settings.open_store(), scene.lender.clock).results
    assert sweep(settings.open_store(), lambda: later).objects
    resolve_again(settings, scene.lender.clock)
    watched = Heartbeats(scene.settings("daemon").open_store(), scene.lender.clock)
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.add_run(dg.DagsterRun("by Airflow", run_id="a-run"))
        with heartbeat(settings.open_store(), run.run_id, scene.lender.clock):
            assert watched.why_dead(instance, run) is None
        assert watched.why_dead(instance, run) is not None


def days_later(scene: Installation, recorder: Recorder) -> None:
    """Deployments are no news any more, Datadog is out of reach for once, and somebody deletes a version."""
    recorder.datadog.faults.lasting = failing(500)
    publish(scene.settings("control"), lambda: scene.lender.now + timedelta(days=3))
    recorder.datadog.faults.lasting = None
    for info in list(scene.lender.registry.list(f"{VENDOR}/")):
        scene.lender.registry.delete(info.key)
    scene.look()
    handled_by_people(scene)


def big(scene: Installation, path: Path) -> None:
    """A file that is uploaded in parts, and one whose upload is given up."""
    path.write_bytes(os.urandom(9 << 20))
    store = scene.settings("stages").open_store()
    key = f"data/features/{MODEL}/1.0.0/2020-01-01/{'0' * 64}/part-0.parquet"
    store.put_file(key, path)
    store.fetch(key, path)
    scene.gate.fails = lambda environ: "partNumber=2" in environ["QUERY_STRING"]
    try:
        with pytest.raises(Exception, match="upload"):
            store.put_file(key, path)
    finally:
        scene.gate.fails = lambda _: False


def read_by_airflow(scene: Installation) -> None:
    """What the bundle and the triggerer read; tests of the bridge have the bundle itself read through this role."""
    store = scene.settings("airflow").open_store()
    current = json.loads(store.get("airflow/current.json").data)
    plans = json.loads(store.get(f"airflow/sets/{current['set']}.json").data)
    assert store.get(f"airflow/plans/{next(iter(plans['plans'].values()))}.json") is not None
    assert store.get("airflow/ready/ke_nano_loan__1_0_0/2020-01-01") is None
