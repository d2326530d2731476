from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring_assets import deployment, onboarding
from resources.errors import BadInput
from resources.object_store import LocalStore

FOLDER = "ke-nano-loan/1.0.0"
FILES = [f"{FOLDER}/{name}" for name in ("model.onnx", "model.yaml", "reference.parquet")]


def registered(lender: Any) -> list[str]:
    return [info.key for info in lender.registry.list()]


def folder(lender: Any, **changes: Any) -> Path:
    found: Path = lender.model_folder(lender.manifest(**changes))
    return found


def refusal(lender: Any, path: Path, call: Any = deployment.register) -> str:
    with pytest.raises(BadInput) as refused:
        call(path, lender.settings)
    return str(refused.value)


def test_a_folder_is_uploaded_with_the_manifest_last(lender: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    put = LocalStore.put_if_absent

    def recorded(store: LocalStore, key: str, data: bytes) -> bool:
        written.append(key)
        return put(store, key, data)

    monkeypatch.setattr(LocalStore, "put_if_absent", recorded)
    path = folder(lender)
    manifest, new = deployment.register(path, lender.settings)
    assert (manifest.model, manifest.version, new) == ("ke-nano-loan", "1.0.0", True)
    assert written == [f"{FOLDER}/model.onnx", f"{FOLDER}/reference.parquet", f"{FOLDER}/model.yaml"]
    assert registered(lender) == FILES
    for key in FILES:
        assert lender.registry.get(key).data == (path / Path(key).name).read_bytes()
    assert lender.listed() == [], "onboarding is not the data scientist's business"


def test_the_same_folder_can_be_registered_again(lender: Any) -> None:
    deployment.register(folder(lender), lender.settings)
    before = [(info.key, info.fingerprint) for info in lender.registry.list()]
    assert deployment.register(folder(lender), lender.settings)[1] is False
    assert [(info.key, info.fingerprint) for info in lender.registry.list()] == before


@pytest.mark.parametrize("name", ["model.onnx", "reference.parquet"])
def test_a_registered_version_never_gets_another_file(lender: Any, onnx_model_bytes: Any, name: str) -> None:
    deployment.register(folder(lender), lender.settings)
    before = lender.registry.get(f"{FOLDER}/{name}")
    changed = {"artefact": onnx_model_bytes(raw=True)} if name == "model.onnx" else {"rows": lender.rows("other", 500)}
    other = lender.model_folder(lender.manifest(), **changed)
    message = refusal(lender, other)
    assert f"ke-nano-loan 1.0.0 is registered with another {name}. A version never changes" in message
    assert "give this one a new version in model.yaml" in message
    assert lender.registry.get(f"{FOLDER}/{name}") == before


def test_a_registered_version_gets_another_manifest_by_update_only(lender: Any) -> None:
    deployment.register(folder(lender), lender.settings)
    message = refusal(lender, folder(lender, tier=1))
    assert (
        "registered with another model.yaml. Use `scorewatch update` for owner, tier, role, status, policy" in message
    )


def test_what_a_dead_registration_left_is_replaced(lender: Any) -> None:
    lender.registry.put(f"{FOLDER}/model.onnx", b"left by a registration that died")
    assert deployment.register(folder(lender), lender.settings)[1] is True
    assert lender.registry.get(f"{FOLDER}/model.onnx").data != b"left by a registration that died"


@pytest.mark.parametrize("call", [deployment.register, deployment.check_folder])
def test_a_folder_that_onboarding_would_refuse_is_refused_before_anything_is_uploaded(lender: Any, call: Any) -> None:
    path = folder(lender)
    cases = {
        "reference.parquet": (b"PAR1 cut", "reference.parquet is not a Parquet file that can be read"),
        "model.onnx": (b"no ONNX", "model.onnx is not a model that ONNX Runtime can load"),
        "model.yaml": (b"model: [", "model.yaml: file: is not YAML"),
    }
    for name, (content, words) in cases.items():
        right = (path / name).read_bytes()
        for data in (content, None):
            (path / name).unlink()
            if data is not None:
                (path / name).write_bytes(data)
            assert (words if data is not None else "does not exist") in refusal(lender, path, call)
            (path / name).write_bytes(right)
    elsewhere = folder(lender, source={"uri": "s3://elsewhere/{partition}.parquet", "key": "application_id"})
    assert "lies outside the allowed sources" in refusal(lender, elsewhere, call)
    assert registered(lender) == []


def test_a_folder_without_a_manifest_says_what_it_should_hold(lender: Any, tmp_path: Path) -> None:
    assert refusal(lender, tmp_path) == f"{tmp_path}/model.yaml does not exist; a model folder holds a model.yaml."


def test_checking_a_folder_shows_its_profile_and_writes_nothing(lender: Any) -> None:
    manifest, profile = deployment.check_folder(folder(lender), lender.settings)
    assert manifest.model == "ke-nano-loan"
    assert profile.rows == 3_000
    assert registered(lender) == lender.listed() == []


class TestUpdate:
    @pytest.fixture
    def version(self, lender: Any) -> Any:
        return lender.onboard()

    def update(self, lender: Any, **changes: Any) -> tuple[list[str], str]:
        return deployment.update(folder(lender, **changes) / "model.yaml", lender.settings)

    def test_what_may_change_is_swapped(self, lender: Any, version: Any) -> None:
        changed, digest = self.update(lender, tier=1, policy={"csi": {"warn": 0.15}}, owner="new@lender.example")
        assert sorted(changed) == ["owner", "policy", "tier"]
        assert digest != version.manifest_digest
        assert lender.store.get(f"manifests/{digest}.yaml") is None, "owners need no right to the store"
        after = onboarding.onboard(lender.settings, version.manifest.model, version.manifest.version)
        assert after.manifest_digest == digest
        assert (after.manifest.tier, after.manifest.policy.csi.warn) == (1, 0.15)
        assert lender.registry.get(f"{FOLDER}/model.yaml").data == lender.store.get(f"manifests/{digest}.yaml").data
        assert onboarding.pinned(lender.settings, version.manifest_digest).manifest.tier == 2

    def test_nothing_new_changes_nothing(self, lender: Any, version: Any) -> None:
        assert self.update(lender) == ([], version.manifest_digest)

    @pytest.mark.usefixtures("version")
    @pytest.mark.parametrize(
        ("change", "key"),
        [
            ({"segments": ["product"]}, "segments: was [], is now ['product']"),
            ({"reference": {"sample": "oot"}}, "reference.sample: was 'holdout', is now 'oot'"),
            ({"features": [{"name": "income", "kind": "numeric"}]}, "features: was "),
        ],
    )
    def test_what_never_changes_is_named(self, lender: Any, change: dict[str, Any], key: str) -> None:
        before = lender.registry.get(f"{FOLDER}/model.yaml")
        with pytest.raises(BadInput) as refused:
            self.update(lender, **change)
        assert key in str(refused.value)
        assert "register them as a new version" in str(refused.value)
        assert lender.registry.get(f"{FOLDER}/model.yaml") == before

    def test_a_version_that_was_never_registered_is_refused(self, lender: Any) -> None:
        with pytest.raises(BadInput, match=r"ke-nano-loan 1\.0\.0 is not registered: .* Use `scorewatch register`"):
            self.update(lender)

    @pytest.mark.usefixtures("version")
    def test_of_two_updates_at_once_one_is_refused(self, lender: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        swap = LocalStore.compare_and_swap

        def slow(store: LocalStore, key: str, data: bytes, etag: str | None) -> str | None:
            lender.deploy_manifest(yaml.safe_dump(lender.manifest(tier=3)).encode())
            return swap(store, key, data, etag)

        monkeypatch.setattr(LocalStore, "compare_and_swap", slow)
        with pytest.raises(BadInput, match="was updated by somebody else meanwhile") as refused:
            self.update(lender, tier=1)
        assert "Look at" in str(refused.value)
        monkeypatch.undo()
        assert onboarding.onboard(lender.settings, "ke-nano-loan", "1.0.0").manifest.tier == 3
