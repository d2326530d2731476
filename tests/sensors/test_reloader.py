"""When which location is told to load again, by a clock that moves while servers load."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from monitoring_assets.sensors.reloader import Reloader


class Place:
    """Locations that load in no time, but for those that hang for as long as they may; those in ``broken`` fail."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.hanging, self.broken = set[str](), set[str]()
        self.takes: dict[str, float] = {}
        self.told: list[str] = []
        self.told_names: dict[str, str] = {}
        self.reloader = Reloader(lambda: self.now)
        self._lock = threading.Lock()

    def reload(self, name: str, limit_s: float) -> str:
        with self._lock:
            self.told.append(name)
            if name in self.hanging:
                self.now += limit_s
                return "it did not answer"
            self.now += self.takes.get(name, 0)
            return "broken" if name in self.broken else ""

    def tell(self, **latest: str) -> list[str]:
        """A tick; the locations that were told, in their order."""
        self.told.clear()
        self.told_names = self.reloader.tell(latest, self.told_names, self.reload, 40)
        return list(self.told)


@pytest.fixture
def place() -> Place:
    return Place()


def test_locations_load_side_by_side(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4, timeout=30)

    def reload(*_: Any) -> str:
        together.wait()
        return ""

    monkeypatch.setattr(place, "reload", reload)
    place.tell(a="1", b="1", c="1", d="1")
    assert place.told_names == {"a": "1", "b": "1", "c": "1", "d": "1"}


def test_one_that_hangs_keeps_no_other_from_loading_but_once(place: Place) -> None:
    place.hanging.add("a")
    latest = dict.fromkeys("abcdefghijkl", "1")
    place.tell(**latest)
    for _ in range(3):
        place.tell(**latest)
    assert set(place.told_names) == set("bcdefghijkl")
    place.now += 60
    assert place.tell(**latest | dict.fromkeys("bc", "2"))[-1] == "a", "it comes last"
    assert place.told_names["b"] == "2"
    assert place.reloader.problems(["a"]) == {"a": "it did not answer"}


def test_one_that_fails_is_told_again_later_and_later_and_other_definitions_sooner(place: Place) -> None:
    place.broken.add("a")
    times = []
    while place.now < 2500:
        times += [place.now for _ in place.tell(a="1")]
        place.now += 1
    waits = [later - at for at, later in pairwise(times)]
    assert waits[:5] == [5, 10, 20, 40, 80]
    assert max(waits) <= 600
    place.broken.clear()
    assert place.tell(a="1") == []
    place.now += 10
    assert place.tell(a="2") == ["a"]
    assert place.reloader.problems(["a"]) == {}


def test_that_a_server_does_not_answer_once_is_no_problem_yet(place: Place) -> None:
    place.broken.add("a")
    place.tell(a="1")
    assert place.reloader.problems(["a"]) == {}
    place.now += 5
    place.tell(a="1")
    assert place.reloader.problems(["a"]) == {"a": "broken"}
    assert place.told_names == {}


@pytest.mark.parametrize("takes", [0.0, 40.0])
def test_a_change_loads_at_once_also_after_a_start_and_after_a_quiet_minute(place: Place, takes: float) -> None:
    place.takes["a"] = takes
    for number in range(4):
        place.now += 61 if number % 2 == 0 else 1
        assert place.tell(a=str(number)) == ["a"]


@pytest.mark.parametrize(("takes", "loads"), [(0.0, 11), (10.0, 5), (40.0, 2)])
def test_changes_that_come_all_the_time_load_now_and_then(place: Place, takes: float, loads: int) -> None:
    place.takes["a"] = takes
    assert place.tell(a="0") == ["a"]
    count, end = 1, place.now + 99
    while place.now < end:
        place.now += 1
        count += len(place.tell(a=str(place.now)))
    assert abs(count - loads) <= 1
