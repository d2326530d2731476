"""The fleet as the registry has it: what is read of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from monitoring_assets import deployment, fleet, layout, onboarding
from monitoring_assets.fleet import Fleet, Registered, Scan, scan
from monitoring_assets.manifest import Manifest, identity_digest
from resources.errors import BadInput, InfrastructureError
from resources.object_store import Blob, LocalStore, ObjectInfo
from resources.settings import Settings

BOMB = "bomb: &a [x, x]\n" + "".join(f"b{number}: &b{number} [*a, *a, *a, *a]\n" for number in range(30))
NAME = ("ke-nano-loan", "1.0.0")


def section(name: str, **changes: Any) -> Any:
    """Changes a section of a manifest."""
    return lambda manifest: {**manifest, name: {**manifest[name], **changes}}


BAD = {
    "not YAML": (lambda _: b"model: [ke-nano-loan", "file: is not YAML", "close quotes and brackets"),
    "not text": (lambda _: b"\xff\xfe\x00m", "file: is not UTF-8", "save it as UTF-8 text"),
    "empty": (lambda _: b"", "file: is empty", "beginning with apiVersion"),
    "ten megabytes": (lambda _: b"a: " + b"x" * 10_000_000, "file: has 10000003 bytes", "leave features out"),
    "aliases bomb": (lambda _: BOMB.encode(), "uses an anchor (&) (line 1)", "leave the anchor out"),
    "unknown key": (lambda m: m | {"ownr": "x"}, "ownr: is an unknown key", "write owner instead"),
    "missing key": (
        lambda m: {k: v for k, v in m.items() if k != "owner"},
        "owner: is missing",
        "write a line such as owner: credit-risk@",
    ),
    "wrong type": (lambda m: m | {"tier": "high"}, "tier: got the text 'high'", "write a whole number"),
    "unknown kind": (section("score", kind="pickle"), "score.kind: got the text 'pickle'", "write 'onnx'"),
    "artefact outside": (section("score", artefact="../other/model.onnx"), "score.artefact", "no .."),
    "absolute artefact": (section("score", artefact="/etc/passwd"), "score.artefact", "no leading /"),
    "reference outside": (section("reference", uri="../../reference.parquet"), "reference.uri", "no .."),
    "source with ..": (section("source", uri="file:///lake/../etc/{partition}"), "source.uri", "without .."),
    "source elsewhere": (
        section("source", uri="s3://payroll/{partition}.parquet"),
        "source.uri: 's3://payroll/{partition}.parquet' lies outside the allowed sources",
        "Move the data there, or ask the operator",
    ),
    "source on the disk": (
        section("source", uri="file:///etc/{partition}"),
        "source.uri: 'file:///etc/{partition}' lies outside the allowed sources",
        "SCOREWATCH_ALLOWED_SOURCES",
    ),
    "column pattern": (section("source", key="^.*$"), "source.key: '^.*$' is read as a pattern", "rename the column"),
    "another model's folder": (
        lambda m: m | {"model": "ke-other"},
        "model and version: it says ke-other 2, and lies in the folder of ke-nano-loan 2",
        "correct them, or move it",
    ),
    "another engine": (lambda m: m | {"resources": {"engine": "spark"}}, "resources.engine", "write engine: polars"),
}


class Registry:
    """A lender's registry, put together by hand: manifests only, which is all that a scan reads."""

    def __init__(self, lender: Any) -> None:
        self.lender = lender
        self.known = Fleet()

    def deploy(self, model: str = NAME[0], version: str = NAME[1], **changes: Any) -> str:
        """Put a good manifest; where it is."""
        document = self.lender.manifest(model=model, version=version, precomputed=True, **changes)
        return str(self.lender.deploy_manifest(yaml.safe_dump(document).encode(), model, version))

    def scan(self, **arguments: Any) -> Scan:
        """Scan from what the last scan found."""
        found = scan(self.lender.settings, self.known, **arguments)
        self.known = found.fleet
        return found

    @property
    def entries(self) -> dict[tuple[str, str], Registered]:
        """What the last scan found, by name."""
        return {each.name: each for each in self.known.registered}

    def entry(self, model: str = NAME[0], version: str = NAME[1]) -> Registered:
        return self.entries[model, version]


@pytest.fixture
def registry(lender: Any) -> Registry:
    return Registry(lender)


@pytest.fixture
def s3_registry(s3_lender: Any) -> Registry:
    return Registry(s3_lender)


