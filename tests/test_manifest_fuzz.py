"""Ten thousand mutated manifests, all of them through a scan of a registry on the disk, beside two good versions.

Good manifests are changed as trees (keys dropped, renamed, doubled, given other values) and as bytes (flipped, cut,
with YAML's own syntax in them). Every mutant is a manifest still, or a problem of its version alone that names its file
and a key. The random numbers are seeded: a mutant is the same in every run.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from monitoring_assets import layout
from monitoring_assets.fleet import PROBLEM_LIMIT, READS, Fleet, Registered, scan
from monitoring_assets.manifest import Manifest
from monitoring_assets.manifest_wording import dotted
from monitoring_assets.manifest_yaml import parse_manifest
from monitoring_assets.quarantine import kept_back
from monitoring_assets.refresh import Refresher

BATCHES, BATCH = 20, 500
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
KEYS = [field.alias or name for name, field in Manifest.model_fields.items()]
FIELD = "{partition:%Y-%m-%d-%H}"


def good(lake: str, version: str) -> list[dict[str, Any]]:
    """Good manifests, from the smallest to one with every key."""
    smallest = {
        "apiVersion": "scorewatch/v1",
        "model": "mutant",
        "version": version,
        "owner": "risk",
        "partitions": {"every": "day", "start": date(2026, 1, 1)},
        "source": {"uri": f"{lake}/{FIELD}.parquet", "key": "id"},
        "score": {"kind": "precomputed"},
        "reference": {"sample": "oot"},
    }
    points = {"scale": "points", "higher_is": "safety", "range": [300, 850]}
    whole = {
        "tier": 1,
        "role": "champion",
        "status": "active",
        "partitions": {"every": "day", "timezone": "Africa/Nairobi", "start": date(2026, 1, 1)},
        "source": {"uri": f"{lake}/{FIELD}/*.parquet", "key": "application_id", "ready": "_SUCCESS", "sla_hours": 6},
        "features": [
            {"name": "income", "kind": "numeric", "special_values": [-999], "max_null_rate": 0.05},
            {"name": "region", "kind": "categorical", "special_values": ["", "none"]},
        ],
        "score": {"kind": "onnx", "artefact": "model.onnx", "column": "score", "scale": "pd", "higher_is": "risk"}
        | {"range": [0, 1], "cutoffs": [{"from": date(2026, 1, 1), "value": 0.12}]},
        "reference": {"uri": "reference.parquet", "sample": "holdout", "population": "applied"}
        | {"label": "defaulted", "timestamp": "applied_at", "score": "pd"},
        "outcomes": {"uri": f"{lake}/outcomes/{FIELD}.parquet", "key": "application_id", "label": "defaulted"}
        | {"bad_value": 1, "states": {"indeterminate": [2], "excluded": [9]}, "month_on_book": 2}
        | {"matures_after_days": 60, "partition_is": "scoring_date"},
        "segments": ["product", "channel"],
        "policy": {"psi": {"warn": 0.1, "critical": 0.25}, "csi": {"warn": 0.1, "critical": 0.25}}
        | {"warnings": 2, "among": 3, "calm": 2, "cooldown": 3},
        "resources": {"cpu": 1, "memory": "2Gi", "engine": "polars"},
        "links": {"runbook": "https://wiki.lender.example/scorewatch"},
    }
    container = {"kind": "container", "image": "risk@sha256:" + "0a" * 32} | points
    weekly = {"partitions": {"every": "week", "start": date(2026, 1, 5)}, "score": container, "segments": ["product"]}
    hourly = {"partitions": {"every": "hour", "start": date(2026, 1, 1)}, "links": {"a": "http://a", "b": "http://b"}}
    return [smallest, smallest | whole, smallest | whole, smallest | weekly, smallest | hourly]


class Mutant(NamedTuple):
    """``touched`` are the top-level keys that a change of the tree was in; None when bytes were changed."""

    data: bytes
    kind: str
    touched: set[str] | None


Place = tuple[Any, Any]
"""A mapping or a list, and the key or position in it."""

ODD_KEYS = [
    "",
    " ",
    "?",
    "é",
    "\u202eowner",
    "<script>alert(1)</script>",
    "a: b",
    "a.b",
    "'",
    '"',
    "x" * 300,
    "\x1b[2J",
]
ODD_KEYS += [
    "__class__",
    "${HOME}",
    "{partition}",
    "null",
    "1",
    "true",
    "2026-01-01",
    "<<",
    "=",
    "\ud7ff",
    "🙂",
    "from_",
]
ODD: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in (None, True, False, 0, -1, 7, 1.5, -0.0, 5e-324, 1e308, 10**30, 10**99)),
    *(lambda value=value: value for value in (float("inf"), float("-inf"), float("nan"), "", " ", "0", "1.0", "no")),
    *(lambda value=value: value for value in (date(1, 1, 1), date(9999, 12, 31), datetime(2026, 1, 1, tzinfo=UTC))),
    *(lambda value=value: value for value in ("../../etc/passwd", "/etc/passwd", "s3://payroll/{partition}", "a\0b")),
    *(
        lambda value=value: value
        for value in ("<img src=x onerror=alert(1)>", "'; DROP TABLE x; --", "{{7*7}}", "%s%n")
    ),
    *(
        lambda value=value: value
        for value in ("\u202e\u2066", "é" * 100, "🙂", "ﬁ", "İ", "\u2028", "\ufeff", "a\tb\nc")
    ),
    *(lambda value=value: value for value in ("x" * 201, "x" * 5_000, "x" * 270_000, "^.*$", "*", "$(id)", "\\..\\")),
    list,
    dict,
    lambda: [[]],
    lambda: [None],
    lambda: [{}],
    lambda: {"a": {"b": [1, "two", None]}},
    lambda: {"": ""},
    lambda: {7: 2, None: 3, True: [4]},
    lambda: {date(2026, 1, 1): "a date"},
    lambda: b"\x00\xff",
    lambda: {"x"},
    lambda: list(range(300)),
    lambda: {f"k{number}": number for number in range(300)},
    lambda: deep(19),
    lambda: deep(40),
]


def deep(levels: int) -> Any:
    """A list or a mapping in a list or a mapping, and so on."""
    value: Any = "bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def places(node: Any, top: Any = None) -> Iterator[tuple[Place, Any]]:
    """Every place below a node, and the top-level key that it is below."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        below = key if top is None else top
        yield (node, key), below
        yield from places(value, below)


