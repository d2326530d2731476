from __future__ import annotations

from typing import Any

import pytest
import yaml

from monitoring_assets import onboarding
from monitoring_assets.fleet import snapshot
from resources.errors import BadInput

BOMB = "bomb: &a [x, x]\n" + "".join(f"b{number}: &b{number} [*a, *a, *a, *a]\n" for number in range(30))


def section(name: str, **changes: Any) -> Any:
    """Changes a section of a manifest."""
    return lambda manifest: {**manifest, name: {**manifest[name], **changes}}


BAD = {
    "not YAML": (lambda _: b"model: [ke-nano-loan", "file: is not YAML", "close quotes and brackets"),
    "not text": (lambda _: b"\xff\xfe\x00m", "file: is not UTF-8", "save it as UTF-8 text"),
    "empty": (lambda _: b"", "file: is empty", "beginning with apiVersion"),
    "ten megabytes": (lambda _: b"a: " + b"x" * 10_000_000, "file: has 10000003 bytes", "leave features out"),
    "aliases bomb": (lambda _: BOMB.encode(), "uses an anchor (&) (line 1)", "leave the anchor out"),
    "unknown key": (lambda m: m | {"ownr": "x"}, "ownr", "owner"),
    "missing key": (
        lambda m: {k: v for k, v in m.items() if k != "owner"},
        "owner: is missing",
        "write a line such as owner: credit-risk@",
    ),
    "wrong type": (lambda m: m | {"tier": "high"}, "tier", "1"),
    "unknown kind": (section("score", kind="pickle"), "score.kind", "onnx"),
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
        "source.uri",
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


@pytest.mark.parametrize("name", BAD)
def test_a_bad_manifest_is_quarantined_beside_the_good_ones(lender: Any, name: str) -> None:
    change, key, fix = BAD[name]
    good, other = lender.onboard(), lender.onboard(model="zm-payroll", precomputed=True)
    document = change(lender.manifest(version="2"))
    data = document if isinstance(document, bytes) else yaml.safe_dump(document).encode()
    where = lender.deploy_manifest(data, version="2")
    before = lender.listed()
    found = snapshot(lender.settings)
    assert found.versions == (good.manifest, other.manifest)
    assert list(found.quarantined) == [where]
    for message in (found.quarantined[where], _onboarding_error(lender)):
        assert message.startswith(where)
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


def test_an_empty_registry_is_an_empty_fleet(lender: Any) -> None:
    assert snapshot(lender.settings).versions == ()
    assert snapshot(lender.settings).quarantined == {}


def test_versions_are_in_the_order_of_their_names_and_retired_ones_are_left_out(lender: Any) -> None:
    for model, version, status in [
        ("b", "2", "active"),
        ("b", "1", "retired"),
        ("a", "9", "active"),
        ("b", "10", "active"),
    ]:
        lender.onboard(model=model, version=version, status=status, precomputed=True)
    found = [(each.model, each.version) for each in snapshot(lender.settings).versions]
    assert found == [("a", "9"), ("b", "10"), ("b", "2")]


def test_a_folder_without_a_manifest_is_not_deployed_yet(lender: Any) -> None:
    lender.registry.put("ke-nano-loan/1.0.0/model.onnx", b"first the artefact")
    lender.registry.put("README.md", b"no model")
    assert snapshot(lender.settings).versions == ()
    assert snapshot(lender.settings).quarantined == {}


def test_a_manifest_that_is_a_link_is_quarantined(lender: Any, tmp_path: Any) -> None:
    good = lender.onboard()
    lender.registry.put("ke-nano-loan/2/reference.parquet", b"rows")
    (tmp_path / "secret").write_text("password: x")
    (tmp_path / "registry/ke-nano-loan/2/model.yaml").symlink_to(tmp_path / "secret")
    found = snapshot(lender.settings)
    assert found.versions == (good.manifest,)
    [message] = found.quarantined.values()
    assert "symbolic link" in message
    assert "password" not in message


def test_a_registry_on_s3_is_read_like_one_on_the_disk(s3_lender: Any) -> None:
    good = s3_lender.onboard(precomputed=True)
    where = s3_lender.deploy_manifest(b"{", version="2")
    found = snapshot(s3_lender.settings)
    assert found.versions == (good.manifest,)
    assert list(found.quarantined) == [where]
    assert where.startswith("s3://")