class Watched(LocalStore):
    """Notes what is read, as folder names."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.gets: list[str] = []

    def get(self, key: str) -> Blob | None:
        self.gets.append(key.removesuffix("/model.yaml"))
        return super().get(key)

    def taken(self) -> list[str]:
        """What was read since the last time, in order of the names."""
        found, self.gets = sorted(self.gets), []
        return found


@pytest.fixture
def reads(registry: Registry, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """What is read of the registry."""
    watched = Watched(tmp_path / "registry")
    monkeypatch.setattr(Settings, "open_registry", lambda _: watched)
    return watched


class Listed:
    """A store in which something happens after the next listing, before anything is read."""

    def __init__(self, store: Any, act: Callable[[], object]) -> None:
        self._store, self._acts = store, [act]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        yield from self._store.list(prefix)
        while self._acts:
            self._acts.pop()()


@pytest.fixture
def after_listing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets something happen between the next scan's listing and its reading: `after_listing(lender, act)`."""

    def arrange(lender: Any, act: Callable[[], object]) -> None:
        store = Listed(lender.registry, act)
        monkeypatch.setattr(Settings, "open_registry", lambda _: store)

    return arrange


@pytest.mark.parametrize("name", BAD)
def test_a_bad_manifest_is_a_problem_of_its_version_beside_the_good_ones(lender: Any, name: str) -> None:
    change, key, fix = BAD[name]
    good, other = lender.onboard(), lender.onboard(model="zm-payroll", precomputed=True)
    document = change(lender.manifest(version="2"))
    data = document if isinstance(document, bytes) else yaml.safe_dump(document).encode()
    where = lender.deploy_manifest(data, version="2")
    before = lender.listed()
    found = scan(lender.settings, Fleet()).fleet
    assert [each.manifest for each in found.members] == [good.manifest, other.manifest]
    [refused] = [each for each in found.registered if each.problem]
    assert refused.name == ("ke-nano-loan", "2")
    assert refused.member is None
    for message in (refused.problem, _onboarding_error(lender)):
        assert message.startswith(f"{where}: ")
        assert key in message
        assert fix in message
        assert len(message) < 2_000
    assert lender.listed() == before, "nothing of it is kept"
    again = onboarding.onboard(lender.settings, "ke-nano-loan", "1.0.0", lender.clock)
    assert again.reference_digest == good.reference_digest


def _onboarding_error(lender: Any) -> str:
    with pytest.raises(BadInput) as refused:
        onboarding.onboard(lender.settings, "ke-nano-loan", "2", lender.clock)
    return str(refused.value)


def test_a_manifest_that_is_too_large_is_not_even_read(registry: Registry, reads: Watched) -> None:
    registry.lender.deploy_manifest(b"a: " + b"x" * 300_000)
    registry.scan()
    assert "has 300003 bytes" in registry.entry().problem
    assert reads.taken() == []


def test_a_manifest_with_thousands_of_mistakes_gives_a_message_that_can_be_kept(registry: Registry) -> None:
    features = [{"name": f"f{number}", "kind": "numeric"} for number in range(3_000)]
    registry.deploy(features=features)
    where = registry.deploy(version="2", features=[each | {"kind": "number"} for each in features])
    registry.scan()
    registry.deploy(features=[each | {"kind": "categorical"} for each in features])
    registry.scan()
    for name, said in ((NAME, "features.0.kind: was 'numeric'"), ((NAME[0], "2"), "features.0.kind: got the text")):
        problem = registry.entries[name].problem
        assert said in problem
        assert problem.endswith("file: there is more; correct this first")
        assert len(problem) < 4_500
    assert registry.entry(version="2").problem.splitlines()[1].startswith(f"{where}: features.1.kind: got")


def test_an_empty_registry_is_an_empty_fleet(lender: Any) -> None:
    assert scan(lender.settings, Fleet()) == Scan(Fleet(), frozenset())


def test_versions_are_in_the_order_of_their_names_and_retired_ones_are_no_members(registry: Registry) -> None:
    for model, version, status in [("b", "2", "active"), ("b", "1", "retired"), ("a", "9", "active")]:
        registry.deploy(model, version, status=status)
    for model in ("b-c", "b"):
        registry.deploy(model, "10")
    registry.scan()
    assert list(registry.entries) == [("a", "9"), ("b", "1"), ("b", "10"), ("b", "2"), ("b-c", "10")]
    found = [(each.manifest.model, each.manifest.version) for each in registry.known.members]
    assert found == [("a", "9"), ("b", "10"), ("b", "2"), ("b-c", "10")]
    retired = registry.entry("b", "1").member
    assert retired is not None
    assert retired.manifest.status == "retired"


