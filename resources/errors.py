"""The one root of everything Scorewatch raises on purpose, with the exit code each kind ends a process with."""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_BAD_INPUT = 2
EXIT_BLOCKED = 3
EXIT_INFRASTRUCTURE = 75
EXIT_INTERRUPTED = 130


class ScorewatchError(Exception):
    """Root of the exceptions a user may see. The message says what, where, what was expected, what to do."""

    exit_code: ClassVar[int] = EXIT_UNEXPECTED


class BadInput(ScorewatchError):
    """The user's input is wrong and trying again without changing it cannot help."""

    exit_code = EXIT_BAD_INPUT


class InfrastructureError(ScorewatchError):
    """A store, a database or a network did not do its part; the same call may succeed later."""

    exit_code = EXIT_INFRASTRUCTURE
