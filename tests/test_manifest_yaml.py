from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets import manifest_yaml
from monitoring_assets.manifest import Manifest
from monitoring_assets.manifest_yaml import DEPTH_LIMIT, PROBLEM_LIMIT, SIZE_LIMIT, ManifestError, load, parse_manifest
from resources.errors import EXIT_BAD_INPUT, BadInput

WHERE = "registry/ke-nano-loan/3.2.0/model.yaml"
EXAMPLE = """\
apiVersion: scorewatch/v1
model: ke-nano-loan            # [a-z0-9-], 1–63
version: "3.2.0"
owner: credit-risk@lender.example
tier: 1
role: champion
status: active
partitions: {every: day, timezone: Africa/Nairobi, start: 2026-01-01}
source: {uri: "s3://lake/ke/applications/{partition:%Y/%m/%d}/*.parquet", key: application_id, ready: _SUCCESS, sla_hours: 6}
features:
  - {name: income, kind: numeric, special_values: [-999], max_null_rate: 0.05}
  - {name: region, kind: categorical}
score: {kind: onnx, artefact: model.onnx, scale: pd, higher_is: risk, range: [0, 1], cutoffs: [{from: 2026-01-01, value: 0.12}]}
reference: {uri: reference.parquet, sample: holdout, population: applied, label: defaulted, timestamp: applied_at}
outcomes:
  uri: "s3://lake/ke/outcomes/{partition:%Y-%m-%d}.parquet"
  key: application_id
  label: defaulted
  bad_value: 1
  states: {indeterminate: [2], excluded: [9]}
  month_on_book: 2
  matures_after_days: 60
  partition_is: scoring_date
segments: [product, channel]
policy: {psi: {warn: 0.10, critical: 0.25}, csi: {warn: 0.10, critical: 0.25}}
resources: {cpu: 1, memory: 2Gi, engine: polars}
links: {runbook: "https://wiki.lender.example/scorewatch"}
"""  # noqa: E501


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both scanners of PyYAML: libyaml's where the wheel has it, and the one in Python."""
    monkeypatch.setattr(manifest_yaml, "_LOADER", getattr(yaml, request.param))
    return str(request.param)


def refusal(text: str | bytes, where: str = WHERE) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text.encode() if isinstance(text, str) else text, where=where)
    return caught.value


def with_line(line: str, instead: str) -> str:
    assert EXAMPLE.count(line) == 1
    return EXAMPLE.replace(line, instead)


def test_the_example_is_read(loader: str) -> None:
    manifest = parse_manifest(EXAMPLE.encode(), where=WHERE)
    assert isinstance(manifest, Manifest)
    assert manifest.slug == "ke_nano_loan__3_2_0"
    assert manifest.partitions.start == date(2026, 1, 1)
    assert manifest.outcomes is not None
    assert manifest.outcomes.states.indeterminate == (2,)


def test_a_byte_order_mark_and_windows_line_ends_are_read(loader: str) -> None:
    data = b"\xef\xbb\xbf" + EXAMPLE.replace("\n", "\r\n").encode()
    assert parse_manifest(data, where=WHERE) == parse_manifest(EXAMPLE.encode(), where=WHERE)


