"""What is wrong with a user's input, in the three parts that a person needs: which key, what, and what to write."""

from __future__ import annotations

from typing import NamedTuple

SHOWN_LIMIT = 80


class Problem(NamedTuple):
    """One thing to correct. `key` is a dotted path below the part that was checked, empty for the part itself."""

    key: str
    message: str
    fix: str


def shown(value: object, limit: int = SHOWN_LIMIT) -> str:
    """`value` as a message or a terminal may show it: quoted, control characters escaped, at most `limit` long."""
    # repr() escapes everything that is not printable: control characters, bidirectional overrides, lone surrogates.
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def bare(text: str, limit: int = SHOWN_LIMIT) -> str:
    """Like `shown`, without the quotes."""
    quoted = shown(text, limit)
    return quoted[1:].removesuffix(quoted[0])
