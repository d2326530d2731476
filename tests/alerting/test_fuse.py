"""A service that takes nothing is left alone for the rest of a round."""

from __future__ import annotations

import pytest

from monitoring_assets.alerting.fuse import Fuse
from resources.delivery import Accepted, Delivery, Later, Refused

DOWN = Later("it is down")


class Service:
    """Answers with ``answers``, one after the other."""

    def __init__(self, *answers: Delivery) -> None:
        self.answers = list(answers)

    def send(self, _: str) -> Delivery:
        return self.answers.pop(0)


def sent(fuse: Fuse[str], count: int) -> list[Delivery]:
    return [fuse.send("a message") for _ in range(count)]


def test_after_so_many_failures_in_a_row_nothing_is_sent_any_more() -> None:
    service = Service(Accepted(), DOWN, DOWN, DOWN, Accepted())
    assert sent(Fuse(service, lasts=3), 6) == [Accepted(), *[DOWN] * 5]
    assert service.answers == [Accepted()]


@pytest.mark.parametrize("answer", [Accepted(), Refused("not this one")])
def test_a_message_that_never_arrives_keeps_those_behind_it_back_no_longer_than_itself(answer: Delivery) -> None:
    answers = [DOWN, DOWN, answer, DOWN, answer, DOWN, DOWN, answer]
    assert sent(Fuse(Service(*answers), lasts=3), 8) == answers


def test_a_service_that_says_for_how_long_is_left_alone_at_once() -> None:
    wait = Later("too many requests", after_s=20)
    service = Service(Accepted(), wait, Accepted())
    assert sent(Fuse(service, lasts=3), 4) == [Accepted(), wait, wait, wait]