WORDINGS: list[tuple[str, str, str]] = [
    ('version: "3.2.0"', "version: 3.20", 'version: got the number 3.20 (line 3); write it in quotes: version: "3.20"'),
    (
        'version: "3.2.0"',
        "version: 2026-01-01",
        'version: got the date 2026-01-01 (line 3); write it in quotes: version: "2026-01-01"',
    ),
    (
        'version: "3.2.0"',
        "version: 1e3",
        'version: got the number 1e3 (line 3); write it in quotes: version: "1e3"',
    ),
    (
        'version: "3.2.0"',
        "version: True",
        'version: got the word True, which YAML reads as a truth value (line 3); write it in quotes: version: "True"',
    ),
    ('version: "3.2.0"\n', "", 'version: is missing; write a line such as version: "3.2.0"'),
    (
        "owner: credit-risk@lender.example",
        "owner:",
        "owner: got no value (line 4); write text, such as owner: credit-risk@lender.example",
    ),
    (
        "owner: credit-risk@lender.example",
        "owner: [a, b]",
        "owner: got the list ['a', 'b'] (line 4); write text, such as owner: credit-risk@lender.example",
    ),
    ("tier: 1", 'tier: "1"', "tier: got the text '1' (line 5); write a whole number without quotes"),
    ("tier: 1", "tier: 1.5", "tier: got the number 1.5 (line 5); write a whole number"),
    ("tier: 1", "tier: 7", "tier: got the number 7 (line 5); write a number that is at most 3"),
    ("tier: 1", "tier: " + "9" * 101, f"tier: got the text '{'9' * 78}… (line 5); write a whole number"),
    ("tier: 1", "tier: " + "9" * 100, f"tier: got the number {'9' * 78}… (line 5); write a number that is at most 3"),
    ("tier: 1", "tier: high", "tier: got the text 'high' (line 5); write a whole number"),
    ("tier: 1", "tier:", "tier: got no value (line 5); write a whole number or leave the key out"),
    (
        "role: champion",
        "role: chief",
        "role: got the text 'chief' (line 6); write 'champion', 'challenger' or 'shadow'",
    ),
    (
        "timezone: Africa/Nairobi",
        "time_zone: Africa/Nairobi",
        (
            "partitions.time_zone: is an unknown key (line 8); write timezone instead; "
            "the known keys are every, timezone, start"
        ),
    ),
    (
        "start: 2026-01-01",
        'start: "2026-01-01"',
        "partitions.start: got the text '2026-01-01' (line 8); write a date without quotes, such as start: 2026-01-01",
    ),
    (
        "start: 2026-01-01",
        "start: 2026-02-30",
        "partitions.start: got the text '2026-02-30' (line 8); write a date, such as start: 2026-01-01",
    ),
    (
        "every: day",
        "every: week",
        (
            "partitions.start: 2026-01-01 is not a Monday, on which weekly partitions start (line 8); "
            "write start: 2026-01-05, or start: 2025-12-29 to include the week that holds it"
        ),
    ),
    (
        "partitions: {every: day, timezone: Africa/Nairobi, start: 2026-01-01}",
        "partitions: daily",
        (
            "partitions: got the text 'daily' (line 8); write a mapping, such as "
            "partitions: {every: day, timezone: Africa/Nairobi, start: 2026-01-01}"
        ),
    ),
    (
        "{name: region, kind: categorical}",
        "region",
        "features.1: got the text 'region' (line 12); write a mapping",
    ),
    (
        "{name: region, kind: categorical}",
        "{name: 7, kind: categorical}",
        'features.1.name: got the number 7 (line 12); write it in quotes: name: "7"',
    ),
    (
        "{name: region, kind: categorical}",
        "{name: region}",
        "features.1.kind: is missing (line 12); write a line such as kind: numeric",
    ),
    (
        "max_null_rate: 0.05",
        "max_null_rate: .nan",
        "features.0.max_null_rate: got the number .nan (line 11); write a finite number",
    ),
    (
        "{from: 2026-01-01, value: 0.12}",
        "{from: 2026-01-01, value: 12}",
        "score.cutoffs.0.value: 12.0 is outside range [0.0, 1.0] (line 13); write a score inside the range",
    ),
    (
        "{from: 2026-01-01, value: 0.12}",
        "{form: 2026-01-01, value: 0.12}",
        "score.cutoffs.0.form: is an unknown key (line 13); write from instead; the known keys are from, value",
    ),
    (
        "  bad_value: 1\n",
        "",
        "outcomes.bad_value: is missing (line 16); write a line such as bad_value: 1",
    ),
    (
        "segments: [product, channel]",
        "segments:",
        "segments: got no value (line 24); write a list or leave the key out",
    ),
    (
        "segments: [product, channel]",
        "segments: [product, no, yes, 12]",
        'segments.3: got the number 12 (line 24); write it in quotes: "12"',
    ),
    (
        "segments: [product, channel]",
        "segments: [a, b, c, d, e, f, g, h, i, j, k]",
        "segments: holds 11 items (line 24); write at most 10",
    ),
    (
        "segments: [product, channel]",
        "quibble: 1",
        (
            "quibble: is an unknown key (line 24); leave it out; the known keys are apiVersion, model, version, owner, "
            "tier, role, status, partitions, source, features, score, reference, outcomes, segments, policy, "
            "resources, links"
        ),
    ),
    (
        "memory: 2Gi",
        "memory: 2GB",
        "resources.memory: '2GB' is not an amount of memory (line 26); write a whole number of Mi or Gi, such as 2Gi",
    ),
    (
        "https://wiki.lender.example/scorewatch",
        "javascript:alert(1)",
        (
            "links.runbook: 'javascript:alert(1)' is not a web address (line 27); "
            "write one that begins with https:// or http:// and holds no user name or password"
        ),
    ),
]


