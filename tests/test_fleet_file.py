"""The fleet as it is kept in the store and handed to code locations: JSON, its file, shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets import layout
from monitoring_assets.fleet import Fleet, Member, Registered, Shard, shard_of
from monitoring_assets.fleet_file import PARTS, FleetFile
from monitoring_assets.manifest import Manifest, identity_digest
from resources.errors import InfrastructureError
from resources.object_store import Blob, LocalStore

SMALLEST: dict[str, Any] = {
    "apiVersion": "scorewatch/v1",
    "model": "ke-nano-loan",
    "version": "1",
    "owner": "risk",
    "partitions": {"every": "day", "start": date(2026, 1, 1)},
    "source": {"uri": "file:///data/{partition}.parquet", "key": "id"},
    "score": {"kind": "precomputed"},
    "reference": {"sample": "oot"},
}


class CountingStore(LocalStore):
    """Counts what is read whole."""

    gets = 0

    def get(self, key: str) -> Blob | None:
        self.gets += 1
        return super().get(key)


@pytest.fixture
def store(tmp_path: Any) -> CountingStore:
    return CountingStore(tmp_path / "store")


def test_the_shard_of_a_version_is_the_same_in_every_release() -> None:
    names = [("ke-nano-loan", "3.2.0"), ("ke-nano-loan", "3.2.1"), ("m", "1"), ("zm-payroll", "2026-01-31")]
    assert [shard_of(*name, 10) for name in names] == [1, 9, 9, 3]
    assert [shard_of(*name, 1) for name in names] == [0, 0, 0, 0]


def test_shards_are_about_equally_full() -> None:
    loads = Counter(shard_of(f"model-{number % 500}", f"1.{number // 500}", 10) for number in range(3_000))
    assert sorted(loads) == list(range(10))
    assert 250 < min(loads.values()) <= max(loads.values()) < 350


def member(document: dict[str, Any]) -> Member:
    manifest = Manifest.model_validate(document)
    return Member(manifest=manifest, digest="d", files="f", deployed_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC))


def fleet_of(*documents: dict[str, Any]) -> Fleet:
    members = [member(each) for each in documents]
    return Fleet(
        registered=tuple(
            Registered(
                model=each.manifest.model,
                version=each.manifest.version,
                fingerprint="x",
                files="f",
                member=each,
            )
            for each in members
        )
    )


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_every_active_version_is_in_one_shard(lender: Any, shards: int) -> None:
    documents = [
        lender.manifest(version=str(number), status="retired" if number % 5 == 0 else "active") for number in range(40)
    ]
    found = fleet_of(*documents)
    parts = [found.shard(number, shards) for number in range(shards)]
    assert parts == found.split(shards)
    together = [each for part in parts for each in part.members]
    assert len(together) == 32
    assert sorted(together, key=lambda each: int(each.manifest.version)) == list(found.members)
    for number, part in enumerate(parts):
        assert all(shard_of(each.manifest.model, each.manifest.version, shards) == number for each in part.members)


DIGEST = "sha256:" + "0a" * 32
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20)
COLUMNS = WORDS.filter(lambda name: name != "*" and not (name.startswith("^") and name.endswith("$")))
DATES = st.lists(st.dates(date(2000, 1, 1), date(2090, 1, 1)), unique=True, max_size=4).map(sorted)
LABELS = st.booleans() | st.integers() | st.integers(-(10**99), 10**99) | NUMBERS | WORDS
ONE_OF: dict[str, list[dict[str, Any]]] = {
    "partitions": [
        {"every": "day", "timezone": "Africa/Nairobi", "start": date(2026, 1, 1)},
        {"every": "week", "start": date(2026, 1, 5)},
        {"every": "month", "timezone": "America/Argentina/Buenos_Aires", "start": date(2026, 1, 1)},
        {"every": "hour", "timezone": "UTC", "start": date(2026, 1, 1)},
    ],
    "score": [
        {"kind": "onnx", "artefact": "onnx/model v2.onnx"},
        {"kind": "precomputed", "column": "=1+1", "scale": "pd", "range": [0.25, 1], "higher_is": "safety"},
        {"kind": "container", "image": f"ecr.example/risk@{DIGEST}", "scale": "points", "higher_is": "safety"}
        | {"range": [300, 850.5]},
        {"kind": "precomputed", "scale": "logodds", "higher_is": "risk", "range": [-1e300, 1e-300]},
    ],
    "reference": [
        {"sample": "oot"},
        {"uri": "r/reference.parquet", "sample": "train", "population": "booked", "label": "bad"}
        | {"timestamp": "applied_at", "score": "pd_at_training"},
    ],
    "policy": [
        {},
        {"warnings": 1, "among": 1},
        {"calm": 2, "cooldown": 0},
        {"psi": {"critical": 0.25}},
        {"psi": {"warn": 0.02, "critical": 1e300}, "csi": {}},
    ],
    "resources": [{}, {"cpu": 1}, {"cpu": 0.1, "memory": "512Mi", "engine": "spark"}],
    "links": [{}, {"runbook": "https://wiki.example/a?b=c#d", "x_1": "http://[::1]:80/"}],
}


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """Every key that a manifest can have, each with every kind of value."""
    document: dict[str, Any] = {name: draw(st.sampled_from(choices)) for name, choices in ONE_OF.items()}
    low, high = document["score"].get("range", [0, 1])
    cutoffs = [{"from": day, "value": draw(st.floats(low, high))} for day in draw(DATES)]
    optional = {
        "tier": draw(st.integers(1, 3)),
        "role": draw(st.sampled_from(["champion", "challenger", "shadow"])),
        "status": draw(st.sampled_from(["active", "retired"])),
        "segments": draw(st.lists(COLUMNS, unique=True, max_size=3)),
        "features": draw(st.none() | st.just(_features(draw))),
        "outcomes": draw(st.none() | st.just(_outcomes(draw))),
    }
    return {
        "apiVersion": "scorewatch/v1",
        "model": "ke-nano-loan",
        "version": "3.2.0-rc1",
        "owner": draw(WORDS),
        **document,
        "score": document["score"] | ({"cutoffs": cutoffs} if draw(st.booleans()) else {}),
        "source": {"uri": "s3://lake/{partition:%Y%m%d%H}/*.parquet", "key": "application_id"}
        | draw(st.sampled_from([{}, {"ready": "_SUCCESS"}, {"ready": None, "sla_hours": 1}, {"sla_hours": 0.1}])),
        **{key: value for key, value in optional.items() if draw(st.booleans())},
    }


def _features(draw: st.DrawFn) -> list[dict[str, Any]]:
    numbers, texts = draw(st.lists(NUMBERS, unique=True, max_size=3)), draw(st.lists(WORDS, unique=True, max_size=3))
    return [
        {"name": "a column", "kind": "numeric", "special_values": numbers, "max_null_rate": draw(st.floats(0, 1))},
        {"name": "<b>region</b>", "kind": "categorical", "special_values": ["", *texts]},
        {"name": "été", "kind": "numeric"},
    ]


def _outcomes(draw: st.DrawFn) -> dict[str, Any]:
    bad, other, excluded = draw(st.lists(LABELS, unique_by=lambda value: value, min_size=3, max_size=3))
    return {
        "uri": "file:///o/{partition:%Y-%m-%d-%H}",
        "key": "id",
        "label": "defaulted",
        "bad_value": bad,
        "states": {"indeterminate": [other], "excluded": [excluded]},
        "month_on_book": draw(st.none() | st.integers(1, 120)),
        "matures_after_days": draw(st.integers(1, 3660)),
        "partition_is": "scoring_date",
    }


def exactly(found: Fleet) -> list[str]:
    """Its manifests with all types in them: unlike ==, that tells 1, 1.0 and true apart."""
    return [repr(each.member.manifest) for each in found.registered if each.member]


@settings(max_examples=150, deadline=None)
@given(manifests())
def test_a_fleet_in_json_is_the_same_fleet(document: dict[str, Any]) -> None:
    found = fleet_of(document)
    shard = Shard(members=tuple(each.member for each in found.registered if each.member))
    for leave_out in ({"exclude_defaults": True}, {"exclude_unset": True}):
        read = Fleet.model_validate_json(found.model_dump_json(by_alias=True, **leave_out))
        assert read == found
        assert exactly(read) == exactly(found)
        assert Shard.model_validate_json(shard.model_dump_json(by_alias=True, **leave_out)) == shard
        [entry] = read.registered
        assert entry.member is not None
        assert identity_digest(entry.member.manifest) == identity_digest(Manifest.model_validate(document))


def test_one_version_with_cutoffs_does_not_make_a_shard_unreadable() -> None:
    cutoffs = [{"from": date(2026, 1, 1), "value": 0.12}, {"from": date(2026, 2, 1), "value": 0.2}]
    shard = fleet_of(SMALLEST, {**SMALLEST, "version": "2", "score": {"kind": "precomputed", "cutoffs": cutoffs}})
    read = Shard.model_validate_json(shard.shard(0, 1).model_dump_json(by_alias=True, exclude_unset=True))
    assert [each.from_ for each in read.members[1].manifest.score.cutoffs] == [date(2026, 1, 1), date(2026, 2, 1)]


def test_a_policy_read_back_still_tells_what_the_manifest_states(store: CountingStore) -> None:
    document = {**SMALLEST, "policy": {"psi": {"critical": 0.25}}}
    FleetFile(store).write(fleet_of(document))
    [found] = FleetFile(store).read().members
    assert found.manifest.policy.model_fields_set == {"psi"}
    assert found.manifest.policy.psi.model_fields_set == {"critical"}


def test_before_the_first_scan_the_file_holds_an_empty_fleet(store: CountingStore) -> None:
    assert FleetFile(store).read() == Fleet()
    assert store.gets == 0


def test_the_file_is_read_again_only_when_somebody_else_wrote_it(store: CountingStore) -> None:
    ours, theirs = FleetFile(store), FleetFile(store)
    first, second = fleet_of(SMALLEST), fleet_of({**SMALLEST, "owner": "fraud"})
    ours.write(first)
    assert ours.read() is first
    assert store.gets == 0
    read = theirs.read()
    assert read == first
    assert theirs.read() is read
    assert store.gets == 1
    theirs.write(second)
    assert ours.read() == second
    assert ours.read() == second
    assert store.gets == 2
    [part] = store.list(layout.FLEET)
    store.delete(part.key)
    assert ours.read() == Fleet()


def versions(count: int) -> list[dict[str, Any]]:
    return [{**SMALLEST, "version": f"{number:03d}"} for number in range(count)]


def test_one_version_more_is_one_part_more_to_write_and_to_read(store: CountingStore) -> None:
    ours, theirs = FleetFile(store), FleetFile(store)
    ours.write(fleet_of(*versions(300)))
    assert theirs.read() == fleet_of(*versions(300))
    before, reads = {info.key: info.fingerprint for info in store.list(layout.FLEET)}, store.gets
    assert reads == len(before) == PARTS
    ours.write(fleet_of(*versions(301)))
    assert len({(info.key, info.fingerprint) for info in store.list(layout.FLEET)} - before.items()) == 1
    assert theirs.read() == fleet_of(*versions(301))
    assert store.gets == reads + 1


def test_versions_that_are_gone_are_in_no_part_any_more(store: CountingStore) -> None:
    file, few = FleetFile(store), fleet_of(*versions(2))
    file.write(fleet_of(*versions(100)))
    file.write(few)
    assert file.read() is few
    assert FleetFile(store).read() == few
    assert len(list(store.list(layout.FLEET))) <= 2


def test_a_damaged_part_hides_the_versions_of_no_other(store: CountingStore) -> None:
    whole = fleet_of(*versions(100))
    FleetFile(store).write(whole)
    first, *_ = store.list(layout.FLEET)
    store.put(first.key, b"[]")
    found = FleetFile(store).read().registered
    assert 80 < len(found) < 100
    assert all(each in whole.registered for each in found)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda data: data[:-20], id="cut"),
        pytest.param(lambda data: data.replace(b"ke-nano-loan", b"KE Nano"), id="not allowed by now"),
        pytest.param(lambda data: data.replace(b'"files"', b'"checksum"'), id="of another release"),
        pytest.param(lambda _: b"\xff\xfe", id="not text"),
        pytest.param(lambda _: b"[" * 100_000, id="nested"),
        pytest.param(lambda _: b"[]", id="something else"),
    ],
)
def test_a_damaged_or_foreign_file_is_an_empty_fleet_until_it_is_written_again(
    store: CountingStore, damage: Callable[[bytes], bytes]
) -> None:
    file, found = FleetFile(store), fleet_of(SMALLEST)
    file.write(found)
    [part] = store.list(layout.FLEET)
    whole = store.get(part.key)
    assert whole is not None
    damaged = damage(whole.data)
    assert damaged != whole.data
    store.put(part.key, damaged)
    for each in (file, FleetFile(store)):
        assert each.read() == Fleet()
        assert each.read() == Fleet()
    file.write(found)
    assert FleetFile(store).read() == found


def test_a_store_that_cannot_be_reached_is_an_error_and_no_empty_fleet(s3_lender: Any, fault: Any) -> None:
    FleetFile(s3_lender.store).write(fleet_of(SMALLEST))
    fault("GET", "403 Forbidden", "AccessDenied")
    with pytest.raises(InfrastructureError):
        FleetFile(s3_lender.store).read()
    assert FleetFile(s3_lender.store).read() == fleet_of(SMALLEST)
