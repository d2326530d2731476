"""Keys of other services: read from a variable or from the file that it names, and shown nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from resources.errors import BadInput

# What may stand in an HTTP header; a client that meets anything else quotes the whole key in its error.
_KEY = re.compile(r"[!-~]+")


class Secret:
    """A key. It prints as ``***``, and no pickle, JSON or copy of the settings holds its value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the client that sends it."""
        return self._value

    def hidden_in(self, text: str) -> str:
        """The text of somebody else, with ``***`` wherever it quotes the key."""
        return text.replace(self._value, "***") if self._value else text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is not written anywhere. Read it again from the environment.")


def read_secret(environ: Mapping[str, str], name: str, cwd: Path, longest: int = 200) -> Secret | None:
    """The key in the variable ``name`` or in the file whose path (relative to ``cwd``) is in ``{name}_FILE``.

    None without either; an empty variable counts as unset, white space around the key does not belong to it.
    Raises BadInput that names the variable and never shows what the key might be.
    """
    value, path = environ.get(name), environ.get(f"{name}_FILE")
    if value and path:
        raise BadInput(f"{name} and {name}_FILE are both set. Unset one of them.")
    if path:
        name = f"{name}_FILE"
        value = _content(name, cwd / path)
    elif not value:
        return None
    key = value.strip()
    if not (_KEY.fullmatch(key) and len(key) <= longest):
        raise BadInput(f"{name} holds no key. Give one: up to {longest} letters, digits and signs, without spaces.")
    return Secret(key)


def _content(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        # The path is left out: it is the key itself when somebody took the wrong one of the two variables.
        raise BadInput(
            f"The file that {name} names cannot be read: {error.strerror}. Write the path of a readable file."
        ) from None
    except ValueError:
        raise BadInput(
            f"The file that {name} names is no text. Write the path of a file with nothing but the key."
        ) from None