@pytest.mark.parametrize(("line", "instead", "said"), WORDINGS)
def test_an_error_names_place_key_mistake_and_what_to_write(line: str, instead: str, said: str) -> None:
    error = refusal(with_line(line, instead))
    assert f"{WHERE}: {said}" in str(error).splitlines()
    assert error.exit_code == EXIT_BAD_INPUT
    assert isinstance(error, BadInput)


def test_every_problem_is_told_at_once_one_line_each() -> None:
    text = with_line('version: "3.2.0"', "version: 3.2")
    text = text.replace("tier: 1", "tier: 1\ntier: 2\n5: five")
    text = text.replace("every: day", "every: hour").replace("memory: 2Gi", "memory: lots").replace("label", "lable")
    error = refusal(text)
    assert [problem.key for problem in error.problems] == [
        "tier",
        "file",
        "version",
        "partitions.timezone",
        "reference.lable",
        "outcomes.label",
        "outcomes.lable",
        "resources.memory",
    ]
    lines = str(error).splitlines()
    assert lines == [f"{WHERE}: {key}: {message}; {fix}" for key, message, fix in error.problems]


STRUCTURES: list[tuple[str | bytes, str]] = [
    (b"", "file: is empty"),
    (b"\n\n# only a comment\n", "file: is empty"),
    (b"null", "file: is empty"),
    (b"[]", "file: holds [] where a mapping is expected"),
    (b"just text", "file: holds 'just text' where a mapping is expected"),
    (b"\xff\xfe\x00", "file: is not UTF-8 from byte 0 on; save it as UTF-8 text"),
    (EXAMPLE.encode("utf-16"), "file: is not UTF-8"),
    (b"a: 1\0", "file: is not YAML"),
    (b"a: b: c", "file: is not YAML"),
    (b"a: [1, 2", "file: is not YAML"),
    (b"a:\n\tb: 1", "file: is not YAML"),
    (b"a: 'x", "file: is not YAML"),
    (b"a: 1\n---\nb: 2\n", "file: begins a second document (line 2)"),
    (b"a: 1\n...\n---\n...\n", "file: begins a second document (line 3)"),
    (b"a: &x 1", "a: uses an anchor (&) (line 1)"),
    (b"&x a: 1", "uses an anchor (&) (line 1)"),
    (b"a: &x [1]\nb: *x", "a: uses an anchor (&) (line 1)"),
    (b"a:\n  - b: *x", "a.0.b: uses an alias (*) (line 2)"),
    (b"a: !!python/object/apply:os.system [ls]", "a: uses the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
    (b"a: !custom 1", "a: uses the tag '!custom'"),
    (b"a: !!str 3.2", "a: uses the tag"),
    (b"a: ! x", "a: uses the tag '!'"),
    (b"!!map {a: 1}", "file: uses the tag"),
    (b"a: 1\nb: 2\na: 3", "a: is written in line 1 and again in line 3; keep one of the two"),
    (b'a: {b: 1, "b": 2}', "a.b: is written in line 1 and again in line 1"),
    (b"1: x", "file: has the key '1' (line 1); write a key that is text"),
    (b"a: {2026-01-01: x}", "a: has the key '2026-01-01' (line 1)"),
    (b"a: {true: x}", "a: has the key 'true' (line 1)"),
    (b"? [a]\n: x", "file: has the key ['a'] (line 1)"),
    (b"? {a: 1}\n: x", "file: has the key {'a': 1} (line 1)"),
    (b"? \n: x", "file: has the key '' (line 1)"),
    (b"<<: {a: 1}", "'<<': is an unknown key (line 1)"),
    ("[" * (DEPTH_LIMIT + 2), f"is nested more than {DEPTH_LIMIT} levels deep"),
    ("a: " + "[" * 100_000, f"is nested more than {DEPTH_LIMIT} levels deep"),
    ("- " * 100_000, f"is nested more than {DEPTH_LIMIT} levels deep"),
    ("? " * 100_000, f"is nested more than {DEPTH_LIMIT} levels deep"),
    (b"a: " + b"x" * SIZE_LIMIT, f"file: has {SIZE_LIMIT + 3} bytes, and a manifest may have {SIZE_LIMIT}"),
    (b'a: "\\UFFFFFFFF"', "file: "),
    (b'model: "\\ud800"', "(line 1"),
    (b'"\\ud800": 1', "(line 1"),
    (b"%YAML " + b"9" * 5000 + b".1\n--- {}", "file: "),
    (b"%YAML 3.0\n--- {}", "file: is not YAML"),
]


@pytest.mark.parametrize(("data", "said"), STRUCTURES, ids=range(len(STRUCTURES)))
def test_yaml_outside_the_safe_subset_is_refused(loader: str, data: str | bytes, said: str) -> None:
    begin = time.monotonic()
    error = refusal(data)
    assert said in str(error)
    assert all(line.startswith(f"{WHERE}: ") for line in str(error).splitlines())
    assert time.monotonic() - begin < 20


def test_the_deepest_allowed_nesting_is_read(loader: str) -> None:
    text = "a: " + "[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1)
    assert load(text.encode(), where=WHERE)["a"] != []
    with pytest.raises(ManifestError, match="levels deep"):
        load(text.replace("]", "", 1).replace("[", "[[", 1).encode() + b"]]", where=WHERE)


def test_a_bomb_of_aliases_is_refused_before_it_grows(loader: str) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    assert "uses an anchor" in str(refusal("\n".join(lines)))


def test_scalars_are_read_as_yaml_1_2_and_dates(loader: str) -> None:
    text = """
    text: [no, yes, on, off, y, 12:30, 0x1F, 0o17, 007, 1_000, 2026-02-30, 2026-01-01T00:00:00, =, "1", '2026-01-01']
    numbers: [0, -7, +3, 1.5, -.5, 1., 1e3, 2.5E-2]
    words: [true, False, null, ~, ]
    empty:
    date: 2026-01-01
    block: |
      3.2
    """
    content = load(text.encode(), where=WHERE)
    assert content["text"] == [
        *("no", "yes", "on", "off", "y", "12:30", "0x1F", "0o17", "007", "1_000"),
        *("2026-02-30", "2026-01-01T00:00:00", "=", "1", "2026-01-01"),
    ]
    assert content["numbers"] == [0, -7, 3, 1.5, -0.5, 1.0, 1000.0, 0.025]
    assert [type(each) for each in content["numbers"]] == [int] * 3 + [float] * 5
    assert content["words"] == [True, False, None, None]
    assert content["empty"] is None
    assert content["date"] == date(2026, 1, 1)
    assert content["block"] == "3.2\n"


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(-1e300, 1e300) | PRINTABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4),
    max_leaves=15,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(PRINTABLE, VALUES, max_size=5))
