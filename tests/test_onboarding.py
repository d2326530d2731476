from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from monitoring_assets import deployment, onboarding
from monitoring_assets.stability.profile import ReferenceProfile
from resources.errors import BadInput, InfrastructureError

MODEL, VERSION = "ke-nano-loan", "1.0.0"


def onboard(lender: Any, version: str = VERSION) -> Any:
    return onboarding.onboard(lender.settings, MODEL, version, lender.clock)


def register(lender: Any, **manifest: Any) -> None:
    deployment.register(lender.model_folder(lender.manifest(**manifest)), lender.settings)


def refusal(lender: Any, version: str = VERSION) -> str:
    with pytest.raises(BadInput) as refused:
        onboard(lender, version)
    return str(refused.value)


def test_onboarding_pins_the_manifest_and_freezes_the_reference(lender: Any) -> None:
    register(lender)
    version = onboard(lender)
    document = lender.registry.get(f"{MODEL}/{VERSION}/model.yaml").data
    assert version.manifest_digest == hashlib.sha256(document).hexdigest()
    assert lender.store.get(f"manifests/{version.manifest_digest}.yaml").data == document
    assert lender.listed() == [
        f"manifests/{version.manifest_digest}.yaml",
        f"reference/{MODEL}/{VERSION}/{version.reference_digest}.json",
    ]
    frozen = lender.store.get(f"reference/{MODEL}/{VERSION}/{version.reference_digest}.json").data
    assert ReferenceProfile.from_json(frozen) == version.profile
    assert hashlib.sha256(frozen).hexdigest() == version.reference_digest
    assert version.clock() == lender.now


def test_a_frozen_reference_is_never_made_again(lender: Any) -> None:
    register(lender)
    first = onboard(lender)
    for name in ("reference.parquet", "model.onnx"):
        lender.registry.delete(f"{MODEL}/{VERSION}/{name}")
    assert onboard(lender).profile == first.profile