def test_a_folder_without_a_manifest_is_not_deployed_yet(registry: Registry) -> None:
    registry.lender.registry.put("ke-nano-loan/1.0.0/model.onnx", b"first the artefact")
    registry.lender.registry.put("ke-nano-loan/1.0.0/old/model.yaml", b"{")
    registry.lender.registry.put("README.md", b"no model")
    registry.lender.registry.put("ke-nano-loan/model.yaml", b"no version")
    assert registry.scan() == Scan(Fleet(), frozenset())


def test_a_manifest_that_is_a_link_is_not_there_and_never_read(
    registry: Registry, reads: Watched, tmp_path: Any
) -> None:
    registry.deploy()
    registry.lender.registry.put("ke-nano-loan/2/reference.parquet", b"rows")
    (tmp_path / "secret").write_text("password: x")
    (tmp_path / "registry/ke-nano-loan/2/model.yaml").symlink_to(tmp_path / "secret")
    registry.scan()
    assert list(registry.entries) == [NAME]
    assert reads.taken() == ["ke-nano-loan/1.0.0"]
    assert "password" not in registry.known.model_dump_json()


def test_a_registry_on_s3_is_read_like_one_on_the_disk(s3_registry: Registry) -> None:
    s3_registry.deploy()
    where = s3_registry.lender.deploy_manifest(b"{", version="2")
    s3_registry.scan()
    assert [each.manifest.version for each in s3_registry.known.members] == ["1.0.0"]
    assert s3_registry.entry(version="2").problem.startswith(f"{where}: file: is not YAML")
    assert where.startswith("s3://")


def test_a_good_manifest_is_pinned_and_a_bad_one_is_not(registry: Registry) -> None:
    where = registry.deploy()
    registry.lender.deploy_manifest(b"{", version="2")
    registry.scan()
    member = registry.entry().member
    assert member is not None
    assert registry.lender.listed() == [layout.manifest(member.digest)]
    pinned = registry.lender.store.get(layout.manifest(member.digest)).data
    assert f"file://{registry.lender.registry.location('ke-nano-loan/1.0.0/model.yaml')}" == where
    assert pinned == registry.lender.registry.get("ke-nano-loan/1.0.0/model.yaml").data


def test_only_manifests_that_changed_are_read(registry: Registry, reads: Watched) -> None:
    for version in ("1", "2", "3"):
        registry.deploy(version=version)
    registry.lender.deploy_manifest(b"{", version="4")
    registry.scan()
    assert reads.taken() == [f"ke-nano-loan/{version}" for version in "1234"]
    registry.scan()
    assert reads.taken() == []
    registry.deploy(version="2", owner="somebody else")
    registry.deploy(version="5")
    registry.scan()
    assert reads.taken() == ["ke-nano-loan/2", "ke-nano-loan/5"]
    registry.scan(again={("ke-nano-loan", "4"), ("ke-nano-loan", "gone")})
    assert reads.taken() == ["ke-nano-loan/4"]


def test_nothing_changed_is_the_same_fleet_and_costs_nothing_but_the_listing(
    s3_registry: Registry, s3_server: Any
) -> None:
    for version in ("1", "2", "3"):
        s3_registry.deploy(version=version)
    s3_registry.lender.deploy_manifest(b"{", version="4")
    before = s3_registry.scan().fleet
    requests = s3_server.requests
    assert s3_registry.scan() == Scan(before, frozenset())
    assert s3_server.requests == requests + 1


def test_changed_thresholds_and_owner_give_another_digest_and_the_same_deployment(registry: Registry) -> None:
    registry.deploy()
    registry.scan()
    first = registry.entry().member
    registry.deploy(owner="somebody@lender.example", policy={"psi": {"warn": 0.2, "critical": 0.4}})
    registry.scan()
    second = registry.entry().member
    assert first is not None
    assert second is not None
    assert (second.manifest.owner, second.manifest.policy.psi.warn) == ("somebody@lender.example", 0.2)
    assert second.digest != first.digest
    assert second.deployed_at == first.deployed_at
    assert identity_digest(second.manifest) == identity_digest(first.manifest)


def test_a_version_is_deployed_when_its_first_manifest_was_put(registry: Registry) -> None:
    begin = datetime.now(UTC) - timedelta(seconds=1)
    registry.deploy()
    registry.scan()
    member = registry.entry().member
    assert member is not None
    assert begin < member.deployed_at < datetime.now(UTC) + timedelta(seconds=1)


