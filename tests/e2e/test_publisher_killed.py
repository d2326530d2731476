"""SIGKILL at every step of the publisher, with the real clients, S3, and both services' semantics; and two at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from monitoring_assets import layout
from monitoring_assets.alerting.publisher import publish
from monitoring_assets.refresh import Refresher
from monitoring_assets.results import Result, write_result
from resources.settings import Settings
from tests.alerting.conftest import NETS, shift
from tests.recorders import Recorder, Request

pytestmark = pytest.mark.timeout(900)

STEPS = 18
"""More than any phase has; a publisher that was not killed ended by itself."""
PHASES = {"trigger": ("warn", "warn"), "escalate": ("breach",), "resolve": ("ok", "ok")}


class Bed:
    """A fleet of champions on S3, results written by hand, and publishers that are processes."""

    def __init__(self, lender: Any, machine: Any, server: Any, recorder: Recorder) -> None:
        self.lender, self._machine, self._server, self.recorder = lender, machine, server, recorder
        settings = lender.settings
        self._environ = recorder.environ | {
            "SCOREWATCH_STORE": settings.store_uri,
            "SCOREWATCH_REGISTRY": settings.registry_uri,
            "SCOREWATCH_ALLOWED_SOURCES": lender.lake_uri,
            "SCOREWATCH_S3_ENDPOINT": settings.s3_endpoint,
        }

    def deploy(self, *models: str) -> None:
        for model in models:
            document = self.lender.manifest(precomputed=True, model=model, version="1", tier=1)
            self.lender.deploy_manifest(yaml.safe_dump(document).encode(), model, "1")
        Refresher(self.lender.settings, self.lender.clock).look()

    def write(self, model: str, day: int, state: str) -> None:
        self.lender.now += timedelta(hours=1)
        partition = f"2026-01-{day:02d}"
        result = Result(
            model=model,
            version="1",
            partition=partition,
            kind="csi",
            asset="csi",
            status=state,  # type: ignore[arg-type]
            recorded_at=self.lender.now,
            trigger="arrival",
            live=True,
            metrics=(shift("income", NETS[state]),),
        )
        write_result(self.lender.store, result, partition)

    def start(self) -> Any:
        return self._machine.start("publish", "--once", **self._environ)

    def publish(self) -> None:
        """A round that nobody kills, in this process."""
        settings = Settings.from_environment(self._environ, self._machine.home)
        found = publish(settings, lambda: datetime.now(UTC))
        assert found.waiting == {}

    def killed_before(self, step: int) -> bool:
        """Run a publisher that is killed before a step; whether it had so many."""
        process = self.start()
        with self._killing(process.popen.pid, step):
            code, out, err = process.finish(120)
        assert code in (0, -signal.SIGKILL), out + err
        return bool(code)

    def days_of_income(self) -> dict[str, list[int]]:
        """By model the days of January of which Datadog has the CSI of income."""
        found: dict[str, list[int]] = {}
        for tags, points in self.recorder.datadog.series("scorewatch.daily.csi").items():
            [model] = [tag.removeprefix("model:") for tag in tags if tag.startswith("model:")]
            found[model] = sorted((datetime.fromtimestamp(second, UTC) - timedelta(days=1)).day for second in points)
        return found

    @contextmanager
    def _killing(self, pid: int, step: int) -> Iterator[None]:
        taken = 0

        def before() -> None:
            nonlocal taken
            if taken == step:
                os.kill(pid, signal.SIGKILL)
            taken += 1

        def or_die(take: Callable[[Request], Any]) -> Callable[[Request], Any]:
            def take_or_die(request: Request) -> Any:
                before()
                return take(request)

            return take_or_die

        services: tuple[Any, ...] = (self.recorder.pagerduty, self.recorder.datadog)
        for service in services:
            service.take = or_die(service.take)
        self._server.before_write = before
        try:
            yield
        finally:
            self._server.before_write = lambda: None
            for service in services:
                del service.take


@pytest.fixture
def bed(s3_lender: Any, new_machine: Callable[[], Any], s3_server: Any, recorder: Recorder) -> Bed:
    return Bed(s3_lender, new_machine(), s3_server, recorder)


def test_a_publisher_killed_at_any_step_pages_once_escalates_and_resolves(bed: Bed) -> None:
    models = [f"model-{step}" for step in range(STEPS)]
    bed.deploy(*models)
    pagerduty, killed = bed.recorder.pagerduty, dict.fromkeys(PHASES, 0)
    for step, model in enumerate(models):
        day = 0
        for phase, states in PHASES.items():
            for state in states:
                day += 1
                bed.write(model, day, state)
            if killed[phase] == step:
                # It had all steps before this one.
                killed[phase] += bed.killed_before(step)
            bed.publish()
        pages = [page for page in pagerduty.pages if f"/{model}/" in page.dedup_key]
        assert len(pages) == 1, f"killed before step {step}"
        assert [trigger["payload"]["severity"] for trigger in pages[0].triggers][-1] == "critical"
        assert pages[0].resolved
    assert list(bed.lender.store.list(layout.PENDING)) == []
    every_day = list(range(1, day + 1))
    assert bed.days_of_income() == dict.fromkeys(models, every_day), "every point was delivered"
    assert min(killed.values()) >= 5, "each phase was killed at each of its steps"
    assert max(killed.values()) < STEPS, "and there are no more steps than were tried"


def test_two_publishers_at_once_page_once_an_episode(bed: Bed) -> None:
    models = [f"model-{number}" for number in range(12)]
    bed.deploy(*models)
    for day, state in enumerate(("breach", "ok", "ok"), start=1):
        for number, model in enumerate(models):
            # Each has days of its own: together they would be a storm.
            bed.write(model, number + day, state)
        for rival in [bed.start(), bed.start()]:
            code, out, err = rival.finish(120)
            assert code == 0, out + err
        bed.publish()
        assert len(bed.recorder.pagerduty.open) == (0 if day == 3 else len(models))
    assert sorted(page.dedup_key.split("/")[2] for page in bed.recorder.pagerduty.pages) == sorted(models)