def test_onboarding_twice_at_once_freezes_one_reference(lender: Any) -> None:
    register(lender)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(onboard(lender).reference_digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(lender.listed("reference")) == 1


def test_what_may_change_gets_a_digest_of_its_own_and_keeps_the_reference(lender: Any) -> None:
    register(lender)
    first = onboard(lender)
    changed = lender.manifest(tier=1, links={"runbook": "https://runbooks.lender.example/x"})
    deployment.update(lender.model_folder(changed) / "model.yaml", lender.settings)
    second = onboard(lender)
    assert second.manifest.tier == 1
    assert second.manifest_digest != first.manifest_digest
    assert (second.identity, second.reference_digest) == (first.identity, first.reference_digest)


@pytest.mark.parametrize(
    "change",
    [
        {"features": [{"name": "income", "kind": "numeric"}]},
        {"score": {"kind": "onnx", "artefact": "other.onnx"}},
        {"reference": {"sample": "train"}},
        {"segments": ["product"]},
    ],
)
def test_what_never_changes_is_refused_when_it_did(lender: Any, change: dict[str, Any]) -> None:
    register(lender)
    first = onboard(lender)
    lender.deploy_manifest(yaml.safe_dump(lender.manifest(**change)).encode())
    message = refusal(lender)
    assert "ke-nano-loan 1.0.0: artefact, reference, features, score or partitions of its manifest changed" in message
    assert "Restore the manifest, and register the change as a new version" in message
    assert onboarding.pinned(lender.settings, first.manifest_digest).profile == first.profile


@pytest.mark.parametrize(
    ("deployed", "words"),
    [
        ([], "Deploy it with `scorewatch register DIR`; the registry is empty."),
        ([{"model": "zm-payroll"}], "the registry has the models zm-payroll."),
        ([{"version": "0.9"}, {"version": "0.8"}], "ke-nano-loan has the versions 0.8, 0.9."),
    ],
)
def test_a_version_that_is_not_there_is_said_with_those_that_are(
    lender: Any, deployed: list[dict[str, str]], words: str
) -> None:
    for each in deployed:
        register(lender, precomputed=True, **each)
    message = refusal(lender)
    assert message.startswith(
        f"ke-nano-loan 1.0.0 is not in the registry: {lender.registry.uri}/{MODEL}/{VERSION}/model.yaml"
    )
    assert message.endswith(words)


@pytest.mark.parametrize(("model", "version"), [("..", "x"), ("ke-nano-loan", "../../etc"), ("", ""), ("a\\b", "1")])
def test_names_that_lead_elsewhere_are_refused(lender: Any, model: str, version: str) -> None:
    register(lender)
    with pytest.raises(BadInput):
        onboarding.onboard(lender.settings, model, version)


@pytest.mark.parametrize(("name", "key"), [("model.onnx", "score.artefact"), ("reference.parquet", "reference.uri")])
def test_a_missing_file_is_named_with_its_key_and_nothing_is_frozen(lender: Any, name: str, key: str) -> None:
    register(lender)
    content = lender.registry.get(f"{MODEL}/{VERSION}/{name}").data
    lender.registry.delete(f"{MODEL}/{VERSION}/{name}")
    message = refusal(lender)
    place = f"{lender.registry.uri}/{MODEL}/{VERSION}/{name}"
    assert message.startswith(f"ke-nano-loan 1.0.0: {key} names {name!r}, and {place} does not exist. Put it there")
    assert lender.listed("reference") == []
    lender.registry.put(f"{MODEL}/{VERSION}/{name}", content)
    assert onboard(lender).profile.rows == 3_000


@pytest.mark.parametrize(
    ("artefact", "features", "words"),
    [
        (b"no ONNX", None, "model.onnx is not a model that ONNX Runtime can load"),
        (
            "raw",
            [{"name": "income", "kind": "numeric"}],
            "inputs without a feature: age, region; export one input a feature",
        ),
        (
            "raw",
            [{"name": name, "kind": "numeric"} for name in ("income", "age")]
            + [{"name": name, "kind": "categorical"} for name in ("region", "product")],
            "features without an input: product; ",
        ),
        (
            "raw",
            [
                {"name": "income", "kind": "numeric"},
                {"name": "age", "kind": "categorical"},
                {"name": "region", "kind": "categorical"},
            ],
            "feature 'age' is categorical, but its input is a tensor(float)",
        ),
    ],
)
def test_an_artefact_with_other_inputs_than_the_features_is_refused(
    lender: Any, onnx_model_bytes: Callable[..., bytes], artefact: Any, features: Any, words: str
) -> None:
    """In the registry by hand: `scorewatch register` refuses it in the data scientist's folder."""
    document = lender.manifest() if features is None else lender.manifest(features=features)
    folder = lender.model_folder(document, artefact=onnx_model_bytes(raw=True) if artefact == "raw" else artefact)
    for name in ("model.onnx", "reference.parquet", "model.yaml"):
        lender.registry.put(f"{MODEL}/{VERSION}/{name}", (folder / name).read_bytes())
    message = refusal(lender)
    assert message.startswith("ke-nano-loan 1.0.0: model.onnx")
    assert words in message
    assert lender.listed("reference") == []


def test_a_pinned_version_is_what_was_planned_whatever_the_registry_says(lender: Any) -> None:
    register(lender)
    first = onboard(lender)
    lender.deploy_manifest(b"spoilt")
    again = onboarding.pinned(lender.settings, first.manifest_digest, lender.clock)
    assert (again.manifest, again.profile, again.clock()) == (first.manifest, first.profile, lender.now)


@pytest.mark.parametrize("digest", ["0" * 64, "", "../registry", "a/b", "é"])
def test_a_digest_that_was_never_pinned_is_refused(lender: Any, digest: str) -> None:
    with pytest.raises(BadInput, match="Leave --manifest-digest out to onboard the version"):
        onboarding.pinned(lender.settings, digest)


def test_a_pinned_manifest_without_a_reference_freezes_it(lender: Any) -> None:
    register(lender)
    digest = onboarding.pin(lender.store, yaml.safe_dump(lender.manifest()).encode())
    version = onboarding.pinned(lender.settings, digest)
    assert lender.listed("reference/") == [f"reference/ke-nano-loan/1.0.0/{version.reference_digest}.json"]
    assert onboarding.pinned(lender.settings, digest).profile == version.profile


def test_a_pinned_manifest_whose_files_are_not_there_is_refused(lender: Any) -> None:
    digest = onboarding.pin(lender.store, yaml.safe_dump(lender.manifest()).encode())
    with pytest.raises(BadInput, match=r"names 'reference\.parquet', and .* does not exist"):
        onboarding.pinned(lender.settings, digest)
    assert lender.listed("reference/") == []


def test_a_pinned_manifest_that_was_altered_is_refused(lender: Any) -> None:
    register(lender)
    version = onboard(lender)
    lender.store.put(f"manifests/{version.manifest_digest}.yaml", b"other")
    with pytest.raises(InfrastructureError, match="does not have the content that its name says"):
        onboarding.pinned(lender.settings, version.manifest_digest)


def test_sources_that_are_allowed_no_more_are_refused_for_pinned_versions_too(lender: Any) -> None:
    register(lender)
    version = onboard(lender)
    stricter = lender.settings.model_copy(update={"allowed_sources": ("s3://lake",)})
    with pytest.raises(BadInput, match=r"source\.uri: .* lies outside the allowed sources") as refused:
        onboarding.pinned(stricter, version.manifest_digest)
    assert "ke-nano-loan 1.0.0" in str(refused.value)


def test_an_altered_reference_is_refused(lender: Any) -> None:
    register(lender)
    version = onboard(lender)
    key = f"reference/{MODEL}/{VERSION}/{version.reference_digest}.json"
    lender.store.put(key, lender.store.get(key).data.replace(b'"rows":3000', b'"rows":3001'))
    with pytest.raises(InfrastructureError, match="does not have the content that its name says; restore it"):
        onboard(lender)


def test_two_frozen_references_are_refused(lender: Any) -> None:
    register(lender)
    version = onboard(lender)
    second = replace(version.profile, rows=1)
    lender.store.put(f"reference/{MODEL}/{VERSION}/{second.digest}.json", second.to_json())
    with pytest.raises(InfrastructureError, match=r"1\.0\.0 has 2 frozen references .* Keep the one that results name"):
        onboard(lender)