def test_a_retired_version_leaves_the_members_and_a_deleted_one_the_fleet(registry: Registry) -> None:
    for version in ("1", "2", "3"):
        registry.deploy(version=version)
    registry.scan()
    registry.deploy(version="1", status="retired")
    registry.lender.registry.delete("ke-nano-loan/2/model.yaml")
    registry.scan()
    assert [each.manifest.version for each in registry.known.members] == ["3"]
    assert list(registry.entries) == [("ke-nano-loan", "1"), ("ke-nano-loan", "3")]


def test_registering_the_same_version_again_changes_nothing(lender: Any) -> None:
    lender.onboard()
    first = scan(lender.settings, Fleet()).fleet
    _, new = deployment.register(lender.folder / "ke-nano-loan-1.0.0", lender.settings)
    assert not new
    assert scan(lender.settings, first).fleet == first


def test_putting_the_same_bytes_on_s3_again_changes_nothing(s3_registry: Registry) -> None:
    s3_registry.deploy()
    first = s3_registry.scan().fleet
    s3_registry.deploy()
    assert s3_registry.scan().fleet == first


def test_the_same_manifest_rewritten_on_the_disk_is_the_same_member_but_for_its_files(registry: Registry) -> None:
    registry.deploy()
    registry.scan()
    first = registry.entry().member
    registry.deploy()
    registry.scan()
    second = registry.entry().member
    assert first is not None
    assert second == first.model_copy(update={"files": registry.entry().files})


def test_a_change_of_what_never_changes_is_a_problem_and_the_last_good_manifest_stays(registry: Registry) -> None:
    where = registry.deploy()
    registry.scan()
    good = registry.entry().member
    registry.deploy(owner="x", segments=["product"])
    registry.scan()
    refused = registry.entry()
    assert refused.problem.startswith(f"{where}: ke-nano-loan 1.0.0 is registered")
    assert "segments: was [], is now ['product']" in refused.problem
    assert "register them as a new version" in refused.problem
    assert good is not None
    assert refused.member == good.model_copy(update={"files": refused.files})
    registry.deploy(owner="x")
    registry.scan()
    corrected = registry.entry()
    assert corrected.problem == ""
    assert corrected.member is not None
    assert corrected.member.manifest.owner == "x"
    assert corrected.member.deployed_at == good.deployed_at


def test_a_manifest_that_stops_being_one_leaves_the_version_as_it_was(registry: Registry) -> None:
    registry.deploy()
    registry.scan()
    good = registry.entry().member
    registry.lender.deploy_manifest(b"model: [")
    registry.scan()
    assert "file: is not YAML" in registry.entry().problem
    assert good is not None
    assert list(registry.known.members) == [good.model_copy(update={"files": registry.entry().files})]


def test_a_manifest_that_s3_does_not_give_is_read_the_next_time_and_holds_up_nobody(
    s3_registry: Registry, after_listing: Callable[..., None], fault: Callable[..., None]
) -> None:
    for version in ("1", "2"):
        s3_registry.deploy(version=version)
    after_listing(s3_registry.lender, lambda: fault("GET", "403 Forbidden", "AccessDenied"))
    s3_registry.scan()
    [failed] = [each for each in s3_registry.known.registered if each.problem]
    assert "S3 get of s3://" in failed.problem
    assert "AccessDenied" in failed.problem
    assert failed.member is None
    assert len(list(s3_registry.known.members)) == 1
    assert s3_registry.scan().left == frozenset()
    assert [each.manifest.version for each in s3_registry.known.members] == ["1", "2"]
    assert not any(each.problem for each in s3_registry.known.registered)


def test_a_member_stays_while_its_changed_manifest_cannot_be_pinned(
    s3_registry: Registry, fault: Callable[..., None]
) -> None:
    s3_registry.deploy()
    s3_registry.scan()
    s3_registry.deploy(owner="x")
    fault("PUT", "403 Forbidden", "AccessDenied")
    s3_registry.scan()
    assert "S3 conditional put" in s3_registry.entry().problem
    assert [each.manifest.owner for each in s3_registry.known.members] == ["credit-risk@lender.example"]
    s3_registry.scan()
    assert s3_registry.entry().problem == ""
    assert [each.manifest.owner for each in s3_registry.known.members] == ["x"]


def test_a_manifest_that_is_put_back_while_it_is_read_is_not_lost(
    s3_registry: Registry, after_listing: Callable[..., None]
) -> None:
    s3_registry.deploy()
    after_listing(s3_registry.lender, lambda: s3_registry.lender.registry.delete("ke-nano-loan/1.0.0/model.yaml"))
    s3_registry.scan()
    assert "was removed while it was read" in s3_registry.entry().problem
    s3_registry.deploy()
    s3_registry.scan()
    assert [each.manifest.version for each in s3_registry.known.members] == ["1.0.0"]