def test_json_is_read_as_what_it_is(content: dict[str, Any]) -> None:
    assert load(json.dumps(content, ensure_ascii=False).encode(), where=WHERE) == content


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    check(data)


TOKENS = [
    *(
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        "- ",
        "? ",
        "#",
        "&a ",
        "*a",
        "!",
        "!!int ",
        "|\n",
        ">\n",
        "'",
        '"',
        "%",
        "@",
        "`",
    ),
    *(
        "\n",
        "\t",
        "---\n",
        "...\n",
        "~",
        "null",
        ".inf",
        ".nan",
        "-1",
        "1e999",
        "9" * 99,
        "9" * 5000,
        "1:" * 50,
        "true",
    ),
    *(
        "\0",
        "\x1b[2J",
        "\x7f",
        "\u202e",
        "\ufeff",
        "\u2028",
        "\\ud800",
        "\\x00",
        "é",
        "🙂",
        "..",
        "/",
        "\\",
        "{partition}",
    ),
    *("2026-02-30", "0001-01-01", "9999-12-31", "2026-01-01T00:00:00Z", "<<: {}", "[" * 30, "features:", "x" * 500),
]


def mutants(seed: int, number: int) -> Iterator[bytes]:
    rng = random.Random(seed)  # noqa: S311
    lines = EXAMPLE.encode().splitlines(keepends=True)
    for _ in range(number):
        parts = list(lines)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(parts))
            line = parts[at]
            where = rng.randrange(len(line) + 1)
            upto = min(len(line), where + rng.randint(1, 12))
            token = rng.choice(TOKENS).encode()
            parts[at] = rng.choice(
                [
                    b"",
                    line + line,
                    line + parts[rng.randrange(len(parts))],
                    b"  " + line,
                    line[:where] + token + line[where:],
                    line[:where] + token + line[upto:],
                    line[:where] + line[upto:],
                    line[:where] + bytes([rng.randrange(256)]) + line[where + 1 :],
                    line.partition(b":")[0] + b": " + token + b"\n",
                ]
            )
        yield b"".join(parts)


