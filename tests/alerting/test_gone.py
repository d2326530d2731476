"""A version is gone when the registry says so, and not because nobody could read what is known of the fleet."""

from __future__ import annotations

from datetime import timedelta

import pytest

from monitoring_assets import layout
from monitoring_assets.alerting.silences import Silence, put_silence, silences
from monitoring_assets.alerting.state import StateFile
from monitoring_assets.fleet import shard_of
from monitoring_assets.fleet_file import PARTS
from resources.errors import InfrastructureError
from resources.object_store import LocalStore
from tests.alerting.company import Company
from tests.alerting.conftest import MODEL, VERSION
from tests.conftest import Lender
from tests.recorders import Recorder

PART = layout.fleet_part(shard_of(MODEL, VERSION, PARTS))
LATER = timedelta(seconds=30)


@pytest.fixture
def company(lender: Lender, recorder: Recorder) -> Company:
    """Two models in two parts of the snapshot, both in the registry; of one an incident is open."""
    own = Company(lender, {name: value for name, value in recorder.environ.items() if name != "DD_API_KEY"})
    own.register(model="other")
    own.register().day(1, "breach")
    assert shard_of("other", VERSION, PARTS) != shard_of(MODEL, VERSION, PARTS)
    for model in ("other", MODEL):
        lender.deploy_manifest(b"", model, VERSION)
    own.publish()
    assert len(recorder.pagerduty.open) == 1
    return own


def damage(company: Company) -> None:
    company.lender.store.put(PART, b'{"registered": [], "of": "another release"}')


def lose(company: Company) -> None:
    company.lender.store.delete(PART)


@pytest.mark.parametrize("spoil", [damage, lose])
def test_a_version_whose_part_of_the_snapshot_cannot_be_read_keeps_its_episodes(
    company: Company, recorder: Recorder, spoil: object
) -> None:
    store = company.lender.store
    before = StateFile(store, MODEL, VERSION).read()
    part = store.get(PART)
    assert part is not None
    spoil(company)  # type: ignore[operator]
    assert company.publish(LATER).waiting == {}
    assert StateFile(store, MODEL, VERSION).read() == before
    company.write(MODEL, "2026-01-02", "breach")
    assert "snapshot" in company.publish(LATER).waiting[f"{MODEL} {VERSION}"]

    store.put(PART, part.data)
    assert company.publish(LATER).results == 1
    assert len(recorder.pagerduty.pages) == len(recorder.pagerduty.open) == 1
    assert recorder.pagerduty.resolves == []


def test_a_version_that_left_the_registry_is_resolved(company: Company, recorder: Recorder) -> None:
    lose(company)
    company.lender.registry.delete(f"{MODEL}/{VERSION}/model.yaml")
    company.publish(LATER)
    assert recorder.pagerduty.open == {}


def test_while_the_registry_cannot_be_asked_nobody_is_gone_and_the_others_are_told(
    company: Company, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(company)
    company.lender.registry.delete(f"{MODEL}/{VERSION}/model.yaml")
    company.write("other", "2026-01-02", "breach")

    def refused(store: LocalStore, key: str) -> None:
        raise InfrastructureError("the registry is down")

    with monkeypatch.context() as down:
        down.setattr(LocalStore, "head", refused)
        assert company.publish(LATER).results == 1
    assert len(recorder.pagerduty.open) == 2
    company.publish(LATER)
    assert len(recorder.pagerduty.open) == 1


def test_a_silence_does_not_end_before_what_it_held_back_can_be_told(company: Company, recorder: Recorder) -> None:
    store = company.lender.store
    company.register(model="silent")
    company.lender.deploy_manifest(b"", "silent", VERSION)
    until = company.now + timedelta(minutes=10)
    put_silence(store, Silence(model="silent", until=until, reason="payday"))
    company.write("silent", "2026-01-01", "breach")
    company.publish(LATER)
    key = layout.fleet_part(shard_of("silent", VERSION, PARTS))
    part = store.get(key)
    assert part is not None
    store.delete(key)
    company.publish(timedelta(hours=1))
    assert "silent" in silences(store)
    store.put(key, part.data)
    company.publish(LATER)
    assert silences(store) == {}
    assert len(recorder.pagerduty.open) == 2
