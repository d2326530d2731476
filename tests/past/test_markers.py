from __future__ import annotations

from typing import Any

from monitoring_assets import layout
from monitoring_assets.past.markers import markers
from resources.object_store import ObjectStore


def test_a_marker_names_its_result(archive: Any, store: ObjectStore) -> None:
    results = [archive.result(partition, 12) for partition in ("2026-03-01", "2026-03-01-05:00", "registry")]
    archive.write(store, *results)

    found = list(markers(store, layout.PENDING))

    assert sorted(each.result for each in found) == archive.keys(store, "results/")
    assert sorted(each.key for each in found) == archive.keys(store, layout.PENDING)
    assert {each.attempt for each in found} == {12}


def test_markers_of_one_version_are_found_without_those_of_others(archive: Any, store: ObjectStore) -> None:
    archive.publish(store, *(archive.result(version=version) for version in ("1.0.0", "1.0.0-rc1", "1.0")))
    archive.publish(store, archive.result(model="ug-loan", version="1.0"))

    found = list(markers(store, layout.UNCOMPACTED, "ke-nano-loan/1.0/"))

    assert [(each.model, each.version) for each in found] == [("ke-nano-loan", "1.0")]
