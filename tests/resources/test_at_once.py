"""Calls under way together: in the order of their items, a few at a time, and none begun after one that failed."""

from __future__ import annotations

import threading

import pytest

from resources.at_once import THREADS, at_once


def test_what_is_found_is_in_the_order_of_the_items_whichever_call_ends_first() -> None:
    second_ended = threading.Event()

    def call(item: int) -> int:
        if item == 1:
            assert second_ended.wait(30), "the second call waits for the first one"
        if item == 2:
            second_ended.set()
        return 10 * item

    assert at_once(call, [1, 2]) == [10, 20]
    assert at_once(call, iter([3])) == [30]
    assert at_once(call, []) == []


def test_no_more_than_a_few_are_under_way() -> None:
    lock, all_busy = threading.Lock(), threading.Event()
    under_way, most = 0, 0

    def call(_: int) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            if under_way == THREADS:
                all_busy.set()
        assert all_busy.wait(30)
        with lock:
            under_way -= 1

    at_once(call, range(3 * THREADS))
    assert most == THREADS


def test_the_first_error_is_raised_when_those_under_way_have_ended_and_the_others_are_not_begun() -> None:
    begun, ended, failed = list[int](), list[int](), threading.Event()

    def call(item: int) -> None:
        begun.append(item)
        if item == 0:
            failed.set()
            raise ValueError("item 0")
        assert failed.wait(30)
        ended.append(item)

    with pytest.raises(ValueError, match="item 0"):
        at_once(call, range(100 * THREADS))
    assert sorted(ended) == sorted(set(begun) - {0})
    assert len(begun) < 100 * THREADS
