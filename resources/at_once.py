"""Several calls that wait for somebody else, such as a store, under way together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 8

Item = TypeVar("Item")
Found = TypeVar("Found")


def at_once(function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Call a function for each item, a few at a time; what it returned, in the order of the items.

    When one raises, or the caller is interrupted, those that had not begun are left out, and what the first one of the
    items raised is raised once those under way have ended.
    """
    items = list(items)
    if len(items) < 2:
        return [function(each) for each in items]
    with ThreadPoolExecutor(min(THREADS, len(items))) as threads:
        return list(threads.map(function, items))
