"""Looking at the registry again and again: what it leaves in the store, also when it dies or is started anew."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import yaml

from monitoring_assets import fleet, layout
from monitoring_assets.fleet import Registered
from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.missing import read_missing
from monitoring_assets.quarantine import Quarantined, keep_back, kept_back
from monitoring_assets.refresh import Refreshed, Refresher
from monitoring_assets.results import Result
from resources.errors import InfrastructureError
from resources.object_store import LocalStore
from resources.settings import Settings

MODEL = "ke-nano-loan"


class Platform:
    """A lender's registry, and a process that looks at it; ``start`` starts another one."""

    def __init__(self, lender: Any, settings: Settings | None = None) -> None:
        self.lender, self.settings = lender, settings or lender.settings
        self.registry, self.store = self.settings.open_registry(), self.settings.open_store()
        self.start()

    def start(self, **settings: Any) -> None:
        self._refresher = Refresher(self.settings.model_copy(update=settings), self.lender.clock)

    def look(self) -> Refreshed:
        return self._refresher.look()

    def deploy(self, version: str, **changes: Any) -> None:
        document = self.lender.manifest(precomputed=True, version=version, **changes)
        self.put(version, yaml.safe_dump(document).encode())

    def put(self, version: str, data: bytes, name: str = "model.yaml") -> None:
        self.registry.put(f"{MODEL}/{version}/{name}", data)

    def remove(self, version: str) -> None:
        for info in list(self.registry.list(f"{MODEL}/{version}/")):
            self.registry.delete(info.key)

    @property
    def fleet(self) -> dict[str, Registered]:
        """The fleet as it is stored, by version."""
        return {each.version: each for each in FleetFile(self.store).read().registered}

    @property
    def members(self) -> list[str]:
        return [each.manifest.version for each in FleetFile(self.store).read().members]

    def kept_back(self, stage: Any = "manifest") -> dict[str, Quarantined]:
        return {each.version: each for each in kept_back(self.store, stage)}

    def results(self, version: str) -> list[Result]:
        folder = layout.results(MODEL, version, "registry", "pipeline")
        blobs = [self.store.get(info.key) for info in self.store.list(folder)]
        return [Result.model_validate_json(blob.data) for blob in blobs if blob is not None]

    def statuses(self, version: str) -> list[str]:
        return [each.status for each in self.results(version)]

    def everything(self) -> dict[str, str]:
        """Every object of the store, and what changes with its bytes and, on the disk, with any writing of it."""
        return {info.key: info.fingerprint for info in self.store.list("")}


@pytest.fixture
def platform(lender: Any) -> Platform:
    return Platform(lender)


@pytest.fixture
def s3_platform(s3_lender: Any) -> Platform:
    return Platform(s3_lender)


def test_looking_again_changes_nothing_in_the_store(platform: Platform) -> None:
    for version in ("1", "2", "3"):
        platform.deploy(version)
    platform.put("4", b"model: [")
    platform.look()
    platform.put("1", b"model: [")
    platform.look()
    failed = Quarantined(model=MODEL, version="2", stage="onboarding", of=platform.fleet["2"].files, reason="x")
    keep_back(platform.store, failed, platform.lender.clock)
    before = platform.everything()
    found = platform.look()
    assert platform.look().fleet is found.fleet, "whoever asks whether anything changed need not compare"
    assert found.left == 0
    platform.start()
    assert platform.look().fleet == found.fleet
    assert platform.everything() == before


def test_a_version_appears_changes_retires_and_goes_in_the_stored_fleet(platform: Platform) -> None:
    assert platform.look() == Refreshed(fleet.Fleet(), 0)
    assert platform.everything() == {}
    platform.deploy("1")
    platform.look()
    assert platform.members == ["1"]
    platform.deploy("1", owner="x")
    platform.deploy("2")
    platform.look()
    assert [each.member.manifest.owner for each in platform.fleet.values() if each.member] == [
        "x",
        "credit-risk@lender.example",
    ]
    platform.deploy("1", owner="x", status="retired")
    platform.look()
    assert (list(platform.fleet), platform.members) == (["1", "2"], ["2"])
    platform.remove("1")
    platform.look()
    assert list(platform.fleet) == ["2"]
    assert platform.results("1") == [], "nothing was wrong with it"


