"""Finding what does not fit among many things that are built together. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def fitting(base: list[Item], candidates: Sequence[Item], fits: Callable[[list[Item]], bool]) -> list[Item]:
    """``base``, which fits, and as many of the candidates as fit together with it; of two that clash the first.

    Asks about twice the logarithm of their number for each one that does not fit, and once if all do.
    """
    together = [*base, *candidates]
    if not candidates or fits(together):
        return together
    if len(candidates) == 1:
        return base
    half = len(candidates) // 2
    return fitting(fitting(base, candidates[:half], fits), candidates[half:], fits)