def check(data: bytes) -> bool:
    """Whether `data` is a manifest; anything but a manifest or a presentable `ManifestError` fails the test."""
    try:
        manifest = parse_manifest(data, where=WHERE)
    except ManifestError as caught:
        error = caught
    else:
        assert manifest.partitions.calendar.first_key
        return True
    assert error.problems
    for line, problem in zip(str(error).split("\n"), error.problems, strict=True):
        assert all(problem)
        assert line == f"{WHERE}: {problem.key}: {problem.message}; {problem.fix}"
        assert line.isprintable()
        assert len(line) < 1000
    return False


def test_two_thousand_mutants_are_read_or_refused_with_a_message_that_can_be_shown() -> None:
    accepted = sum(check(data) for data in mutants(20260101, 2000))
    assert 20 < accepted < 1000


def test_mutants_are_read_or_refused_without_libyaml_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_yaml, "_LOADER", yaml.SafeLoader)
    assert sum(check(data) for data in mutants(7, 250)) < 250


def places(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield from places(value, (*path, key))


PLACES = list(places(load(EXAMPLE.encode(), where=WHERE)))
ODD = (
    VALUES
    | st.text(max_size=300)
    | st.dates()
    | st.floats()
    | st.sampled_from([10**99, -0.0, 5e-324, 1.7e308, "a" * 9999])
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=3))
def test_any_value_at_any_place_is_read_or_refused(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    content: Any = load(EXAMPLE.encode(), where=WHERE)
    for path, value in sorted(changes, key=lambda change: -len(change[0])):  # a part before the whole that holds it
        target = content
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value
    check(yaml.safe_dump(content, allow_unicode=True).encode(errors="surrogatepass"))


def test_odd_values_are_cut_and_escaped_in_messages() -> None:
    error = refusal(with_line("role: champion", 'role: "\\e[31m' + "x" * 5000 + '"\n? "\\e]0;' + "y" * 5000 + '"\n: 1'))
    assert "\x1b" not in str(error)
    assert "\\x1b[31mxxx" in str(error)
    assert all(len(line) < 500 for line in str(error).splitlines())
    escaped = refusal("a: 1", where="registry/\x1b[31m\n/model.yaml")
    assert all(line.startswith(r"registry/\x1b[31m\n/model.yaml: ") for line in str(escaped).splitlines())


def test_thousands_of_problems_are_told_in_time_and_in_part(loader: str) -> None:
    begin = time.monotonic()
    for text in (
        "".join(f"k{number}: 1\n" for number in range(8_000)),
        "".join(f"{number}: 1\n" for number in range(8_000)),
        "a: 1\n" * 10_000,
        "features:\n" + "- {a: 1}\n" * 5_000,
        "features: [" + "1," * 20_000 + "]",
        "links: {" + ",".join(f'l{number}: "http://a"' for number in range(4_000)) + "}",
    ):
        error = refusal(text)
        assert len(error.problems) <= PROBLEM_LIMIT
        assert len(str(error)) < 100_000
        if len(error.problems) == PROBLEM_LIMIT:
            assert (
                str(error).splitlines()[-1].startswith(f"{WHERE}: there are more problems than these {PROBLEM_LIMIT}")
            )
    assert time.monotonic() - begin < 60


def test_the_most_features_that_a_manifest_may_have_fit_into_it() -> None:
    head, _, rest = EXAMPLE.partition("features:\n")
    features = "".join(f"  - {{name: feature_{number}, kind: numeric}}\n" for number in range(5000))
    text = head + "features:\n" + features + rest[rest.index("score:") :]
    manifest = parse_manifest(text.encode(), where=WHERE)
    assert manifest.features is not None
    assert len(manifest.features) == 5000