def test_a_bad_manifest_is_kept_back_until_it_is_corrected(platform: Platform) -> None:
    platform.deploy("1")
    platform.deploy("2", tier=7)
    platform.look()
    found = platform.kept_back()["2"]
    where = f"{platform.registry.uri}/{MODEL}/2/model.yaml"
    assert found.reason.startswith(f"{where}: tier: got the number 7")
    assert found.of == platform.fleet["2"].fingerprint
    [result] = platform.results("2")
    assert (result.kind, result.asset, result.status, result.live) == ("pipeline", "manifest", "quarantined", True)
    assert result.reason == found.reason
    assert platform.members == ["1"]
    platform.deploy("2", tier=3)
    platform.look()
    assert platform.kept_back() == {}
    assert [(each.status, each.reason, each.live) for each in platform.results("2")][1:] == [("ok", "", True)]
    assert platform.members == ["1", "2"]
    assert platform.results("1") == []


def test_a_bad_manifest_is_kept_back_until_it_is_removed(platform: Platform) -> None:
    platform.put("2", b"{")
    platform.look()
    assert list(platform.kept_back()) == ["2"]
    platform.remove("2")
    platform.look()
    assert platform.kept_back() == {}
    assert platform.statuses("2") == ["quarantined", "ok"]
    assert platform.fleet == {}


def test_a_bad_update_is_kept_back_while_the_version_goes_on(platform: Platform) -> None:
    platform.deploy("1")
    platform.look()
    platform.deploy("1", segments=["product"])
    platform.look()
    assert "segments: was []" in platform.kept_back()["1"].reason
    assert platform.members == ["1"]
    platform.put("1", b"{")
    platform.look()
    assert "is not YAML" in platform.kept_back()["1"].reason
    assert platform.statuses("1") == ["quarantined", "quarantined"]
    platform.deploy("1")
    platform.look()
    assert platform.statuses("1") == ["quarantined", "quarantined", "ok"]
    assert platform.kept_back() == {}