class Fuzzer:
    """Mutants of good manifests, as many as are asked for."""

    def __init__(self, seed: int, lake: str) -> None:
        self._rng, self._lake = random.Random(seed), lake  # noqa: S311
        self._trees = [self._drop, self._rename, self._retype, self._insert, self._wrap, self._swap, self._as_text]
        self._trees += [self._double, self._repeat, self._retype, self._insert]
        self._bytes = [self._flip, self._cut, self._token, self._token, self._delete, self._line, self._value]
        self._bytes += [self._whole]

    def mutant(self, version: str) -> Mutant:
        """A change or a few of one of the good manifests of this version."""
        document = copy.deepcopy(self._rng.choice(good(self._lake, version)))
        if self._rng.random() < 0.6:
            return self._of_tree(document)
        data = dump(document)
        changes = [self._rng.choice(self._bytes) for _ in range(self._rng.choice([1, 1, 1, 2, 3]))]
        for change in changes:
            data = change(data)
        return Mutant(data, changes[0].__name__, None)

    def _of_tree(self, document: dict[str, Any]) -> Mutant:
        touched: set[str] = set()
        changes = [self._rng.choice(self._trees) for _ in range(self._rng.choice([1, 1, 1, 2, 3]))]
        more = b""
        for change in changes:
            found = list(places(document))
            if found:
                place, top = self._rng.choice(found)
                more += change(document, place, touched) or b""
                touched.add(str(top))
        return Mutant(dump(document) + more, changes[0].__name__, touched)

    def _odd(self) -> Any:
        return self._rng.choice(ODD)()

    def _drop(self, _: Any, place: Place, __: set[str]) -> None:
        del place[0][place[1]]

    def _rename(self, document: Any, place: Place, touched: set[str]) -> None:
        holder, key = place
        if isinstance(holder, list):
            return self._retype(document, place, touched)
        name = self._rng.choice([str(key).upper(), f"{key}s", str(key)[1:], f" {key}", f"{key}\n", *ODD_KEYS])
        holder[name] = holder.pop(key)
        if holder is document:
            touched.add(name)
        return None

    def _retype(self, _: Any, place: Place, __: set[str]) -> None:
        place[0][place[1]] = self._odd()

    def _insert(self, document: Any, place: Place, touched: set[str]) -> None:
        holder, key = place
        if isinstance(holder, list):
            return holder.insert(self._rng.randint(0, len(holder)), self._odd())
        name = self._rng.choice([*ODD_KEYS, *KEYS, "kind", "uri", "x" * 70, f"{key}_"])
        holder[name] = self._odd()
        if holder is document:
            touched.add(name)
        return None

    def _wrap(self, _: Any, place: Place, __: set[str]) -> None:
        value = place[0][place[1]]
        place[0][place[1]] = self._rng.choice([[value], {"value": value}, [value, value], {str(place[1]): value}])

    def _swap(self, document: Any, place: Place, touched: set[str]) -> None:
        (holder, key), top = self._rng.choice([each for each in places(document) if not isinstance(each[0][0], str)])
        # Copies, or a part could come to lie in itself.
        one, other = copy.deepcopy(place[0][place[1]]), copy.deepcopy(holder[key])
        place[0][place[1]], holder[key] = other, one
        touched.add(str(top))

    def _as_text(self, _: Any, place: Place, __: set[str]) -> None:
        place[0][place[1]] = str(place[0][place[1]])

    def _double(self, _: Any, place: Place, __: set[str]) -> None:
        holder, key = place
        if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[f"{key}"] = [copy.deepcopy(holder[key]), copy.deepcopy(holder[key])]

    def _repeat(self, document: Any, _: Place, touched: set[str]) -> bytes:
        key = self._rng.choice(list(document))
        touched.add(str(key))
        return dump({key: document[key]})

    def _at(self, data: bytes) -> int:
        return self._rng.randint(0, len(data))

    def _flip(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._rng.choice([1, 1, 1, 5])):
            if changed:
                changed[self._rng.randrange(len(changed))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)

    def _cut(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _token(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._rng.choice(TOKENS) + data[at:]

    def _delete(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + self._rng.randint(1, 30) :]

    def _line(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True) or [b"\n"]
        at, other = self._rng.randrange(len(lines)), self._rng.randrange(len(lines))
        lines[at] = self._rng.choice([lines[at] * 2, b"  " + lines[at], lines[at].lstrip(), lines[other], b"\t", b"#"])
        return b"".join(lines)

    def _value(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True) or [b"\n"]
        at = self._rng.randrange(len(lines))
        lines[at] = lines[at].partition(b":")[0] + b": " + self._rng.choice(TOKENS) + b"\n"
        return b"".join(lines)

    def _whole(self, data: bytes) -> bytes:
        changes = [data * 2, data + b"---\n" + data, b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n"), b"- " + data]
        changes += [data.replace(b"  ", b"\t"), data.decode(errors="replace").encode("utf-16"), data[::-1], b"", b"\n"]
        changes += [data + b"#" * 300_000, data.replace(b": ", b":"), b"!!map\n" + data, b"&a\n" + data, b"\0" + data]
        return self._rng.choice(changes)


TOKENS = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b": ",
        b"- ",
        b"? ",
        b"#",
        b"'",
        b'"',
        b"|\n",
        b">\n",
        b"%",
        b"@",
        b"`",
        b",",
        b"\t",
    ),
    *(b"&a ", b"*a", b"&a [*a]", b"<<: *a\n", b"<<: {}\n", b"!!python/object/apply:os.system ['id']\n", b"!!binary "),
    *(b"!!set ", b"!x ", b"!!float ", b"---\n", b"...\n", b"%YAML 1.1\n---\n", b"%TAG ! tag:x,2026:\n", b"~", b"null"),
    *(
        b"\0",
        b"\x1b[31m",
        b"\x7f",
        b"\xff",
        b"\xc3",
        b"\xe2\x80\xa8",
        b"\xe2\x80\xae",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
    ),
    *(
        b'"\\ud800"',
        b'"\\x00"',
        b'"\\UFFFFFFFF"',
        b".inf",
        b".nan",
        b"1e999",
        b"9" * 400,
        b"0x1F",
        b"1_000",
        b"12:30:45",
    ),
    *(
        b"[" * 50,
        b"{a: " * 50,
        b"x" * 2_000,
        b"2026-02-30",
        b"2026-01-01T00:00:00Z",
        b"owner: x\n",
        b"\n",
        b"yes",
        b"=\n",
    ),
]


def dump(document: Any) -> bytes:
    text: bytes = yaml.dump(document, Dumper=DUMPER, allow_unicode=True, sort_keys=False, encoding="utf-8")
    return text


PART = r"""(?:[A-Za-z0-9_-]+|'[^…]*?(?:'|…)|"[^…]*?(?:"|…))"""
KEY = re.compile(rf"(model and version|{PART}(?:\.{PART})*): .", re.DOTALL)
BEHIND = {"partitions": {"source", "outcomes"}, "source": {"features", "score"}, "features": {"score"}}
"""Sections that are checked against an earlier one."""


def check(mutant: Mutant, entry: Registered, where: str) -> None:
    """Fails the test unless the version is what the mutant says, or has a problem that helps to correct it."""
    problem = entry.problem
    if not problem:
        assert entry.member is not None
        assert entry.member.digest == hashlib.sha256(mutant.data).hexdigest()
        return
    assert entry.member is None
    assert len(problem) < PROBLEM_LIMIT + len(where) + 100
    for line in problem.split("\n"):
        assert line.startswith(f"{where}: ")
        assert line.isprintable()
        assert len(line) < 1_200
        said = line.removeprefix(f"{where}: ").removeprefix(f"mutant {entry.version}: ")
        assert KEY.match(said)
        assert "this bug of Scorewatch" not in said
        assert named(said, mutant), said


def named(said: str, mutant: Mutant) -> bool:
    """Whether the key that a message names is one that the change can have spoilt."""
    if mutant.touched is None:
        tops = {"0", *KEYS, *re.findall(r"[A-Za-z0-9_-]+", mutant.data.decode(errors="replace"))}
        return said.startswith(("file: ", "model and version: ", "'", '"')) or re.split(r"[.:]", said)[0] in tops
    if said.startswith("model and version: "):
        return not mutant.touched.isdisjoint({"model", "version"})
    tops = {"?", *mutant.touched}  # "?" is the second of two values for one key
    for each in mutant.touched:
        tops |= BEHIND.get(each, set())
    return said.startswith(("file: has ", "file: there is more")) or any(
        said.startswith((f"{dotted((top,))}:", f"{dotted((top,))}.")) for top in tops
    )


class Bed:
    """A lender's registry with two good versions and a batch of mutants between them."""

    def __init__(self, lender: Any, seed: int, batch: int, versions: Sequence[str] | None = None) -> None:
        self.lender = lender
        for model in ("a", "z"):
            document = lender.manifest(model=model, version="1", precomputed=True)
            lender.deploy_manifest(dump(document), model, "1")
        self.known = scan(lender.settings, Fleet(), clock=lender.clock).fleet
        fuzzer = Fuzzer(seed, lender.lake_uri)
        self.mutants = {each: fuzzer.mutant(each) for each in versions or map(str, range(batch))}
        root = Path(lender.registry.location("mutant"))
        for version, mutant in self.mutants.items():
            # Not through the store, which waits for the disk with every one of them.
            (root / version).mkdir(parents=True)
            (root / version / "model.yaml").write_bytes(mutant.data)

    def check(self, found: Fleet) -> dict[str, Registered]:
        """Check what was made of the mutants, and that the good versions are as they were; the former by version."""
        good = [each for each in found.registered if each.model != "mutant"]
        assert good == list(self.known.registered)
        assert {each.manifest.model for each in found.members} >= {"a", "z"}
        entries = {each.version: each for each in found.registered if each.model == "mutant"}
        assert set(entries) == set(self.mutants)
        for version, entry in entries.items():
            where = f"{self.lender.registry.uri}/mutant/{version}/model.yaml"
            mutant = self.mutants[version]
            try:
                check(mutant, entry, where)
            except AssertionError as error:
                error.add_note(f"{mutant.kind} of {mutant.touched}: {mutant.data[:3_000]!r}\n{entry.problem[:2_000]}")
                raise
        return entries


def test_what_the_mutants_are_made_of_is_good() -> None:
    for document in good("file:///lake", "1"):
        assert parse_manifest(dump(document), where="model.yaml").model == "mutant"


@pytest.mark.parametrize("seed", range(BATCHES))
def test_no_mutant_hides_another_version_and_each_is_taken_or_refused_by_a_key(
    lender: Any, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert BATCH <= READS, "one scan reads them all"
    bed = Bed(lender, seed, BATCH)
    with caplog.at_level(logging.ERROR):
        found = scan(lender.settings, bed.known)
    assert caplog.records == []
    assert found.left == frozenset()
    entries = bed.check(found.fleet)
    refused = [each for each in entries.values() if each.problem]
    assert BATCH / 2 < len(refused) < BATCH - 10, "most mutants are broken, and some are not"
    of_file = [each for each in refused if "model.yaml: file: " in each.problem]
    assert len(of_file) < len(refused) / 2, "most have a key of their own to name"
    assert Fleet.model_validate_json(found.fleet.model_dump_json(by_alias=True, exclude_unset=True)) == found.fleet


def test_every_kind_of_mutation_breaks_something_and_every_key_gets_its_turn(lender: Any) -> None:
    bed = Bed(lender, 1_000, 2 * BATCH)
    first = scan(lender.settings, bed.known)
    entries = bed.check(scan(lender.settings, first.fleet).fleet)
    kinds = {bed.mutants[version].kind for version, each in entries.items() if each.problem}
    fuzzer = Fuzzer(0, "")
    assert kinds == {change.__name__ for change in [*fuzzer._trees, *fuzzer._bytes]}
    problems = "\n".join(each.problem for each in entries.values())
    assert [key for key in KEYS if f"model.yaml: {key}" not in problems] == []


def test_mutants_that_are_taken_are_groups_of_one_location_whatever_they_are_called(lender: Any) -> None:
    from monitoring_assets.definitions.models import _built

    parts = ("1", "0", "reference", "psi")
    versions = [*parts, *(f"{one}{sign}{other}" for one in parts for other in parts for sign in ".-")]
    bed = Bed(lender, 3_000, 0, [*versions, *(f"{each}.{number}" for number in range(10) for each in versions)])
    shard = scan(lender.settings, bed.known).fleet.shard(0, 1)
    repository = _built(lender.settings, shard.model_dump_json(by_alias=True).encode()).get_repository_def()
    repository.load_all_definitions()
    groups = {"/".join(key.path[:2]) for key in repository.asset_graph.get_all_asset_keys()}
    assert groups == {"/".join(each.name) for each in shard.members}
    assert len(groups) > 20
    assert kept_back(lender.store, "definitions") == []


def test_mutants_are_kept_back_by_a_look_and_let_go_when_they_are_removed(lender: Any) -> None:
    bed = Bed(lender, 2_000, 400)
    refresher = Refresher(lender.settings, lender.clock)
    entries = bed.check(refresher.look().fleet)
    refused = {each.name: each.problem for each in entries.values() if each.problem}
    assert {(each.model, each.version): each.reason for each in kept_back(lender.store, "manifest")} == refused
    before = lender.listed()
    assert refresher.look().left == 0
    assert lender.listed() == before
    for version in bed.mutants:
        lender.registry.delete(f"mutant/{version}/model.yaml")
    assert refresher.look().missing is not None, "the good mutants are most of the fleet"
    lender.now += timedelta(hours=1)
    assert {each.model for each in refresher.look().fleet.registered} == {"a", "z"}
    assert kept_back(lender.store, "manifest") == []
    assert any(key.startswith(layout.FLEET) for key in lender.listed())