def test_a_registry_that_cannot_be_listed_is_an_error_and_no_empty_fleet(
    s3_registry: Registry, fault: Callable[..., None]
) -> None:
    fault("GET", "403 Forbidden", "AccessDenied")
    with pytest.raises(InfrastructureError, match="AccessDenied"):
        s3_registry.scan()


def test_what_a_scan_has_no_time_for_is_left_to_the_next_ones(
    registry: Registry, reads: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "READS", 3)
    for number in range(7):
        registry.deploy(version=str(number))
    assert registry.scan().left == {("ke-nano-loan", version) for version in "3456"}
    assert registry.scan().left == {("ke-nano-loan", "6")}
    assert registry.scan().left == frozenset()
    assert [each.manifest.version for each in registry.known.members] == [*"0123456"]
    assert reads.taken() == [f"ke-nano-loan/{number}" for number in range(7)]
    for number in range(4):
        registry.deploy(version=str(number), owner="x")
    assert registry.scan().left == {("ke-nano-loan", "3")}
    owners = [each.manifest.owner for each in registry.known.members]
    assert owners == ["x"] * 3 + ["credit-risk@lender.example"] * 4, "the one left is as it was"
    registry.scan()
    assert [each.manifest.owner for each in registry.known.members].count("x") == 4


def test_manifests_that_cannot_be_read_do_not_keep_new_ones_waiting(
    s3_registry: Registry,
    after_listing: Callable[..., None],
    fault: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet, "READS", 2)

    def unreadable() -> None:
        for _ in range(2):
            fault("GET", "403 Forbidden", "AccessDenied")

    for version in ("1", "2"):
        s3_registry.deploy(version=version)
    after_listing(s3_registry.lender, unreadable)
    s3_registry.scan()
    assert all("AccessDenied" in each.problem for each in s3_registry.known.registered)
    s3_registry.deploy(version="3")
    assert s3_registry.scan().left == {("ke-nano-loan", "2")}
    assert [each.manifest.version for each in s3_registry.known.members] == ["1", "3"]


def test_a_bug_of_ours_is_a_problem_of_that_version_only(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fleet.deployed_manifest

    def broken(data: bytes, where: str, model: str, version: str, settings: Settings) -> Manifest:
        if version == "2":
            raise RecursionError("x" * 100_000)
        return honest(data, where, model, version, settings)

    for version in ("1", "2", "3"):
        registry.deploy(version=version)
    monkeypatch.setattr(fleet, "deployed_manifest", broken)
    registry.scan()
    assert [each.manifest.version for each in registry.known.members] == ["1", "3"]
    problem = registry.entry(version="2").problem
    assert "ke-nano-loan/2/model.yaml: file: could not be checked (RecursionError(" in problem
    assert len(problem) < 1_000


def test_a_version_s_digest_changes_with_every_file_that_its_manifest_names(registry: Registry) -> None:
    put = registry.lender.registry.put
    onnx = {
        "score": {"kind": "onnx", "artefact": "model.onnx"},
        "reference": {"uri": "data/train.parquet", "sample": "oot"},
    }
    registry.deploy(**onnx)
    registry.deploy(version="2", **onnx)
    registry.scan()
    other = registry.entry(version="2")
    seen = [registry.entry().files]
    for name, data in [
        ("model.onnx", b"first"),
        ("model.onnx", b"2nd"),
        ("data/train.parquet", b"rows"),
    ]:
        put(f"ke-nano-loan/1.0.0/{name}", data)
        registry.scan()
        member = registry.entry().member
        assert member is not None
        assert member.files == registry.entry().files
        seen.append(member.files)
    registry.lender.registry.delete("ke-nano-loan/1.0.0/model.onnx")
    registry.scan()
    seen.append(registry.entry().files)
    assert len(set(seen)) == len(seen)
    before = registry.entry()
    for number in range(3):
        put("ke-nano-loan/1.0.0/logs/train.log", b"x" * number)
        put("ke-nano-loan/1.0.0/reference.parquet", b"x" * number)
        registry.scan()
        assert registry.entry() == before, "files that nobody reads are nobody's business"
    assert registry.entry(version="2") == other


def test_a_manifest_that_is_dated_in_the_future_was_deployed_when_it_was_seen(registry: Registry) -> None:
    registry.deploy()
    early = datetime(2020, 1, 1, tzinfo=UTC)
    [found] = scan(registry.lender.settings, Fleet(), clock=lambda: early).fleet.members
    assert found.deployed_at == early
    [found] = scan(registry.lender.settings, Fleet()).fleet.members
    assert found.deployed_at > early