class DiedError(BaseException):
    """The process is gone: nothing that it would do to clean up is done."""


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the process die instead of making its n-th change of a store, from 0."""
    left = [-1]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any) -> Any:
            if left[0] == 0:
                raise DiedError
            left[0] -= 1
            return change(*arguments)

        return made

    for name in ("put", "put_if_absent", "delete"):
        monkeypatch.setattr(LocalStore, name, counted(getattr(LocalStore, name)))

    def arm(number: int) -> None:
        left[0] = number

    return arm


def test_a_look_that_dies_anywhere_is_completed_by_the_next_without_a_result_too_many(
    lender: Any, tmp_path: Any, die_at: Callable[[int], None]
) -> None:
    def prepared(name: str) -> Platform:
        roots = {"store_uri": f"file://{tmp_path}/{name}/store", "registry_uri": f"file://{tmp_path}/{name}/registry"}
        platform = Platform(lender, lender.settings.model_copy(update=roots))
        platform.deploy("1")
        for version in ("2", "3", "4"):
            platform.put(version, b"{")
        platform.look()
        platform.deploy("2")
        platform.put("3", b"[")
        platform.remove("4")
        platform.put("5", b"{")
        platform.deploy("6")
        files = {"model": MODEL, "stage": "onboarding", "reason": "x", "of": "files that are there no more"}
        keep_back(platform.store, Quarantined(version="1", **files), lender.clock)
        return platform

    def outcome(platform: Platform) -> Any:
        named = {version: platform.statuses(version) for version in "123456"}
        pending = {key.removeprefix("pending/") for key in platform.everything() if key.startswith("pending/")}
        written = {
            key.removeprefix("results/").removesuffix(".json")
            for key in platform.everything()
            if key.startswith("results/")
        }
        assert pending == written
        known = {each.version: (bool(each.problem), each.member is not None) for each in platform.fleet.values()}
        return named, known, list(platform.kept_back()), list(platform.kept_back("onboarding"))

    whole = prepared("whole")
    whole.look()
    expected = outcome(whole)
    assert expected[0]["3"] == ["quarantined", "quarantined"]
    assert expected[0]["4"] == ["quarantined", "ok"]
    assert expected[1:] == (
        {"1": (False, True), "2": (False, True), "3": (True, False), "5": (True, False), "6": (False, True)},
        ["3", "5"],
        [],
    )
    deaths = 0
    while True:
        platform = prepared(str(deaths))
        die_at(deaths)
        try:
            platform.look()
        except DiedError:
            deaths += 1
        else:
            break
        finally:
            die_at(-1)
        platform.start()
        platform.look()
        assert outcome(platform) == expected, f"died at change {deaths}"
        before = platform.everything()
        platform.look()
        assert platform.everything() == before
    assert deaths > 15


def test_a_look_that_fails_is_made_up_for_by_the_next_of_the_same_process(
    s3_platform: Platform, fault: Callable[..., None]
) -> None:
    s3_platform.deploy("1")
    s3_platform.look()
    s3_platform.put("2", b"{")
    fault("PUT", "403 Forbidden", "AccessDenied")
    with pytest.raises(InfrastructureError, match="AccessDenied"):
        s3_platform.look()
    s3_platform.look()
    assert list(s3_platform.kept_back()) == ["2"]
    assert s3_platform.statuses("2") == ["quarantined"]
    assert (list(s3_platform.fleet), s3_platform.members) == (["1", "2"], ["1"])


def test_a_manifest_that_could_not_be_read_once_is_no_finding_yet(
    s3_platform: Platform, fault: Callable[..., None]
) -> None:
    s3_platform.deploy("1")
    fault("PUT", "403 Forbidden", "AccessDenied")
    s3_platform.look()
    assert s3_platform.kept_back() == {}
    s3_platform.look()
    assert s3_platform.kept_back() == {}


def test_a_manifest_that_could_not_be_pinned_is_kept_back_until_it_is(
    s3_platform: Platform, fault: Callable[..., None]
) -> None:
    s3_platform.deploy("1")
    for _ in range(2):
        fault("PUT", "403 Forbidden", "AccessDenied")
        s3_platform.look()
    assert "AccessDenied" in s3_platform.kept_back()["1"].reason
    s3_platform.look()
    assert s3_platform.kept_back() == {}
    assert s3_platform.statuses("1") == ["quarantined", "ok"]
    assert s3_platform.members == ["1"]


def test_what_was_refused_by_the_settings_is_taken_when_they_allow_it(platform: Platform, tmp_path: Any) -> None:
    source = {"uri": f"file://{tmp_path}/other/{{partition}}/*.parquet", "key": "application_id"}
    platform.deploy("1")
    platform.deploy("2", source=source)
    platform.look()
    assert "SCOREWATCH_ALLOWED_SOURCES" in platform.kept_back()["2"].reason
    platform.start()
    platform.look()
    assert platform.members == ["1"], "the same settings say the same"
    platform.start(allowed_sources=(f"file://{tmp_path}",))
    platform.look()
    assert platform.members == ["1", "2"]
    assert platform.kept_back() == {}
    assert platform.statuses("2") == ["quarantined", "ok"]


def test_a_whole_fleet_that_was_refused_by_the_settings_is_taken_a_part_at_a_look(
    platform: Platform, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"uri": f"file://{tmp_path}/other/{{partition}}/*.parquet", "key": "application_id"}
    versions = [*"12345678"]
    for version in versions:
        platform.deploy(version, source=source)
    platform.look()
    assert list(platform.kept_back()) == versions
    monkeypatch.setattr(fleet, "READS", 3)
    platform.start(allowed_sources=(f"file://{tmp_path}",))
    assert [platform.look().left for _ in range(4)] == [5, 2, 0, 0]
    assert platform.members == versions
    assert platform.kept_back() == {}
    assert all(platform.statuses(version) == ["quarantined", "ok"] for version in versions)


def test_a_version_is_not_let_go_on_before_its_manifest_was_read(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2", "3", "4"):
        platform.deploy(version)
    platform.put("5", b"{")
    platform.look()
    for each in platform.fleet.values():
        bad = Quarantined(model=MODEL, version=each.version, stage="onboarding", of=each.files, reason="x")
        keep_back(platform.store, bad, platform.lender.clock)
    for part in list(platform.store.list(layout.FLEET)):
        platform.store.put(part.key, b"of another release")
    monkeypatch.setattr(fleet, "READS", 2)
    platform.start()
    for left in (3, 1, 0, 0):
        assert platform.look().left == left
        assert list(platform.kept_back()) == ["5"]
        assert list(platform.kept_back("onboarding")) == ["1", "2", "3", "4", "5"]
    assert platform.members == ["1", "2", "3", "4"]
    assert platform.statuses("5") == ["quarantined", "quarantined"], "one of each stage"


@pytest.mark.parametrize("name", ["model.onnx", "reference.parquet", "model.yaml"])
def test_another_try_is_given_to_a_version_whose_files_changed(platform: Platform, name: str) -> None:
    def fail(version: str) -> None:
        files = platform.fleet[version].files
        bad = Quarantined(model=MODEL, version=version, stage="onboarding", of=files, reason="it has no column income")
        keep_back(platform.store, bad, platform.lender.clock)

    for version in ("1", "2"):
        platform.deploy(version, score={"kind": "onnx", "artefact": "model.onnx"})
        platform.put(version, b"first", "model.onnx")
        platform.put(version, b"first", "reference.parquet")
    platform.look()
    for version in ("1", "2"):
        fail(version)
    for _ in range(2):
        platform.look()
        platform.start()
        assert list(platform.kept_back("onboarding")) == ["1", "2"], "the same files would fail again"
    if name == "model.yaml":
        platform.deploy("1", owner="x", score={"kind": "onnx", "artefact": "model.onnx"})
    else:
        platform.put("1", b"second", name)
    platform.look()
    assert list(platform.kept_back("onboarding")) == ["2"]
    assert [(each.asset, each.status) for each in platform.results("1")] == [
        ("reference", "quarantined"),
        ("reference", "ok"),
    ]
    fail("1")
    platform.look()
    assert list(platform.kept_back("onboarding")) == ["1", "2"]


def test_a_version_that_failed_stays_kept_back_beside_a_bad_update_of_its_manifest(platform: Platform) -> None:
    platform.deploy("1")
    platform.look()
    platform.put("1", b"{")
    platform.look()
    member = platform.fleet["1"].member
    assert member is not None
    # What a run planned from the member says when it fails.
    failed = Quarantined(model=MODEL, version="1", stage="onboarding", of=member.files, reason="x")
    keep_back(platform.store, failed, platform.lender.clock)
    platform.look()
    assert platform.kept_back("onboarding") == {"1": failed}


def test_a_version_that_goes_is_kept_back_no_more(platform: Platform) -> None:
    platform.deploy("1")
    platform.deploy("2")
    platform.look()
    files = platform.fleet["1"].files
    bad = Quarantined(model=MODEL, version="1", stage="onboarding", of=files, reason="x")
    keep_back(platform.store, bad, platform.lender.clock)
    platform.remove("1")
    platform.look()
    assert platform.kept_back("onboarding") == {}
    assert platform.statuses("1") == ["quarantined", "ok"]


@pytest.mark.parametrize("stage", ["manifest", "onboarding"])
def test_a_damaged_marker_stops_nobody(platform: Platform, stage: str) -> None:
    platform.deploy("1")
    platform.put("2", b"{")
    for version in ("1", "2", "gone"):
        platform.store.put(f"quarantine/{stage}/{MODEL}/{version}.json", b"{}")
    platform.look()
    assert platform.members == ["1"]
    assert "is not YAML" in platform.kept_back()["2"].reason
    assert list(platform.kept_back()) == ["2"]
    assert platform.kept_back("onboarding") == {}


@pytest.mark.parametrize("name", ["v" * 255, "é" * 127, "a b", "KE_Nano", "2.json", "<b>", "%2e%2e", "'\"", "~", "*"])
def test_a_folder_of_any_name_is_kept_back_and_stops_nobody(platform: Platform, name: str) -> None:
    platform.deploy("1")
    platform.put(name, b"{")
    platform.registry.put(f"{name}/{name}/model.yaml", b"{")
    platform.look()
    assert platform.members == ["1"]
    assert {(each.model, each.version) for each in kept_back(platform.store, "manifest")} == {
        (MODEL, name),
        (name, name),
    }
    before = platform.everything()
    platform.start()
    platform.look()
    assert platform.everything() == before
    platform.remove(name)
    platform.registry.delete(f"{name}/{name}/model.yaml")
    platform.look()
    assert platform.kept_back() == {}
    assert platform.statuses(name) == ["quarantined", "ok"]


def test_two_processes_that_look_at_once_agree(platform: Platform) -> None:
    versions = [str(number) for number in range(10, 30)]

    def look_at_once() -> None:
        with ThreadPoolExecutor(2) as threads:
            assert all(threads.map(Platform.look, (platform, other)))

    other = Platform(platform.lender)
    platform.deploy("1")
    for version in versions:
        platform.put(version, b"{")
    look_at_once()
    assert list(platform.kept_back()) == versions
    assert all(platform.statuses(version) == ["quarantined"] for version in versions)
    for version in versions:
        platform.deploy(version)
    look_at_once()
    assert platform.look().fleet == other.look().fleet
    assert platform.kept_back() == {}
    assert all(platform.statuses(version) == ["quarantined", "ok"] for version in versions)
    assert platform.members == ["1", *versions]


class TestManyThatAreGoneAtOnce:
    def versions(self, platform: Platform, count: int) -> list[str]:
        every = [str(number) for number in range(count)]
        for version in every:
            platform.deploy(version)
        platform.look()
        return every

    def test_an_empty_registry_retires_nobody_until_the_store_forgets_them(self, platform: Platform) -> None:
        every = self.versions(platform, 2)
        for version in every:
            platform.remove(version)
        for _ in range(3):
            found = platform.look()
            assert found.missing is not None
            assert [each.name[1] for each in found.fleet.members] == every
            platform.start()
            platform.lender.now += timedelta(hours=2)
        assert platform.members == every
        text = found.missing.text("registry", "store")
        assert "2 of 2 active versions are gone from registry at once" in text
        assert "remove store/fleet/snapshot/, and the registry is believed" in text
        for info in list(platform.store.list(layout.FLEET)):
            platform.store.delete(info.key)
        assert platform.look() == Refreshed(fleet.Fleet())
        assert (platform.members, read_missing(platform.store)) == ([], None)

    def test_when_it_is_back_all_is_as_it_was(self, platform: Platform) -> None:
        every = self.versions(platform, 2)
        before = platform.look().fleet
        blobs = {version: platform.registry.get(f"{MODEL}/{version}/model.yaml") for version in every}
        for version in every:
            platform.remove(version)
        assert platform.look().fleet is before, "no location is reloaded"
        for version, blob in blobs.items():
            platform.put(version, blob.data)
        found = platform.look()
        assert (found.missing, platform.members) == (None, every)
        assert read_missing(platform.store) is None

    def test_most_of_many_are_believed_to_be_gone_after_an_hour_whoever_looks(self, platform: Platform) -> None:
        every = self.versions(platform, 10)
        for version in every[:6]:
            platform.remove(version)
        platform.deploy("new")
        assert platform.look().missing is not None
        assert platform.members == [*every, "new"], "whatever else changes is taken"
        platform.lender.now += timedelta(minutes=59)
        platform.start()
        assert platform.look().missing is not None
        platform.lender.now += timedelta(minutes=1)
        assert platform.look().missing is None
        assert platform.members == [*every[6:], "new"]

    @pytest.mark.parametrize(("count", "gone"), [(10, 5), (20, 10), (6, 5)])
    def test_a_few_may_go_and_half_of_them(self, platform: Platform, count: int, gone: int) -> None:
        every = self.versions(platform, count)
        for version in every[:gone]:
            platform.remove(version)
        assert platform.look().missing is None
        assert sorted(platform.members) == sorted(every[gone:])

    def test_what_was_retired_before_it_is_removed_is_no_surprise(self, platform: Platform) -> None:
        every = self.versions(platform, 8)
        for version in every:
            platform.deploy(version, status="retired")
        platform.look()
        for version in every:
            platform.remove(version)
        assert platform.look().missing is None
        assert platform.fleet == {}


def test_who_is_kept_back_is_read_once(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        platform.put(str(number), b"tier: 9\n")
    platform.look()
    platform.look()
    real, reads = LocalStore.get, list[str]()
    monkeypatch.setattr(LocalStore, "get", lambda self, key: reads.append(key) or real(self, key))
    platform.look()
    assert [key for key in reads if key.startswith("quarantine/")] == []
    platform.put("3", b"tier: 8\n")
    platform.look()
    assert platform.kept_back()["3"].of == platform.fleet["3"].fingerprint
